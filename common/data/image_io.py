"""The only door for image files: reads every format used here, writes PNG and OME-TIFF.

Whatever a file holds comes as it was stored: 16 bits stay 16 bits, channels keep their order, all
frames come, and no embedded colour profile, gamma or camera orientation is applied. Exceptions,
so that numbers always mean light: MINISWHITE is turned round (bright is large), indexed images come
as their colours (grey where the palette holds only greys), 1, 2 and 4 bits are spread over 0..255
(with `Image.bits` telling the original), and an alpha channel without information is dropped.

The content decides what a file is. Its name only decides whether `find_images` lists it.
"""

import errno
import hashlib
import io
import math
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import numpy as np
import tifffile
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from common.data import image_raster, image_tiff
from common.data.image_decoded import AXES, Image, image_of
from common.data.image_layout import COPY_AGAIN, Layout, Refused
from common.data.image_raster import RasterHeader
from common.data.image_tiff import TiffHeader
from common.data.listing import find_files, is_below
from common.errors import Exit, UserError, relative, visible
from common.storage import whole_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff")
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"),
    **dict.fromkeys((b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51"), "JPEG 2000"),
}
# What decoders raise on purpose; others are accidents, and their words are about the decoder.
_OUTSIDE = "lies outside its data folder"
_UNKNOWN = "is no image of a known kind, whatever its name says"
_TELLING = (OSError, ValueError, SyntaxError, RuntimeError)


@dataclass(frozen=True)
class Limits:
    """What a file may ask for, checked before anything is decoded.

    Attributes:
        max_pixels: of one plane.
        max_pages: pages, frames or planes of one file.
        max_bytes: of the decoded image.
        max_expansion: bytes declared for one byte of the file; deflate cannot exceed 1032.
        large_bytes: a decoded image of more than this must not come out of a small file: see next.
        max_large_expansion: as `max_expansion`, for images of more than `large_bytes`.
        max_surplus: bytes of the file beyond twice the decoded image.
    """

    max_pixels: int = 64 * 2**20
    max_pages: int = 4096
    max_bytes: int = 4 * 2**30
    max_expansion: int = 1100
    large_bytes: int = 2**28
    max_large_expansion: int = 32
    max_surplus: int = 2**26


DEFAULT_LIMITS = Limits()


def read_image(
    path: str | Path, root: str | Path | None = None, limits: Limits = DEFAULT_LIMITS
) -> Image:
    """Reads all pixels of one file.

    Args:
        path: the file; never opened unless it is a regular file.
        root: folder that the file, with all links followed, must lie in.
        limits: what the file may ask for.

    Raises:
        UserError: the file is missing, not a regular file, outside `root`, empty, damaged, cut
            short, over a limit, of a kind that is not read, or holds NaN or Inf.
    """
    with opened(path, root) as (file, size):
        return _decoded(*_open(file, size, limits))


def count_frames(
    path: str | Path, root: str | Path | None = None, limits: Limits = DEFAULT_LIMITS
) -> int:
    """Moments of time, else pages of unknown meaning, that a file's header tells of; 1 of a still.

    Arguments and errors are those of `read_image`; no pixel is decoded.
    """
    with opened(path, root) as (file, size):
        return _moments(_open(file, size, limits)[1])[1]


def read_frames(
    path: str | Path, root: str | Path | None = None, limits: Limits = DEFAULT_LIMITS
) -> Iterator[Image]:
    """Reads one file moment by moment; arguments and errors are those of `read_image`.

    Pages of unknown meaning count as moments where the file tells of no time. Of a TIFF whose
    slowest axis is that one, no more than one moment is in memory.
    """
    with opened(path, root) as (file, size):
        header, layout = _open(file, size, limits)
        letter, count = _moments(layout)
        if isinstance(header, TiffHeader) and layout.leading[:1] == ((letter, count),):
            inner, planes = replace(layout, leading=layout.leading[1:]), layout.planes // count
            for moment in range(count):
                yield _decoded(header, inner, slice(moment * planes, (moment + 1) * planes))
            return
        whole = _decoded(header, layout)
        if count == 1:
            yield whole
            return
        for pixels in np.moveaxis(whole.pixels, whole.axes.index(letter), 0):
            yield replace(whole, pixels=pixels, axes=whole.axes.replace(letter, ""))


@contextmanager
def reading(path: Path, root: str | Path | None) -> Iterator[None]:
    """Whatever goes wrong with a file, or with one that lies outside ``root``, is one sentence.

    Raises:
        UserError: in place of any error.
    """
    try:
        if root is not None and not is_below(path, Path(os.path.realpath(root))):
            raise Refused(_OUTSIDE, "copy it into the folder; links out are refused")
        yield
    except Exception as error:  # decoders raise whatever they stumble over
        raise UserError(Exit.INPUT, relative(path), *_explain(error)) from error


@contextmanager
def opened(path: str | Path, root: str | Path | None) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file, open, and its size in bytes; errors as of `reading`."""
    path = Path(path)
    with reading(path, root):
        size = _regular_size(path)
        with path.open("rb") as file:
            yield file, size


def find_images(root: str | Path) -> list[Path]:
    """Every image file below a folder, by suffix; see `listing.find_files`."""
    return find_files(root, SUFFIXES)


def write_png(path: str | Path, pixels: np.ndarray) -> None:
    """Writes grey levels or colours exactly.

    Args:
        path: an existing file is replaced at once or not at all.
        pixels: [Y, X] or [C, Y, X] with 1 or 3 channels; uint8, or uint16 for one channel.

    Raises:
        UserError: the file cannot be written.
        ValueError: other shapes or types.
    """
    image = _png_image(pixels)
    _write(Path(path), lambda stream: image.save(stream, "PNG"))


def write_gif(path: str | Path, frames: np.ndarray, rate: float) -> None:
    """Writes a film that repeats itself, each frame in 256 colours of its own: to look at.

    Args:
        path: an existing file is replaced at once or not at all.
        frames: uint8 [T, Y, X, 3], red, green and blue.
        rate: frames a second.

    Raises:
        UserError: the file cannot be written.
    """
    first, *others = [PillowImage.fromarray(frame) for frame in frames]
    options = {"save_all": True, "append_images": others, "loop": 0, "duration": 1000 / rate}
    _write(Path(path), lambda stream: first.save(stream, "GIF", **options))


def stored_png(pixels: np.ndarray) -> bytes:
    """An uncompressed PNG file: its size depends on the image's size alone, not on what it shows.

    Args:
        pixels: as `write_png` takes them.

    Raises:
        ValueError: other shapes or types.
    """
    stream = io.BytesIO()
    _png_image(pixels).save(stream, "PNG", compress_level=0)
    return stream.getvalue()


def write_ome_tiff(
    path: str | Path,
    pixels: np.ndarray,
    axes: str,
    pixel_size_um: tuple[float, float] | None = None,
    channel_names: tuple[str, ...] = (),
    interval_s: float | None = None,
) -> None:
    """Writes an OME-TIFF with deflate compression, as BigTIFF where 4 GiB may not suffice.

    The same pixels, names and sizes give the same bytes.

    Args:
        path: an existing file is replaced at once or not at all.
        pixels: uint8, uint16 or float32, one dimension per letter of `axes`.
        axes: a subset of "TZCYX" in that order, with Y and X.
        pixel_size_um: micrometres per pixel (y, x).
        channel_names: one per channel, or none.
        interval_s: seconds between the frames along T.

    Raises:
        UserError: the file cannot be written.
        ValueError: other axes, types or numbers of names.
    """
    channels = pixels.shape[axes.index("C")] if "C" in axes else 1
    if axes != "".join(a for a in AXES[1:] if a in axes) or axes[-2:] != "YX":
        raise ValueError(f"axes {axes!r} are not TZCYX")
    if len(axes) != pixels.ndim or pixels.dtype not in ("u1", "u2", "f4"):
        raise ValueError(f"no OME-TIFF with axes {axes} from {pixels.dtype} {pixels.shape}")
    if len(channel_names) not in (0, channels):
        raise ValueError(f"{len(channel_names)} names for {channels} channels")
    # tifffile's own identifier holds the time and this machine's network address.
    digest = hashlib.sha256(np.ascontiguousarray(pixels)).digest()
    metadata: dict[str, object] = {"axes": axes, "UUID": str(UUID(bytes=digest[:16], version=5))}
    if pixel_size_um is not None:
        for axis, size in zip("YX", pixel_size_um, strict=True):
            metadata[f"PhysicalSize{axis}"] = float(size)
            metadata[f"PhysicalSize{axis}Unit"] = "µm"
    if interval_s is not None:
        metadata |= {"TimeIncrement": float(interval_s), "TimeIncrementUnit": "s"}
    if channel_names:
        metadata["Channel"] = {"Name": list(channel_names)}
    options = {"photometric": "minisblack", "compression": "zlib", "metadata": metadata}
    big = pixels.nbytes > 2**32 - 2**25
    _write(
        Path(path),
        lambda stream: tifffile.imwrite(stream, pixels, ome=True, bigtiff=big, **options),
    )


def _png_image(pixels: np.ndarray) -> PillowImage.Image:
    plane = pixels[0] if pixels.ndim == 3 and len(pixels) == 1 else pixels
    colour = plane.ndim == 3 and len(plane) == 3
    if not (plane.ndim == 2 or colour) or plane.dtype not in (("u1",) if colour else ("u1", "u2")):
        raise ValueError(f"no PNG from {pixels.dtype} {pixels.shape}")
    return PillowImage.fromarray(
        np.ascontiguousarray(np.moveaxis(plane, 0, -1) if colour else plane)
    )


def _open(file: BinaryIO, size: int, limits: Limits) -> tuple[TiffHeader | RasterHeader, Layout]:
    start = file.read(12)
    kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), "")
    file.seek(0)
    if kind == "TIFF":
        header = image_tiff.read_header(file, limits.max_pages)
        layout = header.layout
    elif kind in ("PNG", "JPEG", "BMP", "GIF"):
        header = image_raster.read_header(file, kind, limits.max_pages)
        layout = Layout((("T", header.shape[0]),) if header.shape[0] > 1 else ())
    else:
        found = f"is a {kind} file" if kind else _UNKNOWN
        raise Refused(found, "give PNG, JPEG, BMP, GIF or TIFF")
    _check_limits(header, size, limits)
    return header, layout


def _decoded(
    header: TiffHeader | RasterHeader, layout: Layout, which: slice = slice(None)
) -> Image:
    """The planes ``which`` of a file, as ``layout`` orders them."""
    if isinstance(header, TiffHeader):
        planes = image_tiff.read_planes(header, which)
        return image_of(
            planes, layout, header.has_alpha, image_tiff.significant_bits(header, planes)
        )
    frames = image_raster.read_frames(header)
    return image_of(frames, layout, frames.shape[1] in (2, 4), header.bits)


def _moments(layout: Layout) -> tuple[str, int]:
    """The axis along which a file holds one image after the other, and its length."""
    lengths = dict(layout.leading)
    letter = "T" if "T" in lengths else "I"
    return letter, lengths.get(letter, 1)


def _check_limits(header: TiffHeader | RasterHeader, held: int, limits: Limits) -> None:
    pages, samples, height, width = header.shape
    pixels = pages * height * width
    expansion = math.ceil(pixels * header.stored_bits / 8 / held)
    decoded = pixels * samples * header.bytes_per_sample
    large = decoded > limits.large_bytes
    asked = {
        "pixels in a plane": (height * width, limits.max_pixels),
        "planes": (pages, limits.max_pages),
        "bytes": (decoded, limits.max_bytes),
        "bytes for one of its own": (
            expansion,
            limits.max_large_expansion if large else limits.max_expansion,
        ),
    }
    for what, (wanted, allowed) in asked.items():
        if wanted > allowed:
            raise Refused(
                f"declares {wanted} {what}, more than {allowed}", "split it, or remove it"
            )
    if held > 2 * decoded + limits.max_surplus:
        raise Refused(f"is {held} bytes long, far more than its {decoded} of pixels", COPY_AGAIN)


def _regular_size(path: Path) -> int:
    """Bytes of a regular file, found without opening it."""
    try:
        status = path.stat()
    except OSError as error:
        reason = "is a link that leads nowhere" if path.is_symlink() else "cannot be found"
        raise Refused(f"{reason} ({error.strerror})", "correct the path") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
        raise Refused(f"is {kind}, not a file", "give an image file")
    if status.st_size == 0:
        raise Refused("is empty (0 bytes)", COPY_AGAIN)
    return status.st_size


def _explain(error: Exception) -> tuple[str, str]:
    """Problem and remedy; a decoder's own words only where they cannot hold the path."""
    if isinstance(error, Refused):
        return visible(error.problem), error.remedy
    if isinstance(error, MemoryError):
        return "needs more memory than there is", "split it, or use a larger machine"
    # EINVAL: a damaged file sends its decoder to a place that cannot be.
    if isinstance(error, OSError) and error.strerror and error.errno != errno.EINVAL:
        return f"cannot be read ({error.strerror})", "check its permissions and its disk"
    tells = isinstance(error, _TELLING) and not isinstance(error, UnidentifiedImageError)
    lines = str(error).strip().splitlines() if tells else []
    words = f" ({visible(lines[0])[:100]})" if lines else ""
    return f"is damaged or cut short{words}", COPY_AGAIN


def _write(path: Path, save: Callable[[BinaryIO], object]) -> None:
    # Thousands of images a minute: waiting for the disk after each would take most of the time.
    with whole_file(path, durable=False) as stream:
        save(stream)
