"""Where built libraries are kept: each whole or not at all, and built by one process."""

import fcntl
import os
import platform
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from kernels.toolchain import BuildFailed, CommandFailed

SETTING = "KERNELS_CACHE"
# Longer than a build may take: after it, who holds the lock does not get on.
WAIT_S = 900.0
ROOT = Path(__file__).absolute().parent.parent


class BuildStalled(RuntimeError):
    """Another living process has held the build for longer than any build takes.

    The text is one line in the form of every error of the project, with exit code 7.
    """


def places() -> list[Path]:
    """The folders that are looked into; the first that can be written takes what is built."""
    if chosen := os.environ.get(SETTING):
        return [Path(chosen).absolute()]
    # An installed package has no project around it.
    found = [ROOT / "build/kernels"] * (ROOT / "pyproject.toml").is_file()
    with suppress(RuntimeError):
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        found.append(home.absolute() / "synthetic-microscopy/kernels")
    return found


def newest(pattern: str) -> Path | None:
    """The youngest of `named`."""
    return next(iter(named(pattern)), None)


def named(pattern: str) -> list[Path]:
    """Files of that name in any of the `places`, as far as they can be read, the youngest first."""
    found: list[tuple[int, Path]] = []
    for place in places():
        with suppress(OSError):
            found += [(path.stat().st_mtime_ns, path) for path in place.glob(pattern)]
    return [path for _, path in sorted(found, reverse=True)]


def writable() -> Path:
    """The first of the `places` that can be written.

    Raises:
        BuildFailed: there is none.
    """
    problem = "there is no home folder for the cache"
    for place in places():
        try:
            place.mkdir(parents=True, exist_ok=True)
            with (place / "lock").open("ab"):
                return place
        except OSError as error:
            problem = f"{shown(place)} cannot be used ({error.strerror or error})"
    raise BuildFailed(f"{problem}; set {SETTING} to a local folder you may write to")


def build_once(library: Path, compile_in: Callable[[Path], Path], retry: bool) -> None:
    """Makes ``library`` unless another process just did; a failure is noted beside it.

    Args:
        library: what is to be there, in a folder that can be written.
        compile_in: compiles in the empty folder it is given, and returns the file it made; what
            compilers say in ``*.log`` there is kept beside the library.
        retry: try again what has failed before.

    Raises:
        BuildFailed: it failed, now or (without ``retry``) before.
        BuildStalled: waited `WAIT_S` for another process.
        OSError: the folder cannot be used.
    """
    note = library.with_suffix(".failed")
    seen = _written(note)
    if seen and not retry:
        raise BuildFailed(f"an earlier build failed: {failure(note)}")
    with _locked(library.parent / "lock"):
        if library.exists():
            return
        if _written(note) != seen:
            raise BuildFailed(f"another process has just failed to build it: {failure(note)}")
        # Only who holds the lock builds, so these are what dead builders left.
        for leftover in library.parent.glob("building-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        _build(library, compile_in)


def failure(note: Path) -> str:
    """Why a build failed, as the note beside the library tells."""
    try:
        return note.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        return f"{shown(note)} cannot be read ({error.strerror})"


def shown(path: Path) -> str:
    """A path as messages show it: its last three parts."""
    return str(Path(*path.parts[-3:]))


def _build(library: Path, compile_in: Callable[[Path], Path]) -> None:
    """Builds beside ``library``, so that the last step is a rename: it is there whole or not."""
    beside = {"prefix": "building-", "dir": library.parent}
    log, note = library.with_suffix(".log"), library.with_suffix(".failed")
    with tempfile.TemporaryDirectory(**beside, ignore_cleanup_errors=True) as private:
        try:
            made = compile_in(Path(private))
        except CommandFailed as error:
            error.log.replace(log)
            reason = f"{error}: {_gist(log)}; all of it is in {shown(log)}"
            _replace(Path(private, "note"), f"{reason}; `make kernels` tries again", note)
            raise BuildFailed(failure(note)) from error
        for old in (log, note):
            old.unlink(missing_ok=True)
        if warnings := b"".join(said.read_bytes() for said in Path(private).glob("*.log")):
            log.write_bytes(warnings)
        with made.open("rb") as stream:
            os.fsync(stream.fileno())
        made.replace(library)


def _replace(private: Path, text: str, path: Path) -> None:
    private.write_text("".join(sign if sign.isprintable() else " " for sign in text), "utf-8")
    private.replace(path)


def _written(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits for a lock that the kernel drops with the process that holds it."""
    with path.open("a+", encoding="utf-8", errors="replace") as stream:
        deadline = time.monotonic() + WAIT_S
        while not _taken(stream):
            if time.monotonic() > deadline:
                stream.seek(0)
                raise _stalled(path, stream.read(200))
            time.sleep(0.1)
        try:
            stream.truncate(0)
            print(f"process {os.getpid()} on {platform.node()}", file=stream, end="", flush=True)
            yield
        finally:
            # A process forked meanwhile shares the lock, so closing the file would not free it.
            fcntl.flock(stream, fcntl.LOCK_UN)


def _taken(stream: IO[str]) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _stalled(lock: Path, owner: str) -> BuildStalled:
    problem = f"{owner or 'another process'} has held it for over {WAIT_S:.0f} s"
    remedy = "end that process, or set KERNELS=ref"
    return BuildStalled(f"error[7]: {shown(lock)}: {problem}; nothing was compiled; {remedy}")


def _gist(log: Path) -> str:
    """The first error of a compiler, or else its last lines; short enough for one message."""
    last: deque[str] = deque(maxlen=5)
    with log.open(encoding="utf-8", errors="replace") as stream:
        for line in filter(None, map(str.strip, stream)):
            if "error" in line:
                return line[:500]
            last.append(line)
    return " | ".join(last)[-500:] or "it said nothing"
