"""The mitochondria of one cell at rest: curves that grow, meet, branch and close to loops.

Lengths are micrometres from the centre of the cell. Every tubule is a chain of vertices `STEP_UM`
apart; an attachment says that two vertices are one place.
"""

import math
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

import numpy as np

from experiments.mitogan.cell import Cell

STEP_UM = 0.08
# Length of tubules over area of cytoplasm, 1/µm: tubules of 0.4 µm cover a quarter to a half of the
# cytoplasm, hence the foreground fractions of 0.16 to 0.21 of tight crops of real cells.
DENSITY = (0.55, 1.25)
# Curvature: correlation length in µm; assumed so that tubules look as wavy as real ones.
_CORRELATION_UM = 0.4
# How often a tip that meets a tubule fuses with it; else it passes over or under. Assumed.
_FUSES, _BRANCH_FUSES = 0.3, 0.6
# Radius of the rings called donuts, µm; assumed from real images.
_DONUT_UM = (0.36, 0.7)
# Sides of the cells of the grid in which tips look for tubules.
_GRID_UM = 0.2
# Vertices between junctions; vertices in which a tip that has left or crossed one sees no tubule;
# places that a new tubule looks at.
_APART, _BLIND, _TRIES = 7, 12, 5
# Branches that are tried for one µm of tubule; many find no free place.
_ATTEMPTS = 8
# Turn per µm away from the nucleus and the outline, and away from a tubule at one side of the tip;
# how far and at which angles a tip looks for one, µm and radians. Assumed.
_WALL, _AVOID = 3.0, 4.0
_SIGHT_UM, _SIGHT = 0.45, 0.7


class _Style(NamedTuple):
    """How a kind of tubule grows.

    `pull` is towards what ("around" the nucleus, "outward", "along" the cell) with `strength` per
    µm, `bend` the standard deviation of the curvature per µm, `length` the range in µm, `depth` the
    mean depth where one starts.
    """

    pull: str
    strength: float
    bend: float
    length: tuple[float, float]
    depth: float


# Single mitochondria of mammalian cells are up to 25 µm long, branches included.
_TANGLE = _Style("around", 0.7, 1.9, (2, 10), 0.07)
_RADIAL = _Style("outward", 1.1, 1.5, (2.5, 15), 0.16)
_BUNDLE = _Style("along", 2.5, 0.9, (3, 16), 0.3)
_PIECE = _Style("around", 0.2, 1.2, (0.7, 2.2), 0.4)
_BRANCH = _Style("outward", 0.8, 1.1, (0.8, 4), 0.0)
_DOT_UM = (0.32, 0.6)


@dataclass
class Network:
    """Tubules at rest.

    Attributes:
        points: x, y of each vertex in µm [V, 2].
        tubules: number of each vertex's tubule [V], ascending.
        attachments: pairs of vertices that are one place [A, 2]; the first is an end.
    """

    points: np.ndarray
    tubules: np.ndarray
    attachments: np.ndarray

    @property
    def length(self) -> float:
        """Of all tubules, µm."""
        steps = np.linalg.norm(np.diff(self.points, axis=0), axis=1)
        return float(steps[np.diff(self.tubules) == 0].sum())


def grow_network(rng: np.random.Generator, cell: Cell) -> Network:
    """Fills a cell with tubules up to a length per area drawn from `DENSITY`."""
    growth = _Growth(rng, cell)
    wanted = rng.uniform(*DENSITY) * (cell.area(1) - cell.area(0))
    tangle, piece = rng.uniform(0.25, 0.5), rng.uniform(0.03, 0.18)
    style = _BUNDLE if cell.elongated else _RADIAL
    kinds = ((_TANGLE, tangle), (style, 1 - tangle - piece), (_PIECE, piece))
    for kind, share in kinds:
        _grow_kind(growth, kind, share * 0.8 * wanted)
    for _ in range(rng.poisson(0.012 * wanted) + int(rng.random() < 0.4)):
        growth.add_ring(rng.uniform(*_DONUT_UM))
    for _ in range(rng.poisson(rng.uniform(0.02, 0.1) * wanted)):
        growth.add_walk(_PIECE, rng.uniform(*_DOT_UM))
    for _ in range(round(_ATTEMPTS * wanted)):
        if growth.length < wanted:
            growth.add_branch()
    return growth.network()


def _grow_kind(growth: "_Growth", style: _Style, wanted: float) -> None:
    goal = growth.length + wanted
    while growth.length < goal:
        low, high = style.length
        growth.add_walk(style, low + (high - low) * growth.rng.random() ** 1.3)


@dataclass
class _Growth:
    """Tubules so far, and a grid that says which vertex is where."""

    rng: np.random.Generator
    cell: Cell
    xy: list[tuple[float, float]] = field(default_factory=list)
    headings: list[float] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    attachments: list[tuple[int, int]] = field(default_factory=list)
    grid: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def length(self) -> float:
        return len(self.xy) * STEP_UM

    def network(self) -> Network:
        counts = np.diff([*self.starts, len(self.xy)])
        attachments = np.array(self.attachments, int).reshape(-1, 2)
        return Network(np.array(self.xy), np.repeat(np.arange(len(counts)), counts), attachments)

    def add_walk(self, style: _Style, length: float) -> None:
        """A tubule that starts anywhere, more likely near the nucleus."""
        x, y = self._start(style.depth)
        heading = self.rng.uniform(0, 2 * np.pi)
        if style.pull == "outward":
            heading = math.atan2(y, x) + self.rng.normal(0, 0.6)
        self._walk(style, length, (x, y), heading, _FUSES)

    def add_branch(self) -> None:
        """A tubule that leaves another one sideways, not beside another junction."""
        root = int(self.rng.integers(len(self.xy)))
        taken = [v for pair in self.attachments for v in pair]
        free = all(abs(root - v) >= _APART for v in [*taken, *self.starts, len(self.xy) - 1])
        if not free:
            return
        side = self.rng.choice((-1, 1)) * self.rng.uniform(0.8, 1.6)
        low, high = _BRANCH.length
        length = low + (high - low) * self.rng.random() ** 2
        first = len(self.xy)
        heading = self.headings[root] + side
        if self._walk(_BRANCH, length, self.xy[root], heading, _BRANCH_FUSES):
            self.attachments.append((first, root))

    def add_ring(self, radius: float) -> None:
        """A donut: a closed, slightly oval tubule."""
        x, y = self._start(_PIECE.depth)
        angles = np.linspace(0, 2 * np.pi, math.ceil(2 * np.pi * radius / STEP_UM) + 1)
        radii = radius * (
            1 + self.rng.uniform(0, 0.15) * np.cos(2 * angles + 2 * self.rng.random())
        )
        ring = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], 1)
        first = len(self.xy)
        self._keep(list(map(tuple, ring.tolist())), (angles + np.pi / 2).tolist())
        self.attachments.append((len(self.xy) - 1, first))

    def _start(self, depth: float) -> tuple[float, float]:
        """A place of some mean depth, with luck one that is not crowded."""
        for _ in range(_TRIES):
            drawn = min(0.04 + self.rng.exponential(depth), 0.87)
            x, y = self.cell.point(drawn, self.rng.uniform(0, 2 * np.pi))
            column, row = _place(x, y)
            around = product(range(column - 1, column + 2), range(row - 1, row + 2))
            if not any(place in self.grid for place in around):
                break
        return x, y

    def _walk(
        self,
        style: _Style,
        length: float,
        start: tuple[float, float],
        heading: float,
        fuses: float,
    ) -> bool:
        """Grows one tubule; False where there was no room for it."""
        steps = max(round(length / STEP_UM), 4)
        keep = 1 - STEP_UM / _CORRELATION_UM
        noise = self.rng.normal(0, style.bend * math.sqrt(1 - keep**2), steps).tolist()
        walked, headings, (x, y), bend, blind = [start], [heading], start, 0.0, _BLIND
        met = None
        for step in range(steps):
            bend = keep * bend + noise[step]
            turn = bend + self._pull(style, x, y, heading)
            if blind <= 0:
                turn += _AVOID * self._crowding(x, y, heading)
            heading += STEP_UM * turn
            x, y = x + STEP_UM * math.cos(heading), y + STEP_UM * math.sin(heading)
            if not 0.0 < self.cell.depth(x, y) < 0.97:
                break
            host = self.grid.get(_place(x, y)) if blind <= 0 else None
            walked.append((x, y))
            headings.append(heading)
            blind -= 1
            if host is not None:
                if self.rng.random() < fuses:
                    walked[-1], met = self.xy[host], host
                    break
                blind = _BLIND
        if len(walked) < 4:
            return False
        self._keep(walked, headings)
        if met is not None:
            self.attachments.append((len(self.xy) - 1, met))
        return True

    def _pull(self, style: _Style, x: float, y: float, heading: float) -> float:
        """Turn per µm towards the style's direction, and off nucleus and outline."""
        outward, depth = math.atan2(y, x), self.cell.depth(x, y)
        if depth < 0.06 or (depth > 0.85 and style.pull != "outward"):
            away = outward if depth < 0.06 else outward + np.pi
            turn = math.sin(2 * (outward + np.pi / 2 - heading))
            return _WALL * (turn + 0.7 * math.sin(away - heading))
        if style.pull == "outward":
            return style.strength * math.sin(outward - heading)
        target = outward + np.pi / 2 if style.pull == "around" else self.cell.axis
        return style.strength * math.sin(2 * (target - heading))

    def _crowding(self, x: float, y: float, heading: float) -> int:
        """Where tubules are ahead: 1 at smaller angles only, -1 at larger ones only, else 0."""
        seen = [
            _place(x + _SIGHT_UM * math.cos(angle), y + _SIGHT_UM * math.sin(angle)) in self.grid
            for angle in (heading - _SIGHT, heading + _SIGHT)
        ]
        return seen[0] - seen[1]

    def _keep(self, xy: list[tuple[float, float]], headings: list[float]) -> None:
        first = len(self.xy)
        self.starts.append(first)
        self.xy += xy
        self.headings += headings
        for vertex, (x, y) in enumerate(xy[2:-2], start=first + 2):
            self.grid[_place(x, y)] = vertex


def _place(x: float, y: float) -> tuple[int, int]:
    return math.floor(x / _GRID_UM), math.floor(y / _GRID_UM)
