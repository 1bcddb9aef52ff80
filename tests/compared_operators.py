"""An operator's values and derivatives, compiled and by reference, beside one another."""

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kernels.registry import using

# Relative to the largest value.
EXACT = {torch.float64: 1e-9, torch.float32: 1e-5}
# Compiled and reference round to 16 bits at the same places: a value may differ by one step, a
# gradient by one for each pass, and a second one is made of several rounded gradients.
STEP = {torch.bfloat16: 2**-8, torch.float16: 2**-11}
STEPS = (1, 2, 8)


def derivatives(
    mode: str, call: Callable[..., Tensor], leaves: Sequence[Tensor]
) -> list[Tensor | None]:
    """The result of ``call``, gradients of a random projection of it, and gradients of these.

    Args:
        mode: of `kernels.using`.
        call: takes the leaves.
        leaves: tensors to differentiate by.
    """
    leaves = [x.detach().requires_grad_() for x in leaves]
    with using(mode):
        y = call(*leaves)
        weights = _like(y, 1)
        first = torch.autograd.grad(
            (y.to(torch.float64) * weights).sum(), leaves, create_graph=True, allow_unused=True
        )
        projections = [
            (g.to(torch.float64) * _like(g, 2 + i)).sum()
            for i, g in enumerate(first)
            if g is not None and g.requires_grad
        ]
        second = [None] * len(leaves)
        if projections:
            second = torch.autograd.grad(sum(projections), leaves, allow_unused=True)
    return [y, *first, *second]


def assert_alike(
    call: Callable[..., Tensor],
    leaves: Sequence[Tensor],
    note: object = "",
    steps: Sequence[int] = STEPS,
) -> None:
    """The compiled operator and its reference agree in value, first and second derivatives.

    Args:
        call: takes the leaves.
        leaves: tensors to differentiate by.
        note: said where they differ.
        steps: of a type of 16 bits, by which each of the three may differ.
    """
    expected = derivatives("ref", call, leaves)
    found = derivatives("native", call, leaves)
    dtype = leaves[0].dtype
    for index, (e, f) in enumerate(zip(expected, found, strict=True)):
        if e is None or f is None:
            given = e if f is None else f
            assert given is None or not given.any(), (note, index)
            continue
        assert (e.shape, e.dtype) == (f.shape, f.dtype), (note, index)
        assert e.is_contiguous() == f.is_contiguous() or index > 0, (note, index)
        if e.numel():
            scale = max(1.0, e.detach().abs().max().item())
            order = 0 if index == 0 else 1 if index <= len(leaves) else 2
            tolerance = EXACT.get(dtype) or steps[order] * STEP[dtype]
            error = (e.detach().double() - f.detach().double()).abs().max().item() / scale
            assert error <= tolerance, (note, index, error)


def image(
    rng: random.Random, dtype: torch.dtype, channels: int | None = None, largest: int = 13
) -> Tensor:
    """A random batch of any size and of either layout."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    shape = [rng.choice([0, 1, 2, 3]), channels or rng.choice([1, 2, 3, 5, 8, 17])]
    shape += [rng.randint(1, largest), rng.randint(1, largest)]
    x = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return x.to(memory_format=torch.channels_last) if rng.random() < 0.5 else x


def _like(x: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(x.shape, generator=generator, dtype=torch.float64)
