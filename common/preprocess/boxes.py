"""Boxes of pixels, and frames as the operators of this folder take them."""

from typing import NamedTuple

import numpy as np


class Box(NamedTuple):
    """A part of an image, in whole pixels.

    Attributes:
        top: first row.
        left: first column.
        height: number of rows.
        width: number of columns.
    """

    top: int
    left: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        """First row below the box."""
        return self.top + self.height

    @property
    def right(self) -> int:
        """First column to the right of the box."""
        return self.left + self.width


def crop(image: np.ndarray, box: Box) -> np.ndarray:
    """View of the pixels [..., height, width] of a box that lies within [..., H, W]."""
    return image[..., box.top : box.bottom, box.left : box.right]


def whole(image: np.ndarray) -> Box:
    """The box of all pixels of [..., H, W]."""
    return Box(0, 0, *image.shape[-2:])


def as_float(image: np.ndarray) -> np.ndarray:
    """Grey values as float32 in the units they had: uint8 and uint16 lose nothing."""
    return image.astype(np.float32, copy=False)
