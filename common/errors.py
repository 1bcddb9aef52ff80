"""One way to tell a user what went wrong: one sentence, one exit code, no traceback."""

import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_QUOTED = re.compile(r"error\[(\d)\]: (.+?): (.+?); (.+)")


class Exit(IntEnum):
    """Exit codes of every command."""

    DONE = 0
    BUG = 1
    USAGE = 2
    INPUT = 3
    CHECKPOINT = 4
    STORAGE = 5
    NON_FINITE = 6
    LOST = 7


class UserError(Exception):
    """Something a user can mend.

    Args:
        code: what the command exits with.
        subject: the file (relative where possible), option or metric concerned.
        problem: what is wrong with it.
        remedy: what to do now.
        kept: what was left as it was, where that is in doubt.
    """

    def __init__(
        self, code: Exit, subject: str | Path, problem: str, remedy: str, kept: str = ""
    ) -> None:
        self.code = code
        self.subject = str(subject)
        self.problem = problem
        self.remedy = remedy
        self.kept = kept
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [self.problem, self.kept, self.remedy]
        text = f"{visible(self.subject)}: {'; '.join(part for part in parts if part)}"
        return f"error[{int(self.code)}]: {text}"


def quoted_error(text: str) -> UserError | None:
    """The first `UserError` that another library has wrapped into its own message."""
    match = _QUOTED.search(text)
    if match is None:
        return None
    code, subject, problem, remedy = match.groups()
    return UserError(Exit(int(code)), subject, problem, remedy)


def visible(text: str) -> str:
    """Escapes control and direction characters, so that a file name cannot rewrite a terminal."""
    escaped = _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    return escaped.encode("utf-8", "backslashreplace").decode("utf-8")


def relative(path: str | Path) -> str:
    """A path as messages show it: relative to the current folder, else its last three parts."""
    path = Path(path)
    try:
        return os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else _tail(path)
    except OSError:
        return _tail(path)


@contextmanager
def exit_on_user_error(log: Path | None = None) -> Iterator[None]:
    """Turns a `UserError` into its message on stderr and its exit code.

    Args:
        log: file that receives the traceback, which the terminal does not.
    """
    try:
        yield
    except UserError as error:
        if log is not None and log.parent.is_dir():
            with log.open("a", encoding="utf-8") as stream:
                traceback.print_exception(error, file=stream)
        print(str(error), file=sys.stderr)
        sys.exit(int(error.code))


def _tail(path: Path) -> str:
    return str(Path(*path.parts[-3:]))
