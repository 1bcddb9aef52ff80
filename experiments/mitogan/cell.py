"""The shape of an adherent cell: an outline, star-shaped around an elliptical nucleus.

Lengths are micrometres from the centre of the nucleus, x to the right, y down, angles from x
towards y.
"""

import math
from dataclasses import dataclass

import numpy as np

# Mean radius of an adherent cell of the U2OS kind that fills its field, in shares of the field, and
# the radius beyond which no cell grows; assumed from fields of 30 to 60 µm with one cell each.
_FIELD_SHARE, _LARGEST_UM = (0.36, 0.43), 20.0
# Share of cells that are stretched, with parallel bundles; assumed.
_ELONGATED = 0.3
# Semi-axes of the nucleus in shares of the mean radius; voids of real cells, read off by eye.
_NUCLEUS, _NUCLEUS_ASPECT = (0.36, 0.48), (1.1, 1.45)
# What a cell keeps from the border of its field: tubules wobble, and are half a width wide.
_MARGIN_UM = 0.6
_CIRCLE = np.arange(180) * (2 * np.pi / 180)


@dataclass(frozen=True)
class Cell:
    """Outline and nucleus of one cell.

    Attributes:
        radius: mean radius before stretching, µm.
        waves: amplitude and phase of the outline's angular orders 1 to 5 [5, 2].
        axis: direction of the long axis, radians.
        stretch: factor along `axis`, its inverse across; 1 for a round cell.
        nucleus: semi-axes of the nucleus before stretching, µm.
        nucleus_angle: direction of the first of them, radians.
    """

    radius: float
    waves: tuple[tuple[float, float], ...]
    axis: float
    stretch: float
    nucleus: tuple[float, float]
    nucleus_angle: float

    @property
    def elongated(self) -> bool:
        """Whether its tubules run along it."""
        return self.stretch > 1.2

    def depth(self, x: float, y: float) -> float:
        """Where a point lies: 0 on the nucleus, 1 on the outline, linear along a ray between."""
        along, across = _turned(x, y, -self.axis)
        along, across = along / self.stretch, across * self.stretch
        distance, angle = math.hypot(along, across), math.atan2(across, along)
        inner, outer = self._nuclear_radius(angle), self._outer_radius(angle)
        return (distance - inner) / (outer - inner)

    def point(self, depth: float, angle: float) -> tuple[float, float]:
        """The x, y of a depth on a ray, whose angle counts before stretching and turning."""
        inner, outer = self._nuclear_radius(angle), self._outer_radius(angle)
        distance = inner + depth * (outer - inner)
        x, y = math.cos(angle) * distance, math.sin(angle) * distance
        return _turned(x * self.stretch, y / self.stretch, self.axis)

    def curve(self, depth: float) -> np.ndarray:
        """Closed line of one depth [180, 2]: the nucleus at 0, the outline at 1."""
        return np.array([self.point(depth, angle) for angle in _CIRCLE.tolist()])

    def area(self, depth: float) -> float:
        """Inside such a line, µm²."""
        x, y = self.curve(depth).T
        return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)

    def _nuclear_radius(self, angle: float) -> float:
        first, second = self.nucleus
        turned = angle - self.nucleus_angle
        return first * second / math.hypot(second * math.cos(turned), first * math.sin(turned))

    def _outer_radius(self, angle: float) -> float:
        waves = enumerate(self.waves, start=1)
        return self.radius * (1 + sum(a * math.cos(n * angle + shift) for n, (a, shift) in waves))


def draw_cell(rng: np.random.Generator, field_um: float) -> tuple[Cell, np.ndarray, np.ndarray]:
    """Draws a cell that fits into a square field.

    Args:
        rng: source of everything that varies.
        field_um: side of the field in µm.

    Returns:
        The cell, where its centre lies in the field as x, y in µm [2], and how far it may drift
        from there to each side [2].
    """
    elongated = rng.random() < _ELONGATED
    stretch = rng.uniform(1.3, 1.65) if elongated else rng.uniform(1, 1.15)
    radius = min(field_um, _LARGEST_UM / _FIELD_SHARE[1]) * rng.uniform(*_FIELD_SHARE)
    sizes = rng.normal(0, (0.1, 0.09, 0.06, 0.035, 0.02)).clip(-0.13, 0.13)
    waves = np.stack([sizes, rng.uniform(0, 2 * np.pi, 5)], 1)
    aspect = math.sqrt(rng.uniform(*_NUCLEUS_ASPECT))
    share = rng.uniform(*_NUCLEUS)
    shape = {
        "waves": tuple(map(tuple, waves.tolist())),
        "axis": rng.uniform(0, np.pi),
        "stretch": float(stretch),
        "nucleus_angle": rng.uniform(0, np.pi),
    }
    largest = field_um - 2 * _MARGIN_UM
    extent = np.ptp(Cell(radius=radius, nucleus=(0.1, 0.1), **shape).curve(1.0), axis=0).max()
    radius *= min(1.0, largest / extent)
    cell = Cell(radius=radius, nucleus=(radius * share * aspect, radius * share / aspect), **shape)
    curve = cell.curve(1.0)
    low, high = _MARGIN_UM - curve.min(0), field_um - _MARGIN_UM - curve.max(0)
    centre = low + (high - low) * rng.uniform(0.3, 0.7, 2)
    return cell, centre, np.minimum(centre - low, high - centre)


def _turned(x: float, y: float, angle: float) -> tuple[float, float]:
    c, s = math.cos(angle), math.sin(angle)
    return c * x - s * y, s * x + c * y
