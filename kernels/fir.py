"""FIR resampling of images: zero insertion, padding or cropping, filter, decimation.

The operator ``kernels::upfirdn2d`` computes along each axis, with g the filter or, unless ``flip``,
the reversed filter,

    y[o] = gain * sum_k g[k] * u[o * down - pad + k],    u[i * up] = x[i], 0 elsewhere

Compiled code: ``csrc/cpu/upfirdn2d.h`` and ``csrc/cuda/upfirdn2d.cu``.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.layout import dense, is_channels_last, laid_out
from kernels.precision import accumulation_dtype, without_autocast
from kernels.registry import native, operator

SCHEMA = "Tensor x, Tensor f, int[2] up, int[2] down, int[4] padding, bool flip, float gain"


class Sampling(NamedTuple):
    """The constants of one call, in the order of the operators' schemas."""

    up: list[int]  # along x, along y
    down: list[int]
    padding: list[int]  # left, right, top, bottom; negative crops
    flip: bool
    gain: float

    def size(self, x: Tensor, f: Tensor) -> list[int]:
        """Height and width of the output."""
        (h, w), (taps_y, taps_x) = x.shape[-2:], taps(f)
        left, right, top, bottom = self.padding
        high = (h * self.up[1] + top + bottom - taps_y) // self.down[1] + 1
        wide = (w * self.up[0] + left + right - taps_x) // self.down[0] + 1
        return [high, wide]

    def adjoint(self, h: int, w: int, f: Tensor, y: Tensor) -> "Sampling":
        """Of the gradient: from the output ``y`` to an input of ``h`` by ``w`` pixels."""
        (up_x, up_y), (down_x, down_y), (taps_y, taps_x) = self.up, self.down, taps(f)
        left, _, top, _ = self.padding
        padding = [
            taps_x - left - 1,
            w * up_x - y.shape[3] * down_x + left - up_x + 1,
            taps_y - top - 1,
            h * up_y - y.shape[2] * down_y + top - up_y + 1,
        ]
        return Sampling(self.down, self.up, padding, not self.flip, self.gain)


def taps(f: Tensor) -> tuple[int, int]:
    """Taps along y and along x; a filter of one dimension serves both."""
    return f.shape[0], f.shape[-1]


def resample(x: Tensor, f: Tensor, sampling: Sampling) -> Tensor:
    """The operator where compiled code serves ``x``, else its reference."""
    if not native(x):
        return reference(x, f, *sampling)
    return _upfirdn2d(dense(x), f.contiguous(), *sampling)


def reference(
    x: Tensor,
    f: Tensor,
    up: list[int],
    down: list[int],
    padding: list[int],
    flip: bool,
    gain: float,
) -> Tensor:
    """The specification in plain torch; arguments as in the schema of ``kernels::upfirdn2d``."""
    sampling = Sampling(up, down, padding, flip, gain)
    wide = accumulation_dtype(x)
    y, kernel = x.to(wide), f.to(wide)
    if not x.numel():
        # A sum that depends on x, so that there is a gradient, of no elements.
        y = y.sum() + y.new_zeros([*x.shape[:2], *sampling.size(x, f)])
    else:
        with without_autocast(x):
            y = _filtered(y, kernel, sampling)
    return laid_out(y.to(x.dtype), is_channels_last(x))


def _filtered(x: Tensor, kernel: Tensor, sampling: Sampling) -> Tensor:
    up, down, (left, right, top, bottom), flip, gain = sampling
    if kernel.ndim == 2:
        return _convolved(x, kernel * gain, sampling)
    along_x = Sampling([up[0], 1], [down[0], 1], [left, right, 0, 0], flip, gain)
    along_y = Sampling([1, up[1]], [1, down[1]], [0, 0, top, bottom], flip, gain)
    return _convolved(_convolved(x, kernel[None] * gain, along_x), kernel[:, None], along_y)


def _convolved(x: Tensor, kernel: Tensor, sampling: Sampling) -> Tensor:
    """Depth-wise convolution; transposed, where zeros would have to be inserted."""
    (up_x, up_y), (down_x, down_y) = sampling.up, sampling.down
    left, right, top, bottom = sampling.padding
    taps_y, taps_x = kernel.shape
    transposed = max(sampling.up) > 1
    if transposed:
        # What is missing or, negative, too much at each side of the whole convolution.
        left, right = left - taps_x + 1, right + up_x - taps_x
        top, bottom = top - taps_y + 1, bottom + up_y - taps_y
    sign = -1 if transposed else 1
    # What the convolution can pad or crop itself, it does: equally at both sides.
    along_x, along_y = (max(0, min(sign * a, sign * b)) for a, b in ((left, right), (top, bottom)))
    rest = [left - sign * along_x, right - sign * along_x, top - sign * along_y]
    rest.append(bottom - sign * along_y)
    weight = (kernel if sampling.flip != transposed else kernel.flip(0, 1)).expand(
        x.shape[1], 1, -1, -1
    )
    how = {"padding": (along_y, along_x), "groups": x.shape[1]}
    if not transposed:
        # torch 2.13 reads a view of a part of one channel that lies as channels_last wrongly.
        return F.conv2d(dense(_padded(x, rest)), weight, stride=(down_y, down_x), **how)
    y = F.conv_transpose2d(x, weight, stride=(up_y, up_x), **how)
    return _padded(y, rest)[:, :, ::down_y, ::down_x]


def _padded(x: Tensor, padding: list[int]) -> Tensor:
    added = [max(0, p) for p in padding]
    if any(added):
        x = F.pad(x, added)
    # Cropped last: at one side more may go than there was, and come from the other side's zeros.
    left, right, top, bottom = (max(0, -p) for p in padding)
    return x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right]


def empty_result(x: Tensor, f: Tensor, sampling: Sampling) -> Tensor:
    """The output without its values."""
    wanted = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    shape = [*x.shape[:2], *sampling.size(x, f)]
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=wanted)


def _keep(ctx: Any, inputs: Sequence, output: Tensor) -> None:
    x, f, *constants = inputs
    ctx.sampling = Sampling(*constants)
    ctx.size = x.shape[2:]
    ctx.channels_last = is_channels_last(x)
    ctx.save_for_backward(f)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    (f,) = ctx.saved_tensors
    return gradient(dy, f, ctx.sampling, ctx.size, ctx.channels_last), *[None] * 6


def gradient(
    dy: Tensor, f: Tensor, sampling: Sampling, size: torch.Size, channels_last: bool
) -> Tensor:
    """Gradient of the input of that ``size`` and layout; the filter has none."""
    adjoint = sampling.adjoint(*size, f, dy)
    return _upfirdn2d(laid_out(dy, channels_last), f, *adjoint)


_upfirdn2d = operator(
    f"upfirdn2d({SCHEMA}) -> Tensor",
    reference,
    lambda x, f, *constants: empty_result(x, f, Sampling(*constants)),
    _backward,
    _keep,
)
