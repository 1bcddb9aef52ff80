"""Skeletons as graphs: branch points, end points, and the branches between them as paths."""

import math
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
# Arms begin at most this far from their branch point.
_BESIDE = 3.2


class Branch(NamedTuple):
    """A piece of a skeleton between branch points and end points.

    Attributes:
        path: y, x in pixels along it [N, 2], smoothed; ends lie on the branch point or end point.
        length: along the path, pixels.
        chord: straight from end to end, pixels.
        closed: whether it runs back into itself without a branch point.
    """

    path: np.ndarray
    length: float
    chord: float
    closed: bool


def branch_points(skeleton: np.ndarray, reach: int = 0) -> np.ndarray:
    """Where three or more arms meet [B, 2], y, x in pixels; one for those that touch.

    Args:
        skeleton: bool [H, W], lines one pixel wide.
        reach: pixels by which each is widened before: where two tubules cross, their skeleton often
            has two branch points of three arms, less than a width apart.
    """
    spots = _junctions(skeleton)
    if reach:
        spots = ndimage.binary_dilation(spots, _EIGHT, iterations=reach)
    pieces = _pieces(spots)
    return np.array([np.mean(piece, axis=0) for piece in pieces]).reshape(-1, 2)


def end_points(skeleton: np.ndarray) -> np.ndarray:
    """Pixels with one neighbour [E, 2], y, x; a line of one pixel has none."""
    return np.argwhere(skeleton & (_neighbours(skeleton).sum(0) == 1))


def branches(skeleton: np.ndarray) -> list[Branch]:
    """All branches of a skeleton, but for those of one pixel.

    Args:
        skeleton: bool [H, W], lines one pixel wide.
    """
    pieces = [_ordered(piece) for piece in _pieces(_arms(skeleton))]
    if not pieces:
        return []
    first, last = (np.array([piece[end] for piece in pieces], float) for end in (0, -1))
    tips = end_points(skeleton)
    # A line that ends nowhere and whose ends touch is a ring.
    rings = (np.abs(first - last).max(1) <= 1) & ~_among(first, tips)
    nodes = branch_points(skeleton)
    starts, stops = _nearest(first, nodes), _nearest(last, nodes)
    found = []
    for piece, ring, start, stop in zip(pieces, rings.tolist(), starts, stops, strict=True):
        closed = ring and len(piece) > 6
        path = _smoothed(np.array([*piece, piece[0]] if closed else piece, float))
        if not closed:
            path = np.concatenate([start, path, stop])
        if len(path) > 1:
            step = np.diff(path, axis=0)
            length = float(np.sqrt((step**2).sum(1)).sum())
            found.append(Branch(path, length, math.dist(path[0], path[-1]), closed))
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


def _pieces(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """Pixels y, x of each set of touching pixels."""
    names, count = ndimage.label(mask, _EIGHT)
    pixels = np.argwhere(names)
    order = np.argsort(names[tuple(pixels.T)], kind="stable")
    sorted_pixels = list(map(tuple, pixels[order].tolist()))
    bounds = np.cumsum(np.bincount(names.ravel(), minlength=count + 1)[1:]).tolist()
    return [sorted_pixels[a:b] for a, b in zip([0, *bounds], bounds, strict=False)]


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


def _smoothed(points: np.ndarray) -> np.ndarray:
    """Averaged along the path; ends stay where they are."""
    if len(points) < 3:
        return points
    smooth = ndimage.uniform_filter1d(points, _SMOOTHING, axis=0, mode="nearest")
    smooth[[0, -1]] = points[[0, -1]]
    return smooth


def _among(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    return (points[:, None] == others[None]).all(-1).any(1)


def _nearest(points: np.ndarray, nodes: np.ndarray) -> list[np.ndarray]:
    """The branch point beside each point [1, 2], or none [0, 2]."""
    if len(nodes) == 0:
        return [nodes] * len(points)
    away = np.linalg.norm(points[:, None] - nodes[None], axis=-1)
    best = np.argmin(away, axis=1).tolist()
    beside = (away.min(1) < _BESIDE).tolist()
    return [nodes[b : b + near] for b, near in zip(best, beside, strict=True)]
