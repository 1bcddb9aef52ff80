"""Evaluation records: read, and set side by side only where they are comparable."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from common.report.text_files import damaged, whole_lines

_CONDITIONS = {
    "split": "split",
    "extractor": "extractor",
    "extractor_sha256": "extractor weights",
    "n_real": "number of real images",
    "n_fake": "number of generated images",
    "seed": "seed",
    "unit": "unit",
}


@dataclass(frozen=True)
class Record:
    """One number of one evaluation; `value` is None where the metric was refused.

    Attributes:
        metric: name of the metric.
        value: the number in `unit`.
        low: lower end of the interval, None where there is none.
        high: upper end of the interval, None where there is none.
        protocol: hash of everything that must be equal for two values to be compared.
        note: a sentence, above all why the metric was refused.
    """

    metric: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n_real: int | None = None
    n_fake: int | None = None
    split: str = ""
    seed: int | None = None
    extractor: str = ""
    extractor_sha256: str = ""
    protocol: str = ""
    checkpoint_sha256: str = ""
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Row:
    """Records that may be compared: one metric, one protocol, one split.

    Attributes:
        cells: for each run, its records in the order written; the last one counts.
    """

    metric: str
    protocol: str
    cells: tuple[tuple[Record, ...], ...]

    def stated(self, field: str) -> str:
        """The distinct values of a field among the records that count, joined by " / "."""
        values = (getattr(cell[-1], field) for cell in self.cells if cell)
        return " / ".join(dict.fromkeys(str(v) for v in values if v not in (None, "")))


def read_records(path: Path) -> list[Record]:
    """Reads one JSON object a line; keys this page does not show are passed over.

    Raises:
        UserError: a line is no JSON object, names no metric or holds a text for a number.
    """
    records = []
    for number, line in enumerate(whole_lines(path)[0], start=1):
        if not line.strip():
            continue
        try:
            records.append(_record(json.loads(line)))
        except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise damaged(path, f"line {number} is no record ({error})") from error
    return records


def comparable_rows(records: Sequence[Sequence[Record]]) -> list[Row]:
    """Sets the records of several runs side by side.

    Args:
        records: of each run.

    Returns:
        Rows by metric, protocol and split; a record without protocol has a row of its own.
    """
    keys: dict[tuple[str, str, str, int], list[list[Record]]] = {}
    for run, of_run in enumerate(records):
        for record in of_run:
            alone = -1 if record.protocol else run
            key = (record.metric, record.protocol, record.split, alone)
            keys.setdefault(key, [[] for _ in records])[run].append(record)
    return [Row(key[0], key[1], tuple(map(tuple, keys[key]))) for key in sorted(keys)]


def why_apart(rows: Sequence[Row]) -> list[str]:
    """One sentence for each metric that stands in several rows."""
    by_metric: dict[str, list[Row]] = {}
    for row in rows:
        by_metric.setdefault(row.metric, []).append(row)
    return [_apart(metric, same) for metric, same in by_metric.items() if len(same) > 1]


def _apart(metric: str, rows: Sequence[Row]) -> str:
    found = []
    for field, words in _CONDITIONS.items():
        stated = list(dict.fromkeys(row.stated(field)[:24] or "none" for row in rows))
        if len(stated) > 1:
            found.append(f"{words} ({' against '.join(stated)})")
    what = "; ".join(found) or "settings that only the protocol hash covers"
    names = ", ".join(row.protocol[:8] or "none" for row in rows)
    return (
        f"{metric} stands in {len(rows)} rows that must not be compared. "
        f"Protocols {names} differ in {what}."
    )


def _record(entry: dict[str, object]) -> Record:
    known = {f.name: entry[f.name] for f in fields(Record) if entry.get(f.name) is not None}
    if not isinstance(known.get("metric"), str):
        raise ValueError("it names no metric")
    for name, value in known.items():
        if name in ("value", "low", "high", "n_real", "n_fake", "seed"):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"{name} is no number")
            float(value)
        else:
            known[name] = str(value)
    return Record(**known)
