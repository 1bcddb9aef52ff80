"""One number, everything needed to judge it, and what tells it from a number unlike it."""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.errors import Exit, UserError, relative
from common.storage import whole_file

# Two numbers may stand side by side when all of these agree.
PROTOCOL_FIELDS = (
    "metric",
    "unit",
    "extractor",
    "extractor_sha256",
    "rule",
    "n_real",
    "n_fake",
    "split",
    "data",
    "preprocessing",
)


# Whatever measures puts a damaged file aside.
_REMEDY = "run `make evaluate` and whatever else measured, which begin a new file"


class MetricRefused(ValueError):
    """A metric that cannot be given honestly for these data; the message is one sentence."""


class Measured(NamedTuple):
    """A number with its interval; the fields are those of `Record`."""

    value: float | None
    low: float | None = None
    high: float | None = None
    rule: str = ""
    note: str = ""


# What a metric may fail with for reasons that lie in the data or the machine.
REFUSALS = (MetricRefused, UserError, ImportError, MemoryError, np.linalg.LinAlgError)


def attempt(measure: Callable[..., Measured], *args: Any) -> Measured:
    """What a measure gives, or why it gives nothing."""
    try:
        return measure(*args)
    except REFUSALS as refusal:
        return Measured(None, note=sentence(refusal))


def sentence(refusal: BaseException) -> str:
    """What a note says of it."""
    return str(refusal) or type(refusal).__name__


@dataclass(frozen=True)
class Record:
    """One measured number, or one refused metric.

    Attributes:
        metric: its name; "FID", "KID", "IS" and "FVD" are kept for their networks (`names`).
        value: the number; None where it was refused, and `note` says why.
        low: lower end of the 95 % interval, None where there is none.
        high: upper end of the 95 % interval, None where there is none.
        unit: of the value, "" for a pure number.
        extractor: name of the feature extractor, "" where none is used.
        extractor_sha256: of its weights.
        rule: settings of the estimator, such as the size of KID's subsets.
        n_real: real images evaluated.
        n_fake: synthetic images evaluated.
        split: the real side: "train", "val" or "test".
        data: fingerprint of the prepared data set.
        preprocessing: how pixels became uint8, the same way on both sides.
        seed: first seed of the synthetic images.
        checkpoint_sha256: of the weights that drew them.
        commit: of the code.
        settings: arguments of the model, as JSON, that were not those of its training.
        imported: file, with its SHA-256, whose weights the run began with; "" where it drew them.
        note: what a reader must know about this number.
    """

    metric: str
    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    extractor: str = ""
    extractor_sha256: str = ""
    rule: str = ""
    n_real: int = 0
    n_fake: int = 0
    split: str = ""
    data: str = ""
    preprocessing: str = ""
    seed: int = 0
    checkpoint_sha256: str = ""
    commit: str = ""
    settings: str = ""
    imported: str = ""
    note: str = ""

    @property
    def protocol(self) -> str:
        """Sixteen hex digits, equal exactly where two numbers may be compared.

        The number of synthetic images belongs to it, because the Fréchet distance is biased by it;
        seed, checkpoint and commit do not, because they are what is being compared.
        """
        agreed = json.dumps([getattr(self, name) for name in PROTOCOL_FIELDS])
        return hashlib.sha256(agreed.encode("ascii")).hexdigest()[:16]


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Replaces the file by these records, one ASCII JSON object a line; no half file is ever seen.

    Numbers that are not finite are written as null. Each line carries its protocol hash.

    Raises:
        UserError: the folder cannot be written; the old file is kept.
    """
    text = "".join(f"{_to_line(record)}\n" for record in records)
    with whole_file(path) as stream:
        stream.write(text.encode("ascii"))


def read_records(path: Path) -> list[Record]:
    """Reads what `write_records` wrote.

    Raises:
        UserError: the file is absent, or a line is no record or contradicts its protocol hash.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problem = "cannot be read as a file of records"
        raise UserError(Exit.INPUT, relative(path), problem, _REMEDY) from error
    return [_from_line(line, path, number) for number, line in enumerate(lines, 1)]


def usable_records(path: Path) -> list[Record]:
    """What `read_records` reads, for those who will replace or remove the file.

    A damaged one is set aside as `records.damaged.jsonl` and said on stderr: no measurement fails
    by it, and nothing of it is lost. Then, and where there is no file, there are no records.
    """
    try:
        return read_records(path) if path.exists() else []
    except UserError as error:
        aside = _aside(path)
        path.replace(aside)
        told = f"note: {error.subject} {error.problem}; it is kept as {aside.name}, and what other"
        print(f"{told} commands measured is to be measured again", file=sys.stderr, flush=True)
        return []


def differing(records: Sequence[Record]) -> list[str]:
    """The fields of the protocol in which records are unlike, each with its values."""
    return [
        f"{name} ({', '.join(map(repr, values))})"
        for name in PROTOCOL_FIELDS
        if len(values := sorted({getattr(record, name) for record in records})) > 1
    ]


def _to_line(record: Record) -> str:
    row = asdict(record)
    row |= {name: _finite(row[name]) for name in ("value", "low", "high")}
    return json.dumps(row | {"protocol": record.protocol}, allow_nan=False)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _from_line(line: str, path: Path, number: int) -> Record:
    try:
        row: dict[str, Any] = json.loads(line, parse_constant=_reject)
        protocol = row.pop("protocol")
        record = Record(**row)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _broken(path, number, "is not a record") from None
    if not all(isinstance(getattr(record, field.name), field.type) for field in fields(Record)):
        raise _broken(path, number, "holds a field of the wrong type")
    if any(value in (math.inf, -math.inf) for value in (record.value, record.low, record.high)):
        raise _broken(path, number, "holds a number that is not finite")
    if record.protocol != protocol:
        raise _broken(path, number, "was changed after it was written")
    return record


def _reject(constant: str) -> None:
    raise ValueError(constant)


def _broken(path: Path, number: int, problem: str) -> UserError:
    return UserError(Exit.INPUT, relative(path), f"line {number} {problem}", _REMEDY)


def _aside(path: Path) -> Path:
    """A name beside it that no file has."""
    names = (f"{path.stem}.damaged{f'-{k}' * (k > 1)}{path.suffix}" for k in count(1))
    return next(free for name in names if not (free := path.with_name(name)).exists())
