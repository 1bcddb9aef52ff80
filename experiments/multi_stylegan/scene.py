"""Cells and pillars of one moment: whose outline is next, and what light each object gives.

Lengths are units of the field, see `trap`; light in brightfield is relative to the contrast of a
cell's edge in best focus, GFP relative to a usual cell's thickest point.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from experiments.multi_stylegan.cells import attached, ellipse_distance, semi_axes
from experiments.multi_stylegan.trap import CENTRE, FIELD, Trap

# Light goes this far beyond an outline.
_MARGIN = 26.0
# Gaussians in the signed distance to the outline: amplitude, place, standard deviation. A dark line
# with a bright one inside; a bright halo of some 6 units in a wide haze; and absorption at
# the line, which keeps its sign through focus. Read off generated frames: line 0.15, halo 0.7 on a
# background of 0.4.
_LINE = ((-1.0, -2.0, 2.0), (0.36, -7.5, 2.6))
_HALO = ((0.95, 3.4, 2.3), (0.2, 8.0, 6.5))
_ABSORPTION = ((-0.22, -1.5, 2.2),)
# Darkness of the interior of cells, of small buds and of pillars. Buds are small below the first
# radius, and like cells from the second on.
_INTERIOR, _BUD_INTERIOR, _PILLAR_INTERIOR, _BUD_RADII = -0.14, -0.6, -0.22, (7.0, 14.0)
# Grains in a cell: number, range of sizes, spread of strengths; a few are dark, near the outline.
_GRAINS, _GRAIN_SIZES, _GRAIN, _DARK_GRAIN = 8, (1.5, 3.2), 0.2, -0.5
# Waves over a cell, which make line and interior uneven: number, wavelengths, the sum's spread.
_WAVES, _WAVELENGTHS, _UNEVEN = 6, (9.0, 40.0), 0.3
# Share of the waves that the interior shows.
_WAVES_INSIDE = 0.4
# How much an outline's blur grows with a cell's height over the focus.
_SOFTENING = 0.8
# Between these radii a vacuole forms; its radius and offset in radii of the cell; its rim's and
# interior's light in brightfield, width of the rim, and the share of GFP that it lacks.
_VACUOLE_FROM, _VACUOLE, _VACUOLE_OFFSET = (16.0, 22.0), (0.42, 0.6), 0.2
_RIM, _VACUOLE_LIGHT, _RIM_WIDTH, _LACKS_GFP = -0.2, 0.1, 1.8, 0.8
# Light of pillars in GFP.
_GHOST = 0.05
# Distance where no outline is near.
_FAR = 1e3
# Steps of a unit, and range of the tables of light over distance.
_FINE, _NEAREST, _FARTHEST = 8, -40.0, _MARGIN + 1


@dataclass(frozen=True)
class Scene:
    """One moment on a grid.

    Attributes:
        number: of cells.
        distance: signed, to the next outline; `_FAR` where none is near [N, N].
        owner: whose it is: index of the cell, then the two pillars, -1 for none [N, N].
        halo: light outside of outlines in each focal plane [Z, N, N].
        texture: light within outlines [N, N].
        uneven: relative change of the outlines' contrast [N, N].
        gfp: fluorescence before any blur [N, N].
    """

    number: int
    distance: np.ndarray
    owner: np.ndarray
    halo: np.ndarray
    texture: np.ndarray
    uneven: np.ndarray
    gfp: np.ndarray

    @property
    def number_per_unit(self) -> float:
        """Points of the grid along a unit."""
        return len(self.distance) / FIELD

    @property
    def cells(self) -> np.ndarray:
        """Index of the cell that covers each point, -1 for none [N, N]."""
        return np.where((self.distance < 0) & (self.owner < self.number), self.owner, -1)

    @property
    def pillars(self) -> np.ndarray:
        """Where pillars are and no cell, bool [N, N]."""
        return (self.distance < 0) & (self.owner >= self.number)


def draw_scene(
    cells: np.ndarray, trap: Trap, shift: np.ndarray, count: int, gains: np.ndarray
) -> Scene:
    """Places every object on a grid.

    Args:
        cells: `CELL` [N].
        trap: the pillars.
        shift: of the stage, x, y [2].
        count: points of the grid along a side.
        gains: contrast of each object in each focal plane, pillars last [Z, N + 2].
    """
    blank = np.zeros((count, count), np.float32)
    scene = Scene(
        len(cells),
        blank + np.float32(_FAR),
        np.full((count, count), -1, np.int16),
        np.zeros((len(gains), count, count), np.float32),
        *(blank.copy() for _ in range(3)),
    )
    origin = np.array(CENTRE) + shift
    for side in (0, 1):
        middle = origin + trap.centre(side) + (0, -(trap.height - trap.width) / 2)
        window, x, y = _window(middle, trap.height / 2 + _MARGIN, origin, count)
        distance = trap.distance(*np.meshgrid(x, y), side)
        _add(scene, window, distance, len(cells) + side, gains)
        scene.texture[window] += _PILLAR_INTERIOR * (distance < -4)
        scene.gfp[window] += _GHOST * (distance < 0)
    for k, (cell, first, second) in enumerate(zip(cells, *semi_axes(cells), strict=True)):
        middle = origin + np.array([cell["x"], cell["y"]])
        window, x, y = _window(middle, first + _MARGIN, middle, count)
        cosine, sine = np.cos(cell["angle"]), np.sin(cell["angle"])
        along, across = x * cosine + y[:, None] * sine, y[:, None] * cosine - x * sine
        distance, relative = ellipse_distance(along, across, first, second)
        distance = distance / (1 + _SOFTENING * min(abs(cell["height"]), 1))
        mine = _add(scene, window, distance, k, gains)
        rng = np.random.default_rng(int(cell["grain"]))
        waves = _waves(rng, cell, x, y)
        texture, gfp = _interior(rng, cell, x, y, np.minimum(relative, 1))
        scene.texture[window][mine] = (texture + _WAVES_INSIDE * waves)[mine]
        scene.uneven[window][mine] = waves[mine]
        scene.gfp[window] += gfp
    return scene


def edges(scene: Scene, gains: np.ndarray, slant: tuple[float, float]) -> np.ndarray:
    """Brightfield light in each focal plane over the background, [Z, N, N].

    Args:
        scene: what is seen.
        gains: as of `draw_scene`.
        slant: x, y of how much stronger outlines are that face this way; light falls in aslant.
    """
    index = _index(np.minimum(scene.distance, _MARGIN))
    line, absorbed = _table(_LINE)[index], _table(_ABSORPTION)[index]
    # The last one is that of points without an owner, whose index is -1.
    gain = np.pad(gains, [(0, 0), (0, 1)])[:, scene.owner]
    near = np.minimum(scene.distance, _MARGIN)
    facing = sum(
        part * cv2.Sobel(near, cv2.CV_32F, *way, ksize=3, scale=scene.number_per_unit / 8)
        for part, way in zip(slant, ((1, 0), (0, 1)), strict=True)
    )
    inside = 1 / (1 + np.exp(np.clip(scene.distance, -20, 20) / 0.7))
    body = (0.35 + 0.65 * np.abs(gain)) * scene.texture
    line = line * (1 + facing + scene.uneven)
    return gain * line + absorbed + scene.halo * (1 + facing) * (1 - inside) + inside * body


def _add(
    scene: Scene,
    window: tuple[slice, slice],
    distance: np.ndarray,
    index: int,
    gains: np.ndarray,
) -> np.ndarray:
    """Adds one outline; tells where its object covers the window."""
    nearer = distance < scene.distance[window]
    scene.distance[window][nearer] = distance[nearer]
    scene.owner[window][nearer] = index
    light = _table(_HALO)[_index(np.clip(distance, 0, _MARGIN))]
    scene.halo[(slice(None), *window)] += gains[:, index, None, None] * light
    return nearer & (distance < 0)


def _window(
    middle: np.ndarray, reach: float, origin: np.ndarray, count: int
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """Part of the grid around a point, and x [w] and y [h] of its points from an origin."""
    step = FIELD / count
    low = np.clip((middle - reach) / step, 0, count).astype(int)
    high = np.clip((middle + reach) / step + 1, low, count).astype(int)
    x, y = ((np.arange(low[k], high[k]) + 0.5) * step - origin[k] for k in (0, 1))
    return (slice(low[1], high[1]), slice(low[0], high[0])), x, y


def _waves(rng: np.random.Generator, cell: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sum of plane waves that turn with the cell [h, w]."""
    turns = rng.uniform(0, 2 * np.pi, _WAVES) + cell["angle"]
    number = 2 * np.pi / rng.uniform(*_WAVELENGTHS, _WAVES)
    phases = rng.uniform(0, 2 * np.pi, _WAVES)
    down = np.exp(1j * (np.outer(y, number * np.sin(turns)) + phases))
    right = np.exp(1j * np.outer(number * np.cos(turns), x))
    return _UNEVEN * np.sqrt(2 / _WAVES) * (down @ right).real


def _interior(
    rng: np.random.Generator, cell: np.ndarray, x: np.ndarray, y: np.ndarray, relative: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Texture in brightfield, and GFP, of a cell on its window [h, w]."""
    radius = float(cell["radius"])
    small = np.interp(radius, _BUD_RADII, (1, 0)) * bool(attached(cell))
    texture = _INTERIOR + small * (_BUD_INTERIOR - _INTERIOR) + _grains(rng, cell, x, y)
    turn = rng.uniform(0, 2 * np.pi) + cell["angle"]
    share = np.interp(radius, _VACUOLE_FROM, (0, 1))
    right = x - _VACUOLE_OFFSET * radius * np.cos(turn)
    down = y - _VACUOLE_OFFSET * radius * np.sin(turn)
    rim = np.hypot(right, down[:, None]) - rng.uniform(*_VACUOLE) * radius
    within = 1 / (1 + np.exp(np.clip(rim, -20, 20)))
    texture += share * (_RIM * np.exp(-((rim / _RIM_WIDTH) ** 2) / 2) + _VACUOLE_LIGHT * within)
    level = np.exp(cell["log_level"]) * np.sqrt(1 - relative**2)
    return texture, level * (1 - _LACKS_GFP * share * within)


def _grains(rng: np.random.Generator, cell: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Small dark and bright spots that keep their places in the cell [h, w]."""
    radius = float(cell["radius"])
    turns = rng.uniform(0, 2 * np.pi, _GRAINS) + cell["angle"]
    places = np.sqrt(rng.random(_GRAINS))
    widths = min(radius / 18, 1) * rng.uniform(*_GRAIN_SIZES, _GRAINS)
    strengths, dark = _GRAIN * rng.standard_normal(_GRAINS), rng.random(_GRAINS) < 0.15
    places = radius * np.where(dark, 0.78, 0.7 * places)
    right = (x - (places * np.cos(turns))[:, None]) / widths[:, None]
    down = (y[:, None] - places * np.sin(turns)) / widths
    across = np.where(dark, _DARK_GRAIN, strengths)[:, None] * np.exp(-(right**2) / 2)
    return np.exp(-(down**2) / 2) @ across


def _index(distance: np.ndarray) -> np.ndarray:
    return ((np.maximum(distance, _NEAREST) - _NEAREST) * _FINE).astype(np.int16)


def _table(parts: Sequence[tuple[float, float, float]]) -> np.ndarray:
    distance = np.arange(_NEAREST, _FARTHEST, 1 / _FINE)
    light = sum(a * np.exp(-(((distance - at) / width) ** 2) / 2) for a, at, width in parts)
    return np.asarray(light, np.float32)
