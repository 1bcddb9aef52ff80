"""Where in a frame something is to be seen."""

import numpy as np

from common.preprocess.boxes import Box
from common.preprocess.filters import without_hot_pixels

# Profiles that differ by less than this share are one: rounding decides nothing.
_ALIKE = 1e-6


def busiest_box(image: np.ndarray, share: float) -> Box:
    """The square in which [C, H, W] varies most, by 1-D convolutions along x and y.

    The variance of every column, and that of every row, is smoothed by a window as long as the
    square; the square lies where both peak. The window falls off to both sides (Hann), so that a
    cell smaller than the square comes to lie in its middle. Channels count by their variance
    relative to their range.

    Args:
        image: any grey values.
        share: side of the square as a share of the shorter side of the image, in (0, 1].
    """
    height, width = image.shape[1:]
    side = min(max(round(share * min(height, width)), 1), height, width)
    planes = without_hot_pixels(image)
    planes /= np.maximum(np.ptp(planes, axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)
    left = _peak(planes.var(1).sum(0), side)
    top = _peak(planes.var(2).sum(0), side)
    return Box(top, left, side, side)


def _peak(profile: np.ndarray, side: int) -> int:
    """Where the window begins under which the profile is largest; the middle one of equals."""
    window = np.hanning(side + 2)[1:-1]
    score = np.convolve(profile, window, mode="valid")
    best = np.flatnonzero(score >= score.max() * (1 - _ALIKE))
    return int(best[len(best) // 2])
