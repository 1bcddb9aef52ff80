"""The square canvas that images of any aspect ratio share, and the part of it that is image.

With the fit "aspect" an image is scaled so that its longer side fills the canvas, centred, and
continued outwards by its edge pixels. Nothing is stretched: the aspect ratio survives, and a mask
says what is real. With the fit "squash" it is stretched over the whole canvas, as many published
pipelines do: all of the canvas is image, and its aspect ratio is lost.
"""

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Fit = Literal["aspect", "squash"]


def extent(height: int, width: int, size: int, fit: Fit = "aspect") -> tuple[int, int]:
    """Rows and columns that a ``height`` x ``width`` image takes on a canvas of ``size`` pixels."""
    if fit == "squash":
        return size, size
    scale = size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def extent_of_aspect(log_aspect: float, size: int) -> tuple[int, int]:
    """Rows and columns on the canvas for a given ln(width / height)."""
    shorter = max(1, round(size * math.exp(-abs(log_aspect))))
    return (shorter, size) if log_aspect >= 0 else (size, shorter)


def rectangle(rows: int, columns: int, size: int) -> tuple[slice, slice]:
    """Where a centred ``rows`` x ``columns`` rectangle lies on the canvas."""
    top, left = (size - rows) // 2, (size - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def rectangle_mask(rows: int, columns: int, size: int) -> np.ndarray:
    """Mask [1, size, size] of uint8: 1 where the canvas holds image, 0 where it continues it."""
    mask = np.zeros((1, size, size), np.uint8)
    mask[(0, *rectangle(rows, columns, size))] = 1
    return mask


def crop_to_mask(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Cuts [..., size, size] to the bounding box of mask [1, size, size]."""
    rows, columns = np.nonzero(mask[0].any(1))[0], np.nonzero(mask[0].any(0))[0]
    return image[..., rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def black_outside(images: Tensor, mask: Tensor) -> Tensor:
    """Images [B, C, S, S] or [B, C, T, S, S] in [-1, 1] that are -1 where masks [B, 1, S, S] are 0.

    For whoever would take the continued edge pixels for a part of the image.
    """
    outside = (mask == 0) if images.ndim == 4 else (mask == 0)[:, :, None]
    return torch.where(outside, -1, images)


def log_aspect(mask: Tensor) -> Tensor:
    """ln(width / height) [B] of the masked part, from masks [B, 1, H, W] of 0 and 1."""
    occupied = mask[:, 0].float()
    height = occupied.amax(2).sum(1)
    width = occupied.amax(1).sum(1)
    return torch.log(width / height)
