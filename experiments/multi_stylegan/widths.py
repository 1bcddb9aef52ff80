"""Channels of both networks: from a number or two, or each of them as it was typed."""

from collections.abc import Sequence
from typing import Any

from common.errors import Exit, UserError
from common.networks.equalized import halving_widths, resolutions

# Of the discriminator's blocks in units of those of the first, as published.
_TIMES = (1, 2, 3, 6, 8)
# The discriminator attends in its third block.
_FEWEST = 3


def generator_widths(
    image_size: int, finest: int, widest: int, typed: Sequence[int] | None
) -> list[int]:
    """Channels of a path at 4, 8, ... ``image_size`` pixels.

    Args:
        image_size: side of a frame in pixels.
        finest: as of `halving_widths`.
        widest: as of `halving_widths`.
        typed: each of them, which the two above have no say in; None leaves it to these.

    Raises:
        UserError: ``image_size`` is no power of two, or ``typed`` are not as many as resolutions.
    """
    if typed is None:
        return halving_widths(image_size, finest, widest)
    levels = len(resolutions(image_size))
    return _fitting("widths", typed, range(levels, levels + 1), f"frames of {image_size} px")


def discriminator_sizes(
    image_size: int,
    finest: int,
    levels: int,
    typed: Sequence[int] | None,
    rising: Sequence[int] | None,
    places: int,
) -> dict[str, Any]:
    """Arguments of `Discriminator`: ``widths``, ``rising`` and ``places``.

    Args:
        image_size: side of a frame in pixels.
        finest: channels of the first block; later ones have 2, 3, 6 and 8 times as many.
        levels: how many blocks.
        typed: channels of each of them, which the two above have no say in; None leaves it to
            these.
        rising: as typed, see `Discriminator`.
        places: as typed, see `Discriminator`.

    Raises:
        UserError: there are too few blocks for attention, or more than frames can be halved for;
            more or fewer numbers in ``rising`` than blocks of the decoder; more ``places`` than the
            coarsest features have pixels along a side.
    """
    widths = _widths(image_size, finest, levels, typed)
    blocks, coarsest = len(widths) - 1, image_size >> len(widths) - 1
    if rising is not None:
        beside = f"{len(widths)} blocks of the encoder"
        rising = _fitting("d_rising", rising, range(blocks, blocks + 1), beside)
    if places > coarsest:
        problem = f"is more than the {coarsest} pixels that {len(widths)} blocks leave of a side"
        remedy = f"choose 1 to {coarsest}"
        raise UserError(Exit.USAGE, f"--model.d_places {places}", problem, remedy)
    return {"widths": widths, "rising": rising, "places": places}


def _widths(image_size: int, finest: int, levels: int, typed: Sequence[int] | None) -> list[int]:
    if typed is not None:
        # The last halving needs four pixels.
        most = image_size.bit_length()
        return _fitting("d_widths", typed, range(_FEWEST, most), f"frames of {image_size} px")
    # Attention leaves at least two pixels.
    most = min(len(_TIMES), image_size.bit_length() - 2)
    if not _FEWEST <= levels <= most:
        problem, remedy = f"does not fit frames of {image_size} px", f"choose 3 to {most}"
        raise UserError(Exit.USAGE, f"--model.d_levels {levels}", problem, remedy)
    return [finest * times for times in _TIMES[:levels]]


def _fitting(name: str, typed: Sequence[int], counts: range, to: str) -> list[int]:
    if len(typed) not in counts or min(typed) < 1:
        asked = f"--model.{name} {','.join(map(str, typed)) or 'of no block'}"
        count = " to ".join(map(str, sorted({counts[0], counts[-1]})))
        remedy = f"give {count} numbers above 0"
        raise UserError(Exit.USAGE, asked, f"does not fit {to}", remedy)
    return list(typed)
