"""Text files that another process may still be writing."""

from pathlib import Path

from common.errors import Exit, UserError, relative
from common.tables import from_csv


def damaged(path: Path, problem: str) -> UserError:
    """The error for a file that is there and cannot be understood."""
    remedy = "mend the file, or leave this run out by naming others in --runs"
    return UserError(Exit.INPUT, relative(path), problem, remedy)


def read_text(path: Path) -> str:
    """Reads UTF-8 text.

    Raises:
        UserError: the file cannot be read or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise damaged(path, f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise damaged(path, "is not UTF-8 text") from error


def whole_rows(path: Path) -> tuple[list[list[str]], bool]:
    """The rows of a table whose line has ended, and whether that is all of them.

    A last line without its end is a write in progress: half a number would read as a number.

    Raises:
        UserError: the file cannot be read or is no table.
    """
    try:
        data = path.read_bytes()
        end = data.rfind(b"\n") + 1
        return from_csv(data[:end]), end == len(data)
    except OSError as error:
        raise damaged(path, f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise damaged(path, f"is no table ({error})") from error
