"""Pearls: where the brightness along a tubule rises and falls at even distances."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from experiments.mitogan.skeletons import Branch

# Samples along a branch, 1/px.
_DENSITY = 2
# Periods looked for, in widths of a tubule: pearls are 0.92 to 1.43 µm apart, tubules look 0.37 to
# 0.5 µm wide, and a branch must be long enough to show this many of them.
_PERIODS, _LEAST_PERIODS = (1.7, 4.5), 1.8
# Slower changes than this many widths are no pearls.
_SLOW = 1.6
# What makes a branch pearled: autocorrelation at its period and least before it, and standard
# deviation of the logarithm of its brightness; and which share of a network's length must be.
# Chosen on 300 simulated frames, half of them with induced pearls.
_AGREES, _OPPOSES, _CONTRAST = 0.3, -0.2, 0.12
_LEAST_SHARE = 0.05


def pearl_spacing(light: np.ndarray, found: Sequence[Branch], width: float) -> float:
    """Usual distance of pearls in pixels; NaN where less than a twentieth of the length has any.

    Args:
        light: grey values above the background, >= 0 [H, W], hardly blurred.
        found: branches of the skeleton.
        width: of a tubule in pixels, > 0.
    """
    periods, lengths = [], []
    for branch in found:
        if branch.length > _LEAST_PERIODS * _PERIODS[0] * width:
            spacing = period(brightness_along(light, branch.path), width)
            if branch.length > _LEAST_PERIODS * spacing:
                periods.append(spacing)
                lengths.append(branch.length)
    if sum(lengths) <= _LEAST_SHARE * sum(branch.length for branch in found):
        return float("nan")
    order = np.argsort(periods)
    reached = np.cumsum(np.array(lengths)[order])
    return float(periods[order[np.searchsorted(reached, reached[-1] / 2)]])


def brightness_along(light: np.ndarray, path: np.ndarray) -> np.ndarray:
    """Grey values of an image [H, W] along a path y, x [N, 2], two a pixel."""
    reached = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    at = np.arange(0, reached[-1], 1 / _DENSITY)
    places = [np.interp(at, reached, coordinate) for coordinate in path.T]
    return ndimage.map_coordinates(light, places, order=1, mode="nearest")


def period(brightness: np.ndarray, width: float) -> float:
    """Distance in pixels at which brightness repeats itself, by its autocorrelation; else NaN.

    Args:
        brightness: two samples a pixel, >= 0.
        width: of the tubule in pixels, > 0.
    """
    count = len(brightness)
    waves = np.log(np.maximum(brightness, 1e-3 * max(float(brightness.max()), 1e-12)))
    waves -= ndimage.gaussian_filter1d(waves, _DENSITY * _SLOW * width, mode="nearest")
    waves -= waves.mean()
    variance = float(np.mean(waves**2))
    low, high = (int(_DENSITY * reach * width) for reach in _PERIODS)
    lags = np.arange(max(low, 1), min(high, int(0.7 * count)))
    if variance < _CONTRAST**2 or len(lags) < 3:
        return float("nan")
    similar = np.correlate(waves, waves, "full")[count - 1 :] / np.arange(count, 0, -1) / variance
    peaks = lags[(similar[lags] >= similar[lags - 1]) & (similar[lags] >= similar[lags + 1])]
    if len(peaks) == 0:
        return float("nan")
    best = int(peaks[np.argmax(similar[peaks])])
    if similar[best] < _AGREES or similar[:best].min() > _OPPOSES:
        return float("nan")
    return best / _DENSITY
