"""Resampling of images by FIR filters: public functions over the operator of ``kernels/fir.py``.

Conventions are those of StyleGAN2 and its successors (Karras et al. 2020).
"""

from collections.abc import Sequence
from numbers import Integral

from torch import Tensor

from kernels.filters import checked_filter
from kernels.fir import Sampling, resample, taps

Factor = int | Sequence[int]


def upfirdn2d(
    x: Tensor,
    f: Tensor | None,
    up: Factor = 1,
    down: Factor = 1,
    padding: Factor = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Inserts zeros, pads, filters, multiplies by a gain and keeps every ``down``-th pixel.

    Differentiable to any order with respect to ``x``; the filter gets no gradient.

    Args:
        x: images [N, C, H, W] of a floating type; its type and layout are those of the result.
        f: filter [fh, fw], or [taps] for both axes, of `setup_filter`; None is [1].
        up: each pixel is followed by ``up - 1`` zeros; a number or [x, y].
        down: factor of decimation; a number or [x, y].
        padding: zeros around the upsampled image, negative to crop it; a number, [x, y] or
            [left, right, top, bottom].
        flip_filter: correlate instead of convolve.
        gain: factor of the result.

    Raises:
        ValueError: a factor is below 1, ``f`` is no filter, or no pixel would be left.
        TypeError: ``x`` is not of a floating type.
    """
    f = checked_filter(x, f)
    return resample(x, f, checked_sampling(x, f, up, down, padding, flip_filter, gain))


def filter2d(
    x: Tensor,
    f: Tensor | None,
    padding: Factor = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Filters images; without ``padding`` their size stays. Arguments as in `upfirdn2d`."""
    f = checked_filter(x, f)
    padding = parsed_padding(padding, [n // 2 for n in taps(f)], [(n - 1) // 2 for n in taps(f)])
    return upfirdn2d(x, f, 1, 1, padding, flip_filter, gain)


def upsample2d(
    x: Tensor,
    f: Tensor | None,
    up: Factor = 2,
    padding: Factor = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Enlarges images by ``up``; ``padding`` counts pixels of the result, others as `upfirdn2d`."""
    f = checked_filter(x, f)
    up_x, up_y = _pair(up, "up")
    sizes = list(zip(taps(f), (up_y, up_x), strict=True))
    before, after = [(n + u - 1) // 2 for n, u in sizes], [(n - u) // 2 for n, u in sizes]
    padding = parsed_padding(padding, before, after)
    return upfirdn2d(x, f, up, 1, padding, flip_filter, gain * up_x * up_y)


def downsample2d(
    x: Tensor,
    f: Tensor | None,
    down: Factor = 2,
    padding: Factor = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Reduces images by ``down``; ``padding`` counts pixels of ``x``, others as `upfirdn2d`."""
    f = checked_filter(x, f)
    down_x, down_y = _pair(down, "down")
    sizes = list(zip(taps(f), (down_y, down_x), strict=True))
    before, after = [(n - d + 1) // 2 for n, d in sizes], [(n - d) // 2 for n, d in sizes]
    return upfirdn2d(x, f, 1, down, parsed_padding(padding, before, after), flip_filter, gain)


def checked_sampling(
    x: Tensor,
    f: Tensor,
    up: Factor,
    down: Factor,
    padding: Factor,
    flip_filter: bool,
    gain: float,
) -> Sampling:
    """The constants of one call.

    Raises:
        ValueError: a factor is below 1, the padding is not understood, or no pixel would be left.
    """
    factors = _pair(up, "up"), _pair(down, "down")
    sampling = Sampling(*factors, parsed_padding(padding), flip_filter, float(gain))
    if min(sampling.size(x, f)) < 1:
        raise ValueError(
            f"padding={padding} leaves no pixel of an image [H, W] of {list(x.shape[2:])} under a "
            f"filter of {list(f.shape)}; give more padding or a smaller filter"
        )
    return sampling


def _pair(factor: Factor, name: str) -> list[int]:
    pair = [int(n) for n in ([factor] * 2 if isinstance(factor, Integral) else factor)]
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{name}={factor}: is not a number of at least 1, or two of them: [x, y]")
    return pair


def parsed_padding(
    padding: Factor, before: Sequence[int] = (0, 0), after: Sequence[int] = (0, 0)
) -> list[int]:
    """Left, right, top, bottom; ``before`` and ``after`` are added along y and along x.

    Raises:
        ValueError: the padding is neither a number nor two nor four of them.
    """
    given = [int(n) for n in ([padding] * 4 if isinstance(padding, Integral) else padding)]
    if len(given) == 2:
        given = [given[0], given[0], given[1], given[1]]
    if len(given) != 4:
        raise ValueError(f"padding={padding}: is not a number, [x, y] or [x0, x1, y0, y1]")
    added = [before[1], after[1], before[0], after[0]]
    return [a + b for a, b in zip(given, added, strict=True)]
