"""Images that come as one .zip or .tar: unpacked whole or not at all, and only ever plain files.

An archive is a stranger's list of places to write to. Nothing in it is believed: every name is
looked at before anything is written, all but files and folders is refused, sizes are counted while
they are unpacked, and permissions, owners and dates are not taken over. The archive is only read.
"""

import hashlib
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from common.data.archive_members import Member, Refused, damage, kind_of, members
from common.data.raw_files import state_of
from common.errors import Exit, UserError, relative, visible
from common.storage import whole_folder

_ENDING = re.compile(r"(\.tar)?\.(zip|npz|tar|tgz|tbz2?|txz|gz|bz2|xz)$", re.IGNORECASE)
_BLOCK = 2**20
# What the smallest file takes on a disk.
_DISK_BLOCK = 4096
_SHOWN = 200
_LONGEST_PART, _LONGEST_NAME, _DEEPEST = 255, 2048, 64


@dataclass(frozen=True)
class Limits:
    """What an archive may ask for.

    Attributes:
        max_members: files and folders, those included that only occur in longer names.
        max_bytes: of all files together.
        max_expansion: bytes unpacked for one byte of the archive; deflate cannot exceed 1032.
    """

    max_members: int = 1_000_000
    max_bytes: int = 2**40
    max_expansion: int = 1100


DEFAULT_LIMITS = Limits()


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or a tar, packed or not; its content decides, for tar also the name.

    Links are followed; a pipe is never opened.
    """
    return path.is_file() and kind_of(path) != ""


def extracted(archive: Path, home: Path, limits: Limits = DEFAULT_LIMITS) -> Path:
    """Unpacks an archive, unless that was done before.

    Args:
        archive: a file for which `is_archive` is true.
        home: where the folder `<stem>-<first 8 of the archive's SHA-256>` lies or appears.
        limits: what the archive may ask for.

    Returns:
        That folder.

    Raises:
        UserError: the archive is damaged, over a limit, or holds what is no plain file below it;
            or the storage is too small, full or not writable.
    """

    def measure() -> tuple[int, int]:
        sizes = [member.size for member, _ in _accepted(archive, limits)]
        return len(sizes), sum(sizes)

    remedy = "copy the archive again, or pack nothing but the image files and their folders"
    return unpacked(
        archive, home, measure, lambda folder: _extract(archive, folder, limits), remedy
    )


def unpacked(
    archive: Path,
    home: Path,
    measure: Callable[[], tuple[int, int]],
    unpack: Callable[[Path], None],
    remedy: str,
    rule: str = "",
) -> Path:
    """The folder that ``unpack`` fills from a file, unless it did so before.

    Args:
        archive: the file; its content names the folder.
        home: where the folder `<stem>-<8 hexadecimal digits>` lies or appears.
        measure: gives the number of files and their bytes; may raise `Refused`.
        unpack: writes them into the folder it is given; may raise `Refused`.
        remedy: for an error of the file's.
        rule: what the folder depends on besides the file.

    Raises:
        UserError: the file was refused, or the storage is too small, full or not writable.
    """
    state = state_of(archive)
    stem = _ENDING.sub("", archive.name)[:50] or "archive"
    digest = _digest(archive, *state)
    if rule:
        digest = hashlib.sha256(f"{digest} {rule}".encode()).hexdigest()
    target = home / f"{stem}-{digest[:8]}"
    if target.is_dir():
        return target
    try:
        files, size = measure()
        _refuse_small_disk(target, size + files * _DISK_BLOCK)
        print(f"extracting {relative(archive)} ({files} members)", flush=True)
        with whole_folder(target) as partial:
            unpack(partial)
            if state_of(archive) != state:
                raise Refused("", "was changed while it was read")
    except Refused as error:
        raise _unusable(archive, error, remedy) from error
    return target


@lru_cache
def _digest(archive: Path, size: int, modified_ns: int, changed_ns: int) -> str:
    """Every rank and every step of a command asks; the state only decides whether it is known."""
    with archive.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _extract(archive: Path, folder: Path, limits: Limits) -> None:
    for member, parts in _accepted(archive, limits):
        path = folder.joinpath(*parts)
        if member.stream is None:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        # x: nothing that is there already, a link for instance, is ever written through.
        with path.open("xb") as stream:
            for block in _blocks(member):
                stream.write(block)


def _blocks(member: Member) -> Iterator[bytes]:
    read = 0
    while True:
        with damage(member.name):
            block = member.stream.read(_BLOCK)
        read += len(block)
        if read > member.size or (not block and read < member.size):
            raise Refused(member.name, "is not as long as the archive says")
        if not block:
            return
        yield block


def _accepted(archive: Path, limits: Limits) -> Iterator[tuple[Member, tuple[str, ...]]]:
    """Every member that may be written, with the parts of its path below the folder.

    Raises:
        Refused: at the first one that may not.
    """
    packed = archive.stat().st_size
    total, seen = 0, {}
    for member in members(archive, limits.max_members, limits.max_expansion * packed):
        parts = _parts(member.name)
        _check_unique(member, parts, seen)
        total += member.size
        if len(seen) > limits.max_members:
            raise Refused("", f"holds more than {limits.max_members} files and folders")
        if total > limits.max_bytes:
            raise Refused(member.name, f"would make it more than {limits.max_bytes} bytes")
        if total > limits.max_expansion * packed:
            large = f"would make it more than {limits.max_expansion} times its packed size"
            raise Refused(member.name, large)
        yield member, parts


def _parts(name: str) -> tuple[str, ...]:
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or re.match("[A-Za-z]:", name):
        raise Refused(name, "has an absolute name")
    if ".." in parts:
        raise Refused(name, "leads out of its folder with ..")
    if "\\" in name or "\0" in name:
        raise Refused(name, "has a backslash or a zero byte in its name")
    longest = max((len(os.fsencode(part)) for part in parts), default=0)
    if longest > _LONGEST_PART or len(os.fsencode(name)) > _LONGEST_NAME or len(parts) > _DEEPEST:
        raise Refused(name, "has a name that is too long or too deep")
    return parts


def _check_unique(member: Member, parts: tuple[str, ...], seen: dict[int, int]) -> None:
    """Notes the member and the folders above it, as hashes: a million long names are too much."""
    if not parts and member.stream is not None:
        raise Refused(member.name, "has no name")
    for length in range(1, len(parts) + 1):
        spelled = "/".join(parts[:length])
        is_folder = member.stream is None or length < len(parts)
        # Not all file systems tell these apart.
        folded = hash(unicodedata.normalize("NFC", spelled).casefold())
        before = seen.get(folded)
        seen[folded] = hash((spelled, is_folder))
        if before is not None and not (is_folder and before == seen[folded]):
            raise Refused(member.name, "has a name that occurs twice, perhaps in other case")


def _refuse_small_disk(target: Path, needed: int) -> None:
    parent = next(folder for folder in target.parents if folder.is_dir())
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise UserError(
            Exit.STORAGE,
            relative(target),
            f"needs {needed / 2**20:.0f} MiB, and {free / 2**20:.0f} MiB are free",
            "free some space or choose another --workspace",
            "nothing was extracted",
        )


def _unusable(archive: Path, error: Refused, remedy: str) -> UserError:
    member = visible(error.member)[:_SHOWN]
    return UserError(
        Exit.INPUT,
        relative(archive),
        f"its member {member} {error.problem}" if member else error.problem,
        remedy,
        "nothing was imported",
    )
