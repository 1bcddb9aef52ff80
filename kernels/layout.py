"""The two memory layouts that compiled operators know: contiguous and channels_last."""

import torch
from torch import Tensor


def is_channels_last(x: Tensor) -> bool:
    """Whether ``x`` lies in memory as [N, H, W, C] and not also as [N, C, H, W]."""
    if torch._C._are_functorch_transforms_active():
        # `torch.func.vmap` hides how its tensors lie.
        return False
    fits = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return fits and not x.is_contiguous()


def dense(x: Tensor) -> Tensor:
    """``x`` itself where it has one of the two layouts, else a contiguous copy."""
    return x if is_channels_last(x) else x.contiguous()


def laid_out(x: Tensor, channels_last: bool) -> Tensor:
    """``x``, or a copy of it, in the layout that is asked for."""
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    return x.contiguous(memory_format=wanted)
