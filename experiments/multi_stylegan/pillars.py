"""Finds the two pillars of a trap in a brightfield frame by what their outlines look like."""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from experiments.multi_stylegan.trap import FIELD, HEIGHT, WIDTH, pear_distance

# Points along a side of the grid on which frames are looked at, whatever their pixels.
GRID = 128
# Sizes tried, over the usual one; and gaps tried, in units of 1/256 of the field.
_SCALES = np.linspace(0.9, 1.1, 9)
_GAPS = (8.0, 44.0)
# Radius of the upper end over the width of a pillar.
_TOP = 0.287
# Outline in a template: a dark line inside, a bright halo outside; width of each in units.
_BAND, _MARGIN = 3.5, 9.0
# Mean correlation of both pillars below which there are none; empty frames of noise reach 0.25.
_LEAST = 0.4


class Pillars(NamedTuple):
    """Two pillars on the grid, lengths in units of 1/256 of the field.

    Attributes:
        gap: where they bulge towards each other.
        width: of each of them.
        sign: 1 where halos are bright, -1 where the focal plane turns contrast round.
        score: mean correlation with the templates, up to 1.
        distance: from each point of the grid to the next pillar, below 0 inside [GRID, GRID].
    """

    gap: float
    width: float
    sign: int
    score: float
    distance: np.ndarray


def on_grid(frame: np.ndarray) -> np.ndarray:
    """A frame [H, W] on the grid, float32: averaged where it is finer, cubic where coarser."""
    kind = cv2.INTER_AREA if min(frame.shape) >= GRID else cv2.INTER_CUBIC
    return cv2.resize(np.asarray(frame, np.float32), (GRID, GRID), interpolation=kind)


def find_pillars(frame: np.ndarray) -> Pillars | None:
    """Looks for the pair of mirrored pears that fits best.

    Args:
        frame: brightfield [H, W], any scale; an average over time holds fewer cells.

    Returns:
        None where nothing looks like a pair, upright or upside down, as some files have it.
    """
    image = on_grid(frame)
    if not np.ptp(image) > 0:
        return None
    upright = _upright(image)
    if upright is not None:
        return upright
    turned = _upright(np.ascontiguousarray(image[::-1]))
    return turned and turned._replace(distance=turned.distance[::-1])


def _upright(image: np.ndarray) -> Pillars | None:
    best = max(_candidates(image), key=lambda found: found[0])
    score, sign, scale, separation, x, y = best
    if score < _LEAST:
        return None
    step, width = FIELD / GRID, WIDTH * scale
    points = (np.arange(GRID) + 0.5) * step
    right, down = points[None] - x * step, points[:, None] - y * step
    half = separation * step / 2
    outline = (width / 2, _TOP * width, HEIGHT * scale)
    sides = [pear_distance(*np.broadcast_arrays(right + k * half, down), *outline) for k in (-1, 1)]
    return Pillars(2 * half - width, width, sign, score, np.minimum(*sides))


def _candidates(image: np.ndarray) -> Iterator[tuple[float, int, float, float, float, float]]:
    """Of each size and sign: score, sign, size, distance, x, y of the pair's middle, in points."""
    step = FIELD / GRID
    for scale in _SCALES.tolist():
        template, centre = _template(scale)
        match = cv2.matchTemplate(image, template, cv2.TM_CCOEFF_NORMED)
        low, high = ((WIDTH * scale + gap) / step for gap in _GAPS)
        apart = range(round(low), round(high) + 1)
        for sign in (1, -1):
            pairs = [sign * (match[:, :-s] + match[:, s:]) / 2 for s in apart]
            best = int(np.argmax([pair.max() for pair in pairs]))
            row, column = np.unravel_index(np.argmax(pairs[best]), pairs[best].shape)
            left, right = (_vertex(sign * match[row], column + s) for s in (0, apart[best]))
            x = (left + right) / 2 + centre[0]
            yield float(pairs[best].max()), sign, scale, right - left, x, row + centre[1]


def _vertex(heights: np.ndarray, best: int) -> float:
    """Where a parabola through a point [N] and its neighbours is highest, at most half a step."""
    if not 0 < best < len(heights) - 1:
        return float(best)
    before, peak, after = heights[best - 1 : best + 2].tolist()
    bend = before - 2 * peak + after
    return best + float(np.clip((before - after) / (2 * bend), -0.5, 0.5)) if bend < 0 else best


def _template(scale: float) -> tuple[np.ndarray, tuple[float, float]]:
    """What a pillar looks like, and x, y of its thick end's middle in the template, in points."""
    step, width, height = FIELD / GRID, WIDTH * scale, HEIGHT * scale
    columns = 2 * int((width / 2 + _MARGIN) / step) + 1
    rows = int((height + 2 * _MARGIN) / step)
    # Middle of a point, counted from the border of the template.
    x = (np.arange(columns) - (columns - 1) / 2) * step
    below = (width / 2 + _MARGIN) / step
    y = (np.arange(rows) + 0.5 - (rows - below)) * step
    distance = pear_distance(*np.meshgrid(x, y), width / 2, _TOP * width, height)
    line = np.exp(-(((distance + _BAND / 2) / _BAND) ** 2))
    halo = np.exp(-(((distance - _BAND) / _BAND) ** 2))
    return np.float32(halo - line), (columns / 2, rows - below)
