"""One process writes one run."""

import fcntl
import json
import os
import platform
from datetime import datetime
from pathlib import Path
from typing import IO

from common.errors import Exit, UserError, relative

# Of training and of generating.
TRAINING, SAMPLES = ".lock", ".samples.lock"


class RunLock:
    """A lock that the kernel holds for this process, and drops with it, however it ends.

    Args:
        folder: of the run; made if it is not there.
        name: of the lock's file.
    """

    def __init__(self, folder: Path, name: str = TRAINING) -> None:
        self.path = folder / name
        self._stream: IO[str] | None = None

    def acquire(self) -> None:
        """Takes the lock, also after a process that died with it.

        Raises:
            UserError: another process is at work in the folder; names it.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            stream = self.path.open("a+", encoding="utf-8")
            try:
                _lock(stream, fcntl.LOCK_EX, self.path.parent)
                _sign(stream)
            except BaseException:
                stream.close()
                raise
        except OSError as error:
            problem = f"cannot be locked ({error.strerror})"
            remedy = "choose a --workspace that you may write to"
            raise UserError(Exit.STORAGE, relative(self.path), problem, remedy) from error
        self._stream = stream

    def release(self) -> None:
        """Gives it back; does nothing where it was not taken."""
        if self._stream is not None:
            # Nobody needs to know any more whose machine it was.
            self._stream.truncate(0)
            # Closing alone would leave it to loader processes, which were forked with it.
            fcntl.flock(self._stream, fcntl.LOCK_UN)
            self._stream.close()
            self._stream = None


def refuse_locked(folder: Path) -> None:
    """Looks without taking: a start that will fail shall not leave a trace.

    Raises:
        UserError: another process is at work in the folder; names it.
    """
    path = folder / TRAINING
    if path.is_file():
        with path.open(encoding="utf-8") as stream:
            # Network file systems refuse an exclusive lock to a stream that cannot be written.
            _lock(stream, fcntl.LOCK_SH, folder)


def _lock(stream: IO[str], kind: int, folder: Path) -> None:
    try:
        fcntl.flock(stream, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        raise _held(folder, stream.read()) from None


def _sign(stream: IO[str]) -> None:
    stream.truncate(0)
    owner = {"pid": os.getpid(), "host": platform.node(), "since": f"{datetime.now():%F %T}"}
    json.dump(owner, stream)
    stream.flush()


def _held(folder: Path, owner: str) -> UserError:
    try:
        found = json.loads(owner)
        who = f"process {found['pid']} on {found['host']} since {found['since']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return UserError(
        Exit.STORAGE,
        relative(folder),
        f"is being written by {who}",
        "wait for it, or choose another RUN=",
        "nothing was changed",
    )
