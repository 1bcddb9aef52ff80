"""What an optical path does to an image before it meets a detector: pure functions on arrays."""

import numpy as np
from scipy import ndimage


def gaussian_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blurs with a Gaussian point spread function; edges are mirrored.

    Args:
        image: floats [..., H, W]; only the last two axes are blurred.
        sigma: standard deviation in pixels, >= 0.
    """
    axes = (image.ndim - 2, image.ndim - 1)
    return ndimage.gaussian_filter(image, sigma, axes=axes, mode="reflect", truncate=3.5)


def vignetting(shape: tuple[int, int], edge: float, angle: float = 0.0) -> np.ndarray:
    """Uneven illumination: a linear ramp across the field plus a quadratic fall towards corners.

    Args:
        shape: H, W in pixels.
        edge: relative loss at the darkest corner, in [0, 1).
        angle: direction of the ramp in radians, image convention (y points down).

    Returns:
        Factors [H, W] in [1 - edge, 1], float32.
    """
    y, x = (np.linspace(-1, 1, length, dtype=np.float32) for length in shape)
    ramp = (x[None] * np.cos(angle) + y[:, None] * np.sin(angle)) / np.sqrt(2)
    loss = (1 + ramp) / 4 + (x[None] ** 2 + y[:, None] ** 2) / 4
    return (1 - edge * loss).astype(np.float32)
