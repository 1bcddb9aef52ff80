"""What a JPEG stream promises, without decoding it; such streams also lie inside TIFF files."""

import re
from typing import BinaryIO

from common.data.image_layout import COPY_AGAIN, Refused

_END, _SCAN = 0xD9, 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
# Within coded pixels 255 is followed by 0, by a restart mark, or by the next part.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_BLOCK = 2**14
# Ten are usual. Each goes over the whole image, whose size a few bytes can declare.
_MOST_SCANS, _MOST_PARTS, _MOST_BYTES = 100, 2**16, 2**29


def jpeg_size(file: BinaryIO) -> tuple[int, int]:
    """Rows and columns, for which a decoder reserves memory.

    Raises:
        Refused: the stream does not tell its size, has no end mark, which decoders overlook, or
            more parts or scans than an image needs.
    """
    size, scans = None, 0
    file.seek(2)
    for _ in range(_MOST_PARTS):
        marker = _next_marker(file)
        if marker == _END:
            break
        start = file.tell()
        head = file.read(7)
        if marker in _FRAMES:
            size = int.from_bytes(head[3:5], "big"), int.from_bytes(head[5:7], "big")
        scans += marker == _SCAN
        if scans > _MOST_SCANS:
            raise Refused(f"holds a JPEG stream of more than {_MOST_SCANS} scans")
        file.seek(start + int.from_bytes(head[:2], "big"))
    else:
        raise Refused(f"holds a JPEG stream of more than {_MOST_PARTS} parts")
    if size is None:
        raise Refused("holds a JPEG stream that does not tell its size", COPY_AGAIN)
    return size


def _next_marker(file: BinaryIO) -> int:
    while (block := file.read(_BLOCK)) and file.tell() < _MOST_BYTES:
        found = _MARKER.search(block)
        if found is not None:
            file.seek(found.end() - len(block), 1)
            return found[0][1]
        if block[-1] == 0xFF and len(block) > 1:
            file.seek(-1, 1)
    raise Refused("is cut short: its JPEG stream has no end mark", COPY_AGAIN)
