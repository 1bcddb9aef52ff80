"""In which types operators compute, whatever autocast asks of those around them."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

# Asked once, because torch.compile of 2.11 cannot look into the question.
_WITH_AUTOCAST = frozenset(filter(torch.amp.is_autocast_available, ("cpu", "cuda", "mps", "xpu")))


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """Type of sums and products, and of the small tensors beside ``x``."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Within it, convolutions and products keep the types of their inputs."""
    kind = x.device.type
    # An exported graph knows no autocast, and ONNX no operator that would switch it off.
    known = kind in _WITH_AUTOCAST and not torch.compiler.is_exporting()
    return torch.autocast(kind, enabled=False) if known else nullcontext()


def convolves_in_float16(x: Tensor) -> bool:
    """Whether a convolution of ``x`` will be computed in float16."""
    kind = x.device.type
    cast = kind in _WITH_AUTOCAST and torch.is_autocast_enabled(kind)
    return x.dtype == torch.float16 or (cast and torch.get_autocast_dtype(kind) == torch.float16)
