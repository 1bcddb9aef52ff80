"""What lies in a raw folder: names alone, nothing is opened."""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.errors import Exit, UserError, relative


def find_files(
    root: str | Path, suffixes: Sequence[str], folders: Sequence[str] = ()
) -> list[Path]:
    """Every regular file below a folder with one of the suffixes, sorted.

    Left out are hidden and system files, whatever links lead to outside the folder, and linked
    folders (what they hold inside `root` is found where it lies).

    Args:
        root: the folder.
        suffixes: such as ".png", in lower case.
        folders: suffixes of folders that are found as if they were files, and not looked into.

    Raises:
        UserError: `root` or a folder below it cannot be listed.
    """
    home = Path(os.path.realpath(root))
    try:
        found = _walk(root, tuple(suffixes), tuple(folders))
        return sorted(path for path in found if _is_there(path) and is_below(path, home))
    except OSError as error:
        raise UserError(
            Exit.INPUT,
            relative(Path(os.fsdecode(error.filename or root))),
            f"cannot be listed: {error.strerror}",
            "give an existing folder that you may read",
        ) from error


def is_below(path: Path, home: Path) -> bool:
    """Whether a path, with all links followed, lies in a folder that is given without links."""
    return Path(os.path.realpath(path)).is_relative_to(home)


def _walk(root: str | Path, suffixes: tuple[str, ...], folders: tuple[str, ...]) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise error

    for folder, below, names in os.walk(root, onerror=fail):
        below[:] = [name for name in below if not name.startswith((".", "__MACOSX"))]
        whole = [name for name in below if folders and name.lower().endswith(folders)]
        below[:] = [name for name in below if name not in whole]
        yield from (Path(folder, name) for name in whole if not Path(folder, name).is_symlink())
        yield from (Path(folder, name) for name in names if _is_wanted(name, suffixes))


def _is_wanted(name: str, suffixes: tuple[str, ...]) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in suffixes


def _is_there(path: Path) -> bool:
    """A regular file; folders come only where they were asked for."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):  # a link to nowhere or in a circle
            return False
        raise
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)
