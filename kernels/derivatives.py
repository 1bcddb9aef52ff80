"""Derivatives of derivatives where no compiled operator gives them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def vector_jacobian(
    function: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor | None],
    wanted: Sequence[bool],
    cotangents: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Gradients of ``function`` by torch's own differentiation; differentiable to any order.

    Args:
        function: of the inputs in plain torch.
        inputs: tensors, or None where one is absent.
        wanted: which gradients are asked for.
        cotangents: gradient of each result of ``function``, or None where it has none.

    Returns:
        One gradient for each input, None where it was not wanted or does not exist.
    """
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # A view of its own, so that differentiation ends here and, if asked to, begins here too.
        leaves = [
            x if x is None else x.view_as(x) if again and x.requires_grad else _leaf(x, need)
            for x, need in zip(inputs, wanted, strict=True)
        ]
        results = function(*leaves)
        pairs = [
            (y, dy)
            for y, dy in zip(results, cotangents, strict=True)
            if dy is not None and y.requires_grad
        ]
        chosen = [x for x, need in zip(leaves, wanted, strict=True) if need and x is not None]
        if not pairs or not chosen:
            return [None] * len(inputs)
        outputs, gradients = zip(*pairs, strict=True)
        found = iter(
            torch.autograd.grad(outputs, chosen, gradients, create_graph=again, allow_unused=True)
        )
    return [
        next(found) if need and x is not None else None
        for x, need in zip(leaves, wanted, strict=True)
    ]


def _leaf(x: Tensor, wanted: bool) -> Tensor:
    return x.detach().requires_grad_(wanted)
