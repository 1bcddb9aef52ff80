"""What a run leaves, in a form that two runs can be compared by."""

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from common.runs.metrics_csv import CLOCK_METRICS


def history(folder: Path) -> list[list[str]]:
    """Every logged number but those that a clock has made."""
    with (folder / "metrics.csv").open(newline="") as stream:
        return [row for row in csv.reader(stream) if row[3] not in CLOCK_METRICS]


def state(folder: Path, names: Sequence[str] = ("best", "last")) -> dict[str, str]:
    """Digests of everything that training changes: weights, averages, optimizers, counters, ..."""
    found = {}
    for name in names:
        checkpoint = torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)
        found |= {f"{name}/{part}": digest(value) for part, value in checkpoint.items()}
    return found


def digest(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
    if isinstance(value, dict):
        value = sorted((str(key), digest(item)) for key, item in value.items())
    elif isinstance(value, (list, tuple)):
        value = [digest(item) for item in value]
    return hashlib.sha256(repr(value).encode()).hexdigest()
