"""What the corpus of image files is made of: a file, and what must become of it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bad_input.child import Outcome
from common.errors import visible


@dataclass(frozen=True)
class Case:
    """One file and what a reader must make of it.

    Attributes:
        name: of the file; what is no Unicode in it stands as in `os.fsdecode`.
        make: writes the file to the path given.
        words: of the refusal, where it must be refused.
        pixels: what must be read otherwise; may be a view on fewer numbers.
        axes: of the pixels.
        bits: of a sample; 0 for those of the pixel type.
        tolerance: in grey levels, of the first few pixels, where compression loses something.
    """

    name: str
    make: Callable[[Path], object]
    words: str = ""
    pixels: np.ndarray | None = None
    axes: str = ""
    bits: int = 0
    tolerance: float = 0

    def complaint(self, outcome: Outcome, folder: str) -> str:
        """What is wrong with what became of the file; nothing if nothing is."""
        if self.pixels is None:
            return self._about_refusal(outcome, folder)
        if outcome.kind != "read":
            return f"is not read but {outcome.kind}: {outcome.text}"
        expected = (self.axes, str(self.pixels.dtype), self.pixels.shape, self._bits)
        found = (outcome.axes, outcome.dtype, outcome.shape, outcome.bits)
        if found != expected:
            return f"is read as {found}, not {expected}"
        first = [float(value) for value in self.pixels.flat[: len(outcome.first)]]
        if np.abs(np.subtract(first, outcome.first)).max() > self.tolerance:
            return f"begins with {outcome.first}, not {first}"
        whole = self.tolerance == 0 and self.pixels.flags.c_contiguous
        if whole and outcome.digest != hashlib.sha256(self.pixels).hexdigest():
            return "holds other pixels behind the first few"
        return ""

    @property
    def _bits(self) -> int:
        return self.bits or 8 * self.pixels.itemsize

    def _about_refusal(self, outcome: Outcome, folder: str) -> str:
        told = outcome.kind == "refused" and outcome.code == 3
        if not told or not outcome.is_ours or self.words not in outcome.text:
            return f"is not refused with {self.words!r} but {outcome.kind}: {outcome.text}"
        if not outcome.subject.endswith(visible(self.name)) or folder in outcome.text:
            return f"is told as {outcome.subject!r}: {outcome.text}"
        return "" if outcome.text.isprintable() else f"is told unprintably: {outcome.text!r}"


def reads(
    name: str,
    data: bytes,
    pixels: np.ndarray,
    axes: str = "YX",
    bits: int = 0,
    tolerance: float = 0,
) -> Case:
    """A file that must be read."""
    writer = _Writer(data)
    pixels = pixels if 0 in pixels.strides else np.ascontiguousarray(pixels)
    return Case(name, writer, pixels=pixels, axes=axes, bits=bits, tolerance=tolerance)


def refuses(name: str, data: bytes, words: str) -> Case:
    """A file that must be refused with these words."""
    return Case(name, _Writer(data), words)


@dataclass(frozen=True)
class _Writer:
    data: bytes

    def __call__(self, path: Path) -> None:
        path.write_bytes(self.data)
