"""Images whose channels lie in a file each."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from common.data.cards import Card
from common.data.image_decoded import Image
from common.data.manifest import Sample
from common.data.movies import read_still
from common.data.reading import planes
from common.errors import UserError

# Views are about square. What is this much longer than wide is several of them side by side.
_LONGEST = 3.0


def read_moment(root: Path, sample: Sample, card: Card) -> Image:
    """One image [C, H, W] of all files of a sample, a channel each.

    Args:
        root: raw folder.
        sample: with as many files as the card has channels, in the order of these.
        card: of the data.

    Raises:
        UserError: the first file cannot be read.
        ValueError: another one cannot, a file holds more than one plane, or the files do not fit
            together; the text says which.
    """
    images = [_read(root, sample, name) for name in sample.files]
    channels = []
    for name, channel, image in zip(sample.files, card.channels, images, strict=True):
        channels.append(_plane(sample, name, image, replace(card, channels=(channel,))))
    for name, plane in zip(sample.files, channels, strict=True):
        kinds = [f"{one.dtype} {one.shape[1]} x {one.shape[2]}" for one in (channels[0], plane)]
        if kinds[0] != kinds[1]:
            raise ValueError(f"is {kinds[0]}, and its partner {name} is {kinds[1]}")
    bits = max(image.bits for image in images)
    return replace(images[0], pixels=np.concatenate(channels), axes="CYX", bits=bits)


def refuse_strip(pixels: np.ndarray) -> None:
    """Raises `ValueError` for an image [C, H, W] that is several views side by side."""
    height, width = pixels.shape[1:]
    if max(height, width) > _LONGEST * min(height, width):
        found = f"has {height} x {width} pixels, several views side by side"
        raise ValueError(f"{found}; cut them into files of their own")


def _read(root: Path, sample: Sample, name: str) -> Image:
    try:
        return read_still(root / name, root)
    except UserError as error:
        if name == sample.file:
            raise
        raise ValueError(f"has the partner {name}, which {error.problem}") from error


def _plane(sample: Sample, name: str, image: Image, card: Card) -> np.ndarray:
    try:
        return planes(image, card)
    except ValueError as error:
        if name == sample.file:
            raise
        raise ValueError(f"has the partner {name}, which {error}") from error
