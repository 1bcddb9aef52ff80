"""What a TIFF's own description says about its planes: axes, channels, pixel size, bits.

Knows OME-XML, ImageJ's lines and tifffile's JSON. Nothing here reads pixels or reserves memory, so
that a description may promise anything.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from tifffile import TiffPage

INCH_UM, CM_UM = 25400.0, 10000.0
# A bare resolution tag is a pixel size only where a microscope could have written it: screens and
# printers have 72 to 2400 dpi, which is 352 to 11 µm.
FINEST_UM, COARSEST_UM = 1e-5, 5.0
MOST_AXES = 12
METAMORPH_PLANES = 33629  # tag whose count is the number of planes behind one page
_UNITS_UM = {
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer", "\\u00B5m"), 1.0),
    **{"pm": 1e-6, "Å": 1e-4, "nm": 1e-3, "mm": 1e3, "cm": CM_UM, "m": 1e6},
}
_UNITS_S = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec"), 1e-3),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **{"µs": 1e-6, "h": 3600.0, "hour": 3600.0, "d": 86400.0},
}
COPY_AGAIN = "copy it again from its source, or remove it"
SAVE_AGAIN = "save it again as PNG or OME-TIFF, one image a file"


class Refused(ValueError):
    """Why an image is not read.

    Args:
        problem: what is wrong with it, going on from its name.
        remedy: what to do now.
    """

    def __init__(self, problem: str, remedy: str = SAVE_AGAIN) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy


@dataclass(frozen=True)
class Layout:
    """The planes of a file.

    Attributes:
        leading: (letter of TZCI, length) of each axis in front of a plane, slowest first; none of
            length one.
        pixel_size_um: micrometres per pixel (y, x), None where unknown.
        channel_names: as written in the file.
        bits: significant bits as written in the file, 0 where it does not tell.
        interval_s: seconds from frame to frame, None where it does not tell.
    """

    leading: tuple[tuple[str, int], ...]
    pixel_size_um: tuple[float, float] | None = None
    channel_names: tuple[str, ...] = ()
    bits: int = 0
    interval_s: float | None = None

    @property
    def planes(self) -> int:
        """How many planes the leading axes make."""
        return math.prod(length for _, length in self.leading)


def describe(page: TiffPage, pages: int) -> Layout:
    """Understands the description of a TIFF.

    Args:
        page: the first full-size page.
        pages: how many pages like it the file holds.

    Raises:
        Refused: an axis of no length, or an OME-XML that is broken, describes another number of
            images than one, or orders its planes in an unusual way.
    """
    text = page.description
    if text.rstrip().endswith("OME>"):
        return _from_ome(text)
    if text.startswith("ImageJ="):
        return _from_imagej(text, page, pages)
    if METAMORPH_PLANES in page.tags and pages == 1:
        leading = [("I", page.tags[METAMORPH_PLANES].count)]
    else:
        leading = _from_json(text, page.size, pages) or [("I", pages)]
    size = _pixel_size(page, {2: INCH_UM, 3: CM_UM}.get(page.tags.valueof(296), 0.0))
    if size is not None and not all(FINEST_UM <= side <= COARSEST_UM for side in size):
        size = None
    return Layout(_axes(leading), size)


def _from_ome(text: str) -> Layout:
    try:
        images = ElementTree.fromstring(text).findall("{*}Image/{*}Pixels")
    except ElementTree.ParseError as error:
        raise Refused("has a damaged OME-XML") from error
    if len(images) != 1:
        raise Refused(f"has an OME-XML that describes {len(images)} images instead of one")
    pixels = images[0]
    channels = pixels.findall("{*}Channel")
    samples = max([int(c.get("SamplesPerPixel", 1)) for c in channels], default=1)
    sizes = {"T": int(pixels.get("SizeT", 1)), "Z": int(pixels.get("SizeZ", 1))}
    sizes["C"] = int(pixels.get("SizeC", 1)) // samples
    leading = [(letter, sizes[letter]) for letter in pixels.get("DimensionOrder", "")[:1:-1]]
    for planes in pixels.findall("{*}TiffData"):
        _check_order(planes.attrib, leading)
    return Layout(
        _axes(leading),
        _ome_pixel_size(pixels.attrib),
        tuple(channel.get("Name", "") for channel in channels),
        int(pixels.get("SignificantBits", 0)),
        _ome_interval(pixels.attrib),
    )


def _check_order(planes: Mapping[str, str], leading: Iterable[tuple[str, int]]) -> None:
    place = 0
    for letter, length in leading:
        place = place * length + int(planes.get(f"First{letter}", 0))
    if place != int(planes.get("IFD", 0)):
        raise Refused("keeps its planes in another file or in an unusual order")


def _ome_pixel_size(pixels: Mapping[str, str]) -> tuple[float, float] | None:
    try:
        sizes = [float(pixels.get(f"PhysicalSize{axis}", 0)) for axis in "YX"]
    except ValueError:  # some programs write a decimal comma
        return None
    units = [_UNITS_UM.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"), 0.0) for axis in "YX"]
    return _positive(sizes[0] * units[0], sizes[1] * units[1])


def _ome_interval(pixels: Mapping[str, str]) -> float | None:
    unit = _UNITS_S.get(pixels.get("TimeIncrementUnit", "s"), 0.0)
    return _seconds(pixels.get("TimeIncrement", ""), unit)


def _seconds(text: str, unit: float) -> float | None:
    try:
        found = float(text) * unit
    except ValueError:
        return None
    return found if 0 < found < math.inf else None


def _from_imagej(text: str, page: TiffPage, pages: int) -> Layout:
    lines = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    frames, slices, channels = (int(lines.get(k, 1)) for k in ("frames", "slices", "channels"))
    images = int(lines.get("images", pages))
    leading = [("T", frames), ("Z", slices), ("C", channels)]
    if frames * slices * channels != images:
        leading = [("I", images)]
    unit_um = _UNITS_UM.get(lines.get("unit", "").strip(), 0.0)
    interval = _seconds(lines.get("finterval", ""), _UNITS_S.get(lines.get("tunit", "sec"), 0.0))
    return Layout(_axes(leading), _pixel_size(page, unit_um), interval_s=interval)


def _from_json(text: str, page_values: int, pages: int) -> list[tuple[str, int]]:
    """The axes of what tifffile wrote that lie outside a page; none where the text is not its."""
    try:
        written = json.loads(text)
        shape, axes = [int(length) for length in written["shape"]], written.get("axes", "")
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return []
    planes = math.prod(shape[:MOST_AXES]) // page_values
    if planes < pages or len(shape) > MOST_AXES:  # each page has a description of its own
        return []
    outer = [k for k in range(len(shape)) if 1 < math.prod(shape[: k + 1]) <= planes]
    if len(axes) == len(shape) and math.prod(shape[k] for k in outer) == planes:
        return [(axes[k], shape[k]) for k in outer]
    return [("I", planes)]


def _axes(leading: Iterable[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    """Letters TZC as they are, any other as I; one I in all where letters would repeat."""
    named = [
        (letter if letter in tuple("TZC") else "I", length)
        for letter, length in leading
        if length != 1
    ]
    if any(length < 1 for _, length in named):
        raise Refused("describes an axis of less than one plane")
    if len({letter for letter, _ in named}) < len(named):
        named = [("I", math.prod(length for _, length in named))]
    return tuple(named)


def _pixel_size(page: TiffPage, unit_um: float) -> tuple[float, float] | None:
    """From the resolution tags, which are fractions: pixels per unit."""
    values = [page.tags.valueof(code) for code in (283, 282)]
    fractions = [v if isinstance(v, tuple) and len(v) == 2 else (0, 1) for v in values]
    return _positive(*(unit_um * below / above if above else 0.0 for above, below in fractions))


def _positive(y: float, x: float) -> tuple[float, float] | None:
    return (y, x) if 0 < y < math.inf and 0 < x < math.inf else None
