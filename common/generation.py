"""Generated images on disk: their table, and reading them back."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.data.datasets import SeedDataset
from common.errors import Exit, UserError, relative
from common.runs.checkpoints import sha256_of
from common.runs.folder import RunFolder

COLUMNS = ("name", "seed", "label", "labels", "checkpoint_sha256")


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
    """Removes what an earlier `generate` wrote and the records that describe it."""
    if not is_global_zero:
        return
    folder.samples.mkdir(parents=True, exist_ok=True)
    folder.records.unlink(missing_ok=True)
    for path in sorted(folder.samples.iterdir()):
        if path.is_file():
            path.unlink()


def write_samples_manifest(folder: RunFolder, made: SampleSet, checkpoint: Path) -> None:
    """Writes `samples/manifest.csv`: everything it takes to make each image again."""
    digest = sha256_of(checkpoint)
    classes = made.classes or [""]
    with (folder.samples / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for index, (seed, label) in enumerate(zip(made.plan.seeds, made.plan.labels, strict=True)):
            name = f"{index:06d}{made.suffix}"
            writer.writerow((name, seed, classes[label], made.labels, digest))


def read_samples_manifest(folder: RunFolder) -> list[dict[str, str]]:
    """Rows of `samples/manifest.csv`.

    Raises:
        UserError: nothing was generated yet.
    """
    path = folder.samples / "manifest.csv"
    if not path.is_file():
        raise UserError(
            Exit.USAGE,
            relative(folder.samples),
            "holds no generated images",
            f"run make generate EXP={folder.experiment} RUN={folder.run_id} N=1000 first",
        )
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def grey_to_unit(pixels: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Grey values [..., H, W] as float32 in [0, 1] of the data's window."""
    low, high = window
    return ((pixels.astype(np.float32) - low) / (high - low)).clip(0, 1)
