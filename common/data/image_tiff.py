"""TIFF for `image_io`: first what the header promises, then the pixels.

Works on pages, not on tifffile's series: a series fills missing planes with zeros, opens the
neighbouring files that a header names, and reserves whatever memory an OME-XML asks for.
"""

import io
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from tifffile import TiffFile, TiffPage

from common.data.image_jpeg import jpeg_size
from common.data.image_layout import COPY_AGAIN, Layout, Refused, describe
from common.data.image_pages import count_pages

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
PLAIN, JPEG = 1, 7
# CCITT (2-4), LZW, deflate (two codes), PackBits, zstd. Not JPEG 2000 nor camera and web codecs:
# each is one more decoder within reach of hostile files.
COMPRESSIONS = (PLAIN, 2, 3, 4, 5, JPEG, 8, 32946, 32773, 50000)
_USUAL_TILE = 2**22  # samples; even a small image may keep to it

# NumPy warns about the arithmetic of damaged headers. For all threads, as in `image_raster`.
warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"tifffile")

_COMPLAINTS: ContextVar[list[str] | None] = ContextVar("complaints", default=None)


@dataclass(frozen=True)
class TiffHeader:
    """A TIFF of which no pixel was decoded yet: its pages, all alike, and their layout."""

    tiff: TiffFile
    pages: tuple[TiffPage, ...]
    layout: Layout

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[planes, samples, Y, X] as stored."""
        page = self.pages[0]
        return self.layout.planes, page.samplesperpixel, page.imagelength, page.imagewidth

    @property
    def stored_bits(self) -> int:
        """Bits of a pixel as stored."""
        return self.pages[0].bitspersample * self.pages[0].samplesperpixel

    @property
    def bytes_per_sample(self) -> int:
        """Of the decoded image; an index becomes three values of up to 16 bits."""
        return 6 if _colour(self.pages[0]) == PALETTE else self.pages[0].dtype.itemsize

    @property
    def has_alpha(self) -> bool:
        """Whether the last sample of a pixel is its opacity."""
        return tuple(self.pages[0].extrasamples[-1:]) in ((1,), (2,))


@contextmanager
def _complaints_are_damage() -> Iterator[None]:
    """Refuses a file for damage that tifffile only logs before it goes on."""
    complaints: list[str] = []
    token = _COMPLAINTS.set(complaints)
    try:
        yield
    finally:
        _COMPLAINTS.reset(token)
    if complaints:
        raise Refused(f"has a damaged header ({complaints[0][:80]})", COPY_AGAIN)


@_complaints_are_damage()
def read_header(file: BinaryIO, max_pages: int) -> TiffHeader:
    """Reads and checks the tags of all pages, without decoding or reserving memory for pixels.

    Pages marked as reduced (thumbnails, pyramid levels) are left out.

    Raises:
        Refused: too many pages, pages that differ, a storage that is not read, fewer bytes than
            the pixels need, or another number of planes than the description tells.
    """
    count = count_pages(file, max_pages)
    file.seek(0)
    tiff = TiffFile(file, is_lsm=False, is_ndpi=False, is_scanimage=False)
    every = [tiff.pages[index] for index in range(count)]
    pages = tuple(page for page in every if not page.is_reduced)
    if not pages:
        raise Refused("holds no image", COPY_AGAIN)
    for page in pages:
        _check_storage(page)
        _check_segments(page)
    kinds = {(p.shape, p.dtype, p.bitspersample, p.extrasamples, _colour(p)) for p in pages}
    if len(kinds) > 1:
        raise Refused(
            f"holds {len(pages)} pages that differ in size or pixel type", "save each page alone"
        )
    header = TiffHeader(tiff, pages, describe(pages[0], len(pages)))
    _check_planes(header)
    return header


@_complaints_are_damage()
def read_planes(header: TiffHeader, which: slice = slice(None)) -> np.ndarray:
    """Decodes [planes, samples, Y, X] with bright large and indices replaced by their colours.

    All planes, or those of a slice.

    1, 2 and 4 bits come spread over 0..255. Colours come as uint8, or as uint16 where the colour
    map has 16 bits, and as one sample where it holds nothing but greys.
    """
    page, paged = header.pages[0], header.layout.planes == len(header.pages)
    start, stop, _ = which.indices(header.layout.planes)
    pages = header.pages[which] if paged else header.pages
    shape = (stop - start, *header.shape[1:])
    if paged:
        planes = np.empty(shape, page.dtype)
        for plane, one in zip(planes, pages, strict=True):
            array = one.asarray(maxworkers=1)
            plane[...] = np.moveaxis(array, -1, 0) if one.axes == "YXS" else array
    else:
        header.tiff.filehandle.seek(page.dataoffsets[0] + start * page.nbytes)
        stored = page.dtype.newbyteorder(header.tiff.byteorder)
        planes = header.tiff.filehandle.read_array(stored, math.prod(shape))
        planes = planes.reshape(shape)
    if _colour(page) == PALETTE:
        return _colours(planes[:, 0], pages)
    if _colour(page) == WHITE_IS_ZERO:
        planes = _inverted(planes, page.bitspersample)
    if page.bitspersample in (1, 2, 4):
        planes = planes.astype(np.uint8) * np.uint8(255 // (2**page.bitspersample - 1))
    return planes


def significant_bits(header: TiffHeader, planes: np.ndarray) -> int:
    """Bits of the decoded samples: what the file claims where all fit, else what it stores."""
    stored, claimed = header.pages[0].bitspersample, header.layout.bits
    if _colour(header.pages[0]) == PALETTE:
        return planes.dtype.itemsize * 8
    if planes.dtype.kind == "u" and 0 < claimed < stored and int(planes.max()) >> claimed == 0:
        return claimed
    return stored


def _note_complaint(record: logging.LogRecord) -> bool:
    complaints = _COMPLAINTS.get()
    if complaints is not None and record.levelno >= logging.ERROR:
        complaints.append(record.getMessage())
    return complaints is None


logging.getLogger("tifffile").addFilter(_note_complaint)


def _colour(page: TiffPage) -> int:
    """PhotometricInterpretation, or what readers take for it where the tag is missing."""
    if 262 in page.tags:
        return int(page.photometric)
    return RGB if page.samplesperpixel >= 3 else BLACK_IS_ZERO


def _check_storage(page: TiffPage) -> None:
    """Refuses what would be read wrongly: unknown types, codecs and colours, SGI volumes."""
    colour, codec, bits = _colour(page), int(page.compression), page.bitspersample
    if page.imagedepth > 1:
        raise Refused("keeps a volume in one page (ImageDepth), about which readers disagree")
    if codec not in COMPRESSIONS:
        raise Refused(f"is compressed in a way that is not read (TIFF compression {codec})")
    if page.dtype is None or page.dtype.kind not in "buif" or not isinstance(bits, int):
        raise Refused(f"holds a pixel type that is not read ({bits} bits)")
    if 0 in page.shape or page.imagelength < 1 or page.imagewidth < 1:
        raise Refused("declares an image without pixels", COPY_AGAIN)
    if colour > PALETTE and (colour, codec) != (YCBCR, JPEG):
        raise Refused(f"holds colours that are not read (TIFF photometric {colour})")
    if colour == PALETTE and not _fits(page.colormap, bits):
        raise Refused("holds colour indices without a fitting colour map")
    if colour == PALETTE and (page.samplesperpixel > 1 or page.dtype.kind not in "bu"):
        raise Refused("holds colour indices of an unknown kind")
    if colour == WHITE_IS_ZERO and page.dtype.kind == "f":
        raise Refused("holds fractions of which small ones are bright")


def _fits(colour_map: np.ndarray | None, bits: int) -> bool:
    return np.shape(colour_map) == (3, 2**bits) and colour_map.itemsize == 2


def _check_segments(page: TiffPage) -> None:
    """Refuses strips and tiles that are missing, empty, or not wholly inside the file."""
    offsets, counts, file = page.dataoffsets, page.databytecounts, page.parent.filehandle
    if not len(offsets) == len(counts) == math.prod(page.chunked) or 0 in counts or 0 in offsets:
        raise Refused("lacks some of its strips or tiles", COPY_AGAIN)
    ends = [offset + count for offset, count in zip(offsets, counts, strict=True)]
    if page.is_tiled and math.prod(page.chunks) > 4 * page.size + _USUAL_TILE:
        raise Refused("declares tiles far larger than itself", COPY_AGAIN)
    if page.is_contiguous:
        ends.append(offsets[0] + page.nbytes)
    if max(ends) > file.size:
        raise Refused("is cut short: its pixels lie beyond its end", COPY_AGAIN)
    if int(page.compression) != JPEG:
        return
    rows, columns = page.chunks[:2]
    for offset, count in zip(offsets, counts, strict=True):
        file.seek(offset)
        height, width = jpeg_size(io.BytesIO(file.read(count)))
        if height > rows or width > columns:
            raise Refused("holds a JPEG strip that is larger than the image", COPY_AGAIN)


def _check_planes(header: TiffHeader) -> None:
    """Planes are pages, or lie one behind the other in the only page, as ImageJ writes them."""
    planes, pages, first = header.layout.planes, len(header.pages), header.pages[0]
    if planes == pages:
        return
    if pages > 1 or planes < 1 or not first.is_contiguous or first.samplesperpixel > 1:
        raise Refused(f"describes {planes} planes but holds {pages}")
    if first.dataoffsets[0] + planes * first.nbytes > header.tiff.filehandle.size:
        raise Refused(f"is cut short: it describes {planes} planes and holds fewer", COPY_AGAIN)


def _colours(indices: np.ndarray, pages: Sequence[TiffPage]) -> np.ndarray:
    """[planes, Y, X] indices to [planes, 3 or 1, Y, X] through each page's own colour map."""
    maps = np.stack([page.colormap for page in pages])  # [pages, 3, colours]
    low = maps & 255
    if maps.max() < 256:
        maps = maps.astype(np.uint8)  # 8-bit levels in 16-bit fields
    elif (low == 0).all() or (low == maps >> 8).all():
        maps = (maps >> 8).astype(np.uint8)
    samples = 1 if (maps == maps[:, :1]).all() else 3
    if len(maps) < len(indices):
        maps = np.repeat(maps, len(indices), axis=0)
    colours = np.empty((len(indices), samples, *indices.shape[1:]), maps.dtype)
    for one, plane, colour in zip(maps, indices, colours, strict=True):
        for row, line in enumerate(plane):  # indices take eight bytes each on the way
            colour[:, row] = one[:samples, line.astype(np.intp)]
    return colours


def _inverted(planes: np.ndarray, bits: int) -> np.ndarray:
    if planes.dtype.kind in "bi":
        return ~planes
    return planes.dtype.type(2**bits - 1) - planes
