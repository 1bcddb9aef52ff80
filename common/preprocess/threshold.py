"""From grey levels to masks, and from masks to skeletons."""

from collections.abc import Callable

import numpy as np
from skimage.filters import threshold_otsu, threshold_triangle
from skimage.morphology import remove_small_objects, skeletonize

from common.preprocess.boxes import as_float
from common.preprocess.pipeline import Rule

# Of the histograms. Coarse for the triangle: it ends at the first gap beside the peak, as between
# pixels that are exactly 0 after clipping and those just above.
_OTSU_BINS, _TRIANGLE_BINS = 256, 64


def otsu(plane: np.ndarray) -> float:
    """The grey level that splits [H, W] into the two classes of least variance (Otsu 1979)."""
    return float(threshold_otsu(as_float(plane), _bins(plane, _OTSU_BINS)))


def triangle(plane: np.ndarray) -> float:
    """The grey level of [H, W] where the histogram bends off its peak (Zack et al. 1977)."""
    return float(threshold_triangle(as_float(plane), _bins(plane, _TRIANGLE_BINS)))


def minimum_of_both(plane: np.ndarray) -> float:
    """The lower of `otsu` and `triangle`: for sparse foreground the first is often too high."""
    return min(otsu(plane), triangle(plane))


def mask_of(plane: np.ndarray, rule: Rule, min_size_px: int) -> tuple[np.ndarray, float]:
    """What is brighter than a threshold.

    Args:
        plane: grey levels [H, W].
        rule: what chooses the threshold.
        min_size_px: connected areas (corners connect) of fewer pixels are removed; 1 keeps all.

    Returns:
        Mask [H, W] of bool, empty where all grey levels are one, and the threshold.
    """
    level = _RULES[rule](plane)
    mask = as_float(plane) > np.float32(level)
    return remove_small_objects(mask, max_size=min_size_px - 1, connectivity=2), level


def skeleton(mask: np.ndarray) -> np.ndarray:
    """Centre lines of a mask [H, W], one pixel wide (Zhang and Suen 1984)."""
    return skeletonize(mask)


def _bins(plane: np.ndarray, most: int) -> int:
    """Number of bins that hold equally many grey levels each; more would leave some of them empty.

    Integers often have few levels; floats have so many that it is `most`.
    """
    levels = np.unique(as_float(plane))
    if len(levels) < 2:
        return 1
    count = round(float(levels[-1] - levels[0]) / float(np.diff(levels).min())) + 1
    return -(-count // -(-count // most))


_RULES: dict[Rule, Callable[[np.ndarray], float]] = {
    "otsu": otsu,
    "triangle": triangle,
    "minimum": minimum_of_both,
}
