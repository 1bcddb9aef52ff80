"""What a zip or a tar holds, one member after the other, as far as it can be believed at all.

Only files and folders come through. Where the reader of the standard library would stop silently,
fill the memory or run in circles, the archive is refused.
"""

import bz2
import errno
import gzip
import lzma
import mmap
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

_MAGIC = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"\x1f\x8b": "gz",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
}
_UNPACKERS = {"tar": open, "gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}
_ENTRY = b"PK\x01\x02"
# Flags of a zip's member: three ways to encrypt it, and a name in UTF-8.
_ENCRYPTED, _UTF8 = 0x2041, 0x800
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
# To unpack xz; its strongest usual setting takes 65 MiB.
_MEMORY = 256 * 2**20
# tarfile reads headers in one piece, whatever size they claim; before Python 3.11.10 its time grows
# with the square of the digits in a row.
_LONGEST_HEADER, _MOST_DIGITS = 2**16, 100
_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
_BLOCK = 2**20
_CUT = "is the last that can be read: the archive is damaged or cut short"
# What the system says where a damaged archive sends it to a place that cannot be.
_NOWHERE = (None, errno.EINVAL, errno.EOVERFLOW)


class Refused(Exception):
    """What is wrong with a member, or with the archive itself where none is named."""

    def __init__(self, member: str, problem: str) -> None:
        super().__init__(member, problem)
        self.member = member
        self.problem = problem


class Member(NamedTuple):
    """A file or folder of an archive.

    Attributes:
        name: as it is written in the archive.
        size: bytes of a file, as the archive declares them.
        stream: reads a file until the next member is asked for; None for a folder.
    """

    name: str
    size: int
    stream: IO[bytes] | None


def kind_of(path: Path) -> str:
    """Format of a file by its content: "zip", "tar", "gz", "bz2", "xz" or "" for any other."""
    with path.open("rb") as stream:
        start = stream.read(512)
    kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), "")
    is_tar = start[257:262] == b"ustar" or path.suffix.lower() == ".tar"
    return kind or ("tar" if is_tar else "")


def members(archive: Path, most_members: int, most_bytes: int) -> Iterator[Member]:
    """Files and folders in the order of the archive; names and sizes are not judged.

    Args:
        archive: of one of the kinds of `kind_of`.
        most_members: that are read.
        most_bytes: that a packed tar is unpacked to.

    Raises:
        Refused: the archive is damaged or over a limit, or holds anything else.
    """
    if kind_of(archive) == "zip":
        return _zip_members(archive, most_members)
    return _tar_members(archive, most_bytes)


@contextmanager
def damage(name: str, problem: str = "is damaged or cut short") -> Iterator[None]:
    """Turns whatever a reader of the standard library stumbles over into `Refused`."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in _NOWHERE:
            raise
        raise Refused(name, problem) from error


def _zip_members(archive: Path, most: int) -> Iterator[Member]:
    # zipfile would first make an object of each of them.
    if _count(archive, _ENTRY, most) > most:
        raise Refused("", f"holds more than {most} files and folders")
    with damage(""), zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            name = _zip_name(info)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise Refused(name, _not_plain(kind == stat.S_IFLNK))
            if info.flag_bits & _ENCRYPTED:
                raise Refused(name, "is encrypted")
            if info.compress_type not in _COMPRESSIONS:
                raise Refused(name, "is compressed in a way that is not read here")
            if name.endswith("/") or kind == stat.S_IFDIR:
                yield Member(name, 0, None)
                continue
            with damage(name), opened.open(info) as stream:
                yield Member(name, info.file_size, stream)


def _not_plain(is_link: bool) -> str:
    return "is a link" if is_link else "is neither a file nor a folder"


def _zip_name(info: zipfile.ZipInfo) -> str:
    """As it was written; names that lack the mark of UTF-8 often are UTF-8 all the same."""
    if info.flag_bits & _UTF8:
        return info.orig_filename
    try:
        return info.orig_filename.encode("cp437").decode("utf-8")
    except UnicodeDecodeError:
        return info.orig_filename


def _count(path: Path, needle: bytes, most: int) -> int:
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found, position = 0, data.find(needle)
        while position >= 0 and found <= most:
            found, position = found + 1, data.find(needle, position + len(needle))
        return found


def _tar_members(archive: Path, most_bytes: int) -> Iterator[Member]:
    kind = kind_of(archive)
    if kind == "xz":
        _check_memory(archive)
    last = ""
    with damage(""), _UNPACKERS[kind](archive, "rb") as unpacked:
        source = _Bounded(unpacked, archive.stat().st_size if kind == "tar" else most_bytes)
        with tarfile.open(fileobj=source, mode="r:") as opened:
            while (info := source.next_header(opened, last)) is not None:
                last = info.name
                yield _tar_member(opened, info)
            source.check_end(last)


def _tar_member(opened: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    if info.isdir():
        return Member(info.name, 0, None)
    if not info.isreg() or info.issparse():
        raise Refused(info.name, _not_plain(info.issym() or info.islnk()))
    return Member(info.name, info.size, opened.extractfile(info))


class _Bounded:
    """The stream behind a tar: only goes forward, not too far, and knows how it has ended."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream = stream
        self._most = most
        self._last = b""
        self._in_header = True

    def next_header(self, opened: tarfile.TarFile, last: str) -> tarfile.TarInfo | None:
        """The next member, of which there is one more after ``last``, or None at the end."""
        self._in_header = True
        with damage(last, _CUT):
            info = opened.next()
        self._in_header = False
        # tarfile would keep them all.
        opened.members.clear()
        return info

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes."""
        self._check(self.tell() + size)
        if self._in_header and size > _LONGEST_HEADER:
            raise Refused("", f"has a header of {size} bytes")
        self._last = self._stream.read(size)
        if self._in_header and b"0" * _MOST_DIGITS in self._last.translate(_DIGITS):
            raise Refused("", f"has a header with {_MOST_DIGITS} digits in a row")
        return self._last

    def seek(self, position: int) -> None:
        """Goes there, which in a packed stream is to unpack it."""
        self._check(position)
        self._stream.seek(position)

    def tell(self) -> int:
        """Bytes before the next one."""
        return self._stream.tell()

    def check_end(self, last: str) -> None:
        """Refuses a tar that was not ended: tarfile takes a damaged header for the end."""
        ended = len(self._last) == tarfile.BLOCKSIZE
        while ended and self._last:
            ended = not any(self._last)
            self.read(_BLOCK)
        if not ended:
            raise Refused(last, _CUT)

    def _check(self, position: int) -> None:
        # A negative size leads backwards, and from there to the same place again.
        if position < self.tell():
            raise Refused("", "is damaged: a size is negative")
        if position > self._most + _BLOCK:
            raise Refused("", "declares more bytes than it may have")


def _check_memory(archive: Path) -> None:
    with archive.open("rb") as stream:
        start = stream.read(2**16)
    try:
        lzma.LZMADecompressor(memlimit=_MEMORY).decompress(start, 1)
    except lzma.LZMAError as error:
        raise Refused("", f"is damaged, or takes more than {_MEMORY} bytes to unpack") from error
