"""FIR resampling and the epilogue of a layer in one pass over the output.

The operator ``kernels::upfirdn2d_epilogue`` is that of ``kernels/fir.py`` followed by that of
``kernels/epilogue.py``, rounding in between included. Compiled code: as for the former.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kernels import epilogue, epilogue_reference, fir
from kernels.activation import sides as checked_sides
from kernels.curves import Options
from kernels.epilogue import accumulated
from kernels.epilogue_reference import Sides
from kernels.filters import checked_filter
from kernels.fir import Sampling
from kernels.layout import dense, is_channels_last, laid_out
from kernels.registry import native, operator
from kernels.resampling import Factor, checked_sampling


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
        f: filter, or None.
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
    return epilogue_reference.reference(fir.reference(x, f, *rest[:5]), *rest[5:])


def _keep(ctx: Any, inputs: Sequence, output: Tensor) -> None:
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
    dz, *dsides = epilogue.gradients(
        dy, kept, Sides(*found), ctx.options, ctx.from_output, ctx.needs_input_grad[7:11]
    )
    dx = fir.gradient(dz, f, ctx.sampling, ctx.size, ctx.channels_last)
    return dx, *[None] * 6, *dsides, *[None] * 5


_fused = operator(
    f"upfirdn2d_epilogue({fir.SCHEMA.replace('gain', 'fir_gain')}, Tensor? scale, Tensor? noise, "
    "Tensor? strength, Tensor? bias, int dim, int act, float alpha, float gain, float clamp) "
    "-> Tensor",
    reference,
    lambda x, f, *rest: fir.empty_result(x, f, Sampling(*rest[:5])),
    _backward,
    _keep,
)
