"""Finds yeast cells in a frame: in brightfield by dark outlines and halos, in GFP by their light.

Frames are looked at on the grid of `pillars`, so that thresholds do not depend on the pixels.
"""

import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.morphology import disk, h_maxima, remove_small_objects
from skimage.segmentation import expand_labels, watershed

from experiments.multi_stylegan.pillars import GRID, Pillars, on_grid
from experiments.multi_stylegan.trap import FIELD

# Area of a point of the grid in squared units of 1/256 of the field.
POINT = (FIELD / GRID) ** 2
# Least area of a cell, a bud of 7 units, and largest of an interior, of a mother of 80; in points.
_LEAST, _LARGEST = round(38 / POINT), round(5000 / POINT)
# Blur in pixels of the frame, and its bounds in points.
_BLUR, _BLURS = 0.3, (0.7, 1.2)
# Shares of the brightest halos: a dark outline is below the first, somewhere below the second, and
# what it encloses is on average below the third.
_DARK, _DARKEST, _HALO = -0.15, -0.35, 0.22
# Where contrast is turned round: a halo is below the first, and what it encloses has a bright
# outline that is somewhere above the second, and an area of at most so many large cells.
_DARK_HALO, _BRIGHT, _CLUSTER = -0.3, 0.25, 2.5
# How far a dark outline lies within the pillars' border, units; and a cell's border outside of what
# is dark, points.
_PILLAR_BORDER, _OUT = 1.5, 1
# How much farther from the outline one of two cells' middles is than the neck between, points.
_NECK = 0.4
# GFP: blur and distance of peaks in points, least peak over the noise and over the brightest one,
# height of an outline over its peak, radius of gaps and area of vacuoles that are closed, points.
_GFP_BLUR, _APART, _LEAST_NOISE, _LEAST_PEAK, _HALF, _GAP, _VACUOLE = 1.0, 5, 8.0, 0.12, 0.5, 3, 200


def brightfield_cells(frame: np.ndarray, pillars: Pillars | None) -> np.ndarray:
    """Cells of a brightfield frame: dark outlines and what they enclose.

    What dark outlines enclose is background where it has a halo, else a cell's interior. Cells
    that touch are parted at necks.

    Args:
        frame: [H, W], any scale.
        pillars: of the trap; they are no cells. Without them halos are taken for bright.

    Returns:
        Numbers 1, 2, .. of cells, 0 for none, int32 [GRID, GRID].
    """
    blur = float(np.clip(_BLUR * GRID / frame.shape[-1], *_BLURS))
    light = ndimage.gaussian_filter(flattened(on_grid(frame)), blur)
    sign = pillars.sign if pillars else 1
    top = np.percentile(sign * light, 99.5)
    if not top > 0:
        return np.zeros(light.shape, np.int32)
    free = np.ones(light.shape, bool) if pillars is None else pillars.distance > _PILLAR_BORDER
    found = _with_interiors if sign > 0 else _within_halos
    mask = ndimage.binary_opening(found(light / top, free), disk(1))
    mask = remove_small_objects(mask, max_size=_LEAST - 1)
    return np.where(free, expand_labels(_parted(mask, blur), _OUT), 0).astype(np.int32)


def gfp_cells(frame: np.ndarray) -> np.ndarray:
    """Where cells are in a GFP frame: above half of the next peak, over the background.

    Peaks above the usual one count as a usual one, so that dim neighbours are not lost.

    Args:
        frame: [H, W], any scale.

    Returns:
        bool [GRID, GRID].
    """
    light = ndimage.gaussian_filter(on_grid(frame), _GFP_BLUR)
    dark, top = np.percentile(light, (20, 99.8))
    spread = dark - np.percentile(light, 2)
    least = max(_LEAST_NOISE * spread, _LEAST_PEAK * (top - dark), 1e-9)
    peaks = peak_local_max(
        light - dark, min_distance=_APART, threshold_abs=least, exclude_border=False
    )
    if len(peaks) == 0:
        return np.zeros(light.shape, bool)
    markers = np.zeros(light.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    heights = light[tuple(peaks.T)] - dark
    heights = np.append(0, np.minimum(heights, np.median(heights)))
    mask = light - dark > _HALF * heights[watershed(-light, markers)]
    return _filled(mask)


def flattened(image: np.ndarray) -> np.ndarray:
    """Without background: a paraboloid through the half of the points next to it [H, W]."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] / max(image.shape)
    terms = np.stack([np.ones_like(x), x, y, x**2 + y**2], -1).reshape(-1, 4)
    values = np.asarray(image, float).ravel()
    rest = np.abs(values - np.median(values))
    for _ in range(3):
        near = rest <= np.median(rest)
        surface = terms @ np.linalg.lstsq(terms[near], values[near], rcond=None)[0]
        rest = np.abs(values - surface)
    return (values - surface).reshape(image.shape)


def _with_interiors(light: np.ndarray, free: np.ndarray) -> np.ndarray:
    dark = light < _DARK
    regions, count = ndimage.label(~dark & free)
    numbers = np.arange(1, count + 1)
    areas = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    means = ndimage.mean(light, regions, numbers)
    inside = (areas <= _LARGEST) & (np.asarray(means) < _HALO)
    mask = (dark | np.append(False, inside)[regions]) & free
    objects, count = ndimage.label(mask)
    darkest = ndimage.minimum(light, objects, np.arange(1, count + 1))
    return np.append(False, np.asarray(darkest) < _DARKEST)[objects]


def _within_halos(light: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Where contrast is turned round: what dark halos enclose and has a bright outline."""
    regions, count = ndimage.label((light > _DARK_HALO) & free)
    numbers = np.arange(1, count + 1)
    areas = np.bincount(regions.ravel(), minlength=count + 1)[1:]
    brightest = np.asarray(ndimage.maximum(light, regions, numbers))
    inside = (areas <= _CLUSTER * _LARGEST) & (brightest > _BRIGHT)
    return _filled(np.append(False, inside)[regions]) & free


def _parted(mask: np.ndarray, blur: float) -> np.ndarray:
    """Numbers of round parts of a mask [H, W]; its depth is blurred before."""
    # Beyond the frame it goes on as at its border.
    depth = ndimage.distance_transform_edt(np.pad(mask, 8, mode="edge"))[8:-8, 8:-8]
    depth = np.where(mask, ndimage.gaussian_filter(depth, blur), 0)
    markers, _ = ndimage.label(h_maxima(depth, _NECK), np.ones((3, 3)))
    return watershed(-depth, markers, mask=mask)


def _filled(mask: np.ndarray) -> np.ndarray:
    """Without narrow gaps, and without holes as large as a vacuole."""
    closed = ndimage.binary_closing(np.pad(mask, _GAP + 1), disk(_GAP))
    closed = closed[_GAP + 1 : -_GAP - 1, _GAP + 1 : -_GAP - 1] | mask
    holes, count = ndimage.label(~closed)
    areas = np.bincount(holes.ravel(), minlength=count + 1)
    small = areas <= _VACUOLE
    small[0] = True
    return small[holes]
