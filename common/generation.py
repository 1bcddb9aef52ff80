"""Generated images on disk: their table, and reading them back."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from common.data.datasets import SeedDataset
from common.errors import Exit, UserError, relative
from common.runs.checkpoints import sha256_of
from common.runs.folder import RunFolder
from common.storage import sweep_partial_files, whole_file
from common.tables import from_csv, named_cells, to_csv

MANIFEST = "manifest.csv"
# What is known to be where in the images; `x` and `y` are shares of their width and height.
ANNOTATIONS = "annotations.csv"
ANNOTATED = ("name", "structure", "x", "y")
# "size" is "canvas", or "native" where the image was resampled to a size of the raw images.
# "origin" is "sampled", or "around training images" where each image was made from one of those.
# "settings" are arguments of the model, as JSON, that are not those of the training.
COLUMNS = (
    *("name", "seed", "label", "labels", "size", "origin", "settings"),
    *("checkpoint_sha256", "sha256"),
)
SIZES = ("canvas", "native")
SAMPLED, AROUND = ORIGINS = ("sampled", "around training images")
# How files are named everywhere; an experiment may know more schemes.
NUMBERS = {"number": "{number:06d}"}
_NUMBERED = re.compile(r"\d{6,}\.(png|ome\.tiff)")


@dataclass(frozen=True)
class SampleSet:
    """What one `generate` made.

    Attributes:
        plan: seeds and labels.
        labels: rule that chose the labels: "data", "balanced" or a class.
        classes: names; index = label.
        suffix: of the files.
        size: one of `SIZES`.
        pattern: of the files' names below `samples`, see `pattern_of`.
        origin: one of `ORIGINS`.
        settings: of `changed_settings`.
        annotations: image number, structure, x and y of what the images were told to show.
    """

    plan: SeedDataset
    labels: str
    classes: Sequence[str]
    suffix: str
    size: str = SIZES[0]
    pattern: str = NUMBERS["number"]
    origin: str = SAMPLED
    settings: str = ""
    annotations: Sequence[tuple[int, str, float, float]] = ()


def changed_settings(now: Mapping[str, Any], trained: Mapping[str, Any]) -> str:
    """Arguments of a model that are not those of its training, as a JSON object; "" for none.

    Args:
        now: hyper-parameters of the model that samples.
        trained: those in its checkpoint.
    """
    changed = {
        name: value
        for name, value in sorted(now.items())
        if not name.startswith("_") and name in trained and trained[name] != value
    }
    return json.dumps(changed) if changed else ""


def pattern_of(naming: str, schemes: Mapping[str, str]) -> str:
    """The pattern of file names that a scheme stands for.

    Args:
        naming: name of the scheme.
        schemes: patterns by name, besides `NUMBERS`. Fields are `number` (from 0, has to be there),
            `label`, `time` of writing as YYYYmmdd_HHMMSS, and `size`, such as "224x224" of the
            canvas, or "native". A slash begins a folder.

    Raises:
        UserError: there is no such scheme.
    """
    known = NUMBERS | schemes
    if naming not in known:
        problem = "is no naming of files that this experiment knows"
        raise UserError(
            Exit.USAGE, f"--naming {naming}", problem, f"choose from {', '.join(known)}"
        )
    return known[naming]


def clear_samples(folder: RunFolder, is_global_zero: bool) -> None:
    """Removes what an earlier `generate` wrote, and all that was measured or told of it."""
    if not is_global_zero:
        return
    folder.samples.mkdir(parents=True, exist_ok=True)
    # Beside the page of the quiz may lie what players have answered.
    for described in (folder.records, folder.quiz):
        described.unlink(missing_ok=True)
    for described in (folder.evaluation, folder.confusion.parent, folder.card):
        if described.is_dir():
            shutil.rmtree(described)
    sweep_partial_files(folder.samples)
    _clear_named(folder.samples)
    for path in sorted(folder.samples.iterdir()):
        # Images without a table were left by a run that was stopped.
        if path.name in (MANIFEST, ANNOTATIONS) or _NUMBERED.fullmatch(path.name):
            path.unlink()


def _clear_named(samples: Path) -> None:
    """Images that the table names, then sub-folders that are empty."""
    try:
        rows = named_cells(from_csv((samples / MANIFEST).read_bytes()))
    except (OSError, ValueError):
        return
    for row in rows:
        path = samples / row.get("name", "")
        # What a changed table names elsewhere is none of ours.
        if path.parent.resolve().is_relative_to(samples.resolve()) and path.is_file():
            path.unlink()
    for inner in sorted(samples.rglob("*"), reverse=True):
        if inner.is_dir() and not inner.is_symlink() and not any(inner.iterdir()):
            inner.rmdir()


def write_samples_manifest(folder: RunFolder, made: SampleSet, checkpoint_sha256: str) -> None:
    """Names the images and writes `manifest.csv`: all it takes to make each of them again."""
    classes = made.classes or [""]
    canvas, time = made.plan.masks.shape[-1], f"{datetime.now():%Y%m%d_%H%M%S}"
    size = f"{canvas}x{canvas}" if made.size == "canvas" else made.size
    rows = []
    for number, (seed, index) in enumerate(zip(made.plan.seeds, made.plan.labels, strict=True)):
        label = classes[index]
        stem = made.pattern.format(number=number, label=_in_a_name(label), time=time, size=size)
        path = folder.samples / f"{stem}{made.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        written = NUMBERS["number"].format(number=number)
        (folder.samples / f"{written}{made.suffix}").rename(path)
        facts = (seed, label, made.labels, made.size, made.origin, made.settings, checkpoint_sha256)
        rows.append((f"{stem}{made.suffix}", *facts, sha256_of(path)))
    if made.annotations:
        cells = [(rows[k][0], what, f"{x:.5f}", f"{y:.5f}") for k, what, x, y in made.annotations]
        with whole_file(folder.samples / ANNOTATIONS) as stream:
            stream.write(to_csv([ANNOTATED, *cells]))
    with whole_file(folder.samples / MANIFEST) as stream:
        stream.write(to_csv([COLUMNS, *rows]))


def read_samples_manifest(folder: RunFolder) -> list[dict[str, str]]:
    """Rows of `samples/manifest.csv`.

    Raises:
        UserError: nothing was generated yet, or the table was changed.
    """
    path = folder.samples / MANIFEST
    remedy = f"run make generate EXP={folder.experiment} RUN={folder.run_id} N=1000 first"
    if not path.is_file():
        raise UserError(Exit.USAGE, relative(folder.samples), "holds no generated images", remedy)
    try:
        rows = named_cells(from_csv(path.read_bytes()))
    except ValueError:
        rows = []
    if not rows or any(tuple(row) != COLUMNS for row in rows):
        raise UserError(Exit.INPUT, relative(path), "is not what make generate writes", remedy)
    return rows


def sample_file(folder: RunFolder, row: Mapping[str, str]) -> Path:
    """Where the image of a row of the table lies.

    Raises:
        UserError: it is not there, or is not what was generated.
    """
    path = folder.samples / row["name"]
    try:
        same = sha256_of(path) == row["sha256"]
        problem = "is not the image that was generated"
    except OSError as error:
        same, problem = False, f"cannot be read ({error.strerror})"
    if not same:
        remedy = f"run make generate EXP={folder.experiment} RUN={folder.run_id} again"
        raise UserError(Exit.INPUT, relative(path), problem, remedy)
    return path


def grey_to_unit(pixels: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Grey values [..., H, W] as float32 in [0, 1] of the data's window."""
    low, high = window
    return ((pixels.astype(np.float32) - low) / (high - low)).clip(0, 1)


def _in_a_name(label: str) -> str:
    """No label leads into another folder."""
    return re.sub(r"[/\\\0]", "_", label)
