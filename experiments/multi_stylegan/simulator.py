"""Procedural time-lapse of budding yeast in microfluidic traps, with everything that is true of it.

One trap is two pear-shaped pillars and a few cells, seen every ten minutes in brightfield and GFP.
Cells grow, bud, separate, push one another and the pillars, and drift away with the medium; each
has its own level of GFP, which daughters inherit, and which bleaches. Positions of the chip differ
in light, focus, expression and growth, see `position`.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.data.image_io import write_ome_tiff
from common.errors import Exit, UserError, require_positive
from common.storage import whole_file
from common.tables import to_csv
from experiments.multi_stylegan.cells import NEVER, attached
from experiments.multi_stylegan.growth import draw_founders, lived
from experiments.multi_stylegan.microscope import PLANES, Microscope, draw_microscope
from experiments.multi_stylegan.position import Position, draw_position
from experiments.multi_stylegan.trap import CENTRE, FIELD, Trap, draw_trap_shape

# Below this many pixels a bud is smaller than two.
SMALLEST = 32
# Of the published set: training, validation, test.
TRAINING, VALIDATION, TEST = (18, 20, 21, 22, 24, 25, 26, 28, 30), (27,), (29,)
OFFICIAL = TRAINING + VALIDATION + TEST


class Ancestry(NamedTuple):
    """Where a cell comes from; frames are below 0 before the film.

    Attributes:
        mother: her number, 0 for a cell that was there before all.
        born: frame in which it was first seen as a bud.
        separated: frame in which it left its mother, None for a bud that never did.
    """

    mother: int
    born: int
    separated: int | None


@dataclass(frozen=True)
class TrapMovie:
    """One simulated trap over T frames, in Z focal planes.

    Attributes:
        bf: brightfield grey levels, uint16 [T, Z, H, W].
        gfp: GFP grey levels, uint16 [T, Z, H, W].
        labels: number of the cell that covers each pixel's middle, 0 for none, uint16 [T, H, W].
        pillars: where the pillars are, bool [T, H, W].
        lineage: of every cell that was ever seen, by number.
        cells: one row a cell and frame, keys `CELL_TRUTHS`.
        truths: one row a frame, keys `FRAME_TRUTHS`.
        position: of the trap.
    """

    bf: np.ndarray
    gfp: np.ndarray
    labels: np.ndarray
    pillars: np.ndarray
    lineage: dict[int, Ancestry]
    cells: list[dict[str, int | float]]
    truths: list[dict[str, float]]
    position: Position


# Of a cell in a frame. Area: pixels of its label; field share: its whole ellipse over the field,
# which counts also what the border cuts off. Growth: logarithm of the radius over that of the
# frame before. GFP: grey levels over the background at the thickest point, before any blur.
CELL_TRUTHS = (
    *("frame", "cell", "mother", "bud", "area_px", "field_share", "growth_per_frame", "gfp"),
    *("x_px", "y_px", "radius_px", "aspect", "angle"),
)
# Of a frame, lengths in pixels. Gap: where the pillars bulge.
FRAME_TRUTHS = ("gap_px", "pillar_width_px", "pillar_height_px", "shift_x_px", "shift_y_px")


def draw_trap(
    rng: np.random.Generator,
    frames: int,
    size: int,
    position: Position | None = None,
    planes: int = 1,
) -> TrapMovie:
    """Draws one trap and films it.

    Every size shows the same field, on other pixels; a longer film begins as a shorter one.

    Args:
        rng: source of everything that varies.
        frames: T, >= 1, ten minutes apart.
        size: H and W in pixels, >= `SMALLEST`.
        position: of the trap; a usual one unless told.
        planes: Z, 1 to 3; contrast changes its sign between the first and the last.

    Raises:
        UserError: no frames, too few pixels, or no such number of planes.
    """
    require_positive("simulator", frames=frames)
    if size < SMALLEST:
        problem = "are too few for a trap with cells"
        raise UserError(Exit.USAGE, f"{size} pixels", problem, f"use at least {SMALLEST}")
    if not 1 <= planes <= len(PLANES):
        problem, remedy = "is no number of focal planes", f"use 1 to {len(PLANES)}"
        raise UserError(Exit.USAGE, str(planes), problem, remedy)
    life, stage, dust, camera = rng.spawn(4)
    position = position or Position()
    microscope = draw_microscope(dust, size, planes, position)
    moments = list(_moments(life, frames, position))
    ways = _drift(stage, frames, position)
    taken = [
        _taken(microscope, moment, way, frame, camera)
        for frame, (moment, way) in enumerate(zip(moments, ways, strict=True))
    ]
    bf, gfp, labels, pillars, rows = zip(*taken, strict=True)
    return TrapMovie(
        np.stack(bf),
        np.stack(gfp),
        np.stack(labels),
        np.stack(pillars),
        _lineage(moments),
        [row for of_frame in rows for row in of_frame],
        [_frame_truth(m.trap, way, size) for m, way in zip(moments, ways, strict=True)],
        position,
    )


def simulate(
    root: Path,
    num_images: int,
    seed: int = 0,
    mean_size: int = 256,
    frames_per_trap: int = 12,
    positions: int = len(OFFICIAL),
    planes: int = 1,
) -> None:
    """Writes a data set in the published layout; a trap depends on seed and numbers alone.

    ``PosNN/img_<time>_01-BF0_<plane>_trap_<number>.tif`` and ``.._02-GFP_..`` hold one frame each,
    16 bits. ``tables/ground_truth.csv`` has a row for each cell and frame,
    ``tables/frames.csv`` one for each frame, ``tables/lineage.csv`` one for each cell, and
    ``tables/positions.csv`` one for each position. ``ground_truth/<PosNN>_trap_<number>.npz`` holds
    ``labels`` (uint16 [T, H, W]) and ``pillars`` (bool [T, H, W]).

    Args:
        root: folder to write into; made if absent, files of the same name are replaced.
        num_images: moments of one focal plane; traps take `frames_per_trap` each, the last fewer.
        seed: of the whole set.
        mean_size: side of every frame in pixels.
        frames_per_trap: of each trap but the last.
        positions: that traps are dealt out to, one after the other; numbered as published, of which
            the last two are for validation and test.
        planes: focal planes, 1 to 3.

    Raises:
        UserError: as `draw_trap`, or a number is not positive.
    """
    require_positive("simulator", frames_per_trap=frames_per_trap, positions=positions)
    require_positive("simulator", num_images=num_images)
    tables: dict[str, list[dict[str, object]]] = {}
    (root / "ground_truth").mkdir(parents=True, exist_ok=True)
    for number in range(math.ceil(num_images / frames_per_trap)):
        stage = _position_number(number % positions)
        trap = number // positions + 1
        frames = min(frames_per_trap, num_images - number * frames_per_trap)
        place = draw_position(np.random.default_rng([seed, stage]))
        rng = np.random.default_rng([seed, stage, trap])
        movie = draw_trap(rng, frames, mean_size, place, planes)
        _write(root, f"Pos{stage}", trap, movie)
        for name, rows in _tables(f"Pos{stage}", trap, movie).items():
            tables.setdefault(name, []).extend(rows)
    for name, rows in tables.items():
        head = ("position", "trap", *CELL_TRUTHS) if name == "ground_truth" else rows[0]
        with whole_file(root / "tables" / f"{name}.csv", parents=True) as stream:
            stream.write(to_csv([head, *(row.values() for row in rows)]))


class _Moment(NamedTuple):
    cells: np.ndarray
    trap: Trap


def _moments(rng: np.random.Generator, frames: int, position: Position) -> Iterator[_Moment]:
    trap = draw_trap_shape(rng)
    cells, prehistory = draw_founders(rng, trap, position)
    number = len(cells) + 1
    for frame in range(-prehistory, frames):
        cells, trap, number = lived(rng, cells, trap, position, frame, number)
        if frame >= 0:
            yield _Moment(cells, trap)


def _drift(rng: np.random.Generator, frames: int, position: Position) -> np.ndarray:
    """How far the stage has gone in each frame, units [T, 2]; it finds its place anew each time."""
    steady, shake = rng.normal(0, 0.3, 2), rng.standard_normal((frames, 2))
    return position.drift * (np.arange(frames)[:, None] * 0.3 * steady + shake)


def _taken(
    microscope: Microscope,
    moment: _Moment,
    way: np.ndarray,
    frame: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[dict[str, int | float]]]:
    scene, light = microscope.look(moment.cells, moment.trap, way)
    bf, gfp = microscope.brightfield(light), microscope.gfp(scene.gfp, frame)
    bf, gfp = microscope.photographs(bf, gfp, rng)
    owner = microscope.middles(scene.cells)
    # Index -1, of points without a cell, takes the last one.
    labels = np.append(moment.cells["id"], 0)[owner].astype(np.uint16)
    rows = _cell_truths(microscope, moment.cells, labels, way, frame)
    return bf, gfp, labels, microscope.middles(scene.pillars), rows


def _cell_truths(
    microscope: Microscope, cells: np.ndarray, labels: np.ndarray, way: np.ndarray, frame: int
) -> list[dict[str, int | float]]:
    """Rows of the cells that cover at least one pixel."""
    pixel, place = FIELD / microscope.size, microscope.position
    areas = np.bincount(labels.ravel(), minlength=int(cells["id"].max(initial=0)) + 1)
    bright = place.gfp_gain * (1 - place.bleaching) ** frame
    rows = []
    for cell in cells[areas[cells["id"]] > 0]:
        xy = (np.array(CENTRE) + way + (cell["x"], cell["y"])) / pixel - 0.5
        values = (
            *(frame, int(cell["id"]), int(cell["mother"]), int(attached(cell))),
            int(areas[cell["id"]]),
            _six_digits(np.pi * (cell["radius"] / FIELD) ** 2),
            _six_digits(cell["grown"]),
            _six_digits(bright * np.exp(cell["log_level"])),
            *(_six_digits(value) for value in (*xy, cell["radius"] / pixel)),
            *(_six_digits(value) for value in (cell["aspect"], cell["angle"] % np.pi)),
        )
        rows.append(dict(zip(CELL_TRUTHS, values, strict=True)))
    return rows


def _frame_truth(trap: Trap, way: np.ndarray, size: int) -> dict[str, float]:
    lengths = (trap.widened_gap, trap.width, trap.height, *way)
    scaled = [_six_digits(length * size / FIELD) for length in lengths]
    return dict(zip(FRAME_TRUTHS, scaled, strict=True))


def _lineage(moments: list[_Moment]) -> dict[int, Ancestry]:
    known = {}
    for moment in moments:
        for cell in moment.cells:
            left = None if cell["separated"] == NEVER else int(cell["separated"])
            known[int(cell["id"])] = Ancestry(int(cell["mother"]), int(cell["born"]), left)
    return known


def _position_number(index: int) -> int:
    """As published; beyond these, they go on."""
    beyond = max(OFFICIAL) + 1 + index - len(OFFICIAL)
    return OFFICIAL[index] if index < len(OFFICIAL) else beyond


def _write(root: Path, position: str, trap: int, movie: TrapMovie) -> None:
    for channel, frames in (("01-BF0", movie.bf), ("02-GFP", movie.gfp)):
        for time, planes in enumerate(frames):
            for plane, pixels in enumerate(planes):
                name = f"img_{time:09d}_{channel}_{plane:03d}_trap_{trap:03d}.tif"
                (root / position).mkdir(parents=True, exist_ok=True)
                write_ome_tiff(root / position / name, pixels, "YX")
    np.savez_compressed(
        root / "ground_truth" / f"{position}_trap_{trap:03d}.npz",
        labels=movie.labels,
        pillars=movie.pillars,
    )


def _tables(position: str, trap: int, movie: TrapMovie) -> dict[str, list[dict[str, object]]]:
    """Rows of every table that tell of one trap."""
    place = {"position": position, "trap": trap}
    lineage = [
        place | {"cell": number} | ancestry._asdict() for number, ancestry in movie.lineage.items()
    ]
    qualities = {name: _six_digits(value) for name, value in asdict(movie.position).items()}
    return {
        "ground_truth": [place | row for row in movie.cells],
        "frames": [place | {"frame": k} | row for k, row in enumerate(movie.truths)],
        "lineage": lineage,
        "positions": [{"position": position} | qualities] if trap == 1 else [],
    }


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")
