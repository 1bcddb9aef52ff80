"""How a microscope sees tubules: from vertices to expected light, masks and skeletons.

Arrays are [H, W]; vertices come in pixels, x to the right, y down, the first pixel's centre at 0.
"""

from functools import cache

import cv2
import numpy as np

# Vertices of one tubule are this many points across it: Gauss-Chebyshev quadrature of the second
# kind, whose weights are the depth of a filled cylinder.
_ACROSS = 4
# Fixed-point bits of OpenCV's line drawing.
_SHIFT = 4


def splat(xy: np.ndarray, weights: np.ndarray, size: int) -> np.ndarray:
    """Shares the weight of points [N, 2] between their four nearest pixels: [size, size]."""
    inside = np.all((xy > 0) & (xy < size - 1), axis=1)
    (x, y), weights = xy[inside].T, weights[inside]
    column, row = x.astype(int), y.astype(int)
    right, below = x - column, y - row
    first = row * size + column
    pixels = np.concatenate([first, first + 1, first + size, first + size + 1])
    shares = [(1 - right) * (1 - below), right * (1 - below), (1 - right) * below, right * below]
    light = np.bincount(pixels, np.concatenate([s * weights for s in shares]), size * size)
    return light.reshape(size, size).astype(np.float32)


def filled_tubes(xy: np.ndarray, normals: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, ...]:
    """Points that project evenly filled cylinders around vertices.

    Args:
        xy: vertices [V, 2].
        normals: unit vectors across [V, 2].
        radii: in the unit of `xy` [V].

    Returns:
        Points [V * 4, 2] and weights [V * 4], which add up to the cylinders' cross-sections.
    """
    angles = np.arange(1, _ACROSS + 1) * np.pi / (_ACROSS + 1)
    offsets = np.cos(angles)[:, None, None] * (radii[:, None] * normals)
    weights = (2 * np.pi / (_ACROSS + 1) * np.sin(angles) ** 2)[:, None] * radii**2
    return (xy + offsets).reshape(-1, 2), weights.reshape(-1)


def half_width(radii: np.ndarray, sigma: float) -> np.ndarray:
    """Where the blurred profile of a filled cylinder is half its peak, from the axis.

    Args:
        radii: of the cylinders, not all 0.
        sigma: of the Gaussian blur, > 0, in the same unit.
    """
    ratios, halves = _half_widths()
    return np.interp(radii / sigma, ratios, halves) * sigma


def painted_discs(xy: np.ndarray, radii: np.ndarray, size: int) -> np.ndarray:
    """Pixels whose centre lies within a radius of any point: bool [size, size]."""
    reach = int(np.ceil(radii.max(initial=0)))
    offsets = np.arange(-reach, reach + 1)
    dx, dy = (grid.ravel() for grid in np.meshgrid(offsets, offsets))
    near = np.rint(xy).astype(int)
    x, y = near[:, :1] + dx, near[:, 1:] + dy
    inside = (x - xy[:, :1]) ** 2 + (y - xy[:, 1:]) ** 2 <= radii[:, None] ** 2
    inside &= (x >= 0) & (y >= 0) & (x < size) & (y < size)
    mask = np.zeros((size, size), bool)
    mask[y[inside], x[inside]] = True
    return mask


def drawn_lines(xy: np.ndarray, pieces: np.ndarray, size: int) -> np.ndarray:
    """One-pixel lines through vertices in the order given; where `pieces` changes, one ends."""
    lines = np.split(np.rint(xy * 2**_SHIFT).astype(np.int32), np.flatnonzero(np.diff(pieces)) + 1)
    canvas = np.zeros((size, size), np.uint8)
    cv2.polylines(canvas, lines, False, 1, 1, cv2.LINE_8, _SHIFT)
    return canvas > 0


@cache
def _half_widths() -> tuple[np.ndarray, np.ndarray]:
    """Radii and half widths in standard deviations of the blur, by quadrature."""
    ratios = np.linspace(0.02, 12, 300)
    angles = np.arange(1, 64) * np.pi / 64
    x = np.linspace(0, 14, 1401)
    halves = []
    for ratio in ratios:
        away = x[:, None] - ratio * np.cos(angles)
        profile = np.exp(-(away**2) / 2) @ np.sin(angles) ** 2
        halves.append(np.interp(0.5 * profile[0], profile[::-1], x[::-1]))
    return ratios, np.array(halves)
