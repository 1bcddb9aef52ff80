"""Skeletons as graphs: branch points, end points, and the branches between them as paths."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage.morphology import skeletonize

# The eight neighbours in a circle, y and x.
_CIRCLE = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
# Straight neighbours first: a path must not skip the corner of a staircase.
_STEPS = (*_CIRCLE[::2], *_CIRCLE[1::2])
_EIGHT = np.ones((3, 3), int)
# Paths are averaged over this many pixels, which takes the staircase out of their length.
_SMOOTHING = 5


class Branch(NamedTuple):
    """A piece of a skeleton between branch points and end points.

    Attributes:
        path: y, x in pixels along it [N, 2], smoothed; ends lie on the branch point or end point.
        tips: how many of its ends are end points; 0 also for a closed one.
        closed: whether it runs back into itself without a branch point.
    """

    path: np.ndarray
    tips: int
    closed: bool

    @property
    def length(self) -> float:
        """Along the path, pixels."""
        return float(np.linalg.norm(np.diff(self.path, axis=0), axis=1).sum())

    @property
    def chord(self) -> float:
        """Straight from end to end, pixels."""
        return float(np.linalg.norm(self.path[-1] - self.path[0]))


def branch_points(skeleton: np.ndarray) -> np.ndarray:
    """Where three or more arms meet [B, 2], y, x in pixels; one for those that touch.

    Args:
        skeleton: bool [H, W], lines one pixel wide.
    """
    names, count = ndimage.label(_junctions(skeleton), _EIGHT)
    if not count:
        return np.zeros((0, 2))
    return np.array(ndimage.center_of_mass(names > 0, names, range(1, count + 1)))


def end_points(skeleton: np.ndarray) -> np.ndarray:
    """Pixels with one neighbour [E, 2], y, x; a line of one pixel has none."""
    return np.argwhere(skeleton & (_neighbours(skeleton).sum(0) == 1))


def branches(skeleton: np.ndarray) -> list[Branch]:
    """All branches of a skeleton, but for those of one pixel.

    Args:
        skeleton: bool [H, W], lines one pixel wide.
    """
    nodes = branch_points(skeleton)
    ends = set(map(tuple, end_points(skeleton).tolist()))
    names, count = ndimage.label(_arms(skeleton), _EIGHT)
    found = []
    pixels = np.argwhere(names)
    for piece in _grouped(pixels, names[names > 0], count):
        path = _ordered(piece)
        tips = len({path[0], path[-1]} & ends)
        closed = len(path) > 6 and _touch(path[0], path[-1]) and not tips
        points = np.array(path, float)
        points = _smoothed(np.concatenate([points, points[:1]]) if closed else points)
        if not closed:
            points = _extended(points, nodes)
        if len(points) > 1:
            found.append(Branch(points, tips, closed))
    return found


def pruned(skeleton: np.ndarray, shortest: float) -> np.ndarray:
    """Without branches from a branch point to an end point of less than some pixels.

    Rough borders of a mask make them.

    Args:
        skeleton: bool [H, W], lines one pixel wide.
        shortest: pixels.
    """
    names, count = ndimage.label(_arms(skeleton), _EIGHT)
    if not count:
        return skeleton
    sizes = np.bincount(names.ravel(), minlength=count + 1)
    ends = end_points(skeleton)
    tipped = np.zeros(count + 1, bool)
    tipped[names[tuple(ends.T)]] = True
    rooted = np.zeros(count + 1, bool)
    near = ndimage.binary_dilation(_junctions(skeleton), _EIGHT, iterations=2)
    rooted[np.unique(names[near])] = True
    spur = tipped & rooted & (sizes + 1.5 < shortest)
    spur[0] = False
    return skeletonize(skeleton & ~spur[names])


def _junctions(skeleton: np.ndarray) -> np.ndarray:
    """Pixels around which the skeleton begins three times or more."""
    around = _neighbours(skeleton)
    crossings = np.sum(around & ~np.roll(around, 1, axis=0), axis=0)
    return skeleton & (crossings > 2)


def _arms(skeleton: np.ndarray) -> np.ndarray:
    """The skeleton without branch points and what touches them, so that arms do not touch."""
    return skeleton & ~ndimage.binary_dilation(_junctions(skeleton), _EIGHT)


def _neighbours(skeleton: np.ndarray) -> np.ndarray:
    """The eight neighbours of each pixel in a circle, bool [8, H, W]."""
    height, width = skeleton.shape
    padded = np.pad(skeleton, 1)
    return np.stack([padded[1 + y : 1 + y + height, 1 + x : 1 + x + width] for y, x in _CIRCLE])


def _grouped(pixels: np.ndarray, names: np.ndarray, count: int) -> list[list[tuple[int, int]]]:
    order = np.argsort(names, kind="stable")
    starts = np.searchsorted(names[order], np.arange(2, count + 1))
    return [list(map(tuple, group.tolist())) for group in np.split(pixels[order], starts) if count]


def _ordered(piece: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The pixels of a line in the order in which one passes them."""
    left = set(piece)
    alone = [p for p in piece if sum((p[0] + y, p[1] + x) in left for y, x in _STEPS) < 2]
    at = alone[0] if alone else piece[0]
    path = [at]
    left.remove(at)
    while True:
        ahead = [(at[0] + y, at[1] + x) for y, x in _STEPS if (at[0] + y, at[1] + x) in left]
        if not ahead:
            return path
        at = ahead[0]
        path.append(at)
        left.remove(at)


def _touch(first: tuple[int, int], second: tuple[int, int]) -> bool:
    return max(abs(first[0] - second[0]), abs(first[1] - second[1])) <= 1


def _smoothed(points: np.ndarray) -> np.ndarray:
    """Averaged along the path; ends stay where they are."""
    if len(points) < 3:
        return points
    smooth = ndimage.uniform_filter1d(points, min(_SMOOTHING, len(points)), axis=0, mode="nearest")
    smooth[[0, -1]] = points[[0, -1]]
    return smooth


def _extended(points: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """With its ends on the branch points beside them."""
    if len(nodes) == 0:
        return points
    for _ in range(2):
        away = np.linalg.norm(nodes - points[-1], axis=1)
        if away.min() < 3.2:
            points = np.concatenate([points, nodes[[np.argmin(away)]]])
        points = points[::-1]
    return points
