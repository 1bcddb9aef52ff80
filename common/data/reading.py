"""How planes of a file become one image: channel, projection, and what else is done to it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from common.data.cards import Card

if TYPE_CHECKING:
    from common.data.image_decoded import Image
    from common.preprocess.pipeline import Pipeline

Projection = Literal["none", "max", "mean", "middle"]
Normalise = Literal["fixed", "sequence"]


@dataclass(frozen=True)
class Reading:
    """What happens to an image between its file and the canvas.

    Attributes:
        projection: how a stack of z planes becomes one: "max" (brightest plane at each pixel),
            "mean", "middle" (the plane half way), or "none", which refuses stacks.
        channel: name or position of the only channel that is taken, "" for all.
        pipeline: what is done to the image then; None for nothing.
    """

    projection: Projection = "none"
    channel: str = ""
    pipeline: "Pipeline | None" = None


@dataclass(frozen=True)
class SequenceReading(Reading):
    """What happens to images that are moments of a sequence.

    Attributes:
        normalise: "fixed" (by the window of the data card) or "sequence" (every sequence and
            channel by levels of its own, see `windows`).
    """

    normalise: Normalise = "fixed"


def planes(
    image: "Image", card: Card, reading: Reading | None = None, of_movie: bool = False
) -> np.ndarray:
    """Pixels [C, H, W] with the channels the card names.

    Of several channels the one that was asked for is taken, also where it is blank, else the only
    one that is not. A still in colours of which only one is not blank gives that one in any case.

    Args:
        image: a still, or one moment of a movie.
        card: names the channels.
        reading: None for no projection, and no channel that was asked for.
        of_movie: whether the file holds other moments, which have to show the same channel.

    Raises:
        ValueError: more than one plane, another number of channels, or no such channel; the text
            says which.
    """
    reading = reading or Reading()
    pixels, axes = image.pixels, image.axes
    if "Z" in axes and reading.projection != "none":
        pixels = _projected(pixels, axes.index("Z"), reading.projection)
        axes = axes.replace("Z", "")
    for axis in [a for a in axes if a not in "CYX"]:
        position = axes.index(axis)
        if pixels.shape[position] != 1:
            raise ValueError(
                f"holds {pixels.shape[position]} planes along {axis}; one plane an image is needed"
            )
        pixels, axes = pixels.squeeze(position), axes.replace(axis, "")
    pixels = pixels if "C" in axes else pixels[None]
    if len(pixels) not in (1, len(card.channels)):
        pixels = _one_of(pixels, image, card, reading.channel, of_movie)
    if len(pixels) != len(card.channels):
        named = f"{len(card.channels)} ({', '.join(card.channels)})"
        raise ValueError(f"has {len(pixels)} channels; data card {card.name} names {named}")
    return pixels


def _one_of(
    pixels: np.ndarray, image: "Image", card: Card, channel: str, of_movie: bool
) -> np.ndarray:
    """The channel that was asked for, or the only one that says something; else all of them."""
    if card.collapse_grey and (pixels == pixels[:1]).all():
        return pixels[:1]
    shown = [k for k, plane in enumerate(pixels) if plane.min() < plane.max()]
    # Grey levels that somebody has coloured have one channel; what a microscope took may be dark.
    coloured = image.in_colours and not of_movie
    if len(shown) == 1 and (coloured or not channel):
        return pixels[shown]
    return pixels[_position(channel, image.channel_names, len(pixels))][None] if channel else pixels


def _projected(pixels: np.ndarray, axis: int, projection: Projection) -> np.ndarray:
    if projection == "middle":
        return pixels.take(pixels.shape[axis] // 2, axis)
    if projection == "max":
        return pixels.max(axis)
    mean = pixels.mean(axis, dtype=np.float64)
    return (np.rint(mean) if pixels.dtype.kind in "ui" else mean).astype(pixels.dtype)


def _position(channel: str, names: tuple[str, ...], count: int) -> int:
    known = [*(names or ()), *map(str, range(count))]
    if channel not in known:
        raise ValueError(f"has no channel {channel}, only {', '.join(known)}")
    return known.index(channel) if channel in names else int(channel)
