"""The specification of the operators of ``kernels/epilogue.py``, in plain torch."""

from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.curves import Options
from kernels.precision import accumulation_dtype


class Sides(NamedTuple):
    """What is combined with activations x [N, C, ...]; each may be absent."""

    scale: Tensor | None = None  # [N, C]
    noise: Tensor | None = None  # [N or 1, P]
    strength: Tensor | None = None  # []
    bias: Tensor | None = None  # [C]


def reference(
    x: Tensor,
    scale: Tensor | None,
    noise: Tensor | None,
    strength: Tensor | None,
    bias: Tensor | None,
    *options: Any,
) -> Tensor:
    """The specification in plain torch; arguments as in the schema of ``kernels::epilogue``."""
    chosen = Options(*options)
    v = _before_activation(x, Sides(scale, noise, strength, bias), chosen.dim)
    y = (chosen.curve.value(v, chosen.alpha) * chosen.gain).to(x.dtype)
    if chosen.clamp < 0:
        return y
    # What has reached the bound, as far as the type of x can tell, has no gradient.
    bound = _bound(y, chosen.clamp)
    return y.detach().clamp(-bound, bound).where(y.abs() >= bound, y)


def _bound(y: Tensor, clamp: float) -> Tensor:
    return torch.full([], clamp, dtype=torch.float64, device=y.device).to(y.dtype)


def _before_activation(x: Tensor, sides: Sides, dim: int) -> Tensor:
    wide = accumulation_dtype(x)
    v = x.to(wide)
    after = [1] * (x.ndim - dim - 1)
    if sides.scale is not None:
        v = v * sides.scale.to(wide).unflatten(1, [-1, *after])
    if sides.noise is not None:
        noise = sides.noise.to(wide).view(-1, 1, *x.shape[2:])
        v = v + (noise if sides.strength is None else noise * sides.strength.to(wide))
    if sides.bias is not None:
        v = v + sides.bias.to(wide).view(-1, *after)
    return v


def backward_reference(
    dy: Tensor,
    kept: Tensor | None,
    scale: Tensor | None,
    noise: Tensor | None,
    strength: Tensor | None,
    bias: Tensor | None,
    dim: int,
    act: int,
    alpha: float,
    gain: float,
    clamp: float,
    from_output: bool,
    scaled: bool,
    sums: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients in plain torch; arguments as in the schema of ``kernels::epilogue_backward``."""
    sides, options = Sides(scale, noise, strength, bias), Options(dim, act, alpha, gain, clamp)
    wide = accumulation_dtype(dy)
    dv = dy.to(wide) * _slope(kept, sides, options, from_output)
    nothing = dv.new_empty(0)
    rows = (prod(dy.shape[:dim]), dy.shape[dim], prod(dy.shape[dim + 1 :]))
    seen = dv.reshape(rows)
    dscale = (seen * kept.to(wide).reshape(rows)).sum(2) if sums[0] else nothing
    dstrength = (seen * noise.to(wide)[:, None]).sum() if sums[1] else nothing
    dbias = seen.sum((0, 2)) if sums[2] else nothing
    if scaled and scale is not None:
        dv = dv * scale.to(wide).unflatten(1, [-1, *[1] * (dy.ndim - 2)])
    return dv.to(dy.dtype), dscale, dstrength, dbias


def _slope(
    kept: Tensor | None, sides: Sides, options: Options, from_output: bool
) -> Tensor | float:
    if kept is None:
        return options.gain
    wide = accumulation_dtype(kept)
    v = kept.to(wide) if from_output else _before_activation(kept, sides, options.dim)
    slope = options.gain * options.curve.slope(v, options.alpha)
    if options.clamp < 0:
        return slope
    y = kept if from_output else options.gain * options.curve.value(v, options.alpha)
    y = y.detach().to(kept.dtype)
    return slope * ~(y.abs() >= _bound(y, options.clamp))
