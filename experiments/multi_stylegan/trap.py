"""The trap: two mirror-symmetric pear-shaped pillars, and how far points are from them.

Lengths here and in the cells' modules are units of 1/256 of the field's side, which are pixels of
the published frames. The origin is the middle of the trap, where the pillars bulge towards each
other; x points to the right, y down.
"""

from dataclasses import dataclass

import numpy as np

# Side of the field in units.
FIELD = 256.0
# Of generated frames of 256 px: width and height of a pillar, gap where they bulge.
WIDTH, HEIGHT, GAP = 54.0, 87.0, 20.0
# Radius of the upper, thinner end: the gap at the top is 40 to 45 units.
_TOP = 15.5
# Position of the trap in the field: centred, in the lower middle.
CENTRE = (128.0, 152.0)
# Differences between traps, standard deviations: of widths and gaps in units, of the tilt in rad.
_WIDTH_SPREAD, _GAP_SPREAD, _TILT_SPREAD = 1.0, 1.5, 0.02


@dataclass(frozen=True)
class Trap:
    """Two pillars.

    Attributes:
        width: of each pillar where it is widest.
        height: of each pillar.
        gap: between them where they bulge, cells not pushing.
        tilt: radians by which the upper ends lean towards each other.
        offsets: how far the left and the right pillar are pushed outwards.
    """

    width: float = WIDTH
    height: float = HEIGHT
    gap: float = GAP
    tilt: float = 0.0
    offsets: tuple[float, float] = (0.0, 0.0)

    @property
    def widened_gap(self) -> float:
        """Gap where the pillars bulge, now."""
        return self.gap + sum(self.offsets)

    def centre(self, side: int) -> tuple[float, float]:
        """The x, y of the middle of a pillar's thick end; side 0 is left, 1 right."""
        sign = 2 * side - 1
        return sign * ((self.gap + self.width) / 2 + self.offsets[side]), 0.0

    def distance(self, x: np.ndarray, y: np.ndarray, side: int) -> np.ndarray:
        """From each point to a pillar's outline, below 0 inside; arrays of one shape."""
        sign = 2 * side - 1
        along, _ = self.centre(side)
        # Mirrored, so that both are the right pillar.
        return pear_distance(sign * (x - along), y, *self._pear)

    def push(self, x: np.ndarray, y: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Distance to a pillar [N], and the direction away from it, unit vectors [N, 2]."""
        sign = 2 * side - 1
        along, _ = self.centre(side)
        right, down = pear_direction(sign * (x - along), y, *self._pear)
        return self.distance(x, y, side), np.stack([sign * right, down], axis=-1)

    @property
    def _pear(self) -> tuple[float, float, float, float]:
        return self.width / 2, _TOP * self.width / WIDTH, self.height, self.tilt


def draw_trap_shape(rng: np.random.Generator) -> Trap:
    """Draws the geometry of one trap; those of one chip differ little."""
    width = WIDTH + _WIDTH_SPREAD * rng.standard_normal()
    gap = GAP + _GAP_SPREAD * rng.standard_normal()
    return Trap(width, HEIGHT * width / WIDTH, gap, _TILT_SPREAD * rng.standard_normal())


def pear_distance(
    x: np.ndarray, y: np.ndarray, thick: float, thin: float, height: float, tilt: float = 0.0
) -> np.ndarray:
    """Signed distance to the convex hull of two circles, the thick one at the origin.

    Outside and inside it is the distance to the nearest of the two arcs and the two tangents.

    Args:
        x: of the points.
        y: of the points, same shape; the thin circle lies above, at negative y.
        thick: radius of the lower circle.
        thin: radius of the upper circle, below `thick`.
        height: from the lowest to the highest point.
        tilt: radians by which the thin end leans to negative x.

    Returns:
        Distances in the shape of `x`, below 0 inside.
    """
    length = height - thick - thin
    across, up = _turned(x, y, tilt)
    cosine, sine, foot = _tangent(np.abs(across), up, length, thick - thin)
    side = np.abs(across) * cosine + up * sine - thick
    below = np.hypot(across, up) - thick
    above = np.hypot(across, up - length) - thin
    return np.where(foot < 0, below, np.where(foot > length * cosine, above, side))


def pear_direction(
    x: np.ndarray, y: np.ndarray, thick: float, thin: float, height: float, tilt: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient of `pear_distance`: unit vectors x, y; arguments are the same."""
    length = height - thick - thin
    across, up = _turned(x, y, tilt)
    cosine, sine, foot = _tangent(np.abs(across), up, length, thick - thin)
    middle = np.where(foot < 0, 0.0, length)
    radius = np.maximum(np.hypot(across, up - middle), 1e-9)
    straight = (foot >= 0) & (foot <= length * cosine)
    right = np.where(straight, cosine * np.sign(across), across / radius)
    rise = np.where(straight, sine, (up - middle) / radius)
    return (
        right * np.cos(tilt) - rise * np.sin(tilt),
        -right * np.sin(tilt) - rise * np.cos(tilt),
    )


def _turned(x: np.ndarray, y: np.ndarray, tilt: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates across the pear's axis, and along it to the thin end."""
    across = x * np.cos(tilt) - y * np.sin(tilt)
    return across, -(x * np.sin(tilt) + y * np.cos(tilt))


def _tangent(
    across: np.ndarray, up: np.ndarray, length: float, difference: float
) -> tuple[float, float, np.ndarray]:
    """Cosine and sine of the tangent's slope, and where each point's foot on it lies."""
    sine = difference / length
    cosine = float(np.sqrt(1 - sine**2))
    return cosine, sine, up * cosine - across * sine
