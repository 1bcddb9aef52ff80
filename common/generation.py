"""Generated images on disk: their table, and reading them back."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.data.datasets import SeedDataset
from common.errors import Exit, UserError, relative
from common.runs.checkpoints import sha256_of
from common.runs.folder import RunFolder
from common.storage import whole_file
from common.tables import from_csv, named_cells, to_csv

MANIFEST = "manifest.csv"
COLUMNS = ("name", "seed", "label", "labels", "checkpoint_sha256", "sha256")


@dataclass(frozen=True)
class SampleSet:
    """What one `generate` made.

    Attributes:
        plan: seeds and labels.
        labels: rule that chose the labels: "data", "balanced" or a class.
        classes: names; index = label.
        suffix: of the files.
    """

    plan: SeedDataset
    labels: str
    classes: Sequence[str]
    suffix: str


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
    for path in sorted(folder.samples.iterdir()):
        if path.is_file():
            path.unlink()


def write_samples_manifest(folder: RunFolder, made: SampleSet, checkpoint_sha256: str) -> None:
    """Writes `samples/manifest.csv`: everything it takes to make each image again."""
    classes = made.classes or [""]
    rows = []
    for index, (seed, label) in enumerate(zip(made.plan.seeds, made.plan.labels, strict=True)):
        name = f"{index:06d}{made.suffix}"
        image = sha256_of(folder.samples / name)
        rows.append((name, seed, classes[label], made.labels, checkpoint_sha256, image))
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
