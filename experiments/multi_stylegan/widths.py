"""Channels of both networks: from a number or two, or each of them as it was typed."""

from collections.abc import Sequence

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
    return _fitting("widths", typed, range(levels, levels + 1), image_size)


def discriminator_widths(
    image_size: int, finest: int, levels: int, typed: Sequence[int] | None
) -> list[int]:
    """Channels of the discriminator's blocks, from full resolution on.

    Args:
        image_size: side of a frame in pixels.
        finest: of the first block; later ones have 2, 3, 6 and 8 times as many.
        levels: how many blocks.
        typed: each of them, which the two above have no say in; None leaves it to these.

    Raises:
        UserError: there are too few blocks for attention, or more than frames can be halved for.
    """
    if typed is not None:
        # The last halving needs four pixels.
        return _fitting("d_widths", typed, range(_FEWEST, image_size.bit_length()), image_size)
    # Attention leaves at least two pixels.
    most = min(len(_TIMES), image_size.bit_length() - 2)
    if not _FEWEST <= levels <= most:
        problem, remedy = f"does not fit frames of {image_size} px", f"choose 3 to {most}"
        raise UserError(Exit.USAGE, f"--model.d_levels {levels}", problem, remedy)
    return [finest * times for times in _TIMES[:levels]]


def fitting_places(places: int, image_size: int, widths: Sequence[int]) -> int:
    """``places``, if the discriminator's coarsest features have as many pixels along each side.

    Args:
        places: see `Discriminator`.
        image_size: side of a frame in pixels.
        widths: of `discriminator_widths`.

    Raises:
        UserError: they have fewer.
    """
    coarsest = image_size >> len(widths) - 1
    if places > coarsest:
        problem = f"is more than the {coarsest} pixels that {len(widths)} blocks leave of a side"
        remedy = f"choose 1 to {coarsest}"
        raise UserError(Exit.USAGE, f"--model.d_places {places}", problem, remedy)
    return places


def _fitting(name: str, typed: Sequence[int], counts: range, image_size: int) -> list[int]:
    if len(typed) not in counts or min(typed) < 1:
        asked = f"--model.{name} {','.join(map(str, typed)) or 'of no block'}"
        count = " to ".join(map(str, sorted({counts[0], counts[-1]})))
        problem = f"does not fit frames of {image_size} px"
        raise UserError(Exit.USAGE, asked, problem, f"give {count} numbers above 0")
    return list(typed)
