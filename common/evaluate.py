"""A run's generated images against the held-out split."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from common.code_version import commit
from common.data.canvas import crop_to_mask, extent, rectangle_mask
from common.data.check import planes
from common.data.datamodule import ImageDataModule
from common.data.image_io import read_image
from common.errors import Exit, UserError, relative
from common.generation import grey_to_unit, read_samples_manifest
from common.metrics.evaluation import EvaluationContext, Side, evaluate, look
from common.metrics.features import Extractor
from common.metrics.features import extractor as load_extractor
from common.metrics.protocol import Record, write_records
from common.preprocess.geometry import fit_to_canvas
from common.progress import images_bar
from common.runs.folder import RunFolder

# Four minutes on two cores. Copies of images that are not drawn go unseen; the records say how many
# were looked at.
MAX_TRAIN = 10_000
Seen = tuple[np.ndarray, Mapping[str, float]]

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
    train = _drawn(_chosen(data, "train", labels))
    real = _chosen(data, "test", labels)
    if not real:
        raise UserError(
            Exit.INPUT,
            relative(data.prepared.folder),
            f"holds no test image of class {labels}",
            "generate another class, or --labels data",
        )
    sides = {
        "held-out": _packed(data, "test", real, measured=True),
        "generated": _generated(folder, data, rows),
        "training": _packed(data, "train", train, measured=False),
    }
    totals = dict(zip(sides, (len(real), len(rows), len(train)), strict=True))
    seen = {name: _look(name, side, totals[name], network) for name, side in sides.items()}
    low, high = data.facts["window"]
    context = EvaluationContext(
        split="test",
        data=data.facts["manifest_sha256"],
        preprocessing=PREPROCESSING.format(
            size=data.facts["image_size"], low=low, high=high, labels=labels
        ),
        seed=int(rows[0]["seed"]),
        checkpoint_sha256=rows[0]["checkpoint_sha256"],
        commit=commit(),
    )
    records = evaluate(seen["held-out"], seen["generated"], network, context, seen["training"])
    write_records(folder.records, records)
    _show(records)
    return records


def _chosen(data: ImageDataModule, split: str, labels: str) -> list[int]:
    """Rows of a split; of one class only where that class alone was generated."""
    alone = labels in data.facts["classes"]
    rows = enumerate(data.prepared.samples(split))
    return [index for index, sample in rows if not alone or sample.label == labels]


def _drawn(rows: list[int]) -> list[int]:
    if len(rows) <= MAX_TRAIN:
        return rows
    return sorted(np.random.default_rng(0).choice(rows, MAX_TRAIN, replace=False).tolist())


def _look(name: str, side: Iterator[Seen], total: int, network: Extractor) -> Side:
    with images_bar(f"{name} images", total) as bar:

        def counted() -> Iterator[Seen]:
            for seen in side:
                yield seen
                bar.update()

        return look(counted(), network)


def _packed(data: ImageDataModule, split: str, rows: list[int], measured: bool) -> Iterator[Seen]:
    dataset = data.prepared.dataset(split)
    storage = data.facts["storage"]
    for row in rows:
        sample = dataset.samples[row]
        grey = dataset.pixels[row].astype(np.float32) * storage["scale"] + storage["offset"]
        unit = grey_to_unit(grey, data.facts["window"])
        size = unit.shape[-1]
        mask = rectangle_mask(*extent(sample.height, sample.width, size), size)
        scalars = data.measure(crop_to_mask(unit, mask)) if measured else {}
        yield _to_uint8(unit), scalars


def _generated(
    folder: RunFolder, data: ImageDataModule, rows: list[dict[str, str]]
) -> Iterator[Seen]:
    for row in rows:
        image = read_image(folder.samples / row["name"], root=folder.samples)
        unit = grey_to_unit(planes(image, data.card), data.facts["window"])
        yield _to_uint8(fit_to_canvas(unit, data.facts["image_size"])), data.measure(unit)


def _to_uint8(unit: np.ndarray) -> np.ndarray:
    return np.rint(unit * 255).astype(np.uint8)


def _show(records: list[Record]) -> None:
    for record in records:
        print(f"{record.metric:34} {_value(record)}")


def _value(record: Any) -> str:
    if record.value is None:
        return f"refused: {record.note}"
    interval = f" [{record.low:.4g}, {record.high:.4g}]" if record.low is not None else ""
    note = f"  ({record.note})" if record.note else ""
    return f"{record.value:.4g}{interval}  n={record.n_real}/{record.n_fake}{note}"
