"""Bias, noise, activation, gain and clamp in one pass: what follows each convolution.

The operators ``kernels::epilogue`` and ``kernels::epilogue_backward`` compute

    v = scale[n, c] * x[n, c, p] + strength * noise[n, p] + bias[c]
    y = clamp(gain * act(v), -clamp, clamp)

and its gradients. Compiled code: ``csrc/cpu/epilogue.h`` and ``csrc/cuda/epilogue.cu``.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from kernels.curves import LINEAR, Options
from kernels.derivatives import vector_jacobian
from kernels.epilogue_reference import Sides, backward_reference, reference
from kernels.layout import dense, is_channels_last, laid_out
from kernels.precision import accumulation_dtype
from kernels.registry import native, operator

_OPTIONS = "int dim, int act, float alpha, float gain, float clamp"
_NO_SUMS = [False] * 3
_SIDES = "Tensor? scale, Tensor? noise, Tensor? strength, Tensor? bias"


def epilogue(x: Tensor, sides: Sides, options: Options) -> Tensor:
    """The operator where compiled code serves ``x``, else its reference."""
    if not x.ndim or not native(x):
        return reference(x, *sides, *options)
    given = *accumulated(sides, x), *options
    if options.dim != 1 and is_channels_last(x):
        return laid_out(_epilogue(x.contiguous(), *given), channels_last=True)
    return _epilogue(dense(x), *given)


def accumulated(sides: Sides, x: Tensor) -> Sides:
    """As the operators want them: contiguous, of the type in which ``x`` is summed."""
    dtype = accumulation_dtype(x)
    return Sides(*(None if s is None else s.to(dtype).contiguous() for s in sides))


def _backward_fake(dy: Tensor, *inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dim, sums = inputs[5], inputs[-1]
    shapes = [[prod(dy.shape[:dim]), dy.shape[dim]], [], [dy.shape[dim]]]
    wide = accumulation_dtype(dy)
    made = (
        dy.new_empty(s if wanted else [0], dtype=wide)
        for s, wanted in zip(shapes, sums, strict=True)
    )
    return torch.empty_like(dy), *made


def _keep(ctx: Any, inputs: Sequence, output: Tensor) -> None:
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
        dv = dx if sides.scale is None else _epilogue_backward(dy, *inputs, False, _NO_SUMS)[0]
        dnoise = _summed_over_channels(dv, sides.noise)
        dnoise = dnoise if sides.strength is None else dnoise * sides.strength
    dscale, dstrength, dbias = (d if s else None for d, s in zip(found, sums, strict=True))
    return dx, dscale, dnoise, dstrength, dbias


def _summed_over_channels(dv: Tensor, noise: Tensor) -> Tensor:
    return (
        dv.reshape(*dv.shape[:2], prod(dv.shape[2:]))
        .to(noise.dtype)
        .sum(1)
        .sum_to_size(noise.shape)
    )


def _keep_backward(ctx: Any, inputs: Sequence, output: tuple) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:6])
    ctx.rest = inputs[6:]


def _double_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    inputs, needs, nothing = ctx.saved_tensors, ctx.needs_input_grad[:6], [None] * 8
    if all(given is None for given in cotangents):
        return *[None] * 6, *nothing
    if Options(*ctx.rest[:5]).curve.straight:
        return *_straight_double_backward(inputs, ctx.rest, needs, cotangents), *nothing

    def gradients(*tensors: Tensor | None) -> tuple[Tensor, ...]:
        return backward_reference(*tensors, *ctx.rest)

    return *vector_jacobian(gradients, inputs, needs, cotangents), *nothing


def _straight_double_backward(
    inputs: Sequence[Tensor | None],
    rest: Sequence[Any],
    needs: Sequence[bool],
    cotangents: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """For activations whose slope L does not change with v, by registered operators.

    The gradients are sums over dv = L * dy times scale, x, noise and 1. With their cotangents, all
    of it is the sum of dv * u for u = scale * ddx + x * ddscale + noise * ddstrength + ddbias.
    """
    dy, kept, *found = inputs
    sides, (ddx, *others), scaled, sums = Sides(*found), cotangents, *rest[-2:]
    # What was not asked for is empty, and so is its cotangent.
    asked = (d if s else None for d, s in zip(others, sums, strict=True))
    ddscale, ddstrength, ddbias = (d if d is None else d.contiguous() for d in asked)
    scale = sides.scale if scaled else None
    channels_last = is_channels_last(dy)

    plain = Options(*rest[:5]).plain
    linear = (rest[0], LINEAR, 0.0, 1.0, -1.0)

    def times_slope(z: Tensor) -> Tensor:
        return z if plain else _epilogue_backward(z, *inputs[1:], *rest[:6], False, _NO_SUMS)[0]

    ddx = torch.zeros_like(dy) if ddx is None else laid_out(ddx, channels_last)
    found = [None] * 6
    if needs[0]:
        u, around = ddx, (scale, None if ddstrength is None else sides.noise, ddstrength, ddbias)
        if any(side is not None for side in (scale, ddstrength, ddbias)):
            u = _epilogue(ddx, *around, *linear)
        if ddscale is not None:
            u = u + _epilogue(kept, ddscale, None, None, None, *linear)
        found[0] = times_slope(u)
    wants_kept, wants_scale = needs[1] and ddscale is not None, needs[2] and scale is not None
    wants_noise = needs[3] and ddstrength is not None
    if wants_kept or wants_scale or wants_noise:
        dv = times_slope(dy)
        if wants_kept:
            found[1] = _epilogue(dv, ddscale, None, None, None, *linear)
        if wants_scale:
            products = (dv, ddx, *[None] * 4, *linear, False, False, [True, False, False])
            found[2] = _epilogue_backward(*products)[1]
        if wants_noise:
            found[3] = _summed_over_channels(dv, sides.noise) * ddstrength
    return tuple(found)


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
