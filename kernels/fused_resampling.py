"""FIR resampling and the epilogue of a layer in one pass over the output.

The operator ``kernels::upfirdn2d_epilogue`` is that of ``kernels/fir.py`` followed by that of
``kernels/epilogue.py``, rounding in between included. Compiled code: as for the former.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernels import epilogue, fir
from kernels.activation import sides as checked_sides
from kernels.curves import Options
from kernels.epilogue import Sides, accumulated
from kernels.fir import Sampling
from kernels.layout import dense, is_channels_last, laid_out
from kernels.registry import native, operator
from kernels.resampling import Factor, checked_filter, checked_sampling


def upfirdn2d_bias_act(
    x: Tensor,
    f: Tensor | None,
    up: Factor = 1,
    down: Factor = 1,
    padding: Factor = 0,
    flip_filter: bool = False,
    fir_gain: float = 1,
    noise: Tensor | None = None,
    strength: Tensor | float | None = None,
    b: Tensor | None = None,
    act: str = "lrelu",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """`noise_bias_act` of `upfirdn2d` in one pass: what follows a transposed convolution.

    Differentiable to any order in every tensor but the filter.

    Args:
        x: images [N, C, H, W]; this and the next five as in `upfirdn2d`.
        f: float32 filter, or None.
        up: factor of zero insertion.
        down: factor of decimation.
        padding: zeros around the upsampled image.
        flip_filter: correlate instead of convolve.
        fir_gain: factor of the resampled image.
        noise: of the size of the result; this and what follows as in `noise_bias_act`.
        strength: factor of the noise.
        b: bias of each channel.
        act: activation.
        alpha: its slope below zero.
        gain: factor after it.
        clamp: bound of the result.
        scale: factor of each channel of each sample.

    Raises:
        ValueError: as `upfirdn2d` and `noise_bias_act`.
        TypeError: ``x`` is not of a floating type.
    """
    f = checked_filter(x, f)
    sampling = checked_sampling(x, f, up, down, padding, flip_filter, fir_gain)
    options = Options.checked(act, alpha, gain, clamp)
    shape = torch.Size([*x.shape[:2], *sampling.size(x, f)])
    sides = checked_sides(shape, noise, strength, b, scale)
    if not native(x):
        return reference(x, f, *sampling, *sides, *options)
    return _fused(dense(x), f.contiguous(), *sampling, *accumulated(sides, x), *options)


def reference(x: Tensor, f: Tensor, *rest: Any) -> Tensor:
    """The specification in plain torch; arguments as in the operator's schema."""
    return epilogue.reference(fir.reference(x, f, *rest[:5]), *rest[5:])


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, f, *rest = inputs
    ctx.sampling, sides, ctx.options = Sampling(*rest[:5]), Sides(*rest[5:9]), Options(*rest[9:])
    ctx.size, ctx.channels_last = x.shape[2:], is_channels_last(x)
    ctx.from_output = ctx.options.sign_tells and sides.scale is None
    ctx.identity = ctx.options.identity and sides.scale is None
    kept = None if ctx.identity else output if ctx.from_output else x
    ctx.save_for_backward(kept, f, *sides)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    kept, f, *found = ctx.saved_tensors
    if not ctx.identity and not ctx.from_output:
        kept = fir.resample(kept, f, ctx.sampling)
    dy = laid_out(dy, ctx.channels_last)
    needs = ctx.needs_input_grad[7:11]
    dz, *dsides = _gradients(dy, kept, Sides(*found), ctx.options, ctx.from_output, needs)
    dx = fir.gradient(dz, f, ctx.sampling, ctx.size, ctx.channels_last)
    return dx, *[None] * 6, *dsides, *[None] * 5


def _gradients(
    dy: Tensor,
    kept: Tensor | None,
    sides: Sides,
    options: Options,
    from_output: bool,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Of the epilogue, with respect to its input and to each of its sides."""
    wanted = Sides(*(need and side is not None for need, side in zip(needs, sides, strict=True)))
    inputs = (kept, *sides, *options, from_output)
    sums = [bool(wanted.scale), bool(wanted.strength), bool(wanted.bias)]
    backward = torch.ops.kernels.epilogue_backward
    dx, *sides_with_sums = backward(dy, *inputs, True, sums)
    dnoise = None
    if wanted.noise:
        dv = dx if sides.scale is None else backward(dy, *inputs, False, [False] * 3)[0]
        dnoise = dv.flatten(2).to(sides.noise.dtype).sum(1)
        dnoise = dnoise if sides.noise.shape[0] == dnoise.shape[0] else dnoise.sum(0, True)
        dnoise = dnoise if sides.strength is None else dnoise * sides.strength
    found = (d if s else None for d, s in zip(sides_with_sums, sums, strict=True))
    dscale, dstrength, dbias = found
    return dx, dscale, dnoise, dstrength, dbias


_fused = operator(
    f"upfirdn2d_epilogue({fir.SCHEMA.replace('gain', 'fir_gain')}, Tensor? scale, Tensor? noise, "
    "Tensor? strength, Tensor? bias, int dim, int act, float alpha, float gain, float clamp) "
    "-> Tensor",
    reference,
    lambda x, f, *rest: fir.empty_result(x, f, Sampling(*rest[:5])),
    _backward,
    _keep,
)
