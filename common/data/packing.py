"""Pixels of a whole split in one memory-mapped file, kept as uint8 or uint16.

The grey value of a stored number is ``stored * scale + offset``. Files of one unsigned type are
stored as they are (scale 1, offset 0). Signed and floating types are mapped linearly onto 16 bits,
by the card's window where that is a pair of grey values, else by the range of the training split;
beyond it the window would clip them anyway. Files of different unsigned types are mapped by the
full scale of each, and refused where the window is in grey values, which then mean two things.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from common.errors import Exit, UserError

_FULL = 65535


@dataclass(frozen=True)
class Storage:
    """How stored numbers become grey values.

    Attributes:
        dtype: of the packed file, "uint8" or "uint16".
        mapping: "identity", "full_scale" (types were mixed) or "linear" (signed or floating).
        scale: grey levels per stored unit.
        offset: grey level of a stored zero.
        bits: significant bits of the grey values, the most of any file; at least 8.
        source: pixel type of the original files; generated images are written in it.
    """

    dtype: str
    mapping: str
    scale: float
    offset: float
    bits: int
    source: str


class Ledger:
    """Pixel types and ranges of canvases in arrival order: how they can be stored together."""

    def __init__(self) -> None:
        self._types: list[tuple[np.dtype, int]] = []
        self._names: list[str] = []
        self._ranges: list[tuple[float, float]] = []

    def append(self, canvas: np.ndarray, bits: int, name: str = "data set") -> None:
        """Notes one canvas [C, size, size]; ``bits`` are the significant bits of file ``name``."""
        self._names.append(name)
        # 1, 2 and 4 bits come spread over the 8 of their pixel type.
        self._types.append((canvas.dtype, max(bits, 8)))
        self._ranges.append((float(canvas.min()), float(canvas.max())))

    def storage(self, training: Sequence[int], rule: Any) -> Storage:
        """Decides how all of them are stored.

        Args:
            training: positions of the training images in arrival order.
            rule: for the window, see `window`.

        Raises:
            UserError: the pixel types cannot be brought together.
        """
        kinds = {str(dtype) for dtype, _ in self._types}
        bits = max(bits for _, bits in self._types)
        if len(kinds) == 1 and kinds <= {"uint8", "uint16"}:
            kind = kinds.pop()
            return Storage(kind, "identity", 1.0, 0.0, bits, kind)
        if kinds <= {"uint8", "uint16"} and not _means_grey_values(rule):
            return Storage("uint16", "full_scale", 1.0, 0.0, 16, "uint16")
        if len(kinds) > 1:
            raise self._mixed(kinds)
        lows, highs = zip(*(self._ranges[k] for k in training), strict=True)
        low, high = rule if _is_fixed(rule) else (min(lows), max(highs))
        return Storage("uint16", "linear", (high - low) / _FULL, low, bits, kinds.pop())

    def _mixed(self, kinds: set[str]) -> UserError:
        found = [str(dtype) for dtype, _ in self._types]
        rarest = min(sorted(kinds), key=found.count)
        return UserError(
            Exit.INPUT,
            self._names[found.index(rarest)],
            f"with {found.count(rarest)} of {len(found)} images in {rarest}, the data set "
            f"mixes the pixel types {', '.join(sorted(kinds))}, which have no common scale",
            "convert the files to one type",
        )


class Scratch(Ledger):
    """Keeps the canvases as well, in a file that disappears; packed once all of them are known."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._path = folder / "scratch.bin"
        self._offsets: list[int] = []
        self._shape: tuple[int, ...] = ()

    def __enter__(self) -> "Scratch":
        self._stream = self._path.open("w+b")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()
        self._path.unlink()

    def append(self, canvas: np.ndarray, bits: int, name: str = "data set") -> None:
        """Notes and keeps one canvas."""
        super().append(canvas, bits, name)
        self._shape = canvas.shape
        self._offsets.append(self._stream.tell())
        self._stream.write(np.ascontiguousarray(canvas).tobytes())

    def pack(self, order: dict[str, Sequence[int]], rule: Any) -> Storage:
        """Writes ``<split>.npy`` [N, C, size, size] for each split.

        Args:
            order: positions in arrival order, by split.
            rule: for the window, see `window`.

        Raises:
            UserError: the pixel types cannot be brought together.
        """
        storage = self.storage(order["train"], rule)
        for split, positions in order.items():
            header = {"descr": np.dtype(storage.dtype).str, "fortran_order": False,
                      "shape": (len(positions), *self._shape)}  # fmt: skip
            # Not a memory map: on a full disk that dies of a signal instead of raising an error.
            with self._path.with_name(f"{split}.npy").open("wb") as stream:
                np.lib.format.write_array_header_1_0(stream, header)
                for position in positions:
                    stream.write(self._stored(position, storage).astype(storage.dtype).tobytes())
        return storage

    def _stored(self, position: int, storage: Storage) -> np.ndarray:
        dtype, bits = self._types[position]
        self._stream.seek(self._offsets[position])
        raw = self._stream.read(dtype.itemsize * int(np.prod(self._shape)))
        canvas = np.frombuffer(raw, dtype).reshape(self._shape)
        if storage.mapping == "identity":
            return canvas
        if storage.mapping == "full_scale":
            return _to_full_scale(canvas, bits)
        stored = np.rint((canvas.astype(np.float64) - storage.offset) / storage.scale)
        return stored.clip(0, _FULL)


def scalable(pixels: np.ndarray) -> np.ndarray:
    """The same values in a type that can be scaled: bool, integers and half precision widened."""
    if pixels.dtype in (np.uint8, np.uint16, np.float32):
        return pixels
    return pixels.astype(np.uint8 if pixels.dtype == bool else np.float32)


def window(
    rule: Any, storage: Storage, training: Path, channel: int | None = None
) -> tuple[float, float]:
    """Grey values that become -1 and +1, by the data card's rule.

    Args:
        rule: "dtype" (the full range of the significant bits), [low, high] in grey values, or
            {"percentiles": [low, high]} of the training split, never of another one.
        storage: of the packed pixels.
        training: packed training split.
        channel: whose percentiles count; None for those of all channels together.

    Raises:
        UserError: the two are the same.
    """
    low, high = _window(rule, storage, training, channel)
    if low == high:
        raise UserError(
            Exit.INPUT,
            "data set",
            f"the window of the data card comes down to one grey value, {low:g}",
            "widen `window` in the data card",
        )
    return low, high


def percentiles(packed: np.ndarray, levels: Sequence[float]) -> tuple[float, ...]:
    """Exact percentiles of uint8 or uint16 pixels [N, ...] from their histogram, image by image."""
    counts = np.zeros(np.iinfo(packed.dtype).max + 1, np.int64)
    for image in packed:
        counts += np.bincount(image.ravel(), minlength=len(counts))
    cumulative = np.cumsum(counts)
    # At least one pixel: percentile 0 is the lowest grey value that occurs.
    ranks = [max(1.0, level * int(cumulative[-1]) / 100) for level in levels]
    return tuple(float(np.searchsorted(cumulative, rank)) for rank in ranks)


def _is_fixed(rule: Any) -> bool:
    return not isinstance(rule, str | dict)


def _means_grey_values(rule: Any) -> bool:
    """Whether the rule, or that of one channel, is in grey values."""
    if isinstance(rule, dict) and "percentiles" not in rule:
        return any(_is_fixed(of_channel) for of_channel in rule.values())
    return _is_fixed(rule)


def _window(
    rule: Any, storage: Storage, training: Path, channel: int | None
) -> tuple[float, float]:
    if isinstance(rule, dict):
        packed = np.load(training, mmap_mode="r")
        counted = packed if channel is None else packed[:, channel]
        low, high = percentiles(counted, rule["percentiles"])
        return low * storage.scale + storage.offset, high * storage.scale + storage.offset
    if _is_fixed(rule):
        return float(rule[0]), float(rule[1])
    if storage.mapping == "linear":
        return storage.offset, storage.offset + storage.scale * _FULL
    return 0.0, float(2**storage.bits - 1)


def _to_full_scale(canvas: np.ndarray, bits: int) -> np.ndarray:
    top = 2**bits - 1
    return np.rint(np.minimum(canvas, top).astype(np.float64) * (_FULL / top)).astype(np.uint16)
