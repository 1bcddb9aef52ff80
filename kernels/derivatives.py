"""How a declared operator is differentiated, and derivatives that no compiled operator gives."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_BELOW = torch._C._after_autograd_keyset


def autograd_kernel(op: Any, backward: Callable, setup_context: Callable) -> Callable:
    """What the dispatcher calls for an operator on its way to the kernels of a device.

    ``torch.library.register_autograd`` makes the same, and compares each call with the defaults in
    the schema: that alone takes longer than a small network's layer does on a GPU.

    Args:
        op: overload whose schema has neither defaults nor lists of tensors.
        backward: of the context and the gradients of the results; one gradient for each input.
        setup_context: of the context, the inputs and the output.
    """

    def forward(ctx: Any, *given: Any) -> Any:
        *inputs, keys = given
        with torch._C._AutoDispatchBelowAutograd():
            output = op.redispatch(keys, *inputs)
        setup_context(ctx, inputs, output)
        return output

    def backward_of_all(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return *backward(ctx, *gradients), None

    # Its name is what profiles and `grad_fn` show.
    steps = {"forward": staticmethod(forward), "backward": staticmethod(backward_of_all)}
    differentiated = type(op._opname, (torch.autograd.Function,), steps)

    def kernel(keys: Any, *inputs: Any) -> Any:
        keys = keys & _BELOW
        wanted = (isinstance(x, Tensor) and x.requires_grad for x in inputs)
        if torch.is_grad_enabled() and any(wanted):
            return differentiated.apply(*inputs, keys)
        with torch._C._AutoDispatchBelowAutograd():
            return op.redispatch(keys, *inputs)

    return kernel


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
