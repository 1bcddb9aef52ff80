"""Files and folders that appear whole or not at all."""

import fcntl
import glob
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from common.errors import Exit, UserError, relative

_PARTIAL, _OLD = ".part", ".old"


@contextmanager
def whole_file(
    path: Path,
    remedy: str = "free some space, or choose a folder that you may write to",
    kept: str = "the old file is kept",
    parents: bool = False,
    durable: bool = True,
    before_replacing: Callable[[], None] | None = None,
) -> Iterator[BinaryIO]:
    """Yields a stream whose content becomes ``path`` at the end, or vanishes on any error.

    It lies beside ``path``: from another device the last step would be a copy, which a kill can
    cut short. Of several that write the same file the one that ends last wins, whole.

    Args:
        path: what it held before stays until the new content is complete.
        remedy: for the error.
        kept: for the error.
        parents: whether missing folders are made.
        durable: waits for the disk; without it a lost machine can leave an empty file.
        before_replacing: called when the new content is safe and the old one still in place.

    Raises:
        UserError: the storage is full or not writable.
    """
    partial = partial_file(path)
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("xb") as stream:
                yield stream
                stream.flush()
                if durable:
                    os.fsync(stream.fileno())
            if before_replacing is not None:
                before_replacing()
            partial.replace(path)
            if durable:
                sync_folder(path.parent)
        finally:
            with suppress(OSError):
                partial.unlink()
    except OSError as error:
        raise _unwritable(path, error, remedy, kept) from error


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yields an empty folder that becomes ``folder`` at the end, or vanishes on an error.

    Until it ends, what ``folder`` held before stays as it was. At the start, what killed processes
    left of it and of its like is removed, or put back where they had begun to replace it: the like
    of `name-<hash>` is `name-<any hash>`. What a living process is writing stays, by a lock that
    the kernel drops with it, however it ends.

    Raises:
        UserError: the storage is full or not writable.
    """
    try:
        with ExitStack() as held:
            partial = _make_partial(folder, held)
            try:
                yield partial
                partial.chmod(0o755)
                _replace(folder, partial)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        remedy = "free some space or choose another --workspace, then run the same command again"
        raise _unwritable(folder, error, remedy, "what was there before was kept") from error


def sync_folder(folder: Path) -> None:
    """Waits until the names in ``folder`` are on the disk; not every file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def partial_file(path: Path) -> Path:
    """A name beside ``path`` for what is to become it, which nobody else uses on any machine."""
    # Process ids repeat on other machines, which may share the storage.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PARTIAL}")


def sweep_partial_files(*places: Path) -> None:
    """Removes what killed processes left of `whole_file`; nobody else may be writing there.

    Args:
        places: files, and folders with all that is below them; they need not be there.
    """
    for place in places:
        beside = f".{glob.escape(place.name)}.{'[0-9a-f]' * 8}{_PARTIAL}"
        for partial in (*place.parent.glob(beside), *place.rglob(f".*{_PARTIAL}")):
            with suppress(OSError):
                partial.unlink()


def _make_partial(folder: Path, held: ExitStack) -> Path:
    """Makes the folder that is written first, and locks it for as long as ``held`` lasts."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Between a folder's making and its locking nobody else may sweep.
    with ExitStack() as start:
        # Not every file system can lock; then nothing is swept.
        with suppress(OSError):
            start.enter_context(_locked(folder.parent, fcntl.LOCK_EX))
            _sweep(folder)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        with suppress(OSError):
            held.enter_context(_locked(partial, fcntl.LOCK_SH))
    return partial


def _sweep(folder: Path) -> None:
    stem = re.escape(re.sub(r"-[0-9a-f]+$", "", folder.name))
    left_over = re.compile(rf"\.({stem}(-[0-9a-f]+)?)\.[a-z0-9_]{{8}}(\.old)?")
    # In this order what was being replaced comes after what was to replace it.
    for path in sorted(folder.parent.iterdir()):
        found = left_over.fullmatch(path.name)
        if not found or not path.is_dir() or _is_in_use(path):
            continue
        if path.suffix != _OLD:
            _put_back(folder.with_name(found[1]), path)
            shutil.rmtree(path, ignore_errors=True)
        elif not path.with_suffix("").exists():
            shutil.rmtree(path, ignore_errors=True)


def _is_in_use(folder: Path) -> bool:
    """Also where the file system cannot tell."""
    try:
        with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            return False
    except OSError:
        return True


@contextmanager
def _locked(folder: Path, kind: int) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)


def _replace(folder: Path, partial: Path) -> None:
    """Deleting the old folder in place would, if interrupted, leave one that looks complete."""
    old = _old(partial)
    try:
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    except BaseException:
        _put_back(folder, partial)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _put_back(folder: Path, partial: Path) -> None:
    """Undoes half a replacement; only while ``partial`` is there is the old folder whole."""
    with suppress(OSError):
        if not folder.exists():
            _old(partial).rename(folder)


def _old(partial: Path) -> Path:
    """Where the folder lies that ``partial`` is about to replace."""
    return partial.with_name(f"{partial.name}{_OLD}")


def _unwritable(path: Path, error: OSError, remedy: str, kept: str) -> UserError:
    problem = f"cannot be written ({error.strerror or error})"
    return UserError(Exit.STORAGE, relative(path), problem, kept=kept, remedy=remedy)
