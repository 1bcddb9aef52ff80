"""The generated set of a run: whether it still is what its table says, and all in one file."""

import json
import shutil
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.cards import Card
from common.errors import Exit, UserError, relative, visible
from common.generation import (
    ANNOTATIONS,
    ANNOTATIONS_SHA256,
    MANIFEST,
    SIZES,
    read_samples_manifest,
    sample_file,
)
from common.image_tables import AROUND, ORIGINS
from common.progress import images_bar
from common.run_images import generated_pixels
from common.runs.checkpoints import sha256_of
from common.runs.folder import RunFolder

# The earliest that a zip can hold: the same images give the same bytes on any day.
_NO_DATE = (1980, 1, 1, 0, 0, 0)
# What one `generate` writes into all rows of its table.
_OF_ALL = ("labels", "size", "origin", "settings", "checkpoint_sha256", ANNOTATIONS_SHA256)


@dataclass(frozen=True)
class Samples:
    """What `generate` left, every image read once.

    Attributes:
        rows: of the table, in its order.
        suffix: of the image files, ".png" or ".ome.tiff".
        dtype: pixel type.
        heights: smallest and largest, in pixels.
        widths: smallest and largest, in pixels.
        manifest_sha256: of the table.
        annotations_sha256: of `annotations.csv`, "" where nothing is known to be in the images.
    """

    rows: Sequence[dict[str, str]]
    suffix: str
    dtype: str
    heights: tuple[int, int]
    widths: tuple[int, int]
    manifest_sha256: str
    annotations_sha256: str

    @property
    def seeds(self) -> list[int]:
        """In the order of the table."""
        return [int(row["seed"]) for row in self.rows]

    @property
    def rule(self) -> str:
        """By which the labels were chosen: "data", "balanced" or a class."""
        return self.rows[0]["labels"]

    @property
    def is_resampled(self) -> bool:
        """Whether the images were brought to sizes of the raw images, which adds no detail."""
        return self.rows[0]["size"] == "native"

    @property
    def is_around_training(self) -> bool:
        """Whether each image was drawn around a training image, and is a near copy of it."""
        return self.rows[0]["origin"] == AROUND

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of the model that were not those of its training."""
        return json.loads(self.rows[0]["settings"] or "{}")

    @property
    def counts(self) -> Counter[str]:
        """Images of each class; of "" where there are no classes."""
        return Counter(row["label"] for row in self.rows)


def read_samples(folder: RunFolder, card: Card, classes: Sequence[str]) -> Samples | None:
    """Reads all images of a run; None where nothing was generated.

    Args:
        folder: of the run.
        card: of the training data, for the number of channels.
        classes: that the model knows.

    Raises:
        UserError: table, annotations and images are not what `generate` writes, or not those of
            each other.
    """
    table = folder.samples / MANIFEST
    if not table.is_file():
        return None
    rows = read_samples_manifest(folder)
    _refuse_strange(folder, rows, classes)
    suffix = ".png" if rows[0]["name"].endswith(".png") else ".ome.tiff"
    _refuse_changed(folder, [row["name"] for row in rows], suffix)
    annotations = _annotations(folder, rows)
    dtypes, heights, widths = set(), [], []
    with images_bar("reading images", len(rows)) as bar:
        for row in rows:
            path = sample_file(folder, row)
            try:
                pixels = generated_pixels(path, folder, card)
            except ValueError as error:
                raise _changed(path, str(error), folder) from error
            dtypes.add(str(pixels.dtype))
            heights.append(pixels.shape[-2])
            widths.append(pixels.shape[-1])
            bar.update()
    if len(dtypes) > 1:
        raise _changed(folder.samples, f"mixes pixel types {', '.join(sorted(dtypes))}", folder)
    sizes = (min(heights), max(heights)), (min(widths), max(widths))
    return Samples(rows, suffix, dtypes.pop(), *sizes, sha256_of(table), annotations)


def write_archive(samples: Samples, source: Path, folder: Path) -> Path:
    """Writes tables and images into one file named by its content, which is its path.

    The name tells it from other archives, where a reader keeps what it has unpacked by name alone.
    """
    partial = folder / "samples.zip"
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        tables = [MANIFEST, *([ANNOTATIONS] if samples.annotations_sha256 else [])]
        for name in (*tables, *(row["name"] for row in samples.rows)):
            entry = zipfile.ZipInfo(name, _NO_DATE)
            entry.external_attr = 0o644 << 16
            entry.file_size = (source / name).stat().st_size
            with (source / name).open("rb") as image, archive.open(entry, "w") as packed:
                shutil.copyfileobj(image, packed)
    return partial.rename(folder / f"samples-{sha256_of(partial)[:16]}.zip")


def _refuse_strange(
    folder: RunFolder, rows: Sequence[dict[str, str]], classes: Sequence[str]
) -> None:
    """What no `generate` has written may be anything."""
    first, known = rows[0], {*classes} or {""}
    for number, row in enumerate(rows, 2):
        same = all(row.get(key) == first.get(key) for key in _OF_ALL)
        seed = row["seed"].isdecimal() and len(row["seed"]) < 19
        chosen = row["size"] in SIZES and row["origin"] in ORIGINS and _is_object(row["settings"])
        if not (same and seed and row["label"] in known and chosen):
            problem = f"line {number} is not what make generate writes"
            raise _changed(folder.samples / MANIFEST, problem, folder)
    if first["labels"] not in ("data", "balanced", *classes):
        problem = "names no rule by which labels are chosen"
        raise _changed(folder.samples / MANIFEST, problem, folder)


def _is_object(cell: str) -> bool:
    try:
        return not cell or isinstance(json.loads(cell), dict)
    except (ValueError, RecursionError):
        return False


def _refuse_changed(folder: RunFolder, named: Sequence[str], suffix: str) -> None:
    found = (path for path in folder.samples.rglob(f"*{suffix}") if path.is_file())
    there = {path.relative_to(folder.samples).as_posix() for path in found}
    lacking, unnamed = sorted({*named} - there), sorted(there - {*named})
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        problem = f"lacks {visible(lacking[0])}{more}, which its {MANIFEST} names"
        raise _changed(folder.samples, problem, folder)
    if unnamed or len({*named}) < len(named):
        what = f"holds {visible(unnamed[0])}, which" if unnamed else "holds images that"
        times = "does not name" if unnamed else "names twice"
        remedy = "move it elsewhere" if unnamed else ""
        raise _changed(folder.samples, f"{what} its {MANIFEST} {times}", folder, remedy)


def _annotations(folder: RunFolder, rows: Sequence[dict[str, str]]) -> str:
    """SHA-256 of the annotations, "" without any; they have to be those that the table names."""
    path, named = folder.samples / ANNOTATIONS, rows[0].get(ANNOTATIONS_SHA256, "")
    found = sha256_of(path) if path.is_file() else ""
    if found != named:
        problem = f"is not the file that {MANIFEST} names by its SHA-256"
        if not (found and named):
            problem = f"has no SHA-256 in {MANIFEST}" if found else f"is gone; {MANIFEST} names it"
        raise _changed(path, problem, folder)
    return found


def _changed(path: Path, problem: str, folder: RunFolder, remedy: str = "") -> UserError:
    remedy = remedy or f"run make generate EXP={folder.experiment} RUN={folder.run_id} again"
    return UserError(Exit.INPUT, relative(path), problem, remedy, "no card was written")
