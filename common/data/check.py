"""One look at every file of a raw folder: the verb `check`, and the first step of `prepare`.

Nothing is taken over from an earlier check: each file is opened, hashed and decoded anew. What is
trusted later, and what is not, is told in `freshness`.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from common.data import leakage, near_duplicates, splits
from common.data.cards import Card
from common.data.findings import ClassSummary, Findings, summarise
from common.data.freshness import State, state_of
from common.data.image_io import Image, read_image
from common.data.manifest import SPLITS, Sample
from common.data.packing import Ledger, scalable
from common.data.preparation import Recipe
from common.errors import UserError
from common.preprocess.geometry import fit_to_canvas

# Images in memory at once, whatever the size of the data set.
_WINDOW = 256


@dataclass
class Checked:
    """What the files of a data set hold.

    Attributes:
        samples: of the usable files, by name, with split, group and hashes.
        bad: what is wrong with the others, by name.
        states: size and dates of every file just before it was read.
        grey_values: lowest and highest of each usable file.
        looks: descriptor of each usable file, see `near_duplicates`.
    """

    samples: list[Sample] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    grey_values: list[tuple[float, float]] = field(default_factory=list)
    looks: list[np.ndarray] = field(default_factory=list)


def check(
    root: Path,
    samples: Sequence[Sample],
    recipe: Recipe,
    report: Path,
    ledger: Ledger,
    skip_bad: int = 0,
    say: Callable[[str], None] = print,
) -> Checked:
    """Reads every file, splits, and looks for whatever crosses from one split into another.

    Everything is looked for before anything is refused. Not seen is a window of percentiles that
    comes down to one grey value: that takes the packed training split.

    Args:
        root: raw folder; only read.
        samples: names below ``root`` with group, label and, where the data came split, split.
        recipe: decides canvases and split.
        report: JSON file for all findings; what an earlier check wrote there is replaced.
        ledger: gets the canvas of every usable file, in the order of the samples returned.
        skip_bad: how many bad files are left out instead of refused.
        say: gets each line that a user should see.

    Raises:
        UserError: more bad files than that, no possible split, a leak, pixel types that do not go
            together, or the storage is full or not writable.
    """
    checked = _read_all(root, samples, recipe, ledger)
    findings = Findings(len(samples), checked.bad, _classes(checked))
    try:
        _split(checked, recipe, findings)
    except UserError as error:
        findings.split_error = error
    findings.write(report)
    for line in findings.lines(report):
        say(line)
    findings.refuse(root, report, skip_bad)
    training = [k for k, sample in enumerate(checked.samples) if sample.split == "train"]
    ledger.storage(training, recipe.card.window)
    return checked


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


@dataclass(frozen=True)
class _File:
    sample: Sample
    canvas: np.ndarray
    bits: int
    grey_values: tuple[float, float]
    look: np.ndarray


def _read_all(root: Path, samples: Sequence[Sample], recipe: Recipe, ledger: Ledger) -> Checked:
    def read(sample: Sample) -> _File | str:
        try:
            return _read(root, sample, recipe)
        except UserError as error:
            return error.problem
        except ValueError as error:
            return str(error)
        except OSError as error:
            return f"cannot be read ({error.strerror})"

    checked = Checked()
    ordered = sorted(samples, key=lambda sample: sample.name)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(ordered), _WINDOW):
            batch = ordered[start : start + _WINDOW]
            checked.states |= {sample.name: state_of(root / sample.name) for sample in batch}
            for sample, found in zip(batch, pool.map(read, batch), strict=True):
                if isinstance(found, str):
                    checked.bad[sample.name] = found
                    continue
                checked.samples.append(found.sample)
                checked.grey_values.append(found.grey_values)
                checked.looks.append(found.look)
                ledger.append(found.canvas, found.bits, sample.name)
    return checked


def _read(root: Path, sample: Sample, recipe: Recipe) -> _File:
    path = root / sample.name
    image = read_image(path, root=root)
    pixels = planes(image, recipe.card)
    low, high = pixels.min(), pixels.max()
    if low == high:
        raise ValueError(f"is blank: every pixel is {low}")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    facts = replace(
        sample,
        height=pixels.shape[1],
        width=pixels.shape[2],
        dtype=str(pixels.dtype),
        pixel_size_um=image.pixel_size_um[0] if image.pixel_size_um else 0.0,
        sha256=digest,
        pixels_sha256=leakage.pixels_digest(pixels),
    )
    pixels = scalable(pixels)
    canvas = fit_to_canvas(pixels, recipe.image_size, recipe.fit)
    ends = (low.item(), high.item())
    return _File(facts, canvas, image.bits, ends, near_duplicates.descriptor(pixels))


def _classes(checked: Checked) -> dict[str, ClassSummary]:
    """Summaries by class name."""
    members = defaultdict(list)
    for position, sample in enumerate(checked.samples):
        members[sample.label].append(position)
    return {
        label: summarise(
            [checked.samples[k] for k in positions], [checked.grey_values[k] for k in positions]
        )
        for label, positions in sorted(members.items())
    }


def _split(checked: Checked, recipe: Recipe, findings: Findings) -> None:
    suffixes = recipe.card.derivative_suffixes
    findings.split_came = any(sample.split for sample in checked.samples)
    grouped, joined = leakage.merge_duplicates(checked.samples, suffixes)
    fractions = (recipe.val_fraction, recipe.test_fraction)
    checked.samples = splits.assign_splits(grouped, fractions, recipe.split_seed)
    findings.split = {s: sum(x.split == s for x in checked.samples) for s in SPLITS}
    split_of = {sample.name: sample.split for sample in checked.samples}
    # A split that came with the data does not care for groups; what it cuts apart is a leak.
    findings.joined = [pair for pair in joined if split_of[pair.first] == split_of[pair.second]]
    findings.leaks = leakage.audit(checked.samples, suffixes)
    looks = np.stack(checked.looks)
    findings.near_count, findings.near = near_duplicates.across_splits(checked.samples, looks)
