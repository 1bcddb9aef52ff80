"""From a raw folder to a prepared one: check every file, preprocess, split by group, audit, pack.

A prepared folder holds `manifest.csv`, `dataset.json`, `<experiment>-report.json`, one
`<split>.npy` a split, and `pipeline.csv` where images went through a pipeline. Its content is a
function of the raw files and the recipe alone, so preparing twice gives the same bytes; its name
carries their hash.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.data import packing, windows
from common.data.check import Checked, check
from common.data.findings import NOTHING
from common.data.manifest import SPLITS, Sample, of_split, write_manifest
from common.data.preparation import Recipe, report_of
from common.data.reading import SequenceReading
from common.data.sequences import describe
from common.storage import whole_folder
from common.tables import to_csv

# Pixel sizes of images on the canvas that differ by less than this factor count as one.
_AGREE = 1.01


def prepare(
    root: Path,
    folder: Path,
    samples: Sequence[Sample],
    recipe: Recipe,
    skip_bad: int = 0,
    say: Callable[[str], None] = print,
    left_out: Mapping[str, str] = NOTHING,
) -> Checked:
    """Writes the prepared ``folder`` whole or not at all, and `<experiment>-report.json` beside it.

    Args:
        root: raw folder; only read.
        folder: prepared folder; replaced if it is there.
        samples: names below ``root`` with group, label and, where the data came split, split.
        recipe: everything else that the result depends on.
        skip_bad: how many bad files are left out instead of refused.
        say: gets each line that a user should see.
        left_out: files that belong to the data and are not in ``samples``, and why.

    Raises:
        UserError: as `check`, or the window comes down to one grey value.
    """
    report = report_of(folder.parent, recipe.experiment)
    with whole_folder(folder) as partial:
        with packing.Scratch(partial) as scratch:
            checked = check(root, samples, recipe, report, scratch, skip_bad, say, left_out)
            indexed = _number(checked.samples)
            position = {sample.name: k for k, sample in enumerate(checked.samples)}
            order = {s: [position[x.name] for x in of_split(indexed, s)] for s in SPLITS}
            storage = scratch.pack(order, recipe.card.window)
        write_manifest(partial / "manifest.csv", indexed)
        _write_decisions(partial / "pipeline.csv", checked)
        window = _window(partial, recipe, indexed, storage)
        lost = {"skipped": len(checked.bad)}
        if sequences := describe(indexed, len(left_out)):
            lost["sequences"] = sequences
        _write_facts(partial, recipe, indexed, storage, window, lost)
        # Not from the one beside it: another check, of other files, may have replaced that.
        report_of(partial, recipe.experiment).write_bytes(checked.report)
    return checked


def _window(
    folder: Path, recipe: Recipe, samples: Sequence[Sample], storage: packing.Storage
) -> windows.Window:
    if isinstance(recipe.reading, SequenceReading) and recipe.reading.normalise == "sequence":
        windows.write_levels(folder, samples, storage)
        return windows.median_levels(folder)
    channels = recipe.channels or recipe.card.channels
    return windows.card_window(recipe.card.window, channels, storage, folder / "train.npy")


def _write_decisions(path: Path, checked: Checked) -> None:
    """What the pipeline decided for each image; nothing without one."""
    rows = sorted(zip((s.name for s in checked.samples), checked.decisions, strict=True))
    if rows and rows[0][1]:
        header = ["name", *rows[0][1]]
        path.write_bytes(to_csv([header, *([name, *found.values()] for name, found in rows)]))


def _number(samples: Sequence[Sample]) -> list[Sample]:
    counter: Counter[str] = Counter()
    numbered = []
    for sample in sorted(samples, key=lambda s: (SPLITS.index(s.split), s.name)):
        numbered.append(replace(sample, index=counter[sample.split]))
        counter[sample.split] += 1
    return numbered


def _write_facts(
    folder: Path,
    recipe: Recipe,
    samples: Sequence[Sample],
    storage: packing.Storage,
    window: windows.Window,
    lost: Mapping[str, Any],
) -> None:
    train = of_split(samples, "train")
    sizes = [s.pixel_size_um for s in train if s.pixel_size_um]
    pixel_size = float(np.median(sizes)) if sizes else recipe.card.pixel_size_um
    facts: dict[str, Any] = {
        "experiment": recipe.experiment,
        "card": recipe.card.name,
        "channels": list(recipe.channels or recipe.card.channels),
        "classes": list(recipe.card.classes),
        "image_size": recipe.image_size,
        "storage": asdict(storage),
        "window": list(window),
        "fit": recipe.fit,
        "reading": asdict(recipe.reading),
        "pixel_size_um": pixel_size,
        "canvas_pixel_size_um": _canvas_pixel_size(train, recipe, pixel_size),
        "log_aspect": _mean_and_deviation([np.log(s.width / s.height) for s in train]),
        "log_size": _mean_and_deviation([np.log(s.width * s.height) / 2 for s in train]),
        "counts": {split: dict(Counter(s.label for s in samples if s.split == split))
                   for split in SPLITS},
        "split": {"val": recipe.val_fraction, "test": recipe.test_fraction,
                  "seed": recipe.split_seed},
        **lost,
        "manifest_sha256": hashlib.sha256((folder / "manifest.csv").read_bytes()).hexdigest(),
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


def _mean_and_deviation(values: Sequence[float]) -> list[float]:
    return [float(np.mean(values)), float(np.std(values))]


def _canvas_pixel_size(
    train: Sequence[Sample], recipe: Recipe, fallback: float | None
) -> list[float] | None:
    """Micrometres (y, x) of a pixel of the canvas; None unless all images agree on it."""
    sides = np.array([(s.height, s.width) for s in train], float)
    if recipe.fit == "aspect":
        sides = sides.max(1, keepdims=True).repeat(2, 1)
    if fallback is None:
        return None
    raw = np.array([s.pixel_size_um or fallback for s in train])
    scaled = raw[:, None] * sides / recipe.image_size
    low, high = scaled.min(0), scaled.max(0)
    return np.median(scaled, 0).tolist() if (high <= low * _AGREE).all() else None
