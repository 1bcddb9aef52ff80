"""Steps of a training as CUDA graphs: one launch for what is thousands of small operations."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

Step = Callable[..., dict[str, Tensor]]
# Steps of each kind that run as they are: libraries choose and load their code in them.
_WARM_UP = 3


@dataclass
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    results: dict[str, Tensor]


class StepGraphs:
    """Runs steps; those of a kind that it has seen `_WARM_UP` times are replayed as one graph.

    What is replayed does what was captured, on the values that tensors hold now. So a step is a
    function of the tensors it is given, of weights, gradients and buffers that stay where they
    are, and of the device's random numbers, which advance as ever. It waits for no value of the
    device and copies nothing from the host. Whatever else decides what it does is part of its kind.
    Its Python runs when it is captured and never again, callbacks included: of a replayed step the
    guard of finite numbers sees gradients and weights, not the loss. Parameters that it does not
    reach have a gradient of zero instead of none.

    Args:
        enabled: else every step runs as it is, as on other devices than a GPU.
    """

    def __init__(self, enabled: bool = False) -> None:
        self.enabled = enabled
        self._seen: dict[Hashable, int] = {}
        self._captured: dict[Hashable, _Captured] = {}
        # A backward pass runs on the stream of its forward pass, and the default one cannot be
        # captured.
        self._stream = torch.cuda.Stream() if enabled else None
        self._pool = torch.cuda.graph_pool_handle() if enabled else None

    def __call__(self, kind: Hashable, step: Step, *inputs: Tensor) -> dict[str, Tensor]:
        """What the step returns: numbers by name, without a graph of derivatives.

        Args:
            kind: of the step; shapes and types of the inputs belong to it anyway.
            step: see above; it may call ``backward`` into gradients that are there already.
            inputs: its arguments.
        """
        if not self.enabled:
            return step(*inputs)
        key = kind, tuple((x.shape, x.dtype, x.stride()) for x in inputs)
        self._seen[key] = self._seen.get(key, 0) + 1
        if self._seen[key] <= _WARM_UP:
            return self._beside(step, inputs)
        if key not in self._captured:
            self._captured[key] = self._capture(step, inputs)
        captured = self._captured[key]
        for static, value in zip(captured.inputs, inputs, strict=True):
            static.copy_(value)
        captured.graph.replay()
        # Other graphs use the same memory.
        return {name: value.clone() for name, value in captured.results.items()}

    def _beside(self, step: Step, inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            results = step(*inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        return results

    def _capture(self, step: Step, inputs: tuple[Tensor, ...]) -> _Captured:
        static = tuple(x.detach().clone() for x in inputs)
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as those of a loader, go on with calls that a capture must not hold.
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            # Aliases: a step may ask for derivatives by what it is given.
            results = step(*(x.detach() for x in static))
        return _Captured(graph, static, results)
