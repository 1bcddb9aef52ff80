"""Changes of shape that keep pixel types and channels."""

import cv2
import numpy as np

from common.data.canvas import Fit, extent

# One image is one task of a thread pool here; OpenCV's own threads would only compete.
cv2.setNumThreads(0)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scales [C, H, W] to [C, height, width]: area average when shrinking, cubic when enlarging.

    Any dtype that OpenCV scales (uint8, uint16, int16, float32, float64) and any number of
    channels; integers are rounded and stay in their range.
    """
    if image.shape[1:] == (height, width):
        return image
    shrinks = height <= image.shape[1] and width <= image.shape[2]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return _scaled(image, height, width, method)


def fit_to_canvas(image: np.ndarray, size: int, fit: Fit = "aspect") -> np.ndarray:
    """Scales [C, H, W] onto a [C, size, size] canvas.

    With "aspect" the longer side fills the canvas; the shorter is centred and continued by its edge
    pixels. With "squash" both sides fill it, by bilinear interpolation between neighbours alone,
    as in the published pipelines that this is for.
    """
    if fit == "squash":
        return _scaled(image, size, size, cv2.INTER_LINEAR)
    rows, columns = extent(*image.shape[1:], size)
    top, left = (size - rows) // 2, (size - columns) // 2
    margins = ((0, 0), (top, size - rows - top), (left, size - columns - left))
    return np.pad(resize(image, rows, columns), margins, mode="edge")


def _scaled(image: np.ndarray, height: int, width: int, method: int) -> np.ndarray:
    return np.stack([cv2.resize(p, (width, height), interpolation=method) for p in image])
