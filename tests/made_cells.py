"""Small fluorescence frames of one cell: tubules around a nucleus, haze, blur and camera noise."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from common.simulate.camera import expose
from common.simulate.optics import gaussian_blur, vignetting


class Cell(NamedTuple):
    """A frame without noise, and what is known of it.

    Attributes:
        clean: expected signal [1, H, W] in [0, 1], with background and haze.
        mask: where tubules are [H, W].
        centre: row and column of the nucleus.
    """

    clean: np.ndarray
    mask: np.ndarray
    centre: tuple[float, float]


def cell(
    rng: np.random.Generator,
    shape: tuple[int, int] = (256, 256),
    tubules: int = 60,
    radius: float | None = None,
) -> Cell:
    """Draws tubules that wander away from the rim of an elliptical nucleus.

    The reach of the cell is about three times the radius of its nucleus.
    """
    radius = radius or min(shape) * rng.uniform(0.09, 0.13)
    centre = np.array(shape) / 2 + rng.uniform(-0.15, 0.15, 2) * shape
    axes = radius * np.exp(rng.normal(0, 0.15, 2))
    angle = rng.uniform(0, 2 * np.pi, tubules)
    place = centre + np.stack([np.sin(angle), np.cos(angle)], 1) * axes * rng.uniform(
        1.05, 1.6, (tubules, 1)
    )
    turned = angle + rng.normal(0, 1.0, tubules)
    length = rng.integers(round(0.5 * radius), round(2.2 * radius), tubules)
    lines = np.zeros(shape, np.float32)
    for step in range(int(length.max())):
        turned += rng.normal(0, 0.17, tubules)
        place = place + np.stack([np.sin(turned), np.cos(turned)], 1)
        outside = (((place - centre) / axes) ** 2).sum(1) > 1
        row, column = np.rint(place).astype(int).T
        inside = (row >= 0) & (column >= 0) & (row < shape[0]) & (column < shape[1])
        shown = outside & inside & (step < length)
        lines[row[shown], column[shown]] = 1
    mask = ndimage.binary_dilation(lines > 0, np.ones((3, 3)))
    haze = gaussian_blur(mask.astype(np.float32), radius / 2)
    clean = 0.06 + 0.5 * gaussian_blur(mask.astype(np.float32), 1.2) + 0.25 * haze
    shade = vignetting(shape, rng.uniform(0, 0.2), rng.uniform(0, 6))
    return Cell((clean * shade)[None].astype(np.float32), mask, (centre[0], centre[1]))


def photographed(clean: np.ndarray, quanta: float, rng: np.random.Generator) -> np.ndarray:
    """A frame of uint16 whose signal of 1 is that many quanta, read out with two of noise."""
    counts = expose(clean, quanta, 2.0, rng) * quanta
    return np.clip(np.rint(100 + counts), 0, 65535).astype(np.uint16)


def contrast_to_noise(image: np.ndarray, mask: np.ndarray) -> float:
    """Mean of tubules above the background around them, over the scatter of that background."""
    near = ndimage.distance_transform_edt(~mask)
    ground = image[(near > 4) & (near <= 12)]
    return float((image[mask].mean() - ground.mean()) / max(ground.std(), 1e-9))


def dice(found: np.ndarray, mask: np.ndarray) -> float:
    return float(2 * (found & mask).sum() / max(found.sum() + mask.sum(), 1))
