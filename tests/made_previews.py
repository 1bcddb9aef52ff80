"""Three-panel previews as light-sheet microscopes save them beside a volume.

The XY projection takes most of the picture. An XZ strip lies along its top or bottom, a YZ strip at
its right or left; lines separate the three. Where the strips meet the picture is empty.
"""

import numpy as np

from common.preprocess.boxes import Box

# Depth of the strips as a share of the whole picture; real previews have 0.14 and 0.13.
SMALLEST_STRIP, LARGEST_STRIP = 0.08, 0.22
# Width of the lines in pixels.
_THINNEST, _THICKEST = 1, 5


def preview(frame: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Box]:
    """Puts an XY frame between projections along its other axes.

    Sizes of the strips, width and level of the lines (above or below most of the frame), the
    order of the panels and the shear of the deskewed side strip are drawn from `rng`.

    Args:
        frame: XY projection [C, H, W], non-negative, of any type.
        rng: source of everything that varies.

    Returns:
        The picture [C, H', W'] of the type of the frame, and the box of the frame in it.
    """
    # Built with the strips above and to the right; half of the pictures the other way round.
    up, back = rng.choice((1, -1), 2)
    frame = frame[:, ::up, ::back]
    height, width = frame.shape[1:]
    shares = rng.uniform(SMALLEST_STRIP, LARGEST_STRIP, 2)
    depths = [max(round(s / (1 - s) * n), 4) for s, n in zip(shares, (height, width), strict=True)]
    line, level = int(rng.integers(_THINNEST, _THICKEST + 1)), _level(frame, rng)
    above = _squashed(frame, depths[0])
    beside = _squashed(frame.swapaxes(1, 2), depths[1]).swapaxes(1, 2)
    if rng.random() < 0.75:
        beside = _sheared(beside, int(rng.uniform(0.02, 0.2) * height))
    corner = level if rng.random() < 0.25 else 0
    size = (len(frame), height + depths[0] + line, width + depths[1] + line)
    whole = np.full(size, corner, frame.dtype)
    whole[:, depths[0] : depths[0] + line] = level
    whole[:, :, width : width + line] = level
    whole[:, : depths[0], :width] = above
    whole[:, depths[0] + line :, width + line :] = beside
    whole[:, depths[0] + line :, :width] = frame
    box = Box(0 if up < 0 else depths[0] + line, 0 if back > 0 else depths[1] + line, height, width)
    return np.ascontiguousarray(whole[:, ::up, ::back]), box


def _level(frame: np.ndarray, rng: np.random.Generator) -> float:
    """Grey level of the lines: towards the brightest pixel, or at most half of the darkest."""
    darkest = float(np.percentile(frame, 1))
    if rng.random() < 0.5:
        return darkest + rng.uniform(0.6, 1) * (float(frame.max()) - darkest)
    return rng.uniform(0, 0.5) * darkest


def _squashed(frame: np.ndarray, depth: int) -> np.ndarray:
    """Brightest pixel of each of `depth` bands of rows: as noisy and as bright as a projection."""
    starts = np.linspace(0, frame.shape[1], depth, endpoint=False).astype(int)
    return np.maximum.reduceat(frame, starts, axis=1)


def _sheared(strip: np.ndarray, most: int) -> np.ndarray:
    """Shifts the columns of [C, H, D] by 0 to `most` pixels; the corners it leaves are black."""
    height, depth = strip.shape[1:]
    source = np.arange(height)[:, None] - np.rint(np.linspace(0, most, depth)).astype(int)
    moved = np.take_along_axis(strip, np.clip(source, 0, None)[None], axis=1)
    return np.where(source >= 0, moved, 0).astype(strip.dtype)
