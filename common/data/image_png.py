"""PNG for `image_raster`: the file as a decoder should see it, and whether all of it is there."""

import io
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import BinaryIO

from common.data.image_layout import COPY_AGAIN, Refused

_NEEDED = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
# What else concerns pixels: transparency and the frames of an animation.
_OF_PIXELS = (*_NEEDED, b"tRNS", b"acTL", b"fcTL", b"fdAT")
_MOST_PARTS, _MOST_METADATA, _BLOCK = 2**18, 2**26, 2**20
_HEADER = ">IIBBBBB"
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# First row and column, and the steps to the next, of each pass of an interlaced image.
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4),
          (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))  # fmt: skip


def pixel_parts(file: BinaryIO) -> BinaryIO:
    """The same PNG without texts, colour profiles and whatever lies behind its end mark.

    These change no pixel here, but they can be as large as they like, also when compressed.

    Raises:
        Refused: the file has no end mark, more parts or metadata than any image needs, damaged
            metadata, or a part that a reader must know and this one does not.
    """
    spans, metadata = [(0, 8)], 0
    for kind, start, length in _parts(file):
        if kind in _OF_PIXELS:
            spans.append((start, length + 12))
        elif kind[:1].isupper():
            raise Refused(f"holds a part that is not known ({kind.decode()})")
        else:
            metadata += length
            if metadata > _MOST_METADATA:
                raise Refused(f"holds more than {_MOST_METADATA} bytes that are no pixels")
            _content(file, kind, length)
    return io.BufferedReader(_Spans(file, spans))


def check_parts(file: BinaryIO) -> None:
    """Compares all checksums, and counts rows, because decoders leave missing ones black.

    Raises:
        Refused: a checksum is wrong, or pixels or a palette are missing.
    """
    inflate, kinds, missing, indexed = zlib.decompressobj(), set(), 0, False
    for kind, _, length in _parts(file):
        content = _content(file, kind, length)
        if kind == b"IHDR":
            missing, indexed = _bytes_of_rows(content), content[9] == 3
        elif kind == b"IDAT":
            missing -= _inflated(inflate, content, missing)
        kinds.add(kind)
    if missing > 0 or (indexed and b"PLTE" not in kinds):
        raise Refused("lacks some of its pixels or colours", COPY_AGAIN)


def _parts(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """(kind, place, bytes of content) up to the end mark; the file then stands at the content."""
    place, end = 8, file.seek(0, io.SEEK_END)
    for _ in range(_MOST_PARTS):
        file.seek(place)
        length, kind = struct.unpack(">I4s", file.read(8).ljust(8))
        start, place = place, place + length + 12
        # Reading more than there is would reserve memory for it.
        if place > end or not kind.isalpha():
            raise Refused("is damaged or cut short between its parts", COPY_AGAIN)
        yield kind, start, length
        if kind == b"IEND":
            return
    raise Refused(f"holds more than {_MOST_PARTS} parts")


def _content(file: BinaryIO, kind: bytes, length: int) -> bytes:
    content, checksum = file.read(length), file.read(4)
    if zlib.crc32(content, zlib.crc32(kind)) != int.from_bytes(checksum, "big"):
        raise Refused(f"is damaged (wrong checksum in {kind.decode()})", COPY_AGAIN)
    return content


def _bytes_of_rows(header: bytes) -> int:
    """Of the decompressed image; every row begins with a byte that names its filter."""
    width, height, depth, colour, packing, filtering, interlaced = struct.unpack(_HEADER, header)
    if packing or filtering or interlaced > 1:
        raise Refused("is stored in a way that is not known")
    total = 0
    for y, x, down, right in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        rows, columns = -((y - height) // down), -((x - width) // right)
        if columns > 0:
            total += max(0, rows) * (1 + -(-columns * depth * _SAMPLES[colour] // 8))
    return total


def _inflated(inflate: "zlib._Decompress", data: bytes, most: int) -> int:
    """How many bytes come out; counting ends soon after ``most``, however many there are."""
    count = 0
    while data and count < most:
        block = inflate.decompress(data, _BLOCK)
        data, count = inflate.unconsumed_tail, count + len(block)
    return count


class _Spans(io.RawIOBase):
    """Stretches (start, length) of a file, one behind the other, as a file of their own."""

    def __init__(self, file: BinaryIO, spans: Sequence[tuple[int, int]]) -> None:
        self._file = file
        self._ends_there = [start + length for start, length in spans]
        self._ends = list(accumulate(length for _, length in spans))
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = max(0, offset + (0, self._place, self._ends[-1])[whence])
        return self._place

    def readinto(self, buffer: memoryview) -> int:
        span = bisect_right(self._ends, self._place)
        if span == len(self._ends):
            return 0
        left = self._ends[span] - self._place
        self._file.seek(self._ends_there[span] - left)
        count = self._file.readinto(memoryview(buffer)[:left])
        self._place += count
        return count
