"""Distances between the distributions of one biological scalar in real and synthetic images.

Not-a-number means that nothing could be measured (no object found). Such values are left out, and
`finite` counts them: a set in which half the images hold no object must not pass unseen.
"""

import numpy as np
from scipy import stats

from common.metrics.protocol import MetricRefused

# Percentile intervals are far too narrow below this.
MIN_VALUES = 10


def wasserstein(real: np.ndarray, fake: np.ndarray) -> float:
    """Wasserstein-1 distance of two samples, in the unit of the scalar.

    Args:
        real: [N]; values that are not finite are left out.
        fake: [M]; likewise.

    Raises:
        MetricRefused: fewer than ten finite values on a side.
    """
    return float(stats.wasserstein_distance(*_usable(real, fake)))


def kolmogorov_smirnov(real: np.ndarray, fake: np.ndarray) -> float:
    """Largest gap between the two empirical distribution functions, from 0 to 1.

    Args:
        real: [N]; values that are not finite are left out.
        fake: [M]; likewise.

    Raises:
        MetricRefused: fewer than ten finite values on a side.
    """
    return float(stats.ks_2samp(*_usable(real, fake), method="asymp").statistic)


def finite(values: np.ndarray) -> tuple[np.ndarray, int]:
    """The finite values as float64 [K], and how many were not."""
    flat = np.asarray(values, np.float64).ravel()
    kept = flat[np.isfinite(flat)]
    return kept, flat.size - kept.size


def _usable(real: np.ndarray, fake: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    real, fake = finite(real)[0], finite(fake)[0]
    if min(real.size, fake.size) < MIN_VALUES:
        found = f"there are {real.size} real and {fake.size} synthetic ones"
        raise MetricRefused(f"At least {MIN_VALUES} values are needed on each side; {found}.")
    return real, fake
