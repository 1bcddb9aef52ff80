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
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import numpy as np
import tifffile
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from common.data import image_raster, image_tiff
from common.data.image_layout import COPY_AGAIN, Layout, Refused
from common.data.image_raster import RasterHeader
from common.data.image_tiff import TiffHeader
from common.errors import Exit, UserError, relative, visible
from common.storage import whole_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff")
AXES = "ITZCYX"
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"),
    **dict.fromkeys((b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51"), "JPEG 2000"),
}
_COLOURS = ("red", "green", "blue")
# What decoders raise on purpose; others are accidents, and their words are about the decoder.
_TELLING = (OSError, ValueError, SyntaxError, RuntimeError)


@dataclass(frozen=True)
class Image:
    """A decoded image.

    Attributes:
        pixels: native byte order; axes of length one are left out, except Y and X.
        axes: one letter per dimension of `pixels`, a subset of "ITZCYX" in that order. Colour
            samples are channels; I counts pages of unknown meaning.
        pixel_size_um: micrometres per pixel (y, x), from OME-XML, from ImageJ's unit, or from a
            TIFF resolution in inches or centimetres that gives 0.01 nm to 5 µm; else None. The
            dots per inch of PNG and JPEG are never taken for it.
        channel_names: one per channel, or none at all. Colours are red, green, blue; "alpha" comes
            last.
        bits: significant bits of a sample.
    """

    pixels: np.ndarray
    axes: str
    pixel_size_um: tuple[float, float] | None
    channel_names: tuple[str, ...]
    bits: int


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
    path = Path(path)
    try:
        size = _regular_size(path, root)
        with path.open("rb") as file:
            return _read(file, size, limits)
    except Exception as error:  # decoders raise whatever they stumble over
        raise UserError(Exit.INPUT, relative(path), *_explain(error)) from error


def find_images(root: str | Path) -> list[Path]:
    """Every regular image file below a folder, by suffix, sorted; none of them is opened.

    Left out are hidden and system files, whatever links lead to outside the folder, and linked
    folders (what they hold inside `root` is found where it lies).

    Raises:
        UserError: `root` or a folder below it cannot be listed.
    """
    home = Path(os.path.realpath(root))
    try:
        images = [path for path in _walk(root) if path.suffix.lower() in SUFFIXES]
        return sorted(path for path in images if _is_regular(path) and _is_below(path, home))
    except OSError as error:
        raise UserError(
            Exit.INPUT,
            relative(Path(os.fsdecode(error.filename or root))),
            f"cannot be listed: {error.strerror}",
            "give an existing folder that you may read",
        ) from error


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


def _read(file: BinaryIO, size: int, limits: Limits) -> Image:
    start = file.read(12)
    kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), "")
    file.seek(0)
    if kind == "TIFF":
        header = image_tiff.read_header(file, limits.max_pages)
        _check_limits(header, size, limits)
        planes = image_tiff.read_planes(header)
        bits = image_tiff.significant_bits(header, planes)
        return _image(planes, header.layout, header.has_alpha, bits)
    if kind in ("PNG", "JPEG", "BMP", "GIF"):
        header = image_raster.read_header(file, kind, limits.max_pages)
        _check_limits(header, size, limits)
        frames = image_raster.read_frames(header)
        layout = Layout((("T", len(frames)),) if len(frames) > 1 else ())
        return _image(frames, layout, frames.shape[1] in (2, 4), header.bits)
    found = f"is a {kind} file" if kind else "is no image of a known kind, whatever its name says"
    raise Refused(found, "give PNG, JPEG, BMP, GIF or TIFF")


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


def _image(planes: np.ndarray, layout: Layout, has_alpha: bool, bits: int) -> Image:
    """Brings [planes, samples, Y, X] into the canonical order, colour samples as channels."""
    planes = planes.astype(planes.dtype.newbyteorder("="), copy=False)
    _check_finite(planes)
    opaque = 1.0 if planes.dtype.kind == "f" else max(255, 2**bits - 1)
    if has_alpha and (planes[:, -1] == opaque).all():
        planes, has_alpha = planes[:, :-1], False
    lengths = dict(layout.leading)
    stored = list(lengths)
    samples, height, width = planes.shape[1:]
    pixels = planes.reshape(*lengths.values(), samples, height, width)
    order = [stored.index(letter) for letter in sorted(stored, key=AXES.index)]
    pixels = pixels.transpose(*order, -3, -2, -1)
    channels = lengths["C"] = lengths.get("C", 1) * samples
    axes = [letter for letter in AXES[:-2] if lengths.get(letter, 1) > 1]
    pixels = pixels.reshape(*(lengths[letter] for letter in axes), height, width)
    names = _channel_names(layout.channel_names, channels, samples, has_alpha)
    size = layout.pixel_size_um
    return Image(np.ascontiguousarray(pixels), "".join(axes) + "YX", size, names, bits)


def _channel_names(
    written: tuple[str, ...], channels: int, samples: int, has_alpha: bool
) -> tuple[str, ...]:
    if len(written) == channels and any(written):
        return written
    if channels != samples or samples - has_alpha not in (1, 3) or samples == 1:
        return ()
    return (_COLOURS if samples >= 3 else ("grey",)) + ("alpha",) * has_alpha


def _check_finite(pixels: np.ndarray) -> None:
    if pixels.dtype.kind != "f":
        return
    bad = pixels.size - int(np.count_nonzero(np.isfinite(pixels)))
    if bad:
        raise Refused(f"holds {bad} values that are NaN or Inf", "replace them and save it again")


def _regular_size(path: Path, root: str | Path | None) -> int:
    """Bytes of a regular file inside `root`, found without opening it."""
    if root is not None and not _is_below(path, Path(os.path.realpath(root))):
        raise Refused(
            "lies outside its data folder", "copy it into the folder; links out are refused"
        )
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


def _walk(root: str | Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise error

    for folder, below, names in os.walk(root, onerror=fail):
        below[:] = [name for name in below if not name.startswith((".", "__MACOSX"))]
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _is_below(path: Path, home: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(home)


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):  # a link to nowhere or in a circle
            return False
        raise


def _write(path: Path, save: Callable[[BinaryIO], object]) -> None:
    # Thousands of images a minute: waiting for the disk after each would take most of the time.
    with whole_file(path, durable=False) as stream:
        save(stream)
