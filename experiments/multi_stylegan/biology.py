"""What a yeast biologist measures on a sequence of a trap: cells, growth, buds, GFP, geometry."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from experiments.multi_stylegan.pillars import GRID, Pillars, find_pillars, on_grid
from experiments.multi_stylegan.segmentation import POINT, brightfield_cells, gfp_cells
from experiments.multi_stylegan.trap import FIELD

# Unit of each number; lengths and areas are those of the sequence's pixels.
UNITS = {
    "cells": "count",
    "cell_area": "px²",
    "cell_field_share": "1",
    "covered_share": "1",
    "growth_per_frame": "1",
    "buds": "count",
    "mask_overlap": "1",
    "mask_shift": "px",
    "gfp_level": "1",
    "gfp_background": "1",
    "gfp_spread": "1",
    "gfp_consistency": "1",
    "gfp_bleaching": "1",
    "trap_gap": "px",
    "pillar_width": "px",
    "bf_change": "1",
    "gfp_change": "1",
}
# Below these sides in pixels nothing is found.
_SMALLEST = 16
# Least overlap of a cell with itself a frame later, intersection over union.
_SAME = 0.35
# A new cell is a bud if it is smaller than this share of the usual one and this near to another,
# in points.
_BUD_SHARE, _BUD_NEAR = 0.6, 4
# Percentile of a GFP frame, outside of cells, that is its background; and how far from cells it is
# taken, in points.
_DARK, _AWAY = 20, 8


class _Seen(NamedTuple):
    """One frame: cells by number [GRID, GRID], whether the border cuts each, and its GFP."""

    labels: np.ndarray
    areas: np.ndarray
    cut: np.ndarray
    levels: np.ndarray
    background: float
    gfp_mask: np.ndarray


def measure(sequence: np.ndarray) -> dict[str, float]:
    """Reads the trap and the cells of a sequence.

    Args:
        sequence: floats [D, T, H, W] in [0, 1] of the window; brightfield, then GFP; further
            domains are not looked at.

    Returns:
        The keys of `UNITS`, NaN where something cannot be measured:

        * ``cells``: number in brightfield, mean over frames.
        * ``cell_area``, ``cell_field_share``: median of those that no border cuts, in pixels and
          over the field.
        * ``covered_share``: share of the field that is cells, mean over frames.
        * ``growth_per_frame``: median logarithmic change of the radius of a cell from frame to
          frame; cells are followed by their overlap.
        * ``buds``: small new cells beside another one, in the whole sequence.
        * ``mask_overlap``: of cells in brightfield and in GFP, intersection over union.
        * ``mask_shift``: of the two masks, where their correlation is highest.
        * ``gfp_level``: median over cells of their mean over the background, in the first frame
          that has some; ``gfp_background``; ``gfp_spread``: coefficient of variation over cells.
        * ``gfp_consistency``: median ratio, at most 1, of a cell's levels in consecutive frames.
        * ``gfp_bleaching``: median relative loss of a cell's level per frame.
        * ``trap_gap``, ``pillar_width``: of the frames' average.
        * ``bf_change``, ``gfp_change``: mean absolute change from frame to frame over the mean
          absolute deviation within frames.
    """
    sequence = np.asarray(sequence, np.float64)
    numbers = dict.fromkeys(UNITS, float("nan"))
    if sequence.shape[0] < 2 or min(sequence.shape[2:]) < _SMALLEST:
        return numbers
    if not np.isfinite(sequence).all():
        return numbers
    brightfield, gfp = sequence[0], sequence[1]
    pixel = FIELD / sequence.shape[-1]
    pillars = find_pillars(brightfield.mean(axis=0))
    if pillars is not None:
        numbers |= {"trap_gap": pillars.gap / pixel, "pillar_width": pillars.width / pixel}
    seen = [_look(*frames, pillars) for frames in zip(brightfield, gfp, strict=True)]
    numbers |= _of_cells(seen, pixel) | _of_pairs(seen) | _of_masks(seen, pixel)
    return numbers | {"bf_change": change(brightfield), "gfp_change": change(gfp)}


def change(frames: np.ndarray) -> float:
    """Mean absolute change from frame to frame over the mean absolute deviation within frames.

    Args:
        frames: [T, H, W].

    Returns:
        NaN for a single frame and for flat ones.
    """
    within = np.abs(frames - np.median(frames, axis=(1, 2), keepdims=True)).mean()
    if len(frames) < 2 or not within > 0:
        return float("nan")
    return float(np.abs(np.diff(frames, axis=0)).mean() / within)


def matched(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pairs of numbers that cover the same place in two frames.

    Args:
        first: numbers of cells, 0 for none [H, W].
        second: of the next frame.

    Returns:
        int [N, 2]; each number at most once, pairs with at least `_SAME` of overlap.
    """
    shape = (first.max() + 1, second.max() + 1)
    both = np.bincount((first * shape[1] + second).ravel(), minlength=shape[0] * shape[1])
    both = both.reshape(shape)
    either = both.sum(axis=1)[:, None] + both.sum(axis=0) - both
    overlap = (both / np.maximum(either, 1))[1:, 1:]
    if overlap.size == 0:
        return np.zeros((0, 2), int)
    pairs = np.argwhere(overlap > _SAME)
    best = np.array(
        [
            overlap[i, j] == overlap[i].max() and overlap[i, j] == overlap[:, j].max()
            for i, j in pairs
        ],
        bool,
    )
    return pairs[best] + 1


def _look(brightfield: np.ndarray, gfp: np.ndarray, pillars: Pillars | None) -> _Seen:
    labels, light = brightfield_cells(brightfield, pillars), on_grid(gfp)
    numbers = np.arange(1, labels.max() + 1)
    areas = np.bincount(labels.ravel(), minlength=len(numbers) + 1)[1:]
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    cut = np.isin(numbers, border)
    far = ndimage.distance_transform_edt(labels == 0) > _AWAY if len(numbers) else labels == 0
    background = float(np.percentile(light[far] if far.any() else light, _DARK))
    levels = np.asarray(ndimage.mean(light, labels, numbers)) - background
    return _Seen(labels, areas, cut, levels, background, gfp_cells(gfp))


def _of_cells(seen: list[_Seen], pixel: float) -> dict[str, float]:
    whole = np.concatenate([frame.areas[~frame.cut] for frame in seen])
    levels = [frame.levels for frame in seen if len(frame.levels)]
    first = levels[0] if levels else np.zeros(0)
    mean = float(np.mean(first)) if len(first) else float("nan")
    return {
        "cells": float(np.mean([len(frame.areas) for frame in seen])),
        "cell_area": _median(whole) * POINT / pixel**2,
        "cell_field_share": _median(whole) / GRID**2,
        "covered_share": float(np.mean([frame.areas.sum() for frame in seen])) / GRID**2,
        "gfp_level": _median(first),
        "gfp_background": float(np.mean([frame.background for frame in seen])),
        "gfp_spread": float(np.std(first)) / mean if len(first) > 1 and mean > 0 else float("nan"),
    }


def _of_pairs(seen: list[_Seen]) -> dict[str, float]:
    growth, ratios, buds = [], [], 0
    for before, after in pairwise(seen):
        pairs = matched(before.labels, after.labels) - 1
        whole = pairs[~before.cut[pairs[:, 0]] & ~after.cut[pairs[:, 1]]]
        growth += (np.log(after.areas[whole[:, 1]] / before.areas[whole[:, 0]]) / 2).tolist()
        # Blur takes light from small cells, which they get back as they grow.
        large = pairs[before.areas[pairs[:, 0]] > _BUD_SHARE * _median(before.areas)]
        old, new = before.levels[large[:, 0]], after.levels[large[:, 1]]
        bright = (old > 0) & (new > 0)
        ratios += np.log(new[bright] / old[bright]).tolist()
        buds += _buds(before, after, pairs)
    return {
        "growth_per_frame": _median(growth),
        "buds": float(buds) if len(seen) > 1 else float("nan"),
        "gfp_consistency": float(np.exp(-_median(np.abs(ratios)))),
        "gfp_bleaching": float(-np.expm1(_median(ratios))),
    }


def _buds(before: _Seen, after: _Seen, pairs: np.ndarray) -> int:
    """New small cells beside another one, where there was none that they could have come from."""
    usual, count = _median(before.areas), 0
    new = np.setdiff1d(np.arange(len(after.areas)), pairs[:, 1])
    for k in new[~after.cut[new] & (after.areas[new] < _BUD_SHARE * usual)].tolist():
        here = after.labels == k + 1
        around = ndimage.binary_dilation(here, iterations=_BUD_NEAR) & ~here
        mothers = np.unique(after.labels[around])
        count += bool(np.isin(mothers[mothers > 0] - 1, pairs[:, 1]).any())
    return count


def _of_masks(seen: list[_Seen], pixel: float) -> dict[str, float]:
    overlaps, shifts = [], []
    for frame in seen:
        cells, light = frame.labels > 0, frame.gfp_mask
        if cells.any() and light.any():
            overlaps.append(np.sum(cells & light) / np.sum(cells | light))
            shift = phase_cross_correlation(
                cells.astype(float), light.astype(float), upsample_factor=4, normalization=None
            )[0]
            shifts.append(shift)
        elif cells.any() or light.any():
            overlaps.append(0.0)
    shift = float(np.hypot(*np.mean(shifts, axis=0))) if shifts else float("nan")
    overlap = float(np.mean(overlaps)) if overlaps else float("nan")
    return {"mask_overlap": overlap, "mask_shift": shift * FIELD / GRID / pixel}


def _median(values: np.ndarray | list[float]) -> float:
    return float(np.median(values)) if len(values) else float("nan")
