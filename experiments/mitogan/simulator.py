"""Procedural videos of the mitochondria of adherent cells, with everything that is true of them.

One video is one cell: an outline, a void where the nucleus is, tangled tubules around it and
branching ones to the periphery, loops, dots and pearls. From frame to frame tubules wobble, grow,
shrink, divide and fuse, the stage drifts and the stain bleaches. Frames of one video are alike;
brightness, width, density, background, blur, noise and drift differ from video to video.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from skimage.morphology import skeletonize

from common.data.image_io import write_ome_tiff
from common.errors import Exit, UserError
from common.storage import whole_file
from common.tables import to_csv
from experiments.mitogan.cell import draw_cell
from experiments.mitogan.imaging import drawn_lines, painted_discs
from experiments.mitogan.microscope import (
    BLEACHED,
    PHOTONS,
    Microscope,
    draw_microscope,
    draw_surroundings,
    ridge,
    shifted,
)
from experiments.mitogan.motion import Motion, State, draw_motion
from experiments.mitogan.topology import topology
from experiments.mitogan.tubules import STEP_UM, grow_network

# Of an oblique light-sheet microscope; recalled, the original gives none.
PIXEL_SIZE_UM = 0.1
# Smallest field in which a cell still has a nucleus and a network, µm.
SMALLEST_FIELD_UM = 4.8
NOISES = tuple(PHOTONS)
# Seconds between frames; volumes of the lab's microscope take some seconds.
_INTERVAL_S = (1.5, 4.0)
# Drift of the stage: steady part and unsteady part in µm a frame; assumed.
_DRIFT_UM, _SHAKE_UM = (0.0, 0.03), (0.003, 0.02)
# Share of tubule brightness that a video's stain has, in usual ones; assumed.
_STAIN = (0.6, 1.5)


@dataclass(frozen=True)
class Video:
    """One simulated cell over T frames.

    Attributes:
        frames: grey levels, uint16 [T, H, W].
        clean: expected grey levels without noise, float32 [T, H, W].
        mask: where the noise-free profile of a tubule exceeds half its own peak, taken across it
            and tubule by tubule, so that a bright neighbour hides none; bool [T, H, W].
        skeleton: axes of the tubules, one pixel wide, bool [T, H, W].
        centres: x, y of the middle of the nucleus in pixels [T, 2].
        truth: numbers of each frame [T], see `TRUTHS`.
        pixel_size_um: µm per pixel.
        interval_s: seconds between frames.
        noise: one of `NOISES`.
    """

    frames: np.ndarray
    clean: np.ndarray
    mask: np.ndarray
    skeleton: np.ndarray
    centres: np.ndarray
    truth: dict[str, np.ndarray]
    pixel_size_um: float
    interval_s: float
    noise: str


# Counted on the graph of tubules: those that only cross in the image are not joined.
TRUTHS = (
    "foreground_fraction",
    "tubule_width_um",
    "apparent_width_um",
    "skeleton_length_um",
    "components",
    "branch_points",
    "end_points",
    "loops",
    "pearled_share",
    "pearl_spacing_um",
    "fissions",
    "fusions",
    "stain",
)


def draw_video(
    rng: np.random.Generator,
    frames: int,
    size: int,
    noise: str = "middle",
    pixel_size_um: float = PIXEL_SIZE_UM,
) -> Video:
    """Draws one cell and films it.

    A field smaller than 45 µm holds a smaller cell; its tubules keep their width.

    Args:
        rng: source of everything that varies.
        frames: T, >= 1.
        size: H and W in pixels.
        noise: one of `NOISES`.
        pixel_size_um: µm per pixel.

    Raises:
        UserError: the noise has no such level, or the field is too small for a cell.
    """
    if noise not in NOISES:
        problem, remedy = "is no level of noise", f"use one of {', '.join(NOISES)}"
        raise UserError(Exit.USAGE, noise, problem, remedy)
    if size * pixel_size_um < SMALLEST_FIELD_UM:
        problem = f"of {pixel_size_um} µm are too few for a cell"
        remedy = f"use at least {math.ceil(SMALLEST_FIELD_UM / pixel_size_um)}"
        raise UserError(Exit.USAGE, f"{size} pixels", problem, remedy)
    cell, centre, slack = draw_cell(rng, size * pixel_size_um)
    interval = rng.uniform(*_INTERVAL_S)
    motion = draw_motion(rng, grow_network(rng, cell), frames, interval)
    microscope = draw_microscope(rng, size, pixel_size_um, noise)
    # Pixel k covers k to k + 1 pixel sizes.
    first = centre / pixel_size_um - 0.5
    surroundings = draw_surroundings(rng, microscope, cell, first)
    drift = _drift(rng, frames, 0.9 * slack) / pixel_size_um
    stain = rng.uniform(*_STAIN) * (1 - rng.uniform(*BLEACHED)) ** np.linspace(0, 1, frames)
    taken = []
    for k in range(frames):
        scene = draw_scene(motion, microscope, first + drift[k], k)
        clean = microscope.expected(scene.light + shifted(surroundings, drift[k]), stain[k])
        truth = scene.truth | {"stain": stain[k]}
        taken.append((microscope.photograph(clean, rng), clean, scene.mask, scene.skeleton, truth))
    photos, cleans, masks, skeletons, truths = zip(*taken, strict=True)
    return Video(
        np.stack(photos),
        np.stack(cleans),
        np.stack(masks),
        np.stack(skeletons),
        first + drift,
        {name: np.array([truth[name] for truth in truths]) for name in TRUTHS},
        pixel_size_um,
        interval,
        noise,
    )


def simulate(
    root: Path,
    num_frames: int,
    seed: int = 0,
    mean_size: int = 256,
    frames_per_video: int = 30,
    noise: str = "mixed",
    first: int = 0,
) -> None:
    """Writes a data set of videos; video v depends on (seed, v) alone.

    ``<video>.ome.tif`` holds the frames, ``tables/ground_truth.csv`` a row for each of them, and
    ``ground_truth/<video>.npz`` masks and skeletons (bool, [T, H, W]).

    Args:
        root: folder to write into; made if absent, files of the same name are replaced.
        num_frames: of all videos; the last one is shorter where they do not divide evenly.
        seed: of the whole set.
        mean_size: mean side of a frame in pixels; videos differ by up to an eighth.
        frames_per_video: of each video but the last.
        noise: one of `NOISES`, or "mixed" for a level drawn for each video.
        first: number of the first video.

    Raises:
        UserError: as `draw_video`.
    """
    rows = []
    (root / "ground_truth").mkdir(parents=True, exist_ok=True)
    for number in range(math.ceil(num_frames / frames_per_video)):
        rng = np.random.default_rng([seed, first + number])
        level = str(rng.choice(NOISES)) if noise == "mixed" else noise
        size = round(mean_size * rng.uniform(7 / 8, 9 / 8))
        frames = min(frames_per_video, num_frames - number * frames_per_video)
        video = draw_video(rng, frames, size, level)
        name = f"cell_{first + number + 1:03d}"
        pixel = (video.pixel_size_um, video.pixel_size_um)
        write_ome_tiff(
            root / f"{name}.ome.tif", video.frames, "TYX", pixel, interval_s=video.interval_s
        )
        np.savez_compressed(
            root / "ground_truth" / f"{name}.npz", mask=video.mask, skeleton=video.skeleton
        )
        rows += _rows(name, video)
    with whole_file(root / "tables" / "ground_truth.csv", parents=True) as stream:
        stream.write(to_csv([rows[0], *(row.values() for row in rows)]))


@dataclass(frozen=True)
class Scene:
    """Tubules in one frame: light, mask and skeleton [H, W] as of `Video`, and numbers."""

    light: np.ndarray
    mask: np.ndarray
    skeleton: np.ndarray
    truth: dict[str, float]


def draw_scene(motion: Motion, microscope: Microscope, centre: np.ndarray, frame: int) -> Scene:
    """Shows the tubules of one frame, without haze, noise or bleaching.

    Args:
        motion: of the tubules.
        microscope: that looks.
        centre: of the cell, x, y in pixels [2].
        frame: number of the frame.
    """
    pixel, size, network = microscope.pixel_size_um, microscope.size, motion.network
    state = motion.at(frame)
    known = topology(network, state)
    pieces = np.cumsum((np.diff(network.tubules, prepend=0) > 0) | ~state.visible)
    tips = _tip_lengths(state, known.from_end, pieces)
    reach = np.minimum(known.from_end / tips, 1)
    radii = state.radii * np.sqrt(np.maximum(1 - (1 - reach) ** 2, 0.02))
    xy, radii = centre + state.points / pixel, radii / pixel
    usual = ridge(float(np.median(motion.radii)) / pixel, microscope.psf_um / pixel)
    # Each vertex stands for one step of its tubule.
    weight = STEP_UM / pixel / usual
    light = microscope.light_of(xy, radii, weight * state.brightness * state.visible)
    halves = microscope.half_width(radii)
    inner = state.visible & (known.from_end > tips - STEP_UM / 2)
    mask = painted_discs(xy[inner], halves[inner], size)
    skeleton = skeletonize(drawn_lines(xy[state.visible], pieces[state.visible], size))
    seen = 2 * pixel * halves[inner]
    pearling = motion.pearling(frame)
    truth = {
        "foreground_fraction": float(mask.mean()),
        "tubule_width_um": 2 * float(np.mean(state.radii[inner])),
        "apparent_width_um": float(np.mean(seen)),
        "skeleton_length_um": known.length_um,
        "components": known.components,
        "branch_points": known.branch_points,
        "end_points": known.end_points,
        "loops": known.loops,
        "pearled_share": float(np.mean(pearling)),
        "pearl_spacing_um": _mean(motion.pearls.spacing[pearling]),
        "fissions": motion.events(frame, True),
        "fusions": motion.events(frame, False),
    }
    return Scene(light, mask, skeleton, truth)


def _tip_lengths(state: State, from_end: np.ndarray, pieces: np.ndarray) -> np.ndarray:
    """How far from its ends each vertex's piece is thinner, µm [V]: tips are half balls."""
    halves = np.zeros(pieces[-1] + 1)
    np.maximum.at(halves, pieces[state.visible], from_end[state.visible])
    return np.minimum(state.radii, np.maximum(halves, STEP_UM)[pieces])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _drift(rng: np.random.Generator, frames: int, slack: np.ndarray) -> np.ndarray:
    """Where the stage has gone in each frame in µm [T, 2], held where the cell would leave."""
    angle = rng.uniform(0, 2 * np.pi)
    steady = rng.uniform(*_DRIFT_UM) * np.array([np.cos(angle), np.sin(angle)])
    steps = steady + rng.normal(0, rng.uniform(*_SHAKE_UM), (frames, 2))
    steps[0] = 0
    return np.clip(np.cumsum(steps, axis=0), -slack, slack)


def _rows(name: str, video: Video) -> list[dict[str, str | int | float]]:
    return [
        {
            "video": f"{name}.ome.tif",
            "frame": k,
            "noise": video.noise,
            "pixel_size_um": _six_digits(video.pixel_size_um),
            "interval_s": _six_digits(video.interval_s),
            "centre_x": _six_digits(centre[0]),
            "centre_y": _six_digits(centre[1]),
            **{key: _six_digits(values[k]) for key, values in video.truth.items()},
        }
        for k, centre in enumerate(video.centres)
    ]


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")
