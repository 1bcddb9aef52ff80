"""Generated images on disk: their table, and reading them back."""

import csv
from pathlib import Path
from typing import Any

import numpy as np

from common.data.datasets import SeedDataset
from common.errors import Exit, UserError, relative
from common.runs.checkpoints import sha256_of
from common.runs.folder import RunFolder

COLUMNS = ("name", "seed", "label", "checkpoint_sha256")


def clear_samples(folder: Path, is_global_zero: bool) -> None:
    """Removes what an earlier `generate` wrote: images of two checkpoints must not mix."""
    if not is_global_zero:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        if path.is_file():
            path.unlink()


def write_samples_manifest(
    folder: RunFolder, plan: SeedDataset, facts: dict[str, Any], checkpoint: Path, suffix: str
) -> None:
    """Writes `samples/manifest.csv`: everything it takes to make each image again."""
    digest = sha256_of(checkpoint)
    classes = facts["classes"] or [""]
    with (folder.samples / "manifest.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for index, (seed, label) in enumerate(zip(plan.seeds, plan.labels, strict=True)):
            writer.writerow((f"{index:06d}{suffix}", seed, classes[label], digest))


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
