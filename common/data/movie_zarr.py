"""OME-Zarr for `movies`: folders of version 0.1 to 0.5, at their full resolution."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from common.data.image_decoded import Image, image_of
from common.data.image_io import DEFAULT_LIMITS
from common.data.image_layout import COPY_AGAIN, Layout, Refused

SUFFIX = ".zarr"
_COMPRESSORS = (
    "blosc",
    "zlib",
    "gzip",
    "zstd",
    "lz4",
    "bz2",
    "bytes",
    "crc32c",
    "sharding_indexed",
)
_UM = {
    "micrometer": 1.0,
    "micrometre": 1.0,
    "nanometer": 1e-3,
    "nanometre": 1e-3,
    "millimeter": 1e3,
}
_SECONDS = {"second": 1.0, "millisecond": 1e-3, "minute": 60.0, "hour": 3600.0}


def count_frames(path: Path) -> int:
    """Length of the time axis, 1 without one.

    Raises:
        Refused: not an OME-Zarr image, or one that is not read.
    """
    axes, shape = _described(path)[:2]
    return shape[axes.index("T")] if "T" in axes else 1


def read_frames(path: Path) -> Iterator[Image]:
    """One image a moment of time; arguments and errors are those of `count_frames`."""
    axes, shape, inner, layout = _described(path)
    array = zarr.open_array(path / inner, mode="r")
    before = (slice(None),) * axes.find("T")
    moments = range(shape[len(before)]) if "T" in axes else (slice(None),)
    for moment in moments:
        block = np.asarray(array[(*before, moment)])
        planes = block.reshape(-1, 1, *block.shape[-2:])
        yield image_of(planes, layout, False, block.dtype.itemsize * 8)


def _described(path: Path) -> tuple[str, tuple[int, ...], str, Layout]:
    """Axes, shape, inner path of the full resolution, and the layout of one moment."""
    attributes = _attributes(path)
    try:
        image = attributes["multiscales"][0]
        first = image["datasets"][0]
        inner = str(first["path"])
        named = image.get("axes", [*"tczyx"])
        names = [axis["name"] if isinstance(axis, Mapping) else axis for axis in named]
        axes = "".join(str(name).upper() for name in names)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise Refused("is no OME-Zarr image: its multiscales are not told") from error
    if not Path(os.path.realpath(path / inner)).is_relative_to(os.path.realpath(path)):
        raise Refused("keeps its pixels outside itself")
    shape, dtype = _array(path / inner)
    axes = axes[-len(shape) :]
    _check(axes, shape, dtype)
    scale, units = _scale(image, first, len(shape)), [_unit(axis) for axis in named][-len(shape) :]
    sizes = [one * unit for one, unit in zip(scale, units, strict=True)]
    spatial = (sizes[-2], sizes[-1])
    leading = [(a, n) for a, n in zip(axes[:-2], shape, strict=False) if a != "T" and n > 1]
    interval = sizes[axes.index("T")] if "T" in axes else 0.0
    size = spatial if min(spatial) > 0 else None
    return (
        axes,
        shape,
        inner,
        Layout(tuple(leading), size, _channels(attributes), 0, interval or None),
    )


def _attributes(path: Path) -> dict[str, Any]:
    for name in (".zattrs", "zarr.json"):
        if (path / name).is_file():
            found = _json(path / name)
            found = found.get("attributes", {}) if name == "zarr.json" else found
            return found.get("ome", found)
    raise Refused("is no OME-Zarr image: it has neither .zattrs nor zarr.json")


def _array(path: Path) -> tuple[tuple[int, ...], str]:
    """Shape and type of an array, of which nothing but plain numbers in known codecs is read."""
    old = (path / ".zarray").is_file()
    facts = _json(path / (".zarray" if old else "zarr.json"))
    used = [facts.get("compressor"), *(facts.get("filters") or []), *(facts.get("codecs") or [])]
    kinds = [str(one.get("id", one.get("name"))) for one in used if isinstance(one, Mapping)]
    foreign = [kind for kind in kinds if kind not in _COMPRESSORS]
    # Some codecs would unpickle what the file holds.
    if foreign:
        raise Refused(f"is compressed in a way that is not read (Zarr codec {foreign[0][:20]})")
    try:
        return tuple(int(n) for n in facts["shape"]), str(facts["dtype" if old else "data_type"])
    except (KeyError, TypeError, ValueError) as error:
        raise Refused("has a damaged description of its array", COPY_AGAIN) from error


def _check(axes: str, shape: tuple[int, ...], dtype: str) -> None:
    if axes[-2:] != "YX" or len(axes) != len(shape) or len({*axes}) < len(axes):
        raise Refused(f"has the axes {axes[:8]}, not some of tcz and y, x")
    if {*axes} - {*"TCZYX"}:
        raise Refused(f"has the axes {axes[:8]}, of which not all are t, c, z, y or x")
    moment = math.prod(n for a, n in zip(axes, shape, strict=True) if a != "T")
    if min(shape) < 1 or math.prod(shape[-2:]) > DEFAULT_LIMITS.max_pixels:
        raise Refused(f"declares planes of {shape[-2]} x {shape[-1]} pixels")
    if moment * 8 > DEFAULT_LIMITS.max_bytes:
        raise Refused(f"declares {moment} values for one moment of time")
    if np.dtype(dtype).kind not in "uif":
        raise Refused(f"holds a pixel type that is not read ({dtype[:20]})")


def _scale(image: Mapping[str, Any], first: Mapping[str, Any], axes: int) -> list[float]:
    """Of the full resolution, along all axes; 0 where nothing is told."""
    told = [
        change["scale"]
        for where in (first, image)
        for change in where.get("coordinateTransformations", [])
        if change.get("type") == "scale" and len(change.get("scale", [])) == axes
    ]
    return np.prod(np.array(told, float), 0).tolist() if told else [0.0] * axes


def _unit(axis: Any) -> float:
    """Micrometres or seconds of an axis' unit; 0 where it has none that is known."""
    unit = axis.get("unit", "") if isinstance(axis, Mapping) else ""
    return (_UM | _SECONDS).get(unit, 0.0)


def _channels(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    shown = attributes.get("omero", {}).get("channels", [])
    return tuple(str(channel.get("label", "")) for channel in shown)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"has no readable {path.name}", COPY_AGAIN) from error
    if not isinstance(found, dict):
        raise Refused(f"has no readable {path.name}", COPY_AGAIN)
    return found
