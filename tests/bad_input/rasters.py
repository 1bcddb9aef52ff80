"""PNG, JPEG, BMP and GIF files with what must become of each."""

import io
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image as PillowImage

from bad_input.cases import Case, reads, refuses
from bad_input.encoders import (
    PIXELS,
    animated,
    chunk,
    deflated,
    encoded,
    jpeg_with,
    many_scans,
    patched,
    png,
    png_header,
    png_of_bits,
    png_of_zeros,
    seeds,
)

RGB = np.stack([PIXELS, 255 - PIXELS, PIXELS // 2], -1)
DEEP = RGB.astype(np.uint16) * 257 + 3
SMOOTH = np.add.outer(4 * np.arange(32), 3 * np.arange(40)).astype(np.uint8)
BITS = np.random.default_rng(4).integers(0, 2, (12, 16), np.uint8)
NOTHING = np.uint8(0)
_SIDE = 8192
_END = chunk(b"IEND", b"")


def planes(pixels: np.ndarray) -> np.ndarray:
    return np.moveaxis(pixels, -1, 0)


def rasters() -> Iterator[Case]:
    yield from _pngs()
    yield from _odd_pngs()
    yield from _png_bombs()
    yield from _jpegs()
    yield from _bmps()
    yield from _gifs()


def _pngs() -> Iterator[Case]:
    yield reads("grey.png", png(PIXELS), PIXELS)
    yield reads("16 bits.png", png(DEEP[..., 0]), DEEP[..., 0])
    yield reads("colour.png", png(RGB), planes(RGB), "CYX")
    yield reads("16 bits of colour.png", png(DEEP), planes(DEEP), "CYX")
    yield reads("interlaced.png", png(RGB, interlace=1), planes(RGB), "CYX")
    yield reads("one bit.png", png_of_bits(BITS, 1), BITS * 255, bits=1)
    yield reads("two bits.png", png_of_bits(BITS * 2, 2), BITS * 170, bits=2)
    yield reads("four bits.png", png_of_bits(BITS * 9, 4), BITS * 153, bits=4)
    alpha = np.concatenate([RGB, PIXELS[..., None]], -1)
    yield reads("alpha.png", png(alpha), planes(alpha), "CYX")
    alpha[..., 3] = 255
    yield reads("opaque.png", png(alpha), planes(RGB), "CYX")
    palette = chunk(b"PLTE", bytes([9, 8, 7, 200, 100, 50]))
    colours = np.array([[9, 8, 7], [200, 100, 50]], np.uint8)
    indexed = png_of_bits(BITS, 1, 3, palette)
    yield reads("palette.png", indexed, planes(colours[BITS]), "CYX", 8)
    greys = chunk(b"PLTE", bytes([255] * 3 + [0] * 3))
    yield reads("grey palette.png", png_of_bits(BITS, 1, 3, greys), 255 - BITS * 255)
    frames = np.stack([PIXELS, 255 - PIXELS, PIXELS // 2])
    yield reads("animated.png", animated("PNG", frames), frames, "TYX")
    yield reads("constant.png", png(PIXELS * 0 + 7), PIXELS * 0 + 7)
    yield reads("one pixel.png", png(PIXELS[:1, :1]), PIXELS[:1, :1])
    gamma = chunk(b"gAMA", struct.pack(">I", 20_000)) + chunk(b"sBIT", b"\4")
    yield reads("gamma.png", png(PIXELS, gamma), PIXELS)
    yield reads("with a tail.png", png(PIXELS) + b"\0" * 5000, PIXELS)
    yield reads("really a JPEG.png", encoded("JPEG", SMOOTH), SMOOTH, tolerance=6)


def _odd_pngs() -> Iterator[Case]:
    good = png(PIXELS)
    yield refuses("empty.png", b"", "is empty")
    for part in (8, 20, 33, 41, 100, len(good) - 13, len(good) - 1):
        yield refuses(f"cut at {part}.png", good[:part], "damaged")
    yield refuses("wrong checksum.png", patched(good, -20, b"\1\2\3\4"), "damaged")
    text = chunk(b"tEXt", b"Comment\0words")
    yield refuses(
        "damaged text.png", png(PIXELS, patched(text, 12, b"!")), "wrong checksum in tEXt"
    )
    yield refuses("unknown part.png", png(PIXELS, chunk(b"NEWT", b"12")), "not known (NEWT)")
    yield refuses("three bits.png", png_header(15, 12, 3) + good[33:], "damaged")
    yield refuses("no such colours.png", png_header(15, 12, 8, 5) + good[33:], "damaged")
    yield refuses("no width.png", png_header(0, 12) + good[33:], "")
    yield refuses("a row missing.png", png_header(15, 13) + good[33:], "lacks some of its pixels")
    odd = png_header(15, 12, interlace=2) + good[33:]
    yield refuses("unknown storage.png", odd, "in a way that is not known")
    yield refuses("a part of 2 GB.png", good[:33] + b"\x7f\xff\xff\xffIDAT" + bytes(99), "damaged")
    yield refuses("no palette.png", png_of_bits(BITS, 1, 3), "colours")
    short = png_of_bits(BITS * 9, 4, 3, chunk(b"PLTE", bytes(9)))
    yield refuses("indices without colours.png", short, "does not define")
    yield refuses("no pixels.png", good[:33] + _END, "")
    yield refuses("broken stream.png", good[:33] + chunk(b"IDAT", b"\x78\x9c" + bytes(99)) + _END,
                  "damaged")  # fmt: skip
    endless = chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    yield refuses("endless animation.png", png(PIXELS, endless), "planes")
    one = chunk(b"acTL", struct.pack(">II", 5, 0))
    yield refuses("frames missing.png", png(PIXELS, one), "damaged")


def _png_bombs() -> Iterator[Case]:
    """Small files that ask for much, and long ones that hold little."""
    yield refuses("900 megapixels.png", png_of_zeros(30_016, 30_016, 1), "pixels")
    yield refuses("100 megapixels.png", png_of_zeros(10_048, 10_048), "pixels in a plane")
    yield refuses("huge header.png", png_header(2**31 - 1, 2**31 - 1) + _END, "pixels")
    yield refuses("400 megabytes.png", png_of_zeros(_SIDE, _SIDE, 16, 2, 3), "for one of its own")
    large = np.broadcast_to(NOTHING, (4, _SIDE, _SIDE))
    yield reads("as large as may be.png", png_of_zeros(_SIDE, _SIDE, 8, 6, 4), large, "CYX")
    bomb = b"name\0\0" + deflated(bytes(2**20), 200)
    for kind in (b"zTXt", b"iCCP", b"iTXt"):
        content = b"name\0\1\0\0\0" + bomb[6:] if kind == b"iTXt" else bomb
        yield reads(f"{kind.decode()} of 200 MB.png", png(PIXELS, chunk(kind, content)), PIXELS)
    yield refuses("two million texts.png", png(PIXELS, chunk(b"tEXt", b"") * 2_000_000), "parts")
    # A tail of zeros that takes no room on the disk.
    for name, data in seeds().items():
        yield _lengthened(refuses(f"a terabyte behind {name}", data, "far more than"), 2**40)
    head = png_header(15, 12) + struct.pack(">I", 2**31 - 1)
    yield _lengthened(refuses("a long text.png", head + b"tEXt", "no pixels"), 2**32)
    yield _lengthened(refuses("long pixels.png", head + b"IDAT", ""), 2**32)


def _jpegs() -> Iterator[Case]:
    good, slow = encoded("JPEG", SMOOTH), encoded("JPEG", SMOOTH, progressive=True)
    yield reads("grey.jpg", good, SMOOTH, tolerance=6)
    yield reads("progressive.jpg", slow, SMOOTH, tolerance=6)
    colours = np.stack([SMOOTH, SMOOTH // 2, 255 - SMOOTH], -1)
    soft = encoded("JPEG", colours, quality=95, subsampling=0)
    yield reads("colour.jpg", soft, planes(colours), "CYX", tolerance=12)
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    yield reads("turned.jpg", encoded("JPEG", SMOOTH, exif=exif), SMOOTH, tolerance=6)
    yield reads("restarts.jpg", encoded("JPEG", SMOOTH, restart_marker_blocks=2), SMOOTH,
                tolerance=6)  # fmt: skip
    yield reads("two in one.jpg", good + slow, SMOOTH, tolerance=6)
    yield refuses("cmyk.jpg", encoded("JPEG", mode="CMYK"), "CMYK")
    yield refuses("12 bits.jpg", jpeg_with(good, 0xC0, 4, b"\x0c"), "damaged")
    yield refuses("lossless.jpg", jpeg_with(good, 0xC0, 1, b"\xc3"), "")
    for part in (2, 100, len(good) * 2 // 3, len(good) - 2):
        yield refuses(f"cut at {part}.jpg", good[:part], "")
        yield refuses(f"zeros from {part} on.jpg", good[:part] + bytes(9000), "")
    yield refuses("900 megapixels.jpg", jpeg_with(good, 0xC0, 5, b"\x75\x30\x75\x30"), "pixels")
    yield refuses("no height.jpg", jpeg_with(good, 0xC0, 5, b"\0\0"), "")
    yield refuses("no tables.jpg", good.replace(b"\xff\xdb", b"\xff\xfe"), "damaged")
    wide = encoded("JPEG", np.zeros((4096, 4096), np.uint8), progressive=True)
    yield refuses("ten thousand scans.jpg", many_scans(wide, 10_000), "scans")
    yield _lengthened(refuses("a terabyte of nothing.jpg", good[:-40], "no end mark"), 2**40)


def _bmps() -> Iterator[Case]:
    good = encoded("BMP")
    yield reads("grey.bmp", good, PIXELS)
    yield reads("colour.bmp", encoded("BMP", RGB), planes(RGB), "CYX")
    yield reads("one bit.bmp", encoded("BMP", BITS > 0), BITS * 255, bits=1)
    upside_down = patched(good, 22, struct.pack("<i", -12))
    yield reads("upside down.bmp", upside_down, PIXELS[::-1])
    yield refuses("900 megapixels.bmp", patched(good, 18, struct.pack("<ii", 30_000, 30_000)),
                  "pixels")  # fmt: skip
    yield refuses("seven bits.bmp", patched(good, 28, b"\7\0"), "damaged")
    yield refuses("compressed as JPEG.bmp", patched(good, 30, b"\4"), "damaged")
    yield refuses("pixels behind its end.bmp", patched(good, 10, struct.pack("<I", 10**9)), "")
    # Coded as skips over large parts of the picture, which must not pile up.
    skips = patched(good, 18, struct.pack("<iiHHI", _SIDE, _SIDE, 1, 8, 1))
    black = np.broadcast_to(NOTHING, (_SIDE, _SIDE))
    yield reads("all left out.bmp", skips[:1078] + b"\0\2\xff\xff" * 20_000, black)
    for part in (2, 14, 60, len(good) - 2):
        yield refuses(f"cut at {part}.bmp", good[:part], "damaged or cut short")


def _gifs() -> Iterator[Case]:
    frames = np.stack([PIXELS, 255 - PIXELS, PIXELS // 2])
    good = animated("GIF", frames)
    yield reads("still.gif", encoded("GIF"), PIXELS)
    yield reads("moving.gif", good, frames, "TYX")
    colours = np.stack([RGB // 128 * 127] * 2)
    colours[1] = colours[1, ::-1]
    expected = np.moveaxis(colours, -1, 1)
    yield reads("moving colours.gif", animated("GIF", colours), expected, "TCYX")
    start = 13 + 3 * 2 ** ((good[10] & 7) + 1)
    comment = b"!\xfe" + (b"\xff" + b"a" * 255) * 80_000 + b"\0"
    yield reads("long comment.gif", good[:start] + comment + good[start:], frames, "TYX")
    yield reads("with a tail.gif", good + bytes(5000), frames, "TYX")
    small = b"!\xfe" + b"\1a" * 5_000_000 + b"\0"
    yield refuses("comment of crumbs.gif", good[:start] + small + good[start:], "blocks")
    block = good[start:-1]
    yield refuses("12000 frames.gif", good[:start] + block * 4000 + b";", "frames")
    yield refuses("3.6 gigapixels.gif", patched(good, 6, b"\x60\xea\x60\xea"), "pixels")
    zeros = np.zeros((2, 4096, 4096), np.uint8)
    zeros[1, 0, 0] = 1
    bomb = animated("GIF", zeros, optimize=False)
    yield refuses("mostly nothing.gif", bomb, "for one of its own")
    yield refuses("no end.gif", good[:-1], "")
    yield refuses("no frames.gif", good[:start] + b";", "")
    for part in (6, 10, 60, len(good) // 2):
        yield refuses(f"cut at {part}.gif", good[:part], "cut short")


def _lengthened(case: Case, size: int) -> Case:
    """The same file with zeros behind it, of which the disk stores nothing."""

    def make(path: io.BytesIO) -> None:
        case.make(path)
        with path.open("r+b") as stream:
            stream.truncate(size)

    return Case(**{**vars(case), "make": make})
