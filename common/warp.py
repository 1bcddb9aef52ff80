"""Moves images on the device, each one by its own amount, with derivatives of any order.

Borders are reflected at the centres of the outermost pixels, as NumPy's "reflect" does.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.precision import accumulation_dtype

# How torch's operator numbers its options.
_BICUBIC, _REFLECTION = 2, 2


def shifted(x: Tensor, pixels: Tensor, axis: int) -> Tensor:
    """Moves images along one axis by whole pixels: no value changes.

    Args:
        x: [B, ...] with a side of at least 2 pixels.
        pixels: how far [B], int64; above 0 towards larger positions.
        axis: of ``x``, counted from its end.
    """
    side = x.shape[axis]
    source = torch.arange(side, device=x.device) - pixels[:, None]
    source = (side - 1) - ((side - 1) - source % (2 * (side - 1))).abs()
    shape = [len(x)] + [1] * (x.ndim - 1)
    shape[axis] = side
    return x.gather(axis, source.view(shape).expand_as(x))


def rotated_and_scaled(x: Tensor, angle: Tensor, scale: Tensor) -> Tensor:
    """Rotates images about their centre and enlarges them alike along x and y, bicubic.

    Args:
        x: [B, C, H, W].
        angle: radians [B]; above 0 turns what points right (+x) towards the bottom (+y).
        scale: factors [B]; above 1 enlarges.
    """
    height, width = ((side - 1) / 2 for side in x.shape[-2:])
    kind = accumulation_dtype(x)
    row, column = (
        torch.linspace(-half, half, side, dtype=kind, device=x.device)
        for half, side in zip((height, width), x.shape[-2:], strict=True)
    )
    cosine, sine = ((f(angle) / scale).to(kind)[:, None, None] for f in (torch.cos, torch.sin))
    # Where each pixel of the result comes from; torch wants it in [-1, 1].
    from_column = (cosine * column + sine * row[:, None]) / width
    from_row = (cosine * row[:, None] - sine * column) / height
    grid = torch.stack([from_column, from_row], dim=-1)
    return _Warp.apply(x.to(kind), grid).to(x.dtype)


class _Warp(torch.autograd.Function):
    """`grid_sample` with second derivatives by the image, which torch's own has not."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.shape = x.shape
        return F.grid_sample(x, grid, "bicubic", "reflection", align_corners=True)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Unwarp.apply(gradient, *ctx.saved_tensors, ctx.shape), None


class _Unwarp(torch.autograd.Function):
    """The transpose of `_Warp`, which is linear in the image."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(grid)
        backward = torch.ops.aten.grid_sampler_2d_backward
        like, wanted = gradient.new_zeros(shape), [True, False]
        return backward(gradient, like, grid, _BICUBIC, _REFLECTION, True, wanted)[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Warp.apply(gradient, *ctx.saved_tensors), None, None
