"""One look at every file of a raw folder: the verb `check`, and the first step of `prepare`.

Nothing is taken over from an earlier check: each file is opened, hashed and decoded anew. What is
trusted later, and what is not, is told in `freshness`.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.data import leakage, near_duplicates, splits
from common.data.findings import NOTHING, ClassSummary, Findings, summarise
from common.data.freshness import states_of
from common.data.image_decoded import Image
from common.data.manifest import SPLITS, Sample
from common.data.moments import read_moment, refuse_strip
from common.data.movies import read_frames, read_still
from common.data.packing import Ledger, scalable
from common.data.preparation import Recipe
from common.data.raw_files import State, digest_of, digest_of_all
from common.data.reading import planes
from common.data.sequences import describe
from common.errors import Exit, UserError, relative
from common.preprocess.geometry import fit_to_canvas
from common.preprocess.pipeline import Pipeline

if TYPE_CHECKING:
    from common.preprocess.chain import Fitted, Start

# Images in memory at once, whatever the size of the data set.
_WINDOW = 64
_FULL = 65535


@dataclass
class Checked:
    """What the files of a data set hold.

    Attributes:
        samples: of the usable files, by name, with split, group and hashes.
        bad: what is wrong with the others, by name.
        states: size and dates of every file just before it was read.
        grey_values: lowest and highest of each usable file.
        looks: descriptor of each usable image, see `near_duplicates`.
        decisions: of the pipeline for each usable image, as named numbers; empty without one.
        report: the JSON of all findings.
    """

    samples: list[Sample] = field(default_factory=list)
    bad: dict[str, str] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    grey_values: list[tuple[float, float]] = field(default_factory=list)
    looks: list[np.ndarray] = field(default_factory=list)
    decisions: list[Mapping[str, float]] = field(default_factory=list)
    report: bytes = b""


def check(
    root: Path,
    samples: Sequence[Sample],
    recipe: Recipe,
    report: Path,
    ledger: Ledger,
    skip_bad: int = 0,
    say: Callable[[str], None] = print,
    left_out: Mapping[str, str] = NOTHING,
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
        left_out: files that belong to the data and are not in ``samples``, and why.

    Raises:
        UserError: more bad files than that, no possible split, a leak, pixel types that do not go
            together, or the storage is full or not writable.
    """
    checked = _read_all(root, samples, recipe, ledger)
    findings = Findings(len(samples), checked.bad, _classes(checked))
    findings.left_out, findings.sequences = left_out, describe(checked.samples, len(left_out))
    findings.previews = _previews(checked)
    try:
        _split(checked, recipe, findings)
    except UserError as error:
        findings.split_error = error
    checked.report = findings.write(report)
    for line in findings.lines(report):
        say(line)
    findings.refuse(root, report, skip_bad)
    training = [k for k, sample in enumerate(checked.samples) if sample.split == "train"]
    ledger.storage(training, recipe.card.window)
    return checked


def stages_of(root: Path, sample: Sample, recipe: Recipe) -> Iterator[tuple[str, np.ndarray]]:
    """Name and image of every stage of the recipe's pipeline, see `Pipeline.stages`.

    Args:
        root: raw folder.
        sample: a frame, or an image with a file of its own.
        recipe: with a pipeline.

    Raises:
        UserError: the file cannot be read, or does not hold the frame as a card's image.
    """
    path, pipeline = root / sample.file, recipe.reading.pipeline
    still = sample.frame < 0
    frames = iter([read_still(path, root)]) if still else read_frames(path, root)
    try:
        first = planes(next(frames), recipe.card, recipe.reading, not still)
        later = next(islice(frames, sample.frame - 1, None)) if sample.frame > 0 else None
        frame = first if later is None else planes(later, recipe.card, recipe.reading, True)
    except ValueError as error:
        remedy = "choose another image, or see --data.channel and --data.projection"
        raise UserError(Exit.INPUT, relative(path), str(error), remedy) from error
    fit = partial(fit_to_canvas, size=recipe.image_size, fit=recipe.fit)
    return pipeline.stages(frame, pipeline.begin(first), fit)


@dataclass(frozen=True)
class _File:
    sample: Sample
    canvas: np.ndarray
    bits: int
    grey_values: tuple[float, float]
    look: np.ndarray
    decisions: Mapping[str, float]


_Task = Callable[[], _File]


def _read_all(root: Path, samples: Sequence[Sample], recipe: Recipe, ledger: Ledger) -> Checked:
    checked = Checked(states=states_of(root, samples))
    tasks = _tasks(root, samples, recipe)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while batch := list(islice(tasks, _WINDOW)):
            found = pool.map(_attempt, [task for _, task in batch])
            for (sample, _), one in zip(batch, found, strict=True):
                if isinstance(one, str):
                    checked.bad[sample.name] = one
                    continue
                checked.samples.append(one.sample)
                checked.grey_values.append(one.grey_values)
                checked.looks.append(one.look)
                checked.decisions.append(one.decisions)
                ledger.append(one.canvas, one.bits, sample.name)
    return checked


def _tasks(root: Path, samples: Sequence[Sample], recipe: Recipe) -> Iterator[tuple[Sample, _Task]]:
    """What has to be done for each sample, in the order of files and frames."""
    ordered = sorted(samples, key=lambda sample: (sample.file, sample.frame))
    for file, group in groupby(ordered, key=lambda sample: sample.file):
        members = list(group)
        if members[0].frame < 0:
            yield members[0], partial(_still, root, members[0], recipe)
        else:
            yield from _movie(root / file, root, members, recipe)


def _still(root: Path, sample: Sample, recipe: Recipe) -> _File:
    one = read_moment(root, sample, recipe.card) if sample.sequence else None
    image = one or read_still(root / sample.file, root)
    return _file(sample, image, digest_of_all(root, sample.files), recipe, None)


def _movie(
    path: Path, root: Path, samples: Sequence[Sample], recipe: Recipe
) -> Iterator[tuple[Sample, _Task]]:
    """Frames in their order, one at a time; after damage the rest of them is bad."""
    done, start = 0, None
    try:
        digest = digest_of(path)
        for sample, image in zip(samples, read_frames(path, root), strict=True):
            if done == 0 and recipe.reading.pipeline:
                first = planes(image, recipe.card, recipe.reading, True)
                start = recipe.reading.pipeline.begin(first)
            yield sample, partial(_file, sample, image, digest, recipe, start)
            done += 1
    except (UserError, ValueError, OSError) as error:
        yield from ((sample, partial(_fail, error)) for sample in samples[done:])


def _fail(error: Exception) -> _File:
    raise error


def _attempt(task: _Task) -> _File | str:
    """What a task gives, or what is wrong with its image."""
    try:
        return task()
    except UserError as error:
        return error.problem
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _file(
    sample: Sample, image: Image, digest: str, recipe: Recipe, start: "Start | None"
) -> _File:
    pixels = planes(image, recipe.card, recipe.reading, sample.frame >= 0)
    if sample.sequence:
        refuse_strip(pixels)
    low, high = pixels.min(), pixels.max()
    if low == high:
        raise ValueError(f"is blank: every pixel is {low}")
    fit = partial(fit_to_canvas, size=recipe.image_size, fit=recipe.fit)
    if recipe.reading.pipeline:
        shown, shape, decisions = _piped(pixels, recipe.reading.pipeline, start, fit)
        canvas, bits = shown, 16
    else:
        shown, shape, decisions = scalable(pixels), pixels.shape[1:], {}
        canvas, bits = fit(shown), image.bits
    facts = replace(
        sample,
        height=shape[0],
        width=shape[1],
        dtype=str(pixels.dtype),
        pixel_size_um=image.pixel_size_um[0] if image.pixel_size_um else 0.0,
        interval_s=image.interval_s or 0.0,
        sha256=digest,
        pixels_sha256=leakage.pixels_digest(pixels),
    )
    look = near_duplicates.descriptor(shown)
    return _File(facts, canvas, bits, (low.item(), high.item()), look, decisions)


def _piped(
    pixels: np.ndarray, pipeline: Pipeline, start: "Start | None", fit: "Fitted"
) -> tuple[np.ndarray, tuple[int, int], dict[str, float]]:
    """Canvas of uint16, rows and columns of what was kept, and what was decided."""
    done = pipeline.apply(pixels, start or pipeline.begin(pixels), fit)
    if done.image.min() == done.image.max():
        raise ValueError("shows nothing that is left by the pipeline")
    canvas = np.rint(done.image * _FULL).astype(np.uint16)
    return canvas, (done.found.height, done.found.width), asdict(done.found)


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


def _previews(checked: Checked) -> dict[str, tuple[int, int]]:
    """By group, how many of its images with a file each were cut to a panel, where some were not.

    Each is decided on by itself, and those of one video are previews all or none.
    """
    seen = defaultdict(list)
    for sample, found in zip(checked.samples, checked.decisions, strict=True):
        if found and sample.frame < 0:
            seen[sample.group].append(int(found["panel"]))
    counts = {group: (sum(cut), len(cut)) for group, cut in sorted(seen.items())}
    return {group: (cut, count) for group, (cut, count) in counts.items() if 0 < cut < count}


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
