"""The epilogues of a layer: public functions over the operator of ``kernels/epilogue.py``."""

import torch
from torch import Tensor

from kernels.curves import Options
from kernels.epilogue import epilogue
from kernels.epilogue_reference import Sides


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """Adds a bias, applies an activation, multiplies by a gain and clamps, in one pass.

    Differentiable to any order with respect to ``x`` and ``b``.

    Args:
        x: of any shape and floating type; its type and layout are those of the result.
        b: bias along dimension ``dim`` of ``x``, shape ``[x.shape[dim]]``.
        dim: dimension of ``x`` that ``b`` belongs to.
        act: linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus or swish.
        alpha: slope of lrelu below zero, 0.2 unless told; others ignore it.
        gain: factor after the activation; unless told sqrt(2) for relu, lrelu and swish, else 1.
        clamp: the result is limited to [-clamp, clamp]; None does not limit it.

    Raises:
        ValueError: unknown ``act``, negative ``clamp``, or ``b`` does not fit ``x``.
        TypeError: ``x`` is not of a floating type.
    """
    if b is None:
        dim = min(1, x.ndim - 1)
    elif not -x.ndim <= dim < x.ndim or list(b.shape) != [x.shape[dim]]:
        raise ValueError(f"b of shape {list(b.shape)} does not fit dim {dim} of {list(x.shape)}")
    options = Options.checked(act, alpha, gain, clamp, dim % max(x.ndim, 1))
    return epilogue(_floating(x), Sides(bias=b), options)


def noise_bias_act(
    x: Tensor,
    noise: Tensor | None = None,
    strength: Tensor | float | None = None,
    b: Tensor | None = None,
    act: str = "lrelu",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """`bias_act` of ``scale * x + strength * noise``: what a style layer does after a convolution.

    Karras et al. 2020 (StyleGAN2), figure 2c. Differentiable to any order in every tensor.

    Args:
        x: activations [N, C, H, W], or with any number of spatial dimensions.
        noise: [N or 1, 1, H, W]; one plane for all channels.
        strength: factor of the noise, a number or a tensor with one element; 1 unless told.
        b: bias [C].
        act: as in `bias_act`.
        alpha: as in `bias_act`.
        gain: as in `bias_act`.
        clamp: as in `bias_act`.
        scale: factor of each channel of each sample [N, C], such as the demodulation.

    Raises:
        ValueError: unknown ``act``, negative ``clamp``, or a shape that does not fit ``x``.
        TypeError: ``x`` is not of a floating type.
    """
    options = Options.checked(act, alpha, gain, clamp)
    return epilogue(_floating(x), sides(x.shape, noise, strength, b, scale), options)


def sides(
    shape: torch.Size,
    noise: Tensor | None,
    strength: Tensor | float | None,
    bias: Tensor | None,
    scale: Tensor | None,
) -> Sides:
    """Brings the tensors beside activations of ``shape`` [N, C, ...] into the operator's shapes.

    Raises:
        ValueError: a shape does not fit.
    """
    if len(shape) < 2:
        raise ValueError(f"x of shape {list(shape)} has no channels; it must be [N, C, ...]")
    n, c, *spatial = shape
    _fits("b", bias, [c])
    _fits("scale", scale, [n, c])
    _fits("noise", noise, [n, 1, *spatial], [1, 1, *spatial])
    if noise is None:
        return Sides(scale, None, None, bias)
    if isinstance(strength, Tensor):
        if strength.numel() != 1:
            raise ValueError(f"strength of shape {list(strength.shape)} is not one number")
        strength = strength.reshape(())
    elif strength is not None:
        noise, strength = noise * strength, None
    return Sides(scale, noise.flatten(1), strength, bias)


def _fits(name: str, tensor: Tensor | None, *shapes: list[int]) -> None:
    if tensor is not None and list(tensor.shape) not in shapes:
        wanted = " or ".join(map(str, shapes))
        raise ValueError(f"{name} of shape {list(tensor.shape)} is not of shape {wanted}")


def _floating(x: Tensor) -> Tensor:
    if not x.is_floating_point():
        raise TypeError(f"x is of type {x.dtype}, not of a floating type; convert it by .float()")
    return x
