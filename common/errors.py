"""One way to tell a user what went wrong: one sentence, one exit code, no traceback."""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path

from common.interrupts import Stopped

_CONTROL = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)
_QUOTED = re.compile(r"error\[([1-7])\]: (.+?): (.+?); (.+)")
# What the operating system says when a disk is full, a quota is spent or a folder is locked.
_STORAGE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENAMETOOLONG, errno.ENOTDIR),
)

# How a note on an exception begins that says where its traceback was written.
TRACEBACK_IN = "traceback in "


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
        text = f"{self.subject}: {'; '.join(part for part in parts if part)}"
        return f"error[{int(self.code)}]: {visible(text)}"

    def __reduce__(self) -> tuple[type, tuple[Exit, str, str, str, str]]:
        """Lets it cross from a worker process; an exception is otherwise rebuilt from its text."""
        return UserError, (self.code, self.subject, self.problem, self.remedy, self.kept)


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
        below = path.resolve().is_relative_to(Path.cwd())
    # A link in a circle is a RuntimeError, a zero byte in the name a ValueError.
    except (OSError, RuntimeError, ValueError):
        below = False
    return visible(os.path.relpath(path) if below else str(Path(*path.parts[-3:])))


def require_positive(group: str, **values: float) -> None:
    """Refuses options ``--<group>.<name>`` that are not above 0.

    Raises:
        UserError: names the first of them.
    """
    for name, value in values.items():
        if not value > 0:
            problem = "is not positive"
            raise UserError(Exit.USAGE, f"--{group}.{name} {value}", problem, "give one above 0")


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turns what ends a command into one sentence and an exit code.

    A defect of ours keeps its traceback: in the run's log where there is one, else on stderr.
    """
    try:
        yield
    except Stopped as stop:
        kept = f": {stop.kept}; go on with --resume true" if stop.kept else ""
        print(f"stopped by {stop}{kept}", file=sys.stderr)
        sys.exit(stop.code)
    except Exception as error:
        known = _as_user_error(error)
        if known is None:
            raise
        print(known, file=sys.stderr)
        sys.exit(int(known.code))


def _as_user_error(error: Exception) -> UserError | None:
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno in _STORAGE:
        remedy = "free some space, mend its permissions, or choose another folder"
        subject = relative(os.fsdecode(error.filename or "disk"))
        return UserError(Exit.STORAGE, subject, f"is refused ({error.strerror})", remedy)
    # A loader's worker process hands its errors over as text.
    return quoted_error(str(error)) or _as_defect(error)


def _as_defect(error: Exception) -> UserError | None:
    notes = [n for n in getattr(error, "__notes__", ()) if n.startswith(TRACEBACK_IN)]
    if not notes:
        return None
    problem = f"{error}".strip().splitlines()[0] if f"{error}".strip() else "no message"
    remedy = f"please report it with {notes[0].removeprefix(TRACEBACK_IN)}"
    return UserError(Exit.BUG, type(error).__name__, problem, remedy, "checkpoints are kept")
