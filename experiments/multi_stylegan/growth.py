"""How a colony lives in a trap: cells grow, bud, separate, push one another, and leave."""

from dataclasses import replace

import numpy as np

from experiments.multi_stylegan.cells import CELL, NEVER, attached, reach
from experiments.multi_stylegan.position import Position
from experiments.multi_stylegan.trap import CENTRE, FIELD, Trap

# A grown cell is 30 to 60 units wide, an old mother up to 75; radii in units.
_MATURE, _OLD, _OLD_SHARE = (17.0, 26.0), (26.0, 36.0), 0.25
# Relative growth of the radius per frame of a cell that is still small.
_RATE = (0.02, 0.06)
# Radius of a new bud, and the share of its way to full size that a bud grows in a frame: from 8 to
# 14 units it comes to about 25 within two frames.
_BUD, _BUD_PACE = (4.0, 7.0), 0.3
# Share of its mature radius at which a bud separates.
_BUD_SEPARATES = 0.8
# Frames from separation to the next bud: mothers, then daughters, who have to grow first.
_MOTHER_WAITS, _DAUGHTER_WAITS = (2.0, 6.0), (5.0, 11.0)
# GFP: spread of the logarithm between cells, between mother and daughter, and its own slow change:
# spread of the steps and how much of a deviation is left after a frame. Assumed.
_LEVEL_SPREAD, _HEIR_SPREAD, _LEVEL_STEP, _LEVEL_KEEP = 0.28, 0.1, 0.02, 0.96
# Shares of traps without cells, and numbers of cells that the film's prehistory begins with.
_EMPTY, _FOUNDERS, _NEIGHBOURS, _PREHISTORY = 0.06, (1, 2), 0.7, (1, 12)
# More cells than these in the field, buds not counted, and those farthest off are washed away.
_MOST = 5
# Rounds of relaxation in a frame, share of an overlap that a round removes; buds overlap mothers.
_ROUNDS, _SHARE, _NECK = 30, 0.8, 0.95
# Moves below this are none, units.
_STILL = 0.1
# Share of an overlap by which a pillar gives way, how far at most, and what it keeps of that.
_YIELD, _FARTHEST, _SPRING = 0.12, 5.0, 0.97
# Standard deviation of a cell's own motion and turn in a frame, units and radians.
_JITTER, _TURN = 0.5, 0.03
# A cell that overlaps both pillars by so many units gets longer by this in a frame, up to that
# aspect.
_PRESSED, _SQUEEZE, _LONGEST = 1.0, 0.06, 1.7
# Spread of cells' heights over the focus, in steps between focal planes; assumed.
_HEIGHT_SPREAD = 0.22
# Height of the place that holds cells, units.
_HOLD = -30.0
# How far out of the field a cell is forgotten, units.
_BEYOND = 12.0


def draw_founders(
    rng: np.random.Generator, trap: Trap, position: Position
) -> tuple[np.ndarray, int]:
    """Draws the cells that a film's prehistory begins with, and its length.

    Args:
        rng: source of everything that varies.
        trap: that holds them.
        position: of the trap.

    Returns:
        `CELL` [N], and the number of frames that pass before the first one of the film.
    """
    founders = int(rng.integers(*_FOUNDERS, endpoint=True))
    neighbours = int(rng.poisson(_NEIGHBOURS))
    prehistory = int(rng.integers(*_PREHISTORY))
    places = [_place(rng, trap, k) for k in range(founders)]
    places += [_border_place(rng) for _ in range(neighbours)]
    if rng.random() < _EMPTY:
        places = []
    cells = np.zeros(len(places), CELL)
    for k, (x, y) in enumerate(places):
        old = k == 0 and rng.random() < 2 * _OLD_SHARE
        cells[k] = _founder(rng, position, k + 1, old)
        cells[k]["x"], cells[k]["y"] = x, y
    cells["born"] = cells["separated"] = -prehistory
    return relaxed(cells, trap)[0], prehistory


def lived(
    rng: np.random.Generator,
    cells: np.ndarray,
    trap: Trap,
    position: Position,
    frame: int,
    next_id: int,
) -> tuple[np.ndarray, Trap, int]:
    """Ten minutes of a colony.

    Args:
        rng: source of everything that varies.
        cells: `CELL` [N] of the frame before.
        trap: as it was then.
        position: of the trap.
        frame: number of the new frame; below 0 before the film.
        next_id: of the next bud.

    Returns:
        Cells and trap now, and the number for the next bud.
    """
    cells = _separated(rng, _grown(rng, cells, position), frame)
    cells = _budded(rng, cells, trap, position, frame, next_id)
    next_id = max(next_id, int(cells["id"].max(initial=0)) + 1)
    cells, trap = relaxed(_carried(rng, cells, position), trap)
    return _kept(cells), trap, next_id


def relaxed(cells: np.ndarray, trap: Trap) -> tuple[np.ndarray, Trap]:
    """Moves cells and pillars until none overlaps: pairs by their radii along the line of centres.

    Args:
        cells: `CELL` [N].
        trap: its pillars give way a little.

    Returns:
        Moved copies. What is squeezed between the pillars is longer, and upright.
    """
    cells, offsets = cells.copy(), np.array(trap.offsets) * _SPRING
    pressure = np.zeros(len(cells))
    bound = (cells["mother"][:, None] == cells["id"]) & attached(cells)[:, None]
    bound |= bound.T
    share = cells["radius"] ** 2 / np.maximum(
        cells["radius"][:, None] ** 2 + cells["radius"] ** 2, 1e-9
    )
    for _ in range(_ROUNDS if len(cells) else 0):
        moves, tight = _pair_moves(cells, bound, share), np.full(len(cells), np.inf)
        for side in (0, 1):
            trap = replace(trap, offsets=tuple(offsets.tolist()))
            distance, away = trap.push(cells["x"], cells["y"], side)
            overlap = np.maximum(reach(cells, away) - distance, 0)
            moves += overlap[:, None] * away
            tight = np.minimum(tight, overlap)
            outward = (1 - 2 * side) * (overlap * away[:, 0]).sum()
            offsets[side] = np.clip(offsets[side] + _YIELD * _SHARE * outward, 0, _FARTHEST)
        pressure = np.maximum(pressure, tight)
        cells["x"] += _SHARE * moves[:, 0]
        cells["y"] += _SHARE * moves[:, 1]
        if np.abs(moves).max() < _STILL:
            break
    return _squeezed(cells, pressure), replace(trap, offsets=tuple(offsets.tolist()))


def _pair_moves(cells: np.ndarray, bound: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Where each cell wants to go because of the others [N, 2]; the lighter one goes farther."""
    delta = np.stack([cells[axis][:, None] - cells[axis] for axis in "xy"], -1)
    distance = np.sqrt((delta**2).sum(-1)) + 1e-6
    ways = delta / distance[..., None]
    lengths = reach(cells, ways)
    overlap = (lengths + lengths.T) * np.where(bound, _NECK, 1.0) - distance
    np.fill_diagonal(overlap, 0)
    overlap = np.where(bound, overlap, np.maximum(overlap, 0))
    return ((overlap * share)[..., None] * ways).sum(1)


def _squeezed(cells: np.ndarray, pressure: np.ndarray) -> np.ndarray:
    tight = pressure > _PRESSED
    longer = np.minimum(cells["aspect"] + _SQUEEZE, np.maximum(_LONGEST, cells["aspect"]))
    back = cells["aspect"] + 0.3 * (cells["rest_aspect"] - cells["aspect"])
    cells["aspect"] = np.where(tight, longer, back)
    upright = cells["angle"] % np.pi - np.pi / 2
    cells["angle"] -= np.where(tight, 0.5 * upright, 0)
    return cells


def _grown(rng: np.random.Generator, cells: np.ndarray, position: Position) -> np.ndarray:
    cells, before, count = cells.copy(), cells["radius"], len(cells)
    pace = np.minimum(_BUD_PACE * position.growth, 0.9)
    bud = before + pace * (cells["mature"] - before)
    left = np.clip(1 - (before / cells["mature"]) ** 3, 0.06, 1)
    free = before * (1 + position.growth * cells["rate"] * left)
    cells["radius"] = np.where(attached(cells), bud, free)
    cells["grown"] = np.log(cells["radius"] / np.maximum(before, 1e-9))
    cells["wait"] -= position.growth
    cells["angle"] += _TURN * rng.standard_normal(count)
    steps = _LEVEL_STEP * rng.standard_normal(count)
    own = cells["own_log_level"]
    cells["log_level"] = own + _LEVEL_KEEP * (cells["log_level"] - own) + steps
    cells["height"] += 0.03 * rng.standard_normal(count)
    return cells


def _separated(rng: np.random.Generator, cells: np.ndarray, frame: int) -> np.ndarray:
    for k in np.flatnonzero(attached(cells)).tolist():
        mother = cells["id"] == cells["mother"][k]
        if cells["radius"][k] > _BUD_SEPARATES * cells["mature"][k] or not mother.any():
            cells["separated"][k] = frame
            cells["wait"][k] = rng.uniform(*_DAUGHTER_WAITS)
            cells["wait"][mother] = rng.uniform(*_MOTHER_WAITS)
    return cells


def _budded(
    rng: np.random.Generator,
    cells: np.ndarray,
    trap: Trap,
    position: Position,
    frame: int,
    next_id: int,
) -> np.ndarray:
    busy = np.isin(cells["id"], cells["mother"][attached(cells)]) | attached(cells)
    ready = ~busy & (cells["wait"] <= 0) & (cells["radius"] > 0.75 * cells["mature"])
    for mother in cells[ready]:
        bud = _bud(rng, mother, position, next_id, frame)
        bud["x"], bud["y"] = _bud_place(rng, mother, cells, trap, float(bud["radius"]))
        cells = np.append(cells, bud)
        next_id += 1
    return cells


def _bud_place(
    rng: np.random.Generator, mother: np.ndarray, cells: np.ndarray, trap: Trap, radius: float
) -> tuple[float, float]:
    """On the mother's outline, where there is most room, by and large."""
    angles = rng.uniform(0, 2 * np.pi, 12)
    ways = np.stack([np.cos(angles), np.sin(angles)], -1)
    far = reach(mother[None], ways[None])[0] + 0.9 * radius
    x, y = mother["x"] + far * ways[:, 0], mother["y"] + far * ways[:, 1]
    others = cells[cells["id"] != mother["id"]]
    room = np.hypot(x[:, None] - others["x"], y[:, None] - others["y"]) - others["radius"]
    clear = np.minimum(room.min(axis=1, initial=4 * radius), 4 * radius)
    for side in (0, 1):
        clear = np.minimum(clear, trap.distance(x, y, side))
    best = int(np.argmax(clear + rng.uniform(0, 2 * radius, len(x))))
    return float(x[best]), float(y[best])


def _carried(rng: np.random.Generator, cells: np.ndarray, position: Position) -> np.ndarray:
    cells = cells.copy()
    cells["x"] += _JITTER * rng.standard_normal(len(cells))
    cells["y"] += _JITTER * rng.standard_normal(len(cells)) + position.flow
    return cells


def _kept(cells: np.ndarray) -> np.ndarray:
    """Without those that have left; buds go with their mothers."""
    x, y = cells["x"] + CENTRE[0], cells["y"] + CENTRE[1]
    out = np.maximum(np.maximum(-x, x - FIELD), np.maximum(-y, y - FIELD))
    gone = out > cells["radius"] + _BEYOND
    # A bud is counted with its mother.
    counted = np.flatnonzero(~attached(cells) & (out <= 0))
    far = np.hypot(cells["x"], cells["y"] - _HOLD)[counted]
    gone[counted[np.argsort(far)[_MOST:]]] = True
    orphan = attached(cells) & np.isin(cells["mother"], cells["id"][gone])
    return cells[~gone & ~orphan]


def _place(rng: np.random.Generator, trap: Trap, number: int) -> tuple[float, float]:
    """The first one sits in the funnel, the others above it or in the narrow part below."""
    if number == 0:
        return rng.normal(0, 2), -0.55 * trap.height + rng.normal(0, 4)
    return rng.uniform(-55, 55), rng.uniform(-120, -55)


def _border_place(rng: np.random.Generator) -> tuple[float, float]:
    """On one of the field's borders but the lower one."""
    side, along = rng.integers(3), rng.uniform(0, FIELD)
    x, y = ((0.0, 0.8 * along), (FIELD, 0.8 * along), (along, 0.0))[int(side)]
    return x - CENTRE[0] + rng.normal(0, 8), y - CENTRE[1] + rng.normal(0, 8)


def _founder(rng: np.random.Generator, position: Position, number: int, old: bool) -> np.ndarray:
    level = position.expression + _LEVEL_SPREAD * rng.standard_normal()
    cell = _individual(rng, position, number, old, level)
    cell["radius"] = cell["mature"] * rng.uniform(0.75, 1)
    cell["wait"] = rng.uniform(0, 6)
    return cell


def _bud(
    rng: np.random.Generator, mother: np.ndarray, position: Position, number: int, frame: int
) -> np.ndarray:
    inherited = float(mother["log_level"]) + _HEIR_SPREAD * rng.standard_normal()
    bud = _individual(rng, position, number, False, inherited)
    bud["radius"] = rng.uniform(*_BUD)
    bud["mother"], bud["born"], bud["separated"] = mother["id"], frame, NEVER
    bud["height"] = mother["height"] + 0.1 * rng.standard_normal()
    return bud


def _individual(
    rng: np.random.Generator, position: Position, number: int, old: bool, level: float
) -> np.ndarray:
    cell = np.zeros((), CELL)
    cell["id"], cell["grain"] = number, rng.integers(2**31)
    cell["mature"] = position.cell_size * rng.uniform(*(_OLD if old else _MATURE))
    cell["rate"] = rng.uniform(*_RATE)
    cell["aspect"] = cell["rest_aspect"] = rng.uniform(1.02, 1.28)
    cell["angle"] = rng.uniform(0, np.pi)
    cell["height"] = _HEIGHT_SPREAD * rng.standard_normal()
    cell["log_level"] = cell["own_log_level"] = level
    return cell
