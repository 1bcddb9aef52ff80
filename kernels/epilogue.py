"""Bias, noise, activation, gain and clamp in one pass: what follows each convolution.

The operators ``kernels::epilogue`` and ``kernels::epilogue_backward`` compute

    v = scale[n, c] * x[n, c, p] + strength * noise[n, p] + bias[c]
    y = clamp(gain * act(v), -clamp, clamp)

and its gradients. Compiled code: ``csrc/cpu/epilogue.h`` and ``csrc/cuda/epilogue.cu``.
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels.curves import Options
from kernels.derivatives import vector_jacobian
from kernels.layout import accumulation_dtype, dense, is_channels_last, laid_out
from kernels.registry import native, operator

_OPTIONS = "int dim, int act, float alpha, float gain, float clamp"
_SIDES = "Tensor? scale, Tensor? noise, Tensor? strength, Tensor? bias"


class Sides(NamedTuple):
    """What is combined with activations x [N, C, ...]; each may be absent."""

    scale: Tensor | None = None  # [N, C]
    noise: Tensor | None = None  # [N or 1, P]
    strength: Tensor | None = None  # []
    bias: Tensor | None = None  # [C]


def epilogue(x: Tensor, sides: Sides, options: Options) -> Tensor:
    """The operator where compiled code serves ``x``, else its reference."""
    if not x.ndim or not native(x):
        return reference(x, *sides, *options)
    return _epilogue(dense(x), *accumulated(sides, x), *options)


def accumulated(sides: Sides, x: Tensor) -> Sides:
    """As the operators want them: contiguous, of the type in which ``x`` is summed."""
    dtype = accumulation_dtype(x)
    return Sides(*(None if s is None else s.to(dtype).contiguous() for s in sides))


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
    return y.where(_inside(y, chosen.clamp), y.detach().clamp(-chosen.clamp, chosen.clamp))


def _inside(y: Tensor, clamp: float) -> Tensor:
    return y.abs() < y.new_tensor(clamp)


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
    rows = (prod(dy.shape[:dim]), dy.shape[dim], -1) if dy.numel() else (0, dy.shape[dim], 1)
    seen = dv.reshape(rows)
    dscale = (seen * kept.to(wide).reshape(rows)).sum(2) if sums[0] else nothing
    dstrength = (dv.flatten(2) * noise.to(wide)[:, None]).sum() if sums[1] else nothing
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
    return slope * _inside(y.detach().to(kept.dtype), options.clamp)


def _backward_fake(dy: Tensor, *inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dim, sums = inputs[5], inputs[-1]
    shapes = [[prod(dy.shape[:dim]), dy.shape[dim]], [], [dy.shape[dim]]]
    wide = accumulation_dtype(dy)
    made = (
        dy.new_empty(s if wanted else [0], dtype=wide)
        for s, wanted in zip(shapes, sums, strict=True)
    )
    return torch.empty_like(dy), *made


def _keep(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, *sides, dim, act, alpha, gain, clamp = inputs
    ctx.options = Options(dim, act, alpha, gain, clamp)
    ctx.channels_last = is_channels_last(x)
    ctx.from_output = ctx.options.sign_tells and sides[0] is None
    kept = output if ctx.from_output else x
    if ctx.options.identity and sides[0] is None:
        kept = None
    ctx.save_for_backward(kept, *sides)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    kept, *found = ctx.saved_tensors
    dy = laid_out(dy, ctx.channels_last)
    inputs = (Sides(*found), ctx.options, ctx.from_output, ctx.needs_input_grad[1:5])
    return *gradients(dy, kept, *inputs), *[None] * 5


def gradients(
    dy: Tensor,
    kept: Tensor | None,
    sides: Sides,
    options: Options,
    from_output: bool,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Of the operator's input and of each of its sides, by registered operators.

    Args:
        dy: gradient of the output, in the layout of ``kept``.
        kept: what tells the slope, see the schema of ``kernels::epilogue_backward``.
        sides: of the forward pass.
        options: of the forward pass.
        from_output: whether ``kept`` is the output.
        needs: which sides' gradients are asked for.
    """
    asked = Sides(*(need and side is not None for need, side in zip(needs, sides, strict=True)))
    sums = [bool(asked.scale), bool(asked.strength), bool(asked.bias)]
    inputs = (kept, *sides, *options, from_output)
    dx, *found = _epilogue_backward(dy, *inputs, True, sums)
    dnoise = None
    if asked.noise:
        dv = dx if sides.scale is None else _epilogue_backward(dy, *inputs, False, [False] * 3)[0]
        dnoise = dv.flatten(2).to(sides.noise.dtype).sum(1).sum_to_size(sides.noise.shape)
        dnoise = dnoise if sides.strength is None else dnoise * sides.strength
    dscale, dstrength, dbias = (d if s else None for d, s in zip(found, sums, strict=True))
    return dx, dscale, dnoise, dstrength, dbias


def _keep_backward(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:6])
    ctx.rest = inputs[6:]


def _double_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    inputs, needs, nothing = ctx.saved_tensors, ctx.needs_input_grad[:6], [None] * 8
    ddx, *others = cotangents
    straight = Options(*ctx.rest[:5]).curve.straight and not needs[2]
    if straight and all(other is None for other in others):
        if not needs[0] or ddx is None:
            return *[None] * 6, *nothing
        # R1's pattern: linear in dy, so the second pass is the first one over again.
        ddx = laid_out(ddx, is_channels_last(inputs[0]))
        ddy = _epilogue_backward(ddx, *inputs[1:], *ctx.rest[:-1], [False] * 3)[0]
        return ddy, *[None] * 5, *nothing

    def gradients(*tensors: Tensor | None) -> tuple[Tensor, ...]:
        return backward_reference(*tensors, *ctx.rest)

    return *vector_jacobian(gradients, inputs, needs, cotangents), *nothing


_epilogue = operator(
    f"epilogue(Tensor x, {_SIDES}, {_OPTIONS}) -> Tensor",
    reference,
    lambda x, *_: torch.empty_like(x),
    _backward,
    _keep,
)
# `kept` is x, or y where its sign tells the slope, or nothing where the slope is 1. `sums` asks for
# the gradients of scale [N, C], strength [] and bias [C]; what is not asked for is empty.
_epilogue_backward = operator(
    f"epilogue_backward(Tensor dy, Tensor? kept, {_SIDES}, {_OPTIONS}, bool from_output, "
    "bool scaled, bool[3] sums) -> (Tensor dx, Tensor dscale, Tensor dstrength, Tensor dbias)",
    backward_reference,
    _backward_fake,
    _double_backward,
    _keep_backward,
)
