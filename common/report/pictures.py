"""PNG files as ``data:`` URIs, checked first and limited in sum."""

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.report.runs import Sample

SAMPLES_SHOWN = 12
_SIGNATURE, _LAST_CHUNK = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_MOST_PIXELS = 64 * 2**20


@dataclass(frozen=True)
class Picture:
    """An image as the page holds it.

    Attributes:
        uri: ``data:`` URI, "" where the file is not shown.
        width: in pixels.
        height: in pixels.
        problem: why it is not shown, else "".
    """

    uri: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""

    @property
    def scaling(self) -> str:
        """Style class: pictures this small are enlarged, and their pixels stay square."""
        return "pixels" if self.width <= 160 else ""


class Album:
    """Embeds pictures unchanged until the page is full.

    Args:
        room: bytes of image files that the page may hold.
    """

    def __init__(self, room: int) -> None:
        self._room = room

    def add(self, path: Path) -> Picture:
        """The picture, or why it is not shown: damaged, still being written, or no room left."""
        try:
            data = path.read_bytes()
        except OSError as error:
            return Picture(problem=f"{path.name} cannot be read ({error.strerror}).")
        if not (data.startswith(_SIGNATURE) and data.endswith(_LAST_CHUNK) and len(data) > 45):
            return Picture(problem=f"{path.name} is no complete PNG file.")
        width, height = struct.unpack(">II", data[16:24])
        if width * height > _MOST_PIXELS:
            return Picture(problem=f"{path.name} has more than {_MOST_PIXELS:,} pixels.")
        if len(data) > self._room:
            return Picture(problem=f"{path.name} is left out: the page is full.")
        self._room -= len(data)
        uri = f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"
        return Picture(uri, width, height)


def choose_samples(samples: Sequence[Sample]) -> list[Sample]:
    """The first samples of every label in turn, so that few show all classes; at most 12."""
    seen: dict[str, int] = {}
    turns = []
    for position, sample in enumerate(samples):
        turns.append((seen.get(sample.label, 0), position))
        seen[sample.label] = turns[-1][0] + 1
    chosen = sorted(position for _, position in sorted(turns)[:SAMPLES_SHOWN])
    return [samples[position] for position in chosen]


def filmstrip(previews: Sequence[tuple[int, Path]]) -> list[tuple[int, Path]]:
    """First, middle and last of the previews, each once."""
    places = sorted({0, len(previews) // 2, len(previews) - 1})
    return [previews[place] for place in places] if previews else []
