"""TIFF files of all sorts with what must become of each."""

import struct
from collections.abc import Iterator

import imagecodecs
import numpy as np

from bad_input.cases import Case, reads, refuses
from bad_input.encoders import (
    PIXELS,
    deflated,
    encoded,
    packed_bits,
    patched,
    plain_tiff,
    retagged,
    tiff,
)

STACK = np.stack([PIXELS, 255 - PIXELS, PIXELS // 2])
RGB = np.moveaxis(STACK, 0, -1)
WIDE = np.tile(PIXELS, (4, 4))
SMOOTH = np.add.outer(2 * np.arange(64), np.arange(80)).astype(np.uint8)
BITS = np.random.default_rng(4).integers(0, 2, (12, 16), np.uint8)
ZERO = np.uint8(0)
_DEFLATE = 8
_FILE = dict(width=15, height=12)


def tiffs() -> Iterator[Case]:
    yield from _stored_in_many_ways()
    yield from _stacks()
    yield from _of_kinds_that_are_not_read()
    yield from _damaged()
    yield from _wrongly_described()
    yield from _bombs()
    yield from _shared_by_pages()


def _stored_in_many_ways() -> Iterator[Case]:
    deep = PIXELS.astype(np.uint16) * 257 + 1
    yield reads("grey.tif", tiff(), PIXELS)
    yield reads("big endian.tif", tiff(deep, byteorder=">"), deep)
    yield reads("big file.tif", tiff(deep, bigtiff=True, byteorder=">"), deep)
    yield reads("tiles.tif", tiff(WIDE, tile=(16, 32), compression="zlib"), WIDE)
    yield reads("lzw.tif", tiff(deep, compression="lzw", predictor=True), deep)
    yield reads("packbits.tif", tiff(compression="packbits"), PIXELS)
    yield reads("zstd.tif", tiff(compression="zstd"), PIXELS)
    yield reads("jpeg.tif", tiff(SMOOTH, compression="jpeg", rowsperstrip=16), SMOOTH, tolerance=6)
    bits = BITS.astype(bool)
    yield reads("fax.tif", encoded("TIFF", bits, compression="group4"), BITS * 255, bits=1)
    white = plain_tiff(packed_bits(BITS, 1), 16, 12, t258=1, t262=0)
    yield reads("white is zero.tif", white, 255 - BITS * 255, bits=1)
    twelve = np.arange(12 * 16, dtype=np.uint16).reshape(12, 16) * 21
    yield reads("12 bits.tif", plain_tiff(packed_bits(twelve, 12), 16, 12, t258=12), twelve,
                bits=12)  # fmt: skip
    signed = PIXELS.astype(np.int16) - 100
    yield reads("signed.tif", tiff(signed), signed)
    fractions = (PIXELS / 99).astype(np.float32)
    yield reads("fractions.tif", tiff(fractions, compression="zlib", predictor=3), fractions)
    yield reads("half fractions.tif", tiff(fractions.astype(np.float16)),
                fractions.astype(np.float16))  # fmt: skip
    yield reads("constant.tif", tiff(PIXELS * 0 + 9), PIXELS * 0 + 9)
    yield reads("colour.tif", tiff(RGB, photometric="rgb"), STACK, "CYX")
    yield reads("planes of colour.tif", tiff(STACK, photometric="rgb", planarconfig="separate"),
                STACK, "CYX")  # fmt: skip
    opaque = np.concatenate([RGB, np.full((12, 15, 1), 255, np.uint8)], -1)
    yield reads("opaque.tif", tiff(opaque, photometric="rgb", extrasamples=["unassalpha"]), STACK,
                "CYX")  # fmt: skip
    colours = tuple((np.arange(768) // 3 * 257).tolist())
    found = np.reshape(np.array(colours, np.uint16) >> 8, (3, 256)).astype(np.uint8)[:, PIXELS]
    palette = plain_tiff(PIXELS.tobytes(), **_FILE, t262=3, t320=colours)
    yield reads("palette.tif", palette, found, "CYX")
    turned = plain_tiff(PIXELS.tobytes(), **_FILE, t274=6)
    yield reads("turned.tif", turned, PIXELS)


def _stacks() -> Iterator[Case]:
    pages = tiff(STACK, metadata=None)
    yield reads("pages.tif", pages, STACK, "IYX")
    yield reads("ome.tif", tiff(STACK, ome=True, metadata={"axes": "ZYX"}), STACK, "ZYX")
    four = np.stack([STACK, STACK[::-1]])
    yield reads(
        "ome of two axes.tif", tiff(four, ome=True, metadata={"axes": "TCYX"}), four, "TCYX"
    )
    imagej = tiff(STACK, imagej=True, metadata={"axes": "TYX"}, truncate=True)
    yield reads("imagej behind one page.tif", imagej, STACK, "TYX")
    yield reads("imagej.tif", tiff(STACK, imagej=True, metadata={"axes": "ZYX"}), STACK, "ZYX")
    metamorph = plain_tiff(STACK.tobytes(), **_FILE, t279=180, t33628=(0, 0), t33629=(0,) * 3)
    yield reads("metamorph.tif", metamorph, STACK, "IYX")
    description = b'{"shape": [Infinity]}'
    yield reads("endless shape.tif", tiff(description=description, metadata=None), PIXELS)
    description = b'{"shape":' + b"[" * 300_000 + b"}"
    yield reads("deep brackets.tif", tiff(description=description, metadata=None), PIXELS)
    tall = retagged(pages, page=1, RowsPerStrip=2**32 - 1)
    yield reads("endless strips.tif", tall, STACK, "IYX")


def _of_kinds_that_are_not_read() -> Iterator[Case]:
    yield refuses("jpeg2000.tif", tiff(compression="jpeg2000"), "TIFF compression")
    yield refuses("webp.tif", tiff(RGB, photometric="rgb", compression="webp"), "TIFF compression")
    yield refuses("lerc.tif", tiff(compression="lerc"), "TIFF compression")
    yield refuses("old jpeg.tif", plain_tiff(encoded("JPEG"), **_FILE, t259=6), "TIFF compression")
    inks = tiff(np.zeros((8, 8, 4), np.uint8), photometric="separated")
    yield refuses("cmyk.tif", inks, "TIFF photometric 5")
    yield refuses("lab.tif", tiff(RGB, photometric="cielab"), "TIFF photometric 8")
    yield refuses("complex.tif", tiff(np.zeros((8, 8), np.complex64)), "pixel type")
    mixed = plain_tiff(bytes(540), **_FILE, t258=(8, 8, 16), t277=3, t262=2)
    yield refuses("mixed bits.tif", mixed, "pixel type")
    yield refuses("nan.tif", tiff(np.float32([[1, np.nan], [np.inf, 2]])), "2 values that are NaN")
    yield refuses("volume.tif", plain_tiff(PIXELS.tobytes() * 2, **_FILE, t32997=2), "ImageDepth")
    differ = [PIXELS, PIXELS[:6]]
    yield refuses("pages that differ.tif", _pages(differ), "differ in size or pixel type")
    types = [PIXELS, PIXELS.astype(np.uint16)]
    yield refuses("types that differ.tif", _pages(types), "differ in size or pixel type")


def _damaged() -> Iterator[Case]:
    good = tiff(STACK, metadata=None, compression="zlib")
    for part in (4, 8, 30, len(good) // 2, len(good) - 1):
        yield refuses(f"cut at {part}.tif", good[:part], "")
    yield refuses("header only.tif", b"II*\0\x08\0\0\0", "leads nowhere")
    yield refuses("no page.tif", b"II*\0\0\0\0\0", "no image")
    far = b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**63)
    yield refuses("beyond any place.tif", far, "leads nowhere")
    yield refuses("page behind its end.tif", patched(good, 4, b"\xf0\xff\xff\xff"), "leads nowhere")
    loop = plain_tiff(PIXELS.tobytes(), **_FILE, next_page=8 + 180)
    yield refuses("loop.tif", loop, "leads nowhere")
    many = plain_tiff(PIXELS.tobytes(), **_FILE)
    yield refuses("65535 tags.tif", patched(many, 188, b"\xff\xff"), "damaged header")
    tall = plain_tiff(PIXELS.tobytes(), **_FILE, t40000=(1, 2))
    place = tall.index(struct.pack("<HHI", 40_000, 4, 2)) + 4
    yield refuses("a tag of 16 GB.tif", patched(tall, place, b"\xff\xff\xff\xff"), "bytes of tags")
    yield refuses("no width.tif", plain_tiff(PIXELS.tobytes(), **_FILE, t256=None), "")
    yield refuses("zero width.tif", plain_tiff(PIXELS.tobytes(), **_FILE, t256=0), "without pixels")
    yield refuses("no strips.tif", plain_tiff(PIXELS.tobytes(), **_FILE, t273=None), "")
    yield refuses("no samples.tif", plain_tiff(PIXELS.tobytes(), **_FILE, t277=0), "")
    nowhere = {"t273": None, "t279": None, "t324": 8, "t325": 180}
    tiles = plain_tiff(PIXELS.tobytes(), **_FILE, **nowhere, t322=0, t323=0)
    yield refuses("tiles of nothing.tif", tiles, "")
    yield refuses("empty strip.tif", plain_tiff(PIXELS.tobytes(), **_FILE, t279=0), "lacks some")
    long = plain_tiff(PIXELS.tobytes(), **_FILE, t279=2**32 - 1)
    yield refuses("strip of 4 GB.tif", long, "cut short")
    wrong = plain_tiff(bytes(180), **_FILE, t259=_DEFLATE)
    yield refuses("broken stream.tif", wrong, "damaged or cut short")
    few = plain_tiff(imagecodecs.zlib_encode(PIXELS[:6].tobytes()), **_FILE, t259=_DEFLATE)
    yield refuses("a strip too short.tif", few, "damaged or cut short")
    half = encoded("JPEG", SMOOTH)[:-60]
    yield refuses("half a jpeg.tif", plain_tiff(half, 80, 64, t259=7), "no end mark")
    palette = plain_tiff(PIXELS.tobytes(), **_FILE, t262=3)
    yield refuses("no palette.tif", palette, "without a fitting colour map")
    yield refuses("html.tif", b"<html><body>404 Not Found</body></html>", "no image")


def _wrongly_described() -> Iterator[Case]:
    def told(text: str, pixels: np.ndarray = STACK) -> bytes:
        return tiff(pixels, description=text.encode(), metadata=None)

    head = '<OME><Image><Pixels DimensionOrder="XYZCT" SizeX="15" SizeY="12" '
    tail = "</Pixels></Image></OME>"
    missing = f'{head} SizeZ="5" SizeC="1" SizeT="1"><TiffData PlaneCount="5"/>{tail}'
    yield refuses("ome lacks planes.tif", told(missing), "describes 5 planes but holds 3")
    other = f'{head} SizeZ="3" SizeC="1" SizeT="1"><TiffData FirstZ="2"/>{tail}'
    yield refuses("ome in another file.tif", told(other), "in another file")
    yield refuses("broken xml.tif", told("<OME><Image></OME>"), "damaged OME-XML")
    few = f'{head} SizeZ="-3" SizeC="1" SizeT="-1">{tail}'
    yield refuses("fewer than none.tif", told(few), "less than one plane")
    yield refuses("words for numbers.tif", told(f'{head} SizeZ="three">{tail}'), "damaged")
    entities = "".join(f'<!ENTITY e{k + 1} "{f"&e{k};" * 10}">' for k in range(9))
    laughs = f'<!DOCTYPE l [<!ENTITY e0 "{"x" * 1000}">{entities}]><OME>&e9;</OME>'
    yield refuses("a billion laughs.tif", told(laughs), "damaged OME-XML")
    secret = '<!DOCTYPE l [<!ENTITY e SYSTEM "file:///etc/passwd">]><OME>&e;</OME>'
    yield refuses("file in xml.tif", told(secret), "OME-XML")
    deep = "<OME>" + "<a>" * 300_000 + "</a>" * 300_000 + "</OME>"
    yield refuses("deep xml.tif", told(deep), "describes 0 images")
    imagej = "ImageJ=1.53\nimages=9\nslices=9\n"
    yield refuses("imagej lacks planes.tif", told(imagej), "describes 9 planes but holds 3")
    many = "ImageJ=1.53\nimages=99999999999999999999\n"
    yield refuses("endless imagej.tif", told(many, PIXELS), "is cut short")


def _bombs() -> Iterator[Case]:
    side, edge = 30_016, 8192
    rows = deflated(bytes(side), side)
    wide = plain_tiff(rows, side, side, t259=_DEFLATE)
    yield refuses("900 megapixels.tif", wide, "pixels in a plane")
    plain = plain_tiff(PIXELS.tobytes(), side, side)
    yield refuses("900 megapixels in 200 bytes.tif", plain, "cut short")
    long = deflated(bytes(edge * 8), edge)
    eight = plain_tiff(long, edge, edge, t258=64, t339=3, t259=_DEFLATE)
    yield refuses("half a gigabyte.tif", eight, "for one of its own")
    small = deflated(bytes(5790 * 8), 5790)
    most = plain_tiff(small, 5790, 5790, t258=64, t339=3, t259=_DEFLATE)
    large = np.broadcast_to(np.float64(0), (5790, 5790))
    yield reads("as large as may be.tif", most, large)
    colours = tuple((np.arange(768) * 80).tolist())
    indexed = plain_tiff(deflated(bytes(6680), 6680), 6680, 6680, t259=_DEFLATE, t262=3,
                         t320=colours)  # fmt: skip
    deep = np.broadcast_to(np.array([0, 20480, 40960], np.uint16)[:, None, None], (3, 6680, 6680))
    yield reads("as many colours as may be.tif", indexed, deep, "CYX")
    tile = plain_tiff(rows, **_FILE, t259=_DEFLATE, t273=None, t278=None, t279=None, t322=side,
                      t323=side, t324=8, t325=len(rows))  # fmt: skip
    yield refuses("a tile of 900 megapixels.tif", tile, "tiles far larger")
    behind = tiff(description="ImageJ=1\nimages=999999\n", metadata=None)
    yield refuses("a million planes.tif", behind, "is cut short")
    planes = plain_tiff(bytes(24) + bytes(8 * 500_000), 6, 4, t279=24, t33628=(0, 0),
                        t33629=(0,) * 500_000)  # fmt: skip
    yield refuses("half a million planes.tif", planes, "is cut short")


def _shared_by_pages() -> Iterator[Case]:
    """Small files of many pages, which would be read again for each of them."""
    few = {256: (1, 1), 257: (1, 1), 273: (1, 8), 279: (1, 1)}
    pages = np.zeros((4096, 1, 1), np.uint8)
    yield reads("4096 pages.tif", _chain(4096, few), pages, "IYX")
    yield refuses("4097 pages.tif", _chain(4097, few), "pages")
    tags = {40_000 + k: (1, 1) for k in range(100)}
    yield refuses("half a million tags.tif", _chain(4096, few | tags), "tags")
    count = 2**17
    strips = {256: (1, 4), 257: (1, count), 273: (count, 8), 279: (count, 8)}
    content = struct.pack("<I", 8) * count
    yield refuses("40 million strips.tif", _chain(300, strips, content), "strips")
    text = {**few, 270: (4 * count, 8)}
    yield refuses("one text for all.tif", _chain(4000, text, content), "bytes of tags")


def _chain(pages: int, tags: dict[int, tuple[int, int]], content: bytes = bytes(8)) -> bytes:
    """Pages with the same (count, value) of every tag; the content begins at byte 8."""
    usual = {258: (1, 8), 259: (1, 1), 262: (1, 1), 277: (1, 1), 278: (1, 1)}
    kinds = {270: 2}
    entries = b"".join(
        struct.pack("<HHII", code, kinds.get(code, 4), *value)
        for code, value in sorted((usual | tags).items())
    )
    count = struct.pack("<H", len(usual | tags))
    start, length = 8 + len(content), len(entries) + 6
    links = [start + length * (k + 1) for k in range(pages - 1)] + [0]
    body = b"".join(count + entries + struct.pack("<I", link) for link in links)
    return b"II*\0" + struct.pack("<I", start) + content + body


def _pages(arrays: list[np.ndarray]) -> bytes:
    """Pages that need not be alike."""
    data = plain_tiff(arrays[0].tobytes(), *arrays[0].shape[::-1])
    link = len(data) - 4
    # The second page is a file of its own whose offsets are moved.
    start = len(data)
    more = arrays[1]
    fields = {256: more.shape[1], 257: more.shape[0], 258: 8 * more.itemsize, 259: 1, 262: 1,
              273: start, 277: 1, 278: more.shape[0], 279: more.nbytes}  # fmt: skip
    body = struct.pack("<H", len(fields))
    body += b"".join(struct.pack("<HHII", code, 4, 1, v) for code, v in sorted(fields.items()))
    place = start + more.nbytes
    return patched(data, link, struct.pack("<I", place)) + more.tobytes() + body + bytes(4)
