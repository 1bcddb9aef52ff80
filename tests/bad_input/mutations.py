"""Six image files and any number of ways to damage them, each known by its number."""

import random
import zlib
from collections.abc import Callable

import numpy as np

from bad_input.encoders import animated, encoded, tiff

PICTURE = np.random.default_rng(5).integers(0, 256, (24, 31), np.uint8)
# Numbers at which a reader's arithmetic may go wrong.
_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF,
            0x80000000, 0xFFFFFFFF, 0x20000000, 30_000)  # fmt: skip


def originals() -> dict[str, bytes]:
    """Files to damage; every one of them can be read."""
    stack = np.stack([PICTURE, 255 - PICTURE, PICTURE // 2])
    size = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    return {
        "a.png": encoded("PNG", PICTURE, mode="RGB"),
        "a.jpg": encoded("JPEG", PICTURE, mode="RGB", progressive=True, quality=60),
        "a.gif": animated("GIF", stack),
        "a.bmp": encoded("BMP", PICTURE),
        "ome.tif": tiff(stack, ome=True, compression="zlib", predictor=True, rowsperstrip=8,
                        metadata={"axes": "CYX", **size}),
        "imagej.tif": tiff(stack.astype(np.uint16) << 8, compression="lzw", metadata=None,
                           description="ImageJ=1.53\nimages=3\nslices=3\nunit=um\n"),
    }  # fmt: skip


def mutated(data: bytes, name: str, number: int, seed: int = 0) -> bytes:
    """Damage number ``number`` of a file; the same arguments give the same bytes on any machine.

    Args:
        data: the whole file.
        name: of the original; other names are damaged elsewhere.
        number: any.
        seed: for other sets of damages.
    """
    chance = random.Random(f"{seed}/{name}/{number}")
    damaged = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        chance.choice(_DAMAGES)(damaged, chance)
    if name.endswith(".png") and chance.random() < 0.6:
        _renew_checksums(damaged)
    return bytes(damaged)


def _renew_checksums(data: bytearray) -> None:
    """Else what the parts of a PNG say would hardly ever be looked at."""
    place = 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            return
        data[end : end + 4] = zlib.crc32(data[place + 4 : end]).to_bytes(4, "big")
        place = end + 4


def _flip_a_bit(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 8))):
        data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _replace_a_byte(data: bytearray, chance: random.Random) -> None:
    data[_place(data, chance)] = chance.choice((0, 255, chance.randrange(256)))


def _replace_a_number(data: bytearray, chance: random.Random) -> None:
    """The way header fields go wrong: whole numbers of two, four or eight bytes."""
    width, order = chance.choice((2, 4, 4, 8)), chance.choice(("big", "little"))
    number = chance.choice(_NUMBERS) + chance.choice((0, 0, 0, -1, 1))
    place = _place(data, chance)
    data[place : place + width] = (number % 2 ** (8 * width)).to_bytes(width, order)


def _shift_a_number(data: bytearray, chance: random.Random) -> None:
    place, order = _place(data, chance) & ~1, chance.choice(("big", "little"))
    number = int.from_bytes(data[place : place + 2], order) + chance.randint(-4, 4)
    data[place : place + 2] = (number % 2**16).to_bytes(2, order)


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(1, len(data) + 1) :]


def _remove(data: bytearray, chance: random.Random) -> None:
    place = _place(data, chance)
    del data[place : place + chance.choice((1, 2, 4, 12, 64))]
    _keep_a_byte(data)


def _insert(data: bytearray, chance: random.Random) -> None:
    new = chance.choice((bytes(4), b"\xff" * 4, chance.randbytes(chance.randint(1, 32))))
    place = _place(data, chance)
    data[place:place] = new


def _swap_blocks(data: bytearray, chance: random.Random) -> None:
    width = chance.choice((2, 4, 12, 32))
    one, two = sorted((_place(data, chance), _place(data, chance)))
    first, second = data[one : one + width], data[two : two + width]
    if one + width <= two:
        data[two : two + width], data[one : one + width] = first, second
    _keep_a_byte(data)


def _repeat_a_block(data: bytearray, chance: random.Random) -> None:
    place, width = _place(data, chance), chance.choice((4, 12, 64, 512))
    data[place:place] = data[place : place + width] * chance.choice((1, 2, 50))


def _place(data: bytearray, chance: random.Random) -> int:
    """Anywhere, but every second time in the headers, which lie at the ends of a file."""
    near = min(len(data), 200)
    choices = (chance.randrange(near), len(data) - 1 - chance.randrange(near))
    return chance.choice((*choices, chance.randrange(len(data)), chance.randrange(len(data))))


def _keep_a_byte(data: bytearray) -> None:
    if not data:
        data.append(0)


_DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    _flip_a_bit, _replace_a_byte, _replace_a_number, _replace_a_number, _shift_a_number,
    _cut, _remove, _insert, _swap_blocks, _repeat_a_block,
)  # fmt: skip
