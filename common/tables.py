"""The one door for CSV: a cell that holds text never becomes a formula, and reads back exactly."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

# What makes a spreadsheet compute instead of show; the apostrophe is here so that one which was
# there from the start can be told from one that was added.
GUARDED = tuple("=+-@\t\r\n'＝＋－＠")
# File names need not be UTF-8; Python's own way to carry such bytes in text.
_ERRORS = "surrogateescape"


def to_csv(rows: Iterable[Iterable[object]]) -> bytes:
    """UTF-8 lines; a text that a spreadsheet would compute gets an apostrophe in front.

    Args:
        rows: cells of each; numbers stay as they are, None is an empty cell.
    """
    text = io.StringIO(newline="")
    csv.writer(text).writerows([_guarded(cell) for cell in row] for row in rows)
    return text.getvalue().encode(errors=_ERRORS)


def from_csv(data: bytes) -> list[list[str]]:
    """Reads what `to_csv` wrote, cells as text; blank lines are left out.

    Raises:
        ValueError: a cell has no end.
    """
    reader = csv.reader(io.StringIO(data.decode(errors=_ERRORS), newline=""))
    try:
        return [[cell.removeprefix("'") for cell in row] for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error


def named_cells(rows: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """The cells of each row by the names in the first; of a short row the last are missing."""
    header, *body = rows or [[]]
    return [dict(zip(header, row, strict=False)) for row in body]


def finite_or_none(value: Any) -> Any:
    """The value; None, which is an empty cell, for a float that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _guarded(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(GUARDED) else cell
