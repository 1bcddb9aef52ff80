"""Evaluation records of several runs, side by side only where they are comparable."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.metrics.protocol import Record, differing


@dataclass(frozen=True)
class Row:
    """Records of one protocol.

    Attributes:
        cells: for each run its record, None where it has none.
    """

    cells: tuple[Record | None, ...]

    @property
    def first(self) -> Record:
        """The first record; the others are equal to it in all fields of the protocol."""
        return next(filter(None, self.cells))


def comparable_rows(records: Sequence[Sequence[Record]]) -> list[Row]:
    """Sets the records of several runs side by side.

    Args:
        records: of each run, one of a protocol.

    Returns:
        Rows in the order in which the metrics were written, the one to go by first, then by
        protocol.
    """
    metrics = list(dict.fromkeys(record.metric for of_run in records for record in of_run))
    rows: dict[tuple[str, str], list[Record | None]] = {}
    for run, of_run in enumerate(records):
        for record in of_run:
            rows.setdefault((record.metric, record.protocol), [None] * len(records))[run] = record
    order = sorted(rows, key=lambda key: (metrics.index(key[0]), key[1]))
    return [Row(tuple(rows[key])) for key in order]


def why_apart(rows: Sequence[Row]) -> list[str]:
    """One sentence for each metric that stands in several rows."""
    by_metric: dict[str, list[Record]] = {}
    for row in rows:
        by_metric.setdefault(row.first.metric, []).append(row.first)
    return [
        f"{metric} stands in {len(unlike)} rows that must not be compared: "
        f"they differ in {'; '.join(differing(unlike))}."
        for metric, unlike in by_metric.items()
        if len(unlike) > 1
    ]
