"""The ring of doublets as the affine image of a regular polygon.

In polar coordinates about an assumed centre a doublet is a dark spot of known size. Where the
spots stand, how many they are and how the cut was tilted follow from a fit that displaced
doublets, being outliers, do not disturb.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

ORDERS = np.arange(6, 13)
# Radius of a ring of nine doublets in nanometres; with other counts the doublets keep their pitch.
RING_NM = 84.0
_ANGLES = np.arange(240) * 2 * np.pi / 240
_RADII = np.arange(0.57, 1.36, 0.03)
# Blurs in nanometres (outwards, around the ring), finer minus coarser: tubules tell the order best,
# doublets the place.
_TUBULE = ((6.0, 6.0), (14.0, 18.0))
_DOUBLET = ((8.0, 12.0), (20.0, 30.0))
# Outside the ring the membrane may be near; inside displaced doublets are sought.
_BEYOND, _BEFORE = np.clip(_RADII - 1, 0, None) / 0.12, np.clip(0.9 - _RADII, 0, None) / 0.6
_TRUST = np.exp(-(_BEYOND**2 + _BEFORE**2) / 2)[:, None]
# Spread of the ring's centre and shear about those of the membrane, and of spots about the ring,
# in ring radii: half of the simulated cilia are nearer, one in fifty is twice as far.
CENTRE_SPREAD, SHEAR_SPREAD, _SPOT_SPREAD = 0.05, 0.04, 0.04
# A spot that is further off, in ring radii, is no evidence of where the ring lies.
_OUTLIER = 0.1


@dataclass(frozen=True)
class Profile:
    """What stands around an assumed ring.

    Attributes:
        power: of the angular orders 0 to 14 of the darkest tubule along each radius.
        contrast: of a dark tubule, in grey levels of the image.
        darkest: of doublets along each radius [240], at most 1.
        radii: where along each radius the darkest stands, in ring radii [240].
    """

    power: np.ndarray
    contrast: float
    darkest: np.ndarray
    radii: np.ndarray

    def share(self, count: int) -> float:
        """Share of one angular order in the power of orders 3 to 14, in [0, 1]."""
        return _share(self.power, count)

    def regularity(self, count: int) -> float:
        """How well tubules, and half as much whole doublets, keep one order; 0 is perfect."""
        doublets = _share(_power(self.darkest), count)
        return float(np.log(self.share(count) + 1e-9) + 0.5 * np.log(doublets + 1e-9))


def profile(pixels: np.ndarray, centre: np.ndarray, matrix: np.ndarray) -> Profile:
    """Reads what stands around the ellipse `matrix` [2, 2] about `centre`, in pixels."""
    blurred = ndimage.gaussian_filter(-pixels, 3 * np.sqrt(np.linalg.det(matrix)) / RING_NM)
    rays = at(blurred, centre, matrix, *polar(_RADII, _ANGLES))
    tubules, doublets = (
        _TRUST * (_blur(rays, fine) - _blur(rays, coarse)) for fine, coarse in (_TUBULE, _DOUBLET)
    )
    contrast = float(np.percentile(tubules.max(0), 85))
    height = np.minimum(tubules.max(0) / (contrast + 1e-12), 1)
    darkest = doublets.max(0)
    darkest = np.minimum(darkest / (np.percentile(darkest, 85) + 1e-12), 1)
    return Profile(_power(height), contrast, darkest, _RADII[doublets.argmax(0)])


def fit(
    seen: Profile,
    count: int,
    centre: np.ndarray,
    matrix: np.ndarray,
    middle: np.ndarray,
    membrane: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Lays a regular polygon through the spots of a profile.

    Args:
        seen: profile around `matrix` about `centre`.
        count: corners of the polygon.
        centre: x, y in pixels.
        matrix: [2, 2], takes the unit circle to the ring's ellipse in pixels.
        middle: centre of the membrane.
        membrane: [2, 2], as `matrix`, of the membrane, of which the shape counts and not the size.

    Returns:
        The better centre and matrix (symmetric).
    """
    ideal, columns = _corners(seen.darkest, count)
    spots = np.stack(
        [seen.radii[columns] * f(_ANGLES[columns]) for f in (np.cos, np.sin)]
    )  # [2, count]
    size = np.sqrt(np.linalg.det(matrix) / np.linalg.det(membrane))
    place = np.linalg.solve(membrane, matrix @ spots + (centre - middle)[:, None]) / size
    x, y = np.cos(ideal), np.sin(ideal)
    one, zero = np.ones(count), np.zeros(count)
    # Unknown: shift (2), scale, turn and two shears of the polygon, in the membrane's plane.
    design = np.block([[np.c_[one, zero, x, -y, x, y]], [np.c_[zero, one, y, x, -y, x]]])
    spread = (CENTRE_SPREAD, CENTRE_SPREAD, np.inf, np.inf, SHEAR_SPREAD, SHEAR_SPREAD)
    prior = np.diag((_SPOT_SPREAD / np.array(spread)) ** 2)
    found = np.array([0, 0, np.percentile(np.hypot(*place), 70), 0, 0, 0])
    for _ in range(4):
        off = (place.ravel() - design @ found).reshape(2, count)
        weight = np.clip(seen.darkest[columns], 0.05, 1)
        weight = np.tile(weight / (1 + np.sum(off**2, 0) / _OUTLIER**2) ** 2, 2)
        normal = design.T @ (design * weight[:, None]) + prior
        found = np.linalg.solve(normal, design.T @ (weight * place.ravel()))
    shift, scale, turn, flat, skew = found[:2], *found[2:]
    polygon = np.array([[scale + flat, skew - turn], [skew + turn, scale - flat]])
    return middle + membrane @ shift * size, symmetric(membrane @ polygon * size)


def symmetric(matrix: np.ndarray) -> np.ndarray:
    """The symmetric matrix that takes the unit circle to the same ellipse."""
    axes, lengths, _ = np.linalg.svd(matrix)
    return axes * lengths @ axes.T


def at(
    image: np.ndarray, centre: np.ndarray, matrix: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    """Values of an image at points of the plane that `matrix` takes to pixels around `centre`."""
    across = matrix[0, 0] * x + matrix[0, 1] * y + centre[0]
    down = matrix[1, 0] * x + matrix[1, 1] * y + centre[1]
    return ndimage.map_coordinates(image, [down, across], order=1, mode="nearest")


def polar(radii: np.ndarray, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The x and the y [radii, angles] of a polar grid."""
    return np.outer(radii, np.cos(angles)), np.outer(radii, np.sin(angles))


def _power(height: np.ndarray) -> np.ndarray:
    """Power of the angular orders 0 to 14."""
    return np.abs(np.fft.rfft(height)[:15] * 2 / len(height)) ** 2


def _share(power: np.ndarray, count: int) -> float:
    return float(power[count] / (np.sum(power[3:]) + 1e-30))


def _blur(rays: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """Gaussian blur of [radii, angles] by nanometres on the ring."""
    sigma = (size[0] / (0.03 * RING_NM), size[1] / (_ANGLES[1] * RING_NM))
    return ndimage.gaussian_filter(rays, sigma, mode=("nearest", "wrap"))


def _corners(darkest: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The best even angles [count] and the columns of the spots near each."""
    number = len(darkest)
    pitch = number / count
    reach = int(min(pitch / 3, 0.25 / _ANGLES[1]))
    steps = np.arange(-reach, reach + 1)
    cost = 0.05 * (steps * _ANGLES[1] / 0.08) ** 2
    moved = np.stack([np.roll(darkest, -step) for step in steps]) - cost[:, None]
    start = np.arange(int(np.ceil(pitch)))[:, None]
    columns = np.rint(start + pitch * np.arange(count)).astype(int) % number
    between = np.rint(start + pitch * (np.arange(count) + 0.5)).astype(int) % number
    score = moved.max(0)[columns].mean(1) - np.clip(darkest[between], 0, 1).mean(1)
    best = int(np.argmax(score))
    ideal = _ANGLES[1] * best + 2 * np.pi * np.arange(count) / count
    return ideal, (columns[best] + steps[moved.argmax(0)[columns[best]]]) % number
