"""Procedural TEM cross-sections of motile cilia in the layout of the clinical data set.

Each class differs by its defect alone from ``Normal``: nine doublets with outer and inner arms on
a ring around two central microtubules.

* ``CP 2``: a second central pair beside the first (9+4).
* ``Disarranged``: two to four doublets have left the ring inwards and lie turned.
* ``IDA``: inner dynein arms missing.
* ``IDA_Disarranged``: both of the above.
* ``Microtub Abnorm``: eight or ten doublets.
* ``No CP``: no central microtubule (9+0).
* ``ODA``: outer dynein arms missing.
* ``ODA_IDA``: outer and inner arms missing.
* ``Subtle CP``: one central microtubule missing (9+1).

No patient is perfect: of missing arms one in twenty remains, of the others one in thirty is lost.
Sizes, aspects, brightness and noise follow what the authors published of the clinical images.
"""

import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from common.data.image_io import write_png
from common.errors import Exit, UserError
from common.simulate.camera import expose, quantise
from common.simulate.optics import gaussian_blur, vignetting
from experiments.cilia_cvae.anatomy import Axoneme, cilium_points

CLASSES = (
    "CP 2",
    "Disarranged",
    "IDA",
    "IDA_Disarranged",
    "Microtub Abnorm",
    "No CP",
    "Normal",
    "ODA",
    "ODA_IDA",
    "Subtle CP",
)
# Training-set sizes: the middle of what the published notebook's batch counts allow.
_SIZES = (80.5, 176.5, 240.5, 208.5, 112.5, 176.5, 1712.5, 656.5, 560.5, 176.5)
CLASS_FREQUENCIES = tuple(size / sum(_SIZES) for size in _SIZES)

_CENTRAL_MICROTUBULES = {"No CP": 0, "Subtle CP": 1, "CP 2": 4}
_WITHOUT_OUTER = ("ODA", "ODA_IDA")
_WITHOUT_INNER = ("IDA", "IDA_Disarranged", "ODA_IDA")
_DISARRANGED = ("Disarranged", "IDA_Disarranged")
_ARM_KEPT, _ARM_LEFT = 29 / 30, 1 / 20
# Crop width over mean membrane radius: the cilium fills about nine tenths of the image.
_CROP = 2.45


def simulate(root: Path, num_images: int, seed: int = 0, mean_size: int = 192) -> None:
    """Writes a data set: ``<class>/<Class>_<number>.png`` and ``tables/ground_truth.csv``.

    Given its class, image k depends on (seed, k) alone.

    Args:
        root: folder to write into; made if absent, files of the same name are replaced.
        num_images: how many; classes share them as in `class_counts`.
        seed: of the whole set.
        mean_size: mean side of the images in pixels.
    """
    rows = []
    labels = np.repeat(CLASSES, class_counts(num_images)).tolist()
    for k, label in enumerate(labels):
        rng = np.random.default_rng([seed, k])
        truth = sample_truth(label, rng, sample_shape(rng, mean_size))
        path = root / label / f"{label}_{k - labels.index(label) + 1:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, render(truth, rng))
        rows.append({"image": path.relative_to(root).as_posix(), **_row(truth)})
    _write_table(root / "tables" / "ground_truth.csv", rows)


def class_counts(num_images: int) -> list[int]:
    """Images of each class: `CLASS_FREQUENCIES` by largest remainder, from ten on none empty."""
    reserved = 1 if num_images >= len(CLASSES) else 0
    quota = np.array(CLASS_FREQUENCIES) * num_images
    counts = np.maximum(np.floor(quota), reserved).astype(int)
    while counts.sum() != num_images:
        excess = np.where(counts > reserved, counts - quota, -np.inf)
        short = counts.sum() < num_images
        counts[np.argmax(quota - counts) if short else np.argmax(excess)] += 1 if short else -1
    return counts.tolist()


def sample_shape(rng: np.random.Generator, mean_size: int) -> tuple[int, int]:
    """Draws H, W in pixels with the published spread: size ± 33 %, aspect 1.04 ± 0.12."""
    size = mean_size * np.clip(rng.normal(1, 0.33), 0.35, 2)
    aspect = np.clip(rng.normal(1.04, 0.117), 0.75, 1.4)
    return round(size / np.sqrt(aspect)), round(size * np.sqrt(aspect))


def sample_truth(label: str, rng: np.random.Generator, shape: tuple[int, int]) -> Axoneme:
    """Draws one cross-section of a class.

    Args:
        label: one of `CLASSES`.
        rng: source of everything that varies.
        shape: H, W of the image in pixels; its aspect is that of the oblique cut, more or less.

    Raises:
        UserError: where `label` is no class.
    """
    if label not in CLASSES:
        raise UserError(
            Exit.USAGE, label, "is no class of the simulator", f"use one of {', '.join(CLASSES)}"
        )
    height, width = shape
    count = int(rng.choice((8, 10))) if label == "Microtub Abnorm" else 9
    membrane = rng.uniform(0.122, 0.136)
    ring = membrane * rng.uniform(0.62, 0.67) * np.sqrt(count / 9)
    along_x, diagonal = np.log(width / height) + rng.normal(0, 0.03), rng.normal(0, 0.07)
    rotation, clockwise = rng.uniform(0, 2 * np.pi), bool(rng.random() < 0.5)
    turns = (np.arange(count) + rng.normal(0, 0.04, count)) / count * (1 if clockwise else -1)
    displaced = _displaced(count, rng) if label in _DISARRANGED else np.zeros(count, bool)
    inwards = np.where(displaced, rng.uniform(0.016, 0.032, count), rng.normal(0, 0.0015, count))
    outer = rng.random(count) < (_ARM_LEFT if label in _WITHOUT_OUTER else _ARM_KEPT)
    inner = rng.random(count) < (_ARM_LEFT if label in _WITHOUT_INNER else _ARM_KEPT)
    return Axoneme(
        label=label,
        height=height,
        width=width,
        pixel_size_um=float(_CROP * membrane / np.sqrt(height * width)),
        centre_x=float(width * rng.normal(0.5, 0.012) - 0.5),
        centre_y=float(height * rng.normal(0.5, 0.012) - 0.5),
        membrane_radius_um=membrane,
        ring_radius_um=float(ring),
        ellipticity=float(np.exp(np.hypot(along_x, diagonal))),
        ellipse_angle=float(np.arctan2(diagonal, along_x) / 2),
        rotation=rotation,
        clockwise=clockwise,
        num_doublets=count,
        central_microtubules=_CENTRAL_MICROTUBULES.get(label, 2),
        central_angle=rng.uniform(0, np.pi),
        outer_arms=tuple(outer.tolist()),
        inner_arms=tuple(inner.tolist()),
        radii_um=tuple((ring - inwards).tolist()),
        angles=tuple((rotation + 2 * np.pi * turns).tolist()),
        displaced=tuple(displaced.tolist()),
    )


def render(truth: Axoneme, rng: np.random.Generator) -> np.ndarray:
    """Takes the micrograph of a cross-section.

    Focus, staining, contrast, illumination, noise and neighbours are drawn from `rng`. Electrons
    that reach the film fall exponentially with the optical depth of the stain; defocus adds the
    bright fringe that film microscopists focus with.

    Returns:
        Grey levels [H, W], uint8.
    """
    nm = truth.pixel_size_um * 1e3
    sharp, diffuse = _scene(truth, rng)
    depth = _splat(truth, sharp) + gaussian_blur(_splat(truth, diffuse), 3 / nm)
    depth = gaussian_blur(depth, rng.uniform(2.2, 3.2) / nm)
    grain = gaussian_blur(rng.standard_normal(depth.shape, dtype=np.float32), 1.3 / nm)
    depth += (0.02 + rng.uniform(0.05, 0.12) * depth) * grain / grain.std()
    light = np.exp(-rng.uniform(0.75, 1.15) * depth)
    light += rng.uniform(0.2, 0.8) * (light - gaussian_blur(light, 3.5 / nm))
    light *= vignetting(depth.shape, rng.uniform(0, 0.12), rng.uniform(0, 2 * np.pi))
    light = rng.uniform(0.76, 0.86) * light + rng.uniform(-0.02, 0.04)
    light = expose(light, 0.8 / rng.uniform(0.008, 0.045) ** 2, 0, rng)
    return quantise(gaussian_blur(light, rng.uniform(0, 0.7)))


def _displaced(count: int, rng: np.random.Generator) -> np.ndarray:
    """Two to four doublets, no two of them neighbours: inside the ring those would overlap."""
    number = rng.integers(2, 5)
    while True:
        chosen = np.isin(np.arange(count), rng.choice(count, number, replace=False))
        if not np.any(chosen & np.roll(chosen, 1)):
            return chosen


def _scene(truth: Axoneme, rng: np.random.Generator) -> list[np.ndarray]:
    """Sharp and diffuse points of the cilium and of neighbours that reach into the corners."""
    clouds = [cilium_points(truth, rng)]
    for corner in np.flatnonzero(rng.random(4) < 0.15):
        angle = np.pi / 4 + corner * np.pi / 2 + rng.normal(0, 0.15)
        away = 1e3 * truth.membrane_radius_um * rng.uniform(2.3, 2.6)
        offset = (away * np.cos(angle), away * np.sin(angle), 0)
        other = sample_truth("Normal", rng, (truth.height, truth.width))
        clouds.append(tuple(cloud + offset for cloud in cilium_points(other, rng)))
    return [np.concatenate(kind) for kind in zip(*clouds, strict=True)]


def _splat(truth: Axoneme, cloud: np.ndarray) -> np.ndarray:
    """Shares every point's weight between its four nearest pixels: optical depth [H, W]."""
    nm, height, width = truth.pixel_size_um * 1e3, truth.height + 2, truth.width + 2
    x, y = cloud[:, 0] / nm + truth.centre_x + 1, cloud[:, 1] / nm + truth.centre_y + 1
    inside = (x > 0) & (y > 0) & (x < width - 1) & (y < height - 1)
    x, y, weight = x[inside], y[inside], cloud[inside, 2] / nm**2
    column, row = x.astype(int), y.astype(int)
    right, below = x - column, y - row
    first = row * width + column
    pixels = [first, first + 1, first + width, first + width + 1]
    shares = [(1 - right) * (1 - below), right * (1 - below), (1 - right) * below, right * below]
    grid = np.bincount(
        np.concatenate(pixels), np.concatenate([s * weight for s in shares]), height * width
    )
    return grid.reshape(height, width)[1:-1, 1:-1].astype(np.float32)


def _row(truth: Axoneme) -> dict[str, str]:
    """One line of the table: arms as 111110111, positions separated by blanks."""
    return {name: _cell(value) for name, value in asdict(truth).items()}


def _cell(value: str | float | bool | Sequence[float] | Sequence[bool]) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        return ("" if isinstance(value[0], bool) else " ").join(map(_cell, value))
    return str(value)


def _write_table(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]) if rows else ["image"])
        writer.writeheader()
        writer.writerows(rows)
