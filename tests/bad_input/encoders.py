"""Image files as bytes, also such as no honest program writes."""

import io
import struct
import zlib
from collections.abc import Iterator

import imagecodecs
import numpy as np
import tifffile
from PIL import Image as PillowImage

PIXELS = np.random.default_rng(3).integers(0, 256, (12, 15), np.uint8)
_PNG_COLOUR = {1: 0, 2: 4, 3: 2, 4: 6}  # samples of a pixel: PNG's colour type
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4),
          (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))  # fmt: skip


def encoded(kind: str, pixels: np.ndarray = PIXELS, mode: str = "", **options: object) -> bytes:
    """What Pillow writes."""
    stream, image = io.BytesIO(), PillowImage.fromarray(pixels)
    image.convert(mode or image.mode).save(stream, kind, **options)
    return stream.getvalue()


def animated(kind: str, frames: np.ndarray, **options: object) -> bytes:
    """Frames [N, Y, X] or [N, Y, X, 3] as GIF or PNG."""
    first, *others = [PillowImage.fromarray(frame) for frame in frames]
    stream = io.BytesIO()
    first.save(stream, kind, save_all=True, append_images=others, **options)
    return stream.getvalue()


def tiff(pixels: np.ndarray = PIXELS, **options: object) -> bytes:
    """What tifffile writes."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **{"photometric": "minisblack", **options})
    return stream.getvalue()


def retagged(data: bytes, page: int = 0, **tags: object) -> bytes:
    """A TIFF some tags of which now tell something else."""
    stream = io.BytesIO(data)
    with tifffile.TiffFile(stream) as file:
        for name, value in tags.items():
            file.pages[page].tags[name].overwrite(value)
    return stream.getvalue()


def plain_tiff(
    pixels: bytes, width: int, height: int, next_page: int = 0, **tags: int | tuple[int, ...] | None
) -> bytes:
    """The smallest little-endian TIFF; tags as t<number>, None to leave one out.

    All are of type LONG but the colour map (320), which has to be of type SHORT.

    The pixels begin at byte 8, the page behind them.
    """
    fields = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height}
    fields |= {279: len(pixels)} | {int(name[1:]): value for name, value in tags.items()}
    fields = {code: value for code, value in fields.items() if value is not None}
    start, lists, entries = 8 + len(pixels), b"", b""
    room = start + 2 + 12 * len(fields) + 4
    for code, value in sorted(fields.items()):
        values = value if isinstance(value, tuple) else (value,)
        kind, letter = (3, "H") if code == 320 else (4, "I")
        packed = struct.pack(f"<{len(values)}{letter}", *values)
        inline = packed if len(packed) == 4 else struct.pack("<I", room + len(lists))
        lists += packed if len(packed) > 4 else b""
        entries += struct.pack("<HHI", code, kind, len(values)) + inline
    head = b"II*\0" + struct.pack("<I", start)
    last = struct.pack("<I", next_page)
    return head + pixels + struct.pack("<H", len(fields)) + entries + last + lists


def packed_bits(numbers: np.ndarray, bits: int) -> bytes:
    """Numbers [Y, X] as rows of ``bits`` each, the first one high; rows end on a byte."""
    return np.packbits(numbers[..., None] >> np.arange(bits)[::-1] & 1, axis=None).tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(
    width: int, height: int, depth: int = 8, colour: int = 0, interlace: int = 0
) -> bytes:
    """Signature and first part of a PNG."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)


def png(
    pixels: np.ndarray, extra: bytes = b"", colour: int | None = None, interlace: int = 0
) -> bytes:
    """A PNG of 8 or 16 bits, [Y, X] or [Y, X, samples]; ``extra`` parts come before the pixels."""
    samples = 1 if pixels.ndim == 2 else pixels.shape[2]
    stored = pixels.astype(pixels.dtype.newbyteorder(">"))
    rows = b"".join(
        b"\0" + row.tobytes()
        for part in (_interlaced(stored) if interlace else [stored])
        for row in part
    )
    colour = _PNG_COLOUR[samples] if colour is None else colour
    head = png_header(*pixels.shape[1::-1], 8 * pixels.itemsize, colour, interlace)
    return head + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _interlaced(pixels: np.ndarray) -> Iterator[np.ndarray]:
    passes = (pixels[y::down, x::right] for y, x, down, right in _ADAM7)
    return (part for part in passes if part.size)


def png_of_bits(numbers: np.ndarray, bits: int, colour: int = 0, extra: bytes = b"") -> bytes:
    """A PNG of 1, 2 or 4 bits; the row must fill whole bytes."""
    rows = b"".join(b"\0" + packed_bits(row, bits) for row in numbers)
    head = png_header(*numbers.shape[::-1], bits, colour)
    return head + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def png_of_zeros(
    width: int, height: int, depth: int = 8, colour: int = 0, samples: int = 1
) -> bytes:
    """A whole PNG of nothing but zeros, made without holding its pixels."""
    row = bytes(1 + (width * depth * samples + 7) // 8)
    data = deflated(row * 64, height // 64) if height % 64 == 0 else zlib.compress(row * height)
    return png_header(width, height, depth, colour) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def deflated(block: bytes, times: int) -> bytes:
    """The same bytes many times over, compressed block by block."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(block) for _ in range(times)) + packer.flush()


def jpeg_parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, bytes with the marker) of a JPEG; coded pixels belong to the scan before them."""
    place = 2
    while place < len(data):
        marker, end = data[place + 1], place + 2
        if marker not in (0xD8, 0xD9):
            end += int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xDA:
            while not (data[end] == 0xFF and data[end + 1] not in (0, *range(0xD0, 0xD8))):
                end += 1
        yield marker, data[place:end]
        place = end


def jpeg_with(data: bytes, marker: int, place: int, new: bytes) -> bytes:
    """A JPEG whose first part of this kind holds other bytes from ``place`` on."""
    parts = list(jpeg_parts(data))
    number = [kind for kind, _ in parts].index(marker)
    old = parts[number][1]
    parts[number] = (marker, old[:place] + new + old[place + len(new) :])
    return data[:2] + b"".join(part for _, part in parts)


def many_scans(data: bytes, times: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    parts = list(jpeg_parts(data))
    number = max(k for k, (kind, _) in enumerate(parts) if kind == 0xDA)
    whole = [part for _, part in parts]
    return data[:2] + b"".join([*whole[:number], *[whole[number]] * times, *whole[number + 1 :]])


def patched(data: bytes, place: int, new: bytes) -> bytes:
    """The same bytes with some of them replaced."""
    place %= len(data)
    return data[:place] + new + data[place + len(new) :]


def seeds() -> dict[str, bytes]:
    """One small file of every kind of storage."""
    stack = np.stack([PIXELS, 255 - PIXELS, PIXELS // 2])
    return {
        "a.png": encoded("PNG"),
        "deep.png": imagecodecs.png_encode(np.stack([PIXELS.astype(np.uint16) * 257] * 3, -1)),
        "a.jpg": encoded("JPEG"),
        "progressive.jpg": encoded("JPEG", progressive=True),
        "a.bmp": encoded("BMP"),
        "a.gif": animated("GIF", stack),
        "plain.tif": tiff(),
        "ome.tif": tiff(stack, ome=True, compression="zlib", predictor=True),
        "imagej.tif": tiff(stack, imagej=True, metadata={"axes": "ZYX"}),
        "lzw.tif": tiff(compression="lzw", bigtiff=True),
        "fax.tif": encoded("TIFF", PIXELS > 99, compression="group4"),
        "jpeg.tif": encoded("TIFF", compression="jpeg"),
    }
