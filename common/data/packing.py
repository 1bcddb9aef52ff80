"""Pixels of a whole split in one memory-mapped file, kept as uint8 or uint16.

The grey value of a stored number is ``stored * scale + offset``. Files of one unsigned type are
stored as they are (scale 1, offset 0). Signed and floating types are mapped linearly onto 16 bits
by the range found in the data; files of different unsigned types by the full scale of each.
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
        bits: significant bits of the grey values, the most of any file.
        source: pixel type of the original files; generated images are written in it.
    """

    dtype: str
    mapping: str
    scale: float
    offset: float
    bits: int
    source: str


class Scratch:
    """Canvases in arrival order, in a file that disappears; packed once all of them are known."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "scratch.bin"
        self._types: list[tuple[np.dtype, int]] = []
        self._offsets: list[int] = []
        self._shape: tuple[int, ...] = ()
        self._low, self._high = np.inf, -np.inf

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

    def append(self, canvas: np.ndarray, bits: int) -> None:
        """Keeps one canvas [C, size, size]; ``bits`` are the significant bits of its file."""
        self._shape = canvas.shape
        self._types.append((canvas.dtype, bits))
        self._offsets.append(self._stream.tell())
        self._low = min(self._low, float(canvas.min()))
        self._high = max(self._high, float(canvas.max()))
        self._stream.write(np.ascontiguousarray(canvas).tobytes())

    def pack(self, order: dict[str, Sequence[int]]) -> Storage:
        """Writes ``<split>.npy`` [N, C, size, size] for each split; ``order`` holds positions."""
        storage = self._storage()
        for split, positions in order.items():
            shape = (len(positions), *self._shape)
            packed = np.lib.format.open_memmap(
                self._path.with_name(f"{split}.npy"), mode="w+", dtype=storage.dtype, shape=shape
            )
            for row, position in enumerate(positions):
                packed[row] = self._stored(position, storage)
            packed.flush()
        return storage

    def _storage(self) -> Storage:
        kinds = {str(dtype) for dtype, _ in self._types}
        bits = max(bits for _, bits in self._types)
        if len(kinds) == 1 and kinds <= {"uint8", "uint16"}:
            kind = kinds.pop()
            return Storage(kind, "identity", 1.0, 0.0, bits, kind)
        if kinds <= {"uint8", "uint16"}:
            return Storage("uint16", "full_scale", 1.0, 0.0, 16, "uint16")
        if len(kinds) > 1:
            raise UserError(
                Exit.INPUT,
                "data set",
                f"mixes the pixel types {', '.join(sorted(kinds))}",
                "convert the files to one type",
            )
        scale = (self._high - self._low) / _FULL
        return Storage("uint16", "linear", scale, self._low, bits, kinds.pop())

    def _stored(self, position: int, storage: Storage) -> np.ndarray:
        dtype, bits = self._types[position]
        self._stream.seek(self._offsets[position])
        raw = self._stream.read(dtype.itemsize * int(np.prod(self._shape)))
        canvas = np.frombuffer(raw, dtype).reshape(self._shape)
        if storage.mapping == "identity":
            return canvas
        if storage.mapping == "full_scale":
            return _to_full_scale(canvas, bits)
        return np.rint((canvas.astype(np.float64) - storage.offset) / storage.scale)


def scalable(pixels: np.ndarray) -> np.ndarray:
    """The same values in a type that can be scaled: bool, integers and half precision widened."""
    if pixels.dtype in (np.uint8, np.uint16, np.float32):
        return pixels
    return pixels.astype(np.uint8 if pixels.dtype == bool else np.float32)


def window(rule: Any, storage: Storage, training: Path) -> tuple[float, float]:
    """Grey values that become -1 and +1, by the data card's rule.

    Args:
        rule: "dtype" (the full range of the significant bits), [low, high] in grey values, or
            {"percentiles": [low, high]} of the training split, never of another one.
        storage: of the packed pixels.
        training: packed training split.
    """
    if isinstance(rule, dict):
        low, high = percentiles(np.load(training, mmap_mode="r"), rule["percentiles"])
        return low * storage.scale + storage.offset, high * storage.scale + storage.offset
    if rule != "dtype":
        return float(rule[0]), float(rule[1])
    if storage.mapping == "linear":
        return storage.offset, storage.offset + storage.scale * _FULL
    return 0.0, float(2**storage.bits - 1)


def percentiles(packed: np.ndarray, levels: Sequence[float]) -> tuple[float, ...]:
    """Exact percentiles of uint8 or uint16 pixels [N, ...] from their histogram, image by image."""
    counts = np.zeros(np.iinfo(packed.dtype).max + 1, np.int64)
    for image in packed:
        counts += np.bincount(image.ravel(), minlength=len(counts))
    cumulative = np.cumsum(counts) / counts.sum()
    return tuple(float(np.searchsorted(cumulative, level / 100)) for level in levels)


def _to_full_scale(canvas: np.ndarray, bits: int) -> np.ndarray:
    top = 2**bits - 1
    return np.rint(np.minimum(canvas, top).astype(np.float64) * (_FULL / top)).astype(np.uint16)
