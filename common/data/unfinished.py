"""Large folders that appear whole, and what killed processes left of them."""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from common.storage import whole_folder


@contextmanager
def swept_folder(folder: Path) -> Iterator[Path]:
    """`whole_folder` that first removes what killed processes left of it and of its like.

    The like of `name-<hash>` is `name-<any hash>`. What a living process is writing stays: it holds
    a lock that the kernel drops with it, however it ends.

    Raises:
        UserError: the storage is full or not writable.
    """
    with ExitStack() as held:
        # Between a folder's making and its locking nobody else may sweep.
        start = held.enter_context(ExitStack())
        with suppress(OSError):
            folder.parent.mkdir(parents=True, exist_ok=True)
            start.enter_context(_locked(folder.parent, fcntl.LOCK_EX))
            _sweep(folder)
        with whole_folder(folder) as partial:
            with suppress(OSError):
                held.enter_context(_locked(partial, fcntl.LOCK_SH))
            start.close()
            yield partial


def _sweep(folder: Path) -> None:
    stem = re.escape(re.sub(r"-[0-9a-f]+$", "", folder.name))
    left_over = re.compile(rf"\.{stem}(-[0-9a-f]+)?\.[a-z0-9_]{{8}}(\.old)?")
    for path in sorted(folder.parent.iterdir()):
        if left_over.fullmatch(path.name) and path.is_dir() and not _is_in_use(path):
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
