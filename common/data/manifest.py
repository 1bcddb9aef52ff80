"""The table of samples: one row an image, the same columns in every experiment."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from common.tables import from_csv, named_cells, to_csv

SPLITS = ("train", "val", "test")
_DIGITS = 16
# Columns that only data sets of sequences have: all other manifests are as if there were none.
_OF_SEQUENCES = ("partners", "sequence", "moment")
# Between names of files; no path below a folder holds it.
_BETWEEN = "//"


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
        partners: files of the channels after the first one, see `partners_of`.
        sequence: what windows of consecutive moments are cut from, "" of single images.
        moment: number of the image in its sequence, one more from one moment to the next and
            several more over a gap in time; -1 of single images.
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
    partners: str = ""
    sequence: str = ""
    moment: int = -1

    @property
    def files(self) -> tuple[str, ...]:
        """Paths below the raw folder of all that the image is read from, first channel first."""
        return (self.file, *self.partners.split(_BETWEEN)) if self.partners else (self.file,)

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


def partners_of(files: Sequence[str]) -> str:
    """Names of further files as one text.

    Args:
        files: paths below the raw folder, with single slashes, one a channel after the first one.
    """
    return _BETWEEN.join(files)


def write_manifest(path: Path, samples: Iterable[Sample]) -> None:
    """Writes one row a sample, in the order given."""
    samples = list(samples)
    ordered = any(sample.sequence for sample in samples)
    left_out = () if ordered else _OF_SEQUENCES
    header = [field.name for field in fields(Sample) if field.name not in left_out]
    cells = (asdict(sample) for sample in samples)
    path.write_bytes(to_csv([header, *([row[name] for name in header] for row in cells)]))


def read_manifest(path: Path) -> list[Sample]:
    """Reads what `write_manifest` wrote."""
    return [_from_row(row) for row in named_cells(from_csv(path.read_bytes()))]


def of_split(samples: Sequence[Sample], split: str) -> list[Sample]:
    """The samples of one split, in the order of their packed pixels."""
    return sorted((s for s in samples if s.split == split), key=lambda s: s.index)


def _number(frame: int) -> str:
    return f"#{frame:04d}" if frame >= 0 else ""


def _from_row(row: dict[str, str]) -> Sample:
    known = (f for f in fields(Sample) if f.name in row or f.name not in _OF_SEQUENCES)
    return Sample(**{field.name: field.type(row[field.name]) for field in known})
