"""What keeps the frames of a video comparable: grey levels, bleaching, drift."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from common.preprocess.boxes import as_float
from common.preprocess.filters import without_hot_pixels

# A frame without light is not multiplied into noise.
MOST_BLEACHING = 10.0
# Percentile that is called background, and blur before it is taken, pixels: unblurred it would be
# one of the noise.
_BACKGROUND, _BACKGROUND_BLUR_PX = 20, 2.0
# Blur before two frames are compared, pixels: noise correlates with nothing, structures stay.
_DRIFT_BLUR_PX = 1.0


class Light(NamedTuple):
    """How bright a frame is.

    Attributes:
        background: grey level of the darkest fifth of each channel [C].
        signal: mean of each channel above that [C].
    """

    background: np.ndarray
    signal: np.ndarray


def percentile_normalise(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Takes each channel of [C, H, W] from its percentiles to [0, 1]; what is beyond saturates.

    Args:
        image: any grey values.
        low: percentile that becomes 0.
        high: percentile that becomes 1, above `low`.

    Returns:
        float32 in [0, 1]; a channel whose two percentiles are one grey level becomes 0.
    """
    image = as_float(image)
    levels = np.percentile(image, (low, high), axis=(1, 2), keepdims=True).astype(np.float32)
    span = levels[1] - levels[0]
    scaled = (image - levels[0]) / np.where(span > 0, span, np.inf)
    return np.clip(scaled, 0, 1)


def light_of(image: np.ndarray) -> Light:
    """Measures the channels of [C, H, W].

    What bleaches to a share of itself above an offset does so at every percentile: which of them
    is called background has no influence on `bleach_factors`.
    """
    blur = (0, _BACKGROUND_BLUR_PX, _BACKGROUND_BLUR_PX)
    planes = ndimage.gaussian_filter(without_hot_pixels(image), blur)
    background = np.percentile(planes, _BACKGROUND, axis=(1, 2)).astype(np.float64)
    return Light(background, planes.mean((1, 2), dtype=np.float64) - background)


def bleach_factors(light: Light, reference: Light) -> np.ndarray:
    """By how much the signal of each channel [C] was brighter in the reference.

    The ratio of what lies above the background, because an offset of the camera does not bleach.
    At most `MOST_BLEACHING`, at least its inverse; 1 where the reference has no signal.
    """
    floor = np.maximum(reference.signal, 0) / (2 * MOST_BLEACHING)
    ratio = np.divide(
        reference.signal,
        np.maximum(light.signal, floor),
        out=np.ones_like(reference.signal),
        where=reference.signal > 0,
    )
    return np.clip(ratio, 1 / MOST_BLEACHING, MOST_BLEACHING)


def bleach_correct(image: np.ndarray, light: Light, reference: Light) -> np.ndarray:
    """Gives [C, H, W] the background and the signal of the reference, as float32."""
    factors, now, then = (
        np.asarray(values, np.float32)[:, None, None]
        for values in (bleach_factors(light, reference), light.background, reference.background)
    )
    return then + (as_float(image) - now) * factors


def drift(frame: np.ndarray, reference: np.ndarray) -> tuple[int, int]:
    """Rows and columns by which a frame [C, H, W] must be shifted to lie on a reference.

    The peak of the cross-correlation of the sums of channels, to whole pixels: a shift by less
    would blur. Hot pixels stand still when the cell moves; they are removed before. Frequencies
    are not made equal as in phase correlation (Kuglin and Hines 1975), which finds the shading of
    the field where it has not moved: on 40 simulated frames of ten quanta a pixel it was off by
    more than a pixel every time, this never.
    """
    shift, _, _ = phase_cross_correlation(_quiet(reference), _quiet(frame), normalization=None)
    return round(float(shift[0])), round(float(shift[1]))


def shifted(frame: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
    """Moves [C, H, W] down and to the right by whole pixels; what is uncovered is mirrored.

    Type, size and grey values stay.
    """
    return ndimage.shift(frame, (0, *shift), order=0, mode="mirror", prefilter=False)


def _quiet(image: np.ndarray) -> np.ndarray:
    plane = without_hot_pixels(as_float(image).sum(0, keepdims=True))[0]
    plane = ndimage.gaussian_filter(plane, _DRIFT_BLUR_PX)
    return plane - plane.mean()
