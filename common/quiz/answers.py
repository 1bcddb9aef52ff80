"""The CSV that the page offers, read back: it comes from a player, so nothing in it is believed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import Exit, UserError, relative
from common.tables import from_csv

# What all rows of a file agree on: the quiz that was played.
_FACTS = ("quiz", "experiment", "run", "checkpoint_sha256", "images_per_side", "draw_seed")
COLUMNS = (
    *_FACTS,
    *("position", "image", "class", "truth", "answer", "correct", "sure", "response_ms"),
)
_TEXT, _KIND, _YES_NO = r"(?s:.{0,300})", "real|generated", "yes|no"
_CELLS = {
    "quiz": r"[0-9a-f]{16}",
    "experiment": _TEXT,
    "run": _TEXT,
    "checkpoint_sha256": _TEXT,
    "images_per_side": r"[1-9][0-9]{0,5}",
    "draw_seed": r"[0-9]{1,100}",
    "position": r"[1-9][0-9]{0,6}",
    "image": _TEXT,
    "class": _TEXT,
    "truth": _KIND,
    "answer": _KIND,
    "correct": _YES_NO,
    "sure": _YES_NO,
    "response_ms": r"[0-9]{1,9}",
}
_MOST_BYTES = 2**24
# Characters of a refused cell that a message repeats.
_SHOWN = 40


@dataclass(frozen=True)
class Answer:
    """One answer; `generated` is the truth, `called_generated` what the player said."""

    label: str
    generated: bool
    called_generated: bool
    sure: bool
    response_ms: int


@dataclass(frozen=True)
class Play:
    """One player's answers.

    Attributes:
        quiz: 16 hex digits, equal exactly where the same images were shown in the same order.
        experiment: name of its folder.
        run: name of the run.
        answers: in the order of the quiz, as many images generated as real.
    """

    quiz: str
    experiment: str
    run: str
    answers: tuple[Answer, ...]


def read_play(path: Path) -> Play:
    """Reads what the page's download holds.

    Raises:
        UserError: the file cannot be read, or is not what the page writes.
    """
    try:
        rows = _rows(path)
        for number, row in enumerate(rows, start=1):
            _check_row(row, number, rows[0])
        _check_sides(rows)
    except OSError as error:
        raise _refused(path, f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise _refused(path, f"is not what the quiz writes ({error})") from error
    return Play(*(rows[0][name] for name in _FACTS[:3]), tuple(map(_answer, rows)))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open("rb") as stream:
        data = stream.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError(f"more than {_MOST_BYTES // 2**20} MiB")
    data.decode("utf-8")
    header, *body = from_csv(data) or [[]]
    if tuple(header) != COLUMNS or not body:
        raise ValueError("other columns" if body else "no answers")
    if any(len(row) != len(COLUMNS) for row in body):
        raise ValueError(f"a row that has not {len(COLUMNS)} cells")
    return [dict(zip(COLUMNS, row, strict=True)) for row in body]


def _check_row(row: dict[str, str], number: int, first: dict[str, str]) -> None:
    for name, pattern in _CELLS.items():
        if not re.fullmatch(pattern, row[name]):
            raise ValueError(f"answer {number}: {name} is {row[name][:_SHOWN]!r}")
    for name in _FACTS:
        if row[name] != first[name]:
            raise ValueError(f"answer {number}: another {name} than that of the first")
    if int(row["position"]) != number:
        raise ValueError(f"answer {number}: position is {row['position']}")
    if (row["truth"] == row["answer"]) != (row["correct"] == "yes"):
        raise ValueError(f"answer {number}: correct contradicts truth and answer")


def _check_sides(rows: Sequence[dict[str, str]]) -> None:
    expected = int(rows[0]["images_per_side"])
    for kind in ("real", "generated"):
        found = sum(row["truth"] == kind for row in rows)
        if found != expected:
            raise ValueError(f"{found} {kind} images, not {expected}")


def _answer(row: dict[str, str]) -> Answer:
    return Answer(
        label=row["class"],
        generated=row["truth"] == "generated",
        called_generated=row["answer"] == "generated",
        sure=row["sure"] == "yes",
        response_ms=int(row["response_ms"]),
    )


def _refused(path: Path, problem: str) -> UserError:
    remedy = "give the file as the quiz page saved it, or leave it out"
    return UserError(Exit.INPUT, relative(path), problem, remedy)
