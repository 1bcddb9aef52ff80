"""The table of samples: one row an image, the same columns in every experiment."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from common.tables import from_csv, named_cells, to_csv

SPLITS = ("train", "val", "test")
_DIGITS = 16


@dataclass(frozen=True)
class Sample:
    """One image of a data set.

    Attributes:
        name: unique: path below the raw folder, with forward slashes, and of a movie's frame its
            number behind it, as in "a/b.tif#0007".
        group: what must not be split (video, animal, patient, plate, position).
        label: class name, "" where the data set has no classes.
        split: "train", "val", "test", or "" while undecided.
        index: row in the packed pixels of its split.
        height: rows in pixels of the original image, or of what was cut from it.
        width: columns in pixels.
        dtype: pixel type of the original image.
        pixel_size_um: micrometres per pixel as published, 0 where unknown.
        sha256: of the file.
        pixels_sha256: of the decoded pixels, the same for all eight flips and rotations.
        frame: position in the movie from 0, -1 of an image that has a file of its own.
        interval_s: seconds from frame to frame, 0 where unknown.
    """

    name: str
    group: str
    label: str = ""
    split: str = ""
    index: int = -1
    height: int = 0
    width: int = 0
    dtype: str = ""
    pixel_size_um: float = 0.0
    sha256: str = ""
    pixels_sha256: str = ""
    frame: int = -1
    interval_s: float = 0.0

    @property
    def file(self) -> str:
        """Path below the raw folder of the file, or folder, that holds the image."""
        return self.name.removesuffix(_number(self.frame))

    @property
    def alias(self) -> str:
        """Digits of `sha256`: they stand for a file whose name could tell whose image it is."""
        return f"{self.sha256[:_DIGITS]}{_number(self.frame)}"


def frames_of(file: str, group: str, count: int, split: str = "") -> list[Sample]:
    """The samples of one movie: one a frame, or the file itself where it holds a single image."""
    if count < 2:
        return [Sample(file, group, split=split)]
    numbers = range(count)
    return [Sample(f"{file}{_number(k)}", group, split=split, frame=k) for k in numbers]


def write_manifest(path: Path, samples: Iterable[Sample]) -> None:
    """Writes one row a sample, in the order given."""
    header = [field.name for field in fields(Sample)]
    path.write_bytes(to_csv([header, *(asdict(sample).values() for sample in samples)]))


def read_manifest(path: Path) -> list[Sample]:
    """Reads what `write_manifest` wrote."""
    return [_from_row(row) for row in named_cells(from_csv(path.read_bytes()))]


def of_split(samples: Sequence[Sample], split: str) -> list[Sample]:
    """The samples of one split, in the order of their packed pixels."""
    return sorted((s for s in samples if s.split == split), key=lambda s: s.index)


def _number(frame: int) -> str:
    return f"#{frame:04d}" if frame >= 0 else ""


def _from_row(row: dict[str, str]) -> Sample:
    typed = {field.name: field.type(row[field.name]) for field in fields(Sample)}
    return Sample(**typed)
