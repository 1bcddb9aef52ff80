"""Generated images on disk: their table, and reading them back."""

import inspect
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

from common.data.datasets import SeedDataset
from common.data.windows import Window, ends
from common.errors import Exit, UserError, relative
from common.image_tables import SAMPLED
from common.metrics.kinds import CONTINUATION, verb_of
from common.metrics.protocol import Record, usable_records, write_records
from common.privacy import public
from common.runs.checkpoints import sha256_of
from common.runs.folder import RunFolder
from common.storage import whole_file
from common.tables import from_csv, named_cells, to_csv

MANIFEST = "manifest.csv"
# What is known to be where in the images; `x` and `y` are shares of their width and height.
ANNOTATIONS = "annotations.csv"
ANNOTATED = ("name", "structure", "x", "y")
# "size" is "canvas", or "native" where the image was resampled to a size of the raw images.
# "origin" is "sampled", or "around training images" where each image was made from one of those.
# "settings" are arguments of the model, as JSON, that are not those of the training.
COLUMNS = (
    *("name", "seed", "label", "labels", "size", "origin", "settings"),
    *("checkpoint_sha256", "sha256"),
)
# A further column where there is `ANNOTATIONS`, the same in all rows; other tables are as if there
# were none.
ANNOTATIONS_SHA256 = "annotations_sha256"
SIZES = ("canvas", "native")
# How files are named everywhere; an experiment may know more schemes.
NUMBERS = {"number": "{number:06d}"}
# Below `samples`: films and strips of sequences, by their numbers.
SHOWN = "shown"
# Below `samples`: images that no table names yet.
_DRAWING = ".drawing"
# In that folder: what they are images of.
_MAKING = "making.txt"


@dataclass(frozen=True)
class SampleSet:
    """What one `generate` made.

    Attributes:
        plan: seeds and labels.
        labels: rule that chose the labels: "data", "balanced" or a class.
        classes: names; index = label.
        suffix: of the files.
        size: one of `SIZES`.
        pattern: of the files' names below `samples`, see `pattern_of`.
        origin: one of `image_tables.ORIGINS`.
        settings: of `changed_settings`.
        annotations: image number, structure, x and y of what the images were told to show.
    """

    plan: SeedDataset
    labels: str
    classes: Sequence[str]
    suffix: str
    size: str = SIZES[0]
    pattern: str = NUMBERS["number"]
    origin: str = SAMPLED
    settings: str = ""
    annotations: Sequence[tuple[int, str, float, float]] = ()


def changed_settings(model: pl.LightningModule, trained: Mapping[str, Any]) -> str:
    """Arguments of a model that are not those of its training, as a JSON object; "" for none.

    Args:
        model: the one that samples.
        trained: hyper-parameters in its checkpoint; what they do not name had its default.
    """
    arguments = inspect.signature(type(model).__init__).parameters
    before = {name: argument.default for name, argument in arguments.items()} | dict(trained)
    changed = {
        name: value
        for name, value in sorted(model.hparams.items())
        if not name.startswith("_") and before[name] != value
    }
    return json.dumps(public(changed)) if changed else ""


def pattern_of(naming: str, schemes: Mapping[str, str]) -> str:
    """The pattern of file names that a scheme stands for.

    Args:
        naming: name of the scheme.
        schemes: patterns by name, besides `NUMBERS`. Fields are `number` (from 0, has to be there),
            `label`, `time` of writing as YYYYmmdd_HHMMSS, and `size`, such as "224x224" of the
            canvas, or "native". A slash begins a folder.

    Raises:
        UserError: there is no such scheme.
    """
    known = NUMBERS | schemes
    if naming not in known:
        problem = "is no naming of files that this experiment knows"
        raise UserError(
            Exit.USAGE, f"--naming {naming}", problem, f"choose from {', '.join(known)}"
        )
    return known[naming]


def drawing_folder(folder: RunFolder) -> Path:
    """Where images are written, by their numbers, until their table names them."""
    return folder.samples / _DRAWING


def shown_folder(folder: RunFolder) -> Path:
    """Where films and strips of generated sequences are, by the numbers of these."""
    return folder.samples / SHOWN


def clear_samples(
    folder: RunFolder, is_global_zero: bool, checkpoint_sha256: str, making: str = ""
) -> None:
    """Removes what an earlier `generate` wrote, and all that was measured or told of it.

    What somebody else put there stays, and so do images that an interrupted `generate` has drawn
    if it was making the same. What `continue` left stays where it is of the same checkpoint.
    Damaged records, which do not say of which they are, are set aside.

    Args:
        folder: of the run.
        is_global_zero: whether this process is the one that does it.
        checkpoint_sha256: of what will draw the images.
        making: all that the images depend on.
    """
    if not is_global_zero:
        return
    note = drawing_folder(folder) / _MAKING
    same = note.is_file() and note.read_text(encoding="utf-8") == making
    if continued := _continued(folder, checkpoint_sha256):
        write_records(folder.records, continued)
    else:
        folder.records.unlink(missing_ok=True)
        shutil.rmtree(folder.continuation, ignore_errors=True)
    # Beside its page may lie what players have answered.
    folder.quiz.unlink(missing_ok=True)
    for described in (folder.evaluation, folder.confusion.parent, folder.card):
        if described.is_dir():
            shutil.rmtree(described)
    if not same:
        for drawn in (drawing_folder(folder), shown_folder(folder)):
            shutil.rmtree(drawn, ignore_errors=True)
    _clear_named(folder.samples)
    # Last: a table whose images are half gone still names the others.
    for name in (ANNOTATIONS, MANIFEST):
        (folder.samples / name).unlink(missing_ok=True)
    drawing_folder(folder).mkdir(parents=True, exist_ok=True)
    with whole_file(note) as stream:
        stream.write(making.encode())


def _continued(folder: RunFolder, checkpoint_sha256: str) -> list[Record]:
    """Numbers of recordings that went on by that checkpoint; no sample is in them."""
    records = usable_records(folder.records)
    of_verb = (record for record in records if verb_of(record.metric) == CONTINUATION)
    return [record for record in of_verb if record.checkpoint_sha256 == checkpoint_sha256]


def drawn_numbers(folder: RunFolder, suffix: str) -> set[int]:
    """Numbers of the images that are there already; each file was written whole or not at all."""
    there = drawing_folder(folder).glob(f"*{suffix}")
    # Only a power cut leaves an empty one.
    names = (path.name for path in there if path.stat().st_size)
    stems = (name.removesuffix(suffix) for name in names)
    return {int(stem) for stem in stems if stem.isdecimal()}


def _clear_named(samples: Path) -> None:
    """Images that the table names, then what sub-folders they leave empty."""
    try:
        rows = named_cells(from_csv((samples / MANIFEST).read_bytes()))
    except (OSError, ValueError):
        return
    inner = set()
    for row in rows:
        path = samples / row.get("name", "")
        # What a changed table names elsewhere is none of ours.
        if path.parent.resolve().is_relative_to(samples.resolve()) and path.is_file():
            path.unlink()
            inner.add(path.parent)
    for parent in inner - {samples}:
        with suppress(OSError):
            parent.rmdir()


def write_samples_manifest(folder: RunFolder, made: SampleSet, checkpoint_sha256: str) -> None:
    """Names the images and writes `manifest.csv`: all it takes to make each of them again."""
    classes = made.classes or [""]
    canvas, time = made.plan.size, f"{datetime.now():%Y%m%d_%H%M%S}"
    size = f"{canvas}x{canvas}" if made.size == "canvas" else made.size
    rows, moves = [], []
    for number, (seed, index) in enumerate(zip(made.plan.seeds, made.plan.labels, strict=True)):
        label = classes[index]
        stem = made.pattern.format(number=number, label=in_a_name(label), time=time, size=size)
        drawn = drawing_folder(folder) / f"{NUMBERS['number'].format(number=number)}{made.suffix}"
        moves.append((drawn, folder.samples / f"{stem}{made.suffix}"))
        facts = (seed, label, made.labels, made.size, made.origin, made.settings, checkpoint_sha256)
        rows.append((f"{stem}{made.suffix}", *facts, sha256_of(drawn)))
    columns = COLUMNS
    if made.annotations:
        cells = [(rows[k][0], what, f"{x:.5f}", f"{y:.5f}") for k, what, x, y in made.annotations]
        with whole_file(folder.samples / ANNOTATIONS) as stream:
            stream.write(to_csv([ANNOTATED, *cells]))
        digest = sha256_of(folder.samples / ANNOTATIONS)
        columns, rows = (*COLUMNS, ANNOTATIONS_SHA256), [(*row, digest) for row in rows]
    with whole_file(folder.samples / MANIFEST) as stream:
        stream.write(to_csv([columns, *rows]))
    # A table that names too much is noticed, images that no table names might stay for ever.
    for drawn, path in moves:
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.rename(path)
    # With the note, and with images beyond those that were asked for this time.
    shutil.rmtree(drawing_folder(folder))


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
    columns = {tuple(row) for row in rows}
    known = columns in ({COLUMNS}, {(*COLUMNS, ANNOTATIONS_SHA256)})
    # One `generate` draws by one checkpoint.
    if not known or len({row["checkpoint_sha256"] for row in rows}) > 1:
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


def grey_to_unit(pixels: np.ndarray, window: Window) -> np.ndarray:
    """Grey values [C, ..., H, W] as float32 in [0, 1] of the data's window."""
    low, high = ends(window, pixels.ndim)
    return ((pixels.astype(np.float32) - low) / (high - low)).clip(0, 1)


def in_a_name(label: str) -> str:
    """A label as part of a file's name: none leads into another folder."""
    return re.sub(r"[/\\\0]", "_", label)
