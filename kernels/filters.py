"""Filters of the functions in ``kernels/resampling.py``."""

from collections.abc import Sequence

import torch
from torch import Tensor


def setup_filter(
    f: Tensor | Sequence | float | None,
    device: torch.device | str = "cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    """Makes the filter that the other functions take.

    Args:
        f: taps [fh, fw], or [taps] for both axes; a number is one tap, None is [1].
        device: of the result.
        normalize: divide by the sum.
        flip_filter: reverse the taps.
        gain: factor of a constant image.
        separable: keep one dimension; by default, filters of one dimension and 8 or more taps do.

    Returns:
        float32 filter, [taps] or [fh, fw].

    Raises:
        ValueError: there are no taps, or more than two dimensions; or more than one, or a negative
            gain, where it must be separable; or what is to be divided by is 0.
    """
    # Taps have values, also where parameters are made without, on the meta device.
    where = f.device if isinstance(f, Tensor) else "cpu"
    f = torch.as_tensor(1 if f is None else f, dtype=torch.float32, device=where)
    if f.ndim > 2 or not f.numel():
        raise ValueError(f"f of shape {list(f.shape)} is no filter; give [taps] or [fh, fw]")
    f = f.reshape(1) if f.ndim == 0 else f
    if separable is None:
        separable = f.ndim == 1 and f.numel() >= 8
    if separable and (f.ndim > 1 or gain < 0):
        raise ValueError("a separable filter needs [taps] and a gain of at least 0")
    if f.ndim == 1 and not separable:
        f = f.outer(f)
    if normalize:
        # While a graph is traced there are no values to look at.
        known = type(f) is Tensor and not f.is_meta and not torch.compiler.is_compiling()
        if known and f.sum() == 0:
            raise ValueError("f sums up to 0; give normalize=False")
        f = f / f.sum()
    if flip_filter:
        f = f.flip(list(range(f.ndim)))
    return (f * gain ** (f.ndim / 2)).to(device)


def checked_filter(x: Tensor, f: Tensor | None) -> Tensor:
    """The filter in float32, also of a network that was converted with it; [1, 1] for None.

    Raises:
        ValueError: it is not of a floating type with one or two dimensions, or not where ``x`` is,
            or ``x`` is not [N, C, H, W].
        TypeError: ``x`` is not of a floating type.
    """
    if x.ndim != 4:
        raise ValueError(f"x of shape {list(x.shape)} is not [N, C, H, W]")
    if not x.is_floating_point():
        raise TypeError(f"x is of type {x.dtype}, not of a floating type; convert it by .float()")
    if f is None:
        return torch.ones([1, 1], dtype=torch.float32, device=x.device)
    if not f.is_floating_point() or f.ndim not in (1, 2) or not f.numel():
        raise ValueError(
            f"f of shape {list(f.shape)} and type {f.dtype} is no filter; make it by setup_filter"
        )
    if f.device != x.device:
        raise ValueError(f"f is on {f.device} and x on {x.device}; move one of them")
    return f.detach().float()
