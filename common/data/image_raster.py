"""PNG, JPEG, BMP and GIF for `image_io`: first what the header promises, then the pixels."""

import warnings
from dataclasses import dataclass
from typing import BinaryIO

import imagecodecs
import numpy as np
from PIL import Image as PillowImage

from common.data.image_jpeg import jpeg_size
from common.data.image_layout import COPY_AGAIN, Refused
from common.data.image_png import check_parts, pixel_parts

# Pillow warns about odd metadata; for damaged pixels it raises. A filter for all threads, because
# `warnings.catch_warnings` is safe in one only.
warnings.filterwarnings("ignore", module=r"PIL\.")

_MOST_BLOCKS = 2**21  # of a GIF; its pixels come in blocks of 255 bytes
_READ_AS_STORED = ("1", "L", "LA", "RGB", "RGBA", "I;16")


@dataclass(frozen=True)
class RasterHeader:
    """An image of which no pixel was decoded yet.

    Attributes:
        file: the open file.
        kind: "PNG", "JPEG", "BMP" or "GIF".
        mode: Pillow's name for the kind of pixel.
        frames: how many.
        height: rows.
        width: columns.
        depth: bits of a stored sample.
        deep_colour: whether it is a PNG of several 16-bit channels, which Pillow would cut to 8.
    """

    file: BinaryIO
    kind: str
    mode: str
    frames: int
    height: int
    width: int
    depth: int
    deep_colour: bool

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[frames, samples, Y, X] as stored."""
        return self.frames, PillowImage.getmodebands(self.mode), self.height, self.width

    @property
    def is_indexed(self) -> bool:
        """Whether pixels are indices of colours."""
        return self.mode == "P" or self.kind == "GIF"

    @property
    def bits(self) -> int:
        """Significant bits of a decoded sample."""
        return 8 if self.is_indexed else self.depth

    @property
    def stored_bits(self) -> int:
        """Bits of a pixel as stored."""
        return self.depth * self.shape[1]

    @property
    def bytes_per_sample(self) -> int:
        """Of the decoded image; an index becomes four values."""
        return 4 if self.is_indexed else (self.depth + 7) // 8


def read_header(file: BinaryIO, kind: str, max_pages: int) -> RasterHeader:
    """Reads a header without decoding.

    Raises:
        Refused: colours that are not read, more frames than allowed, or no end of the file.
    """
    start = file.read(26)
    if kind == "PNG":
        file = pixel_parts(file)
    elif kind == "JPEG":
        jpeg_size(file)
    file.seek(0)
    try:
        image = PillowImage.open(file, formats=(kind,))
    except PillowImage.DecompressionBombError as error:
        raise Refused("declares far more pixels than a plane may have", COPY_AGAIN) from error
    frames = _gif_frames(file, max_pages) if kind == "GIF" else getattr(image, "n_frames", 1)
    depth, colour = (start[24], start[25]) if kind == "PNG" else (1 if image.mode == "1" else 8, 0)
    deep_colour = depth == 16 and colour in (2, 4, 6)
    if image.mode not in (*_READ_AS_STORED, "P") or (deep_colour and frames > 1):
        raise Refused(f"holds pixels that are not read ({image.mode}, {depth} bits)")
    return RasterHeader(
        file, kind, image.mode, frames, image.height, image.width, depth, deep_colour
    )


def read_frames(header: RasterHeader) -> np.ndarray:
    """Decodes [frames, samples, Y, X]; with 2 or 4 samples the last one is opacity.

    A PNG's transparent key colour is ignored. A palette of nothing but greys gives one sample.

    Raises:
        Refused: frames that differ in size.
    """
    if header.kind == "PNG":
        check_parts(header.file)
    header.file.seek(0)
    if header.deep_colour:
        return np.moveaxis(imagecodecs.png_decode(header.file.read()), -1, 0)[None]
    frames, grey = [], header.is_indexed
    with PillowImage.open(header.file, formats=(header.kind,)) as image:
        for index in range(header.frames):
            image.seek(index)
            if image.size != (header.width, header.height):
                raise Refused("holds frames that differ in size")
            image.load()
            grey = grey and _is_grey(image)
            frames.append(_samples(image, header.kind))
    planes = np.stack(frames)
    if grey:
        planes = np.delete(planes, (1, 2), axis=1)
    return planes


def _samples(image: PillowImage.Image, kind: str) -> np.ndarray:
    """[samples, Y, X] of the current frame."""
    if image.mode == "P" and np.asarray(image).max() >= len(_palette(image)):
        raise Refused("holds indices of colours that it does not define", COPY_AGAIN)
    if kind == "GIF" or (image.mode == "P" and "transparency" in image.info):
        image = image.convert("RGBA")
    elif image.mode == "P":
        image = image.convert("RGB")
    array = np.asarray(image)
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)


def _is_grey(image: PillowImage.Image) -> bool:
    """By the palette, so that a black frame under a colour table counts as coloured."""
    if image.mode == "P":
        colours = _palette(image)
    else:
        colours = np.asarray(image.convert("RGB")).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def _palette(image: PillowImage.Image) -> np.ndarray:
    """[colours, 3]."""
    return np.reshape(image.getpalette("RGB"), (-1, 3))


def _gif_frames(file: BinaryIO, max_pages: int) -> int:
    """Follows the blocks of a GIF to its trailer, without which it is cut short."""
    file.seek(10)
    file.seek(13 + _colour_table_size(file.read(1)[0]))
    frames = blocks = 0
    while (block := file.read(1)) != b";":
        if block == b",":
            frames += 1
            file.seek(_colour_table_size(file.read(9)[8]) + 1, 1)
        elif block == b"!":
            file.seek(1, 1)
        else:
            raise Refused("is cut short or damaged between its frames", COPY_AGAIN)
        if frames > max_pages:
            raise Refused(f"holds more than {max_pages} frames", "split it into several files")
        while length := file.read(1)[0]:
            file.seek(length, 1)
            blocks += 1
            if blocks > _MOST_BLOCKS:
                raise Refused(f"holds more than {_MOST_BLOCKS} blocks")
    return frames


def _colour_table_size(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 128 else 0
