"""Text files that another process may still be writing."""

from pathlib import Path

from common.errors import Exit, UserError, relative


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


def whole_lines(path: Path) -> tuple[list[str], bool]:
    """The lines of a file that end in a newline, and whether that is all of them.

    A last line without its newline is a write in progress: half a number would read as a number.
    """
    lines = read_text(path).split("\n")
    return lines[:-1], not lines[-1]
