"""Convolution whose weights each sample scales by its own styles, Karras et al. 2020 (StyleGAN2).

A composition: torch convolves, compiled operators resample and do what follows. With w' = w * s and
d = 1 / sqrt(sum w'^2 + 1e-8), equations 1 to 3 of the paper, a sample's convolution with d * w'
equals d * conv(s * x, w): no sample needs weights of its own.
"""

import torch
from torch import Tensor

from kernels.activation import noise_bias_act
from kernels.convolution import Resampling, convolve
from kernels.curves import Options
from kernels.fused_resampling import upfirdn2d_bias_act
from kernels.layout import is_channels_last
from kernels.precision import accumulation_dtype, convolves_in_float16, without_autocast
from kernels.resampling import parsed_padding

_TINY = torch.finfo(torch.float16).tiny


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | list[int] = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
) -> Tensor:
    """Modulated convolution, with resampling and noise; no bias and no activation.

    Differentiable to any order in every tensor but the filter.

    Args:
        x: [N, C_in, H, W] of any floating type; its type and layout are those of the result.
        weight: [C_out, C_in, kh, kw].
        styles: [N, C_in].
        noise: added to the result; [N or 1, 1, H_out, W_out], or anything that broadcasts.
        up: integer factor of upsampling, before the convolution.
        down: integer factor of downsampling, after it.
        padding: of the upsampled image: a number, [x, y] or [x0, x1, y0, y1].
        resample_filter: low-pass filter of `setup_filter` for ``up`` and ``down``.
        demodulate: scales each output channel of each sample to unit expected variance.
        flip_weight: True correlates as torch does; False convolves, with the kernel mirrored.

    Raises:
        ValueError: a shape or a factor does not fit.
    """
    how = (up, down, padding, resample_filter, demodulate, flip_weight)
    # A row or a column of noise is for torch to broadcast.
    plain = noise is None or (noise.ndim > 1 and min(noise.shape[-2:]) > 1)
    plain = plain and (noise is None or list(noise.shape[:-2]) in ([len(x), 1], [1, 1], []))
    if noise is not None and plain:
        noise = noise.reshape(-1, 1, *noise.shape[-2:])
    y = modulated_layer(x, weight, styles, noise if plain else None, *how, act="linear")
    return y if plain else y + noise.to(y.dtype)


def modulated_layer(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | list[int] = 0,
    resample_filter: Tensor | None = None,
    demodulate: bool = True,
    flip_weight: bool = True,
    strength: Tensor | float | None = None,
    b: Tensor | None = None,
    act: str = "lrelu",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """`modulated_conv2d`, then `noise_bias_act`, with all that follows the convolution in one pass.

    The arguments are those of the two.

    Raises:
        ValueError: a shape or a factor does not fit.
    """
    _check(x, weight, styles, up, down)
    if convolves_in_float16(x) and demodulate:
        weight, styles = _normalized(weight, styles)
    scale = demodulation(weight, styles) if demodulate else None
    job = Resampling(up, down, parsed_padding(padding), resample_filter, flip_weight)
    if weights_per_sample(x, weight, up):
        w = weight * styles[:, None, :, None, None]
        w = w if scale is None else w * scale[:, :, None, None, None]
        # One sample stays as it is, and so keeps its layout.
        image = x if len(x) == 1 else x.flatten(0, 1)[None]
        y, closing = convolve(image, w.flatten(0, 1).to(x.dtype), job, len(x))
        y, scale = y if len(x) == 1 else y.unflatten(1, [len(x), -1])[0], None
    else:
        x = noise_bias_act(x, act="linear", scale=styles)
        y, closing = convolve(x, weight.to(x.dtype), job)
    epilogue = (noise, strength, b, act, alpha, gain, clamp, scale)
    nothing = (
        noise is None and b is None and scale is None and Options.checked(*epilogue[3:7]).plain
    )
    if closing is None and nothing:
        return y
    if closing is None:
        return noise_bias_act(y, *epilogue)
    names = ("noise", "strength", "b", "act", "alpha", "gain", "clamp", "scale")
    closing |= zip(names, epilogue, strict=True)
    return upfirdn2d_bias_act(y, resample_filter, **closing)


def demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """What brings the output channels of each sample to unit expected variance, in float32.

    Args:
        weight: [C_out, C_in, kh, kw].
        styles: [N, C_in].

    Returns:
        1 / sqrt(sum over C_in, kh, kw of (weight * styles)^2 + 1e-8), [N, C_out]; equation 3.
    """
    with without_autocast(weight):
        wide = accumulation_dtype(weight)
        energy = styles.to(wide).square() @ weight.to(wide).square().sum((2, 3)).T
        return (energy + 1e-8).rsqrt()


def weights_per_sample(x: Tensor, weight: Tensor, up: int) -> bool:
    """Whether one grouped convolution with weights for each sample is the faster way to compute it.

    It saves one pass over the activations and costs one over N times the weights. Grouped, torch's
    convolutions of a batch lose otherwise on GPUs, in channels_last, and transposed.
    """
    if torch.compiler.is_exporting():
        # The groups of an exported convolution are a constant, the size of its batch is not.
        return False
    if len(x) == 1:
        return True
    few = len(x) > 0 and 4 * weight[0].numel() <= x.shape[2] * x.shape[3]
    return few and up == 1 and x.device.type == "cpu" and not is_channels_last(x)


def _normalized(weight: Tensor, styles: Tensor) -> tuple[Tensor, Tensor]:
    """Demodulation undoes any factor; without this one, products leave the range of float16."""
    # Where all are 0, so is the result.
    largest = weight.abs().amax((1, 2, 3), keepdim=True).clamp(min=_TINY)
    weight = weight / (weight[0].numel() ** 0.5 * largest)
    return weight, styles / styles.abs().amax(1, keepdim=True).clamp(min=_TINY)


def _check(x: Tensor, weight: Tensor, styles: Tensor, up: int, down: int) -> None:
    if x.ndim != 4 or weight.ndim != 4 or x.shape[1] != weight.shape[1]:
        shapes = f"x of shape {list(x.shape)} and weight of shape {list(weight.shape)}"
        raise ValueError(f"{shapes} do not fit; give [N, C_in, H, W] and [C_out, C_in, kh, kw]")
    if not x.is_floating_point():
        raise TypeError(f"x is of type {x.dtype}, not of a floating type; convert it by .float()")
    if list(styles.shape) != list(x.shape[:2]):
        shape = list(x.shape[:2])
        raise ValueError(f"styles of shape {list(styles.shape)} do not fit; give [N, C_in] {shape}")
    if up < 1 or down < 1:
        raise ValueError(f"up={up}, down={down}: the factors must be whole numbers of at least 1")
