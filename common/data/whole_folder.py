"""Folders that appear whole or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import Exit, UserError, relative


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder that becomes ``folder`` at the end, or vanishes on an error.

    Until it ends, what ``folder`` held before stays as it was.

    Raises:
        UserError: the storage is full or not writable.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            yield partial
            partial.chmod(0o755)
            _replace(folder, partial)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise UserError(
            Exit.STORAGE,
            relative(folder),
            f"cannot be written ({error.strerror or error})",
            "free some space or choose another --workspace, then run the same command again",
            "what was there before was kept",
        ) from error


def _replace(folder: Path, partial: Path) -> None:
    """Deleting the old folder in place would, if interrupted, leave one that looks complete."""
    old = partial.with_name(f"{partial.name}.old")
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
