"""What a check found, in full as a file; the terminal shows the first of each kind."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType

from common.data.leakage import Leak, refuse_leaks
from common.data.manifest import SPLITS, Sample
from common.data.near_duplicates import NearDuplicate
from common.data.sequences import told
from common.errors import Exit, UserError, relative, visible
from common.storage import whole_file

NOTHING: Mapping[str, str] = MappingProxyType({})
# Files that a message names, and rows that a list on the terminal has.
_NAMED, _LISTED = 3, 20


@dataclass(frozen=True)
class ClassSummary:
    """What the usable images of one class are like.

    Attributes:
        images: how many.
        dtypes: images by pixel type.
        height: lowest and highest number of rows.
        width: lowest and highest number of columns.
        grey_values: lowest and highest of all files, as they are stored.
        pixel_size_um: lowest and highest in micrometres, zeros where no file says it.
        without_pixel_size: images that do not say it.
    """

    images: int
    dtypes: dict[str, int]
    height: tuple[int, int]
    width: tuple[int, int]
    grey_values: tuple[float, float]
    pixel_size_um: tuple[float, float]
    without_pixel_size: int


@dataclass
class Findings:
    """Everything that a check has to say about the files of one data set.

    Attributes:
        images: files that were looked at.
        bad: what is wrong with a file that cannot be used, by its name below the raw folder.
        classes: of the other files, by class name.
        split: images by split; empty where there could be none.
        split_came: whether the split came with the data.
        split_error: why there could be no split.
        leaks: pairs that the split must not hold.
        joined: duplicates that were brought into one group.
        near_count: pairs in different splits that look the same.
        near: the most similar of these.
        left_out: files that belong to the data but were not looked at, and why.
        sequences: what `sequences.describe` says; empty of single images.
        previews: by group, of how many of its images an XY panel was cut out, and how many it has;
            only where some were left whole.
    """

    images: int
    bad: Mapping[str, str]
    classes: Mapping[str, ClassSummary] = field(default_factory=dict)
    split: Mapping[str, int] = field(default_factory=dict)
    split_came: bool = False
    split_error: UserError | None = None
    leaks: Sequence[Leak] = ()
    joined: Sequence[Leak] = ()
    near_count: int = 0
    near: Sequence[NearDuplicate] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    sequences: Mapping[str, int] = field(default_factory=dict)
    previews: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def write(self, path: Path) -> bytes:
        """Writes them as JSON, in ASCII, and returns that; the same findings give the same bytes.

        Raises:
            UserError: the storage is full or not writable.
        """
        found = {
            "images": self.images,
            "bad_files": [{"name": name, "problem": text} for name, text in self.bad.items()],
            "classes": {name: asdict(summary) for name, summary in self.classes.items()},
            "split": {
                "came_with_the_data": self.split_came,
                "images": self.split,
                "problem": self.split_error.problem if self.split_error else "",
            },
            **self._of_sequences(),
            **({"previews": dict(self.previews)} if self.previews else {}),
            "leaks": [asdict(leak) for leak in self.leaks],
            "joined": [asdict(leak) for leak in self.joined],
            "near_duplicates": {
                "count": self.near_count,
                "closest": [asdict(pair) for pair in self.near],
            },
        }
        text = f"{json.dumps(found, indent=1)}\n".encode("ascii")
        with whole_file(path, parents=True, durable=False) as stream:
            stream.write(text)
        return text

    def lines(self, report: Path) -> list[str]:
        """What a user should see of them, the worst at the end."""
        where = relative(report)
        listed = _table(self.classes)
        if self.split:
            counts = ", ".join(f"{self.split[name]} {name}" for name in SPLITS)
            origin = "came with the data" if self.split_came else "drawn"
            listed.append(f"split: {counts} ({origin})")
        if self.sequences:
            listed.append(told(self.sequences))
        why = [f"{visible(name)} is left out: {text}" for name, text in self.left_out.items()]
        listed += _first("note: ", why, where)
        mixed = [
            f"{cut} of {count} images of group {visible(group)} are cut to the XY panel of a "
            "preview, the others stay whole, as all do with --data.pipeline.panel none"
            for group, (cut, count) in self.previews.items()
        ]
        listed += _first("note: ", mixed, where)
        listed += _first("note: ", [f"{leak} are kept in one split" for leak in self.joined], where)
        listed += _near(self.near_count, self.near, where)
        listed += _first("leak: ", [str(leak) for leak in self.leaks], where)
        bad = [f"{visible(name)} {visible(text)}" for name, text in self.bad.items()]
        return listed + _first("bad: ", bad, where)

    def refuse(self, root: Path, report: Path, skip_bad: int) -> None:
        """Raises for the first of: too many bad files, no possible split, a leak.

        Args:
            root: the raw folder.
            report: where the findings were written.
            skip_bad: bad files that do not count.

        Raises:
            UserError: names the first few files and the report.
        """
        if len(self.bad) > skip_bad:
            raise self._too_many_bad(root, report, skip_bad)
        if self.split_error is not None:
            raise self.split_error
        refuse_leaks(self.leaks, relative(report))

    def _of_sequences(self) -> dict[str, object]:
        if not self.sequences:
            return {}
        left_out = [{"name": name, "problem": text} for name, text in self.left_out.items()]
        return {"sequences": dict(self.sequences), "left_out": left_out}

    def _too_many_bad(self, root: Path, report: Path, skip_bad: int) -> UserError:
        shown = [f"{visible(name)} {text}" for name, text in list(self.bad.items())[:_NAMED]]
        more = f"; and {len(self.bad) - _NAMED} more" if len(self.bad) > _NAMED else ""
        allowed = f", more than the {skip_bad} of --skip-bad" if skip_bad else ""
        return UserError(
            Exit.INPUT,
            relative(root),
            f"{len(self.bad)} of {self.images} images cannot be used{allowed}: "
            f"{'; '.join(shown)}{more}",
            f"mend or remove them (all are in {relative(report)}) and run the same command again, "
            f"or leave them out with --skip-bad {len(self.bad)}",
            "nothing was prepared",
        )


def summarise(samples: Sequence[Sample], ranges: Sequence[tuple[float, float]]) -> ClassSummary:
    """Sums up images of one class.

    Args:
        samples: at least one, with what their files say.
        ranges: lowest and highest grey value of each.
    """
    known = [s.pixel_size_um for s in samples if s.pixel_size_um]
    lows, highs = zip(*ranges, strict=True)
    return ClassSummary(
        images=len(samples),
        dtypes=dict(sorted(Counter(s.dtype for s in samples).items())),
        height=_ends(s.height for s in samples),
        width=_ends(s.width for s in samples),
        grey_values=(min(lows), max(highs)),
        pixel_size_um=_ends(known or [0.0]),
        without_pixel_size=len(samples) - len(known),
    )


def _ends(values: Iterable[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return ordered[0], ordered[-1]


def _table(classes: Mapping[str, ClassSummary]) -> list[str]:
    rows = [("class", "images", "pixels", "height", "width", "grey values", "um per pixel")]
    rows += [_row(name, classes[name]) for name in sorted(classes)[:_LISTED]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    more = len(classes) - _LISTED
    return lines + [f"and {more} more classes"] * (more > 0) if classes else []


def _row(name: str, found: ClassSummary) -> tuple[str, ...]:
    known = found.images - found.without_pixel_size
    size = _range(found.pixel_size_um) if known else "unknown"
    some = f" ({found.without_pixel_size} unknown)" if known and found.without_pixel_size else ""
    types = " ".join(found.dtypes)
    ranges = [_range(ends) for ends in (found.height, found.width, found.grey_values)]
    return visible(name) or "(all)", str(found.images), types, *ranges, size + some


def _range(ends: tuple[float, float]) -> str:
    low, high = (f"{end:.4g}" if isinstance(end, float) else str(end) for end in ends)
    return low if low == high else f"{low} to {high}"


def _first(word: str, findings: Sequence[str], report: str) -> list[str]:
    shown = [f"{word}{text}" for text in findings[:_LISTED]]
    more = len(findings) - _LISTED
    return shown + [f"{word}and {more} more; all are in {report}"] * (more > 0)


def _near(count: int, pairs: Sequence[NearDuplicate], report: str) -> list[str]:
    if not count:
        return []
    shown = "; ".join(str(pair) for pair in pairs[:_NAMED])
    what = "1 pair of images looks" if count == 1 else f"{count} pairs of images look"
    return [f"note: {what} the same in different splits ({report}): {shown}"]
