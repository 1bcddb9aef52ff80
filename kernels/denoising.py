"""Non-local means for images with any number of channels.

The operator ``kernels::non_local_means`` takes [N, C, H, W]; compiled code is in
``csrc/cpu/non_local_means.h`` and ``csrc/cuda/non_local_means.cu``.
"""

from itertools import product
from math import inf

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.layout import dense, is_channels_last, laid_out
from kernels.precision import accumulation_dtype
from kernels.registry import native, operator

# Below it the square of h is no longer a float32.
_SMALLEST_H = 1e-18


def non_local_means(
    x: Tensor, patch_size: int = 7, patch_distance: int = 11, h: float = 0.1, sigma: float = 0.0
) -> Tensor:
    """Averages each pixel with those nearby that are surrounded alike.

    Buades, Coll and Morel 2005, with patches of uniform weight, so that patches are compared by
    box sums (Darbon et al. 2008; Froment 2014). All channels share the weights

        w(p, q) = exp(-max(d2 - 2 sigma^2, 0) / h^2)

    for q in the search window of (2 patch_distance + 1)^2 pixels around p, where d2 is the mean
    squared difference of the patches around p and q over pixels and channels; w(p, p) is 1.
    Arguments are those of scikit-image's ``denoise_nl_means(fast_mode=True)``, which also drops
    the weights below exp(-5).

    Beyond its borders an image is mirrored without repeating the pixels at the edge, as often as
    it takes: an image may be smaller than the window. The computation is in float32, for float64
    in float64. It has no gradient: the result never requires one.

    Args:
        x: image [C, H, W] or images [N, C, H, W] of a floating type.
        patch_size: side of a patch in pixels, odd.
        patch_distance: largest offset of the search window in pixels; the time is proportional to
            the area of the window.
        h: filter strength in units of ``x``; the larger, the smoother. About the standard
            deviation of the noise, 0.8 of it where ``sigma`` tells it too.
        sigma: standard deviation of the noise in units of ``x``.

    Returns:
        Tensor of the shape, type and memory layout of ``x``.

    Raises:
        TypeError: ``x`` is not of a floating type.
        ValueError: ``x`` has neither 3 nor 4 dimensions, or an argument is out of its range.
        RuntimeError: the patch or the window is too large for the shared memory of a GPU, which
            takes patches of 79 pixels (Turing) to 191 (Hopper) with the default window; the
            reference takes any, under ``using("ref")``.
    """
    _check(x, patch_size, patch_distance, h, sigma)
    images = dense(x.detach() if x.ndim == 4 else x.detach()[None])
    run = _non_local_means if native(x) else reference
    out = run(images, patch_size, patch_distance, float(h), float(sigma))
    return out if x.ndim == 4 else out[0]


def _check(x: Tensor, patch_size: int, patch_distance: int, h: float, sigma: float) -> None:
    if not x.is_floating_point():
        raise TypeError(f"x of {x.dtype}: is not of a floating type; give x.float()")
    if x.ndim not in (3, 4):
        raise ValueError(
            f"x of shape {tuple(x.shape)}: is no image; give [C, H, W] or [N, C, H, W]"
        )
    if patch_size < 1 or patch_size % 2 == 0:
        raise ValueError(f"patch_size={patch_size}: is not odd and positive; give 5 or 7")
    if patch_distance < 0:
        raise ValueError(f"patch_distance={patch_distance}: is negative; give 0 or more")
    if not _SMALLEST_H < h < inf:
        raise ValueError(f"h={h}: is not finite and above {_SMALLEST_H}; give it in units of x")
    if not 0 <= sigma < inf:
        raise ValueError(f"sigma={sigma}: is not finite and at least 0; give it in units of x")


def reference(x: Tensor, patch_size: int, patch_distance: int, h: float, sigma: float) -> Tensor:
    """The specification in plain torch; arguments as in the schema of ``non_local_means``."""
    if not x.numel():
        return torch.empty_like(x)
    height, width = x.shape[2:]
    radius = patch_size // 2
    wide = _mirrored(x.to(accumulation_dtype(x)), patch_distance + radius)

    def moved(dy: int, dx: int, border: int) -> Tensor:
        top, left = patch_distance + radius + dy - border, patch_distance + radius + dx - border
        return wide[:, :, top : top + height + 2 * border, left : left + width + 2 * border]

    total, weights = 0.0, 0.0
    offsets = range(-patch_distance, patch_distance + 1)
    for dy, dx in product(offsets, offsets):
        squares = (moved(0, 0, radius) - moved(dy, dx, radius)).square().mean(1, keepdim=True)
        d2 = F.avg_pool2d(squares, patch_size, stride=1)
        weight = (-(d2 - 2 * sigma * sigma).clamp(min=0) / (h * h)).exp()
        total = total + weight * moved(dy, dx, 0)
        weights = weights + weight
    return laid_out((total / weights).to(x.dtype), is_channels_last(x))


def _mirrored(x: Tensor, border: int) -> Tensor:
    for dim in (2, 3):
        size = x.shape[dim]
        period = max(2 * (size - 1), 1)
        phase = torch.arange(-border, size + border, device=x.device) % period
        x = x.index_select(dim, torch.minimum(phase, period - phase))
    return x


_non_local_means = operator(
    "non_local_means(Tensor x, int patch_size, int patch_distance, float h, float sigma) -> Tensor",
    reference,
    lambda x, *_: torch.empty_like(x),
)
