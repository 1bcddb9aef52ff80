"""A run's generated images against the held-out split."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.data.canvas import crop_to_mask, extent, rectangle_mask
from common.data.check import planes
from common.data.datamodule import PROJECT, ImageDataModule
from common.data.image_io import read_image
from common.errors import Exit, UserError, relative
from common.generation import grey_to_unit, read_samples_manifest
from common.metrics.evaluation import EvaluationContext, evaluate
from common.metrics.features import extractor as load_extractor
from common.metrics.protocol import Record, write_records
from common.preprocess.geometry import fit_to_canvas
from common.runs.folder import RunFolder

# What both sides go through between grey values and extractor; part of every protocol hash.
PREPROCESSING = (
    "canvas {size} px by area/cubic, edge-padded; "
    "window {low:g} to {high:g}; uint8; labels: {labels}"
)


def evaluate_run(
    folder: RunFolder, data: ImageDataModule, extractor: str, weights: Path | None
) -> list[Record]:
    """Measures `samples` against the test split and writes `records.jsonl`.

    Args:
        folder: of the run, with samples.
        data: set up; its test split is read here.
        extractor: name of the feature extractor.
        weights: its weights file, where it needs one.

    Raises:
        UserError: nothing was generated, or the extractor is unknown or lacks its weights.
    """
    network = load_extractor(extractor, weights)
    rows = read_samples_manifest(folder)
    labels = rows[0]["labels"]
    real, biology_real = _real(data, labels)
    fake, biology_fake = _fake(folder, data, rows)
    low, high = data.facts["window"]
    context = EvaluationContext(
        split="test",
        data=data.facts["manifest_sha256"],
        preprocessing=PREPROCESSING.format(
            size=data.facts["image_size"], low=low, high=high, labels=labels
        ),
        seed=int(rows[0]["seed"]),
        checkpoint_sha256=rows[0]["checkpoint_sha256"],
        commit=_commit(),
    )
    records = evaluate(real, fake, network, context, biology_real, biology_fake)
    write_records(folder.records, records)
    _show(records)
    return records


def _real(data: ImageDataModule, labels: str) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """The test split; only one class of it where only that class was generated."""
    dataset = data.prepared.dataset("test")
    storage = data.facts["storage"]
    images, measured = [], []
    for sample, packed in zip(dataset.samples, dataset.pixels, strict=True):
        if labels in data.facts["classes"] and sample.label != labels:
            continue
        grey = packed.astype(np.float32) * storage["scale"] + storage["offset"]
        unit = grey_to_unit(grey, data.facts["window"])
        size = unit.shape[-1]
        mask = rectangle_mask(*extent(sample.height, sample.width, size), size)
        images.append(_to_uint8(unit))
        measured.append(data.measure(crop_to_mask(unit, mask)))
    if not images:
        raise UserError(
            Exit.INPUT,
            relative(data.prepared.folder),
            f"holds no test image of class {labels}",
            "generate another class, or --labels data",
        )
    return torch.from_numpy(np.stack(images)), _columns(measured)


def _fake(
    folder: RunFolder, data: ImageDataModule, rows: list[dict[str, str]]
) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    images, measured = [], []
    for row in rows:
        image = read_image(folder.samples / row["name"], root=folder.samples)
        unit = grey_to_unit(planes(image, data.card), data.facts["window"])
        images.append(_to_uint8(fit_to_canvas(unit, data.facts["image_size"])))
        measured.append(data.measure(unit))
    return torch.from_numpy(np.stack(images)), _columns(measured)


def _to_uint8(unit: np.ndarray) -> np.ndarray:
    return np.rint(unit * 255).astype(np.uint8)


def _columns(rows: list[dict[str, float]]) -> dict[str, np.ndarray]:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _commit() -> str:
    """Of the code that evaluates, "-dirty" where it was changed; "" where there is no checkout."""
    if not (PROJECT / ".git").exists():
        return ""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def _show(records: list[Record]) -> None:
    for record in records:
        print(f"{record.metric:34} {_value(record)}")


def _value(record: Any) -> str:
    if record.value is None:
        return f"refused: {record.note}"
    interval = f" [{record.low:.4g}, {record.high:.4g}]" if record.low is not None else ""
    note = f"  ({record.note})" if record.note else ""
    return f"{record.value:.4g}{interval}  n={record.n_real}/{record.n_fake}{note}"
