"""From a raw folder to a prepared one: check every file, preprocess, split by group, audit, pack.

A prepared folder holds `manifest.csv`, `dataset.json` and one `<split>.npy` a split. Its content is
a function of the raw files and the recipe alone, so preparing twice gives the same bytes; its name
carries their hash.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.data import findings, leakage, packing, splits
from common.data.cards import Card
from common.data.image_io import Image, read_image
from common.data.manifest import SPLITS, Sample, of_split, write_manifest
from common.data.preparation import Recipe
from common.errors import UserError, relative
from common.preprocess.geometry import fit_to_canvas
from common.storage import whole_folder


def prepare(root: Path, folder: Path, samples: Sequence[Sample], recipe: Recipe) -> list[str]:
    """Writes the prepared ``folder`` whole or not at all, and `<experiment>-report.json` beside it.

    Args:
        root: raw folder; only read.
        folder: prepared folder; replaced if it is there.
        samples: names below ``root`` with group, label and, where the data came split, split.
        recipe: everything else that the result depends on.

    Returns:
        Remarks for the user: duplicates that were joined into one group, for example.

    Raises:
        UserError: a file cannot be used, a split that came with the data leaks, or the storage is
            full or not writable.
    """
    report = folder.with_name(f"{recipe.experiment}-report.json")
    with whole_folder(folder) as partial:
        return _write(root, partial, samples, recipe, report)


def planes(image: Image, card: Card) -> np.ndarray:
    """Pixels [C, H, W] with the channels the card names.

    Raises:
        ValueError: more than one plane, or another number of channels; the text says which.
    """
    pixels, axes = image.pixels, image.axes
    for axis in [a for a in axes if a not in "CYX"]:
        position = axes.index(axis)
        if pixels.shape[position] != 1:
            raise ValueError(
                f"holds {pixels.shape[position]} planes along {axis}; one plane an image is needed"
            )
        pixels, axes = pixels.squeeze(position), axes.replace(axis, "")
    pixels = pixels if "C" in axes else pixels[None]
    if card.collapse_grey and len(pixels) > 1 and (pixels == pixels[:1]).all():
        pixels = pixels[:1]
    if len(pixels) != len(card.channels):
        named = f"{len(card.channels)} ({', '.join(card.channels)})"
        raise ValueError(f"has {len(pixels)} channels; data card {card.name} names {named}")
    return pixels


def _write(
    root: Path, folder: Path, samples: Sequence[Sample], recipe: Recipe, report: Path
) -> list[str]:
    with packing.Scratch(folder) as scratch:
        checked, bad = _read_all(root, samples, recipe, scratch.append)
        findings.write_findings(report, bad)
        findings.refuse_bad_files(bad, root, len(samples), report)
        suffixes = recipe.card.derivative_suffixes
        grouped, joined = leakage.merge_duplicates(checked, suffixes)
        fractions = (recipe.val_fraction, recipe.test_fraction)
        assigned = splits.assign_splits(grouped, fractions, recipe.split_seed)
        leaks = leakage.audit(assigned, suffixes)
        findings.write_findings(report, bad, leaks, joined)
        leakage.refuse_leaks(leaks, relative(report))
        indexed = _number(assigned)
        position = {sample.name: k for k, sample in enumerate(samples)}
        order = {s: [position[x.name] for x in of_split(indexed, s)] for s in SPLITS}
        storage = scratch.pack(order, recipe.card.window)
    write_manifest(folder / "manifest.csv", indexed)
    window = packing.window(recipe.card.window, storage, folder / "train.npy")
    _write_facts(folder, recipe, indexed, storage, window)
    return findings.remarks(joined, report)


def _read_all(
    root: Path,
    samples: Sequence[Sample],
    recipe: Recipe,
    keep: Callable[[np.ndarray, int, str], None],
) -> tuple[list[Sample], dict[str, str]]:
    """Samples with what their files say, and what is wrong with those that cannot be used."""

    def read(sample: Sample) -> tuple[Sample, np.ndarray, int] | str:
        try:
            return _read(root, sample, recipe)
        except UserError as error:
            return error.problem
        except ValueError as error:
            return str(error)
        except OSError as error:
            return f"cannot be read ({error.strerror})"

    checked, bad = [], {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        # Only a window of images is in memory, whatever the size of the data set.
        for start in range(0, len(samples), 256):
            batch = samples[start : start + 256]
            for sample, result in zip(batch, pool.map(read, batch), strict=True):
                if isinstance(result, str):
                    bad[sample.name] = result
                    continue
                checked.append(result[0])
                keep(result[1], result[2], sample.name)
    return checked, bad


def _read(root: Path, sample: Sample, recipe: Recipe) -> tuple[Sample, np.ndarray, int]:
    path = root / sample.name
    image = read_image(path, root=root)
    pixels = planes(image, recipe.card)
    if pixels.min() == pixels.max():
        raise ValueError(f"is blank: every pixel is {pixels.flat[0]}")
    facts = replace(
        sample,
        height=pixels.shape[1],
        width=pixels.shape[2],
        dtype=str(pixels.dtype),
        pixel_size_um=image.pixel_size_um[0] if image.pixel_size_um else 0.0,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        pixels_sha256=leakage.pixels_digest(pixels),
    )
    return facts, fit_to_canvas(packing.scalable(pixels), recipe.image_size), image.bits


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
    window: tuple[float, float],
) -> None:
    train = of_split(samples, "train")
    ratios = [np.log(s.width / s.height) for s in train]
    sizes = [s.pixel_size_um for s in train if s.pixel_size_um]
    facts: dict[str, Any] = {
        "experiment": recipe.experiment,
        "card": recipe.card.name,
        "channels": list(recipe.card.channels),
        "classes": list(recipe.card.classes),
        "image_size": recipe.image_size,
        "storage": asdict(storage),
        "window": list(window),
        "pixel_size_um": float(np.median(sizes)) if sizes else recipe.card.pixel_size_um,
        "log_aspect": [float(np.mean(ratios)), float(np.std(ratios))],
        "counts": {split: dict(Counter(s.label for s in samples if s.split == split))
                   for split in SPLITS},
        "split": {"val": recipe.val_fraction, "test": recipe.test_fraction,
                  "seed": recipe.split_seed},
        "manifest_sha256": hashlib.sha256((folder / "manifest.csv").read_bytes()).hexdigest(),
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
