"""What a detector does to an image: shot noise, read noise, quantisation."""

import numpy as np


def expose(
    image: np.ndarray, full_scale: float, read_noise: float, rng: np.random.Generator
) -> np.ndarray:
    """Counts quanta with Poisson noise, adds Gaussian read noise and scales back.

    The Poisson law is replaced by the Gaussian of equal mean and variance, which from about
    twenty quanta a pixel on cannot be told from it and is ten times faster.

    Args:
        image: expected signal, non-negative; 1 is `full_scale` quanta.
        full_scale: quanta a pixel that a signal of 1 yields, > 0.
        read_noise: standard deviation of the read noise in quanta, >= 0.
        rng: source of the noise.

    Returns:
        Noisy signal in the units of `image`, float32; may leave the range of `image`.
    """
    variance = np.maximum(image, 0) / full_scale + (read_noise / full_scale) ** 2
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    return (image + np.sqrt(variance) * noise).astype(np.float32)


def quantise(image: np.ndarray, bits: int = 8) -> np.ndarray:
    """Rounds a signal in [0, 1] to the grey levels of a camera; what lies outside saturates.

    Returns:
        uint8 up to 8 bits, uint16 above.
    """
    top = 2**bits - 1
    levels = np.rint(np.clip(image, 0, 1) * top)
    return levels.astype(np.uint8 if bits <= 8 else np.uint16)
