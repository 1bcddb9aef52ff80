"""The XY panel of a three-panel preview, found by the lines between the panels.

A preview holds a large XY projection, an XZ strip along its top or bottom, a YZ strip at its right
or left, and straight lines of one level between them; where the strips meet it is empty. An
ordinary frame has no two such lines with an empty corner behind them.
"""

from itertools import product
from typing import NamedTuple

import numpy as np

from common.preprocess.boxes import Box, as_float

# Depth of a strip as a share of the picture.
_THINNEST_STRIP, _DEEPEST_STRIP = 0.05, 0.3
# Of the picture's width and height, always within the XY panel however deep the strips are.
_MIDDLE = (0.3, 0.7)
_WIDEST_LINE_PX = 8
# Least step on both sides of a line, in standard errors of the mean of what scatters along it.
_LEAST_STEP = 6.0
# A line scatters less than this share of the noise of the XY panel, or than this share of the grey
# levels in use, which lossy compression leaves of it.
_LINE_OF_NOISE, _LINE_OF_RANGE = 0.5, 0.015
# Shares of the grey levels in use below which an empty corner scatters, above which a strip does.
_EMPTY_OF_RANGE, _FULL_OF_RANGE = 0.008, 0.01
# Lines that are tried with each other, the clearest first.
_TRIED = 8
# Below it a strip has no room for content.
_SMALLEST_PX = 48


class _Line(NamedTuple):
    """Rows [start, stop) of one level, and how far it is from their neighbours on both sides."""

    start: int
    stop: int
    step: float


class _Scatter(NamedTuple):
    """Standard deviations of pixels.

    Attributes:
        line: up to which a line counts as of one level.
        empty: up to which a corner counts as empty.
        full: from which on a strip shows something.
    """

    line: float
    empty: float
    full: float


def xy_panel(image: np.ndarray) -> Box | None:
    """Finds the XY panel of a preview.

    Args:
        image: any grey values [C, H, W].

    Returns:
        The box of the panel, without the lines; None where the image is no such preview.
    """
    plane = as_float(image).mean(0)
    if min(plane.shape) < _SMALLEST_PX:
        return None
    scatter = _scatter(plane)
    best, box = 0.0, None
    for up, back in product((1, -1), (1, -1)):
        clearness, top, left = _corner(plane[::up, ::back], scatter)
        if clearness > best:
            height, width = plane.shape[0] - top, plane.shape[1] - left
            best = clearness
            box = Box(top if up == 1 else 0, left if back == 1 else 0, height, width)
    return box


def _corner(plane: np.ndarray, scatter: _Scatter) -> tuple[float, int, int]:
    """How clear the lines are that leave a strip above and one to the left; the panel's corner."""
    best = (0.0, 0, 0)
    for row, column in product(_lines(plane, scatter.line), _lines(plane.T, scatter.line)):
        clearness = min(row.step, column.step)
        if clearness > best[0] and _is_preview(plane, row, column, scatter):
            best = (clearness, row.stop, column.stop)
    return best


def _is_preview(plane: np.ndarray, row: _Line, column: _Line, scatter: _Scatter) -> bool:
    across = plane[row.start : row.stop, column.stop :]
    down = plane[row.stop :, column.start : column.stop]
    corner = plane[: row.start, : column.start].std()
    above, beside = plane[: row.start, column.stop :], plane[row.stop :, : column.start]
    lines = max(across.std(), down.std()) <= scatter.line
    empty = corner <= scatter.empty
    full = min(above.std(), beside.std()) > scatter.full
    return bool(lines and empty and full)


def _lines(plane: np.ndarray, flat: float) -> list[_Line]:
    """Flat rows at the depth of a strip, the clearest first."""
    height, width = plane.shape
    first, last = (round(share * height) for share in (_THINNEST_STRIP, _DEEPEST_STRIP))
    middle = plane[: last + _WIDEST_LINE_PX + 1, slice(*(round(s * width) for s in _MIDDLE))]
    steps = np.diff(middle, axis=0)
    error = np.maximum(steps.std(1), flat) / np.sqrt(steps.shape[1])
    # The step from row k - 1 to row k stands at k.
    sizes = np.concatenate([[0], np.abs(steps.mean(1)) / error])
    found = [
        _Line(start, start + wide, float(min(sizes[start], sizes[start + wide])))
        for start in (first + np.flatnonzero(sizes[first:last] > _LEAST_STEP)).tolist()
        for wide in (1 + np.flatnonzero(sizes[start + 1 :] > _LEAST_STEP)).tolist()
        if wide <= _WIDEST_LINE_PX
    ]
    level = [line for line in found if middle[line.start : line.stop].std() <= flat]
    return sorted(level, key=lambda line: -line.step)[:_TRIED]


def _scatter(plane: np.ndarray) -> _Scatter:
    middle = plane[tuple(slice(*(round(s * length) for s in _MIDDLE)) for length in plane.shape)]
    # Neighbouring rows differ by noise alone, nearly.
    noise = np.median(np.diff(middle, axis=0).std(1)) / np.sqrt(2)
    levels = max(np.percentile(plane, 99) - plane.min(), np.finfo(np.float32).tiny)
    line = max(_LINE_OF_NOISE * noise, _LINE_OF_RANGE * levels)
    return _Scatter(line, _EMPTY_OF_RANGE * levels, _FULL_OF_RANGE * levels)
