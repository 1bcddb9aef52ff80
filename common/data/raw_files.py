"""Size, dates and hash of what an image comes from: a file, or a folder such as OME-Zarr."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

# Bytes, and nanoseconds of modification and of change; [0, 0, 0] of what is not there.
State = list[int]


def state_of(path: Path) -> State:
    """Size and dates, links followed; of a folder the sum of sizes and the latest dates."""
    try:
        status = [one.stat() for one in (path, *_inside(path))]
    except OSError:
        return [0, 0, 0]
    size = sum(one.st_size for one in status[1:]) if len(status) > 1 else status[0].st_size
    return [size, max(s.st_mtime_ns for s in status), max(s.st_ctime_ns for s in status)]


def digest_of(path: Path) -> str:
    """SHA-256 of a file; of a folder, that of the names and digests of all files in it."""
    if not path.is_dir():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    digest = hashlib.sha256()
    for one in _inside(path):
        digest.update(f"{one.relative_to(path).as_posix()}\n{digest_of(one)}\n".encode())
    return digest.hexdigest()


def digest_of_all(root: Path, names: Sequence[str]) -> str:
    """That of the only file below ``root``; of several files that of their digests, in order."""
    digests = [digest_of(root / name) for name in names]
    return digests[0] if len(names) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _inside(path: Path) -> Iterator[Path]:
    if path.is_dir():
        for folder, below, names in os.walk(path):
            below.sort()
            yield from (Path(folder, name) for name in sorted(names))
