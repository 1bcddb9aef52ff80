"""Filters of single frames [C, H, W]: sharper, less noisy, without haze; all give float32."""

import cv2
import numpy as np
import torch
from scipy import ndimage

from common.preprocess.boxes import as_float
from common.preprocess.noise import MEDIAN_OF_NORMAL, NOISE_KERNEL, NOISE_KERNEL_NORM
from kernels import non_local_means

# One frame is one task here; OpenCV's own threads would only compete.
cv2.setNumThreads(0)

# Blur within the Laplacian, pixels: without one it would see noise before anything else.
LAPLACIAN_SIGMA_PX = 1.0
# Side of a patch and reach of the search in pixels, as Buades, Coll and Morel 2011 advise.
_PATCH_PX, _REACH_PX = 5, 10


def without_hot_pixels(image: np.ndarray) -> np.ndarray:
    """Median of the 3 by 3 pixels around each one of [C, H, W]."""
    return np.stack([cv2.medianBlur(plane, 3) for plane in as_float(image)])


def laplacian_sharpen(image: np.ndarray, weight: float) -> np.ndarray:
    """Exaggerates edges by the Laplacian of the blurred image.

    The Laplacian is negative on a bright ridge. It is subtracted, which is the same as to add the
    response of a kernel whose centre is positive; the other sign would blur.

    Args:
        image: any grey values.
        weight: how much of it, >= 0; 0 leaves the image as it is.
    """
    image = as_float(image)
    if not weight:
        return image
    return image - np.float32(weight) * _laplacian(image)


def noise_gain(weight: float) -> float:
    """Factor on the standard deviation of white noise that `laplacian_sharpen` has."""
    point = np.zeros((1, 33, 33), np.float32)
    point[0, 16, 16] = 1
    return float(np.linalg.norm(laplacian_sharpen(point, weight)))


def noise_sigma(image: np.ndarray) -> np.ndarray:
    """Standard deviation of the noise of each channel [C] in its grey levels.

    From the median response to a kernel that edges and ramps do not excite. Where noise grows with
    the signal it is that of the darker half. It is 0 where most pixels equal their neighbours.
    """
    planes = as_float(image)
    response = np.stack([cv2.filter2D(plane, cv2.CV_32F, NOISE_KERNEL) for plane in planes])
    scale = MEDIAN_OF_NORMAL * NOISE_KERNEL_NORM
    return np.median(np.abs(response), axis=(1, 2)).astype(np.float64) / scale


def denoise(image: np.ndarray, strength: float, sigma: np.ndarray | None = None) -> np.ndarray:
    """Non-local means with a strength in units of the noise; see `kernels.non_local_means`.

    Channels share their weights, each in units of its own noise, so neither bit depth nor the
    number of channels matters. A channel without noise stays as it is.

    Args:
        image: any grey values.
        strength: h over the noise, > 0; from 0.6 (faint) to 1.2 (smooth).
        sigma: standard deviations of the noise [C]; None estimates them.
    """
    image = as_float(image)
    sigma = noise_sigma(image) if sigma is None else sigma
    noisy = sigma > 0
    if not noisy.any():
        return image
    unit = sigma[noisy].astype(np.float32)[:, None, None]
    scaled = torch.from_numpy(image[noisy] / unit)
    out = image.copy()
    out[noisy] = non_local_means(scaled, _PATCH_PX, _REACH_PX, strength, 1.0).numpy() * unit
    return out


def top_hat(image: np.ndarray, radius_px: float) -> np.ndarray:
    """What of an image is brighter than its surroundings and narrower than a disc.

    Subtracts the opening by a disc, and with it haze wider than that.

    Args:
        image: any grey values.
        radius_px: of the disc in pixels, above half the width of what is to be kept.
    """
    reach = int(radius_px)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (x**2 + y**2 <= radius_px**2).astype(np.uint8)
    planes = as_float(image)
    return np.stack([cv2.morphologyEx(plane, cv2.MORPH_TOPHAT, disc) for plane in planes])


def _laplacian(image: np.ndarray) -> np.ndarray:
    # Cut off at the usual four sigma, the kernel would still see a ten-thousandth of flat areas.
    return ndimage.gaussian_laplace(image, LAPLACIAN_SIGMA_PX, axes=(1, 2), truncate=7.0)
