"""Distances between the distributions of one biological scalar in real and synthetic images.

Not-a-number means that nothing could be measured (no object found). Such values are left out, and
`finite` counts them: a set in which half the images hold no object must not pass unseen.
"""

from collections.abc import Callable

import numpy as np
from scipy import stats

from common.metrics.bootstrap import bootstrap_interval
from common.metrics.protocol import MetricRefused

Distance = Callable[[np.ndarray, np.ndarray], float]

# Resampling fewer values tells little about those that were not drawn.
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


def interval(
    distance: Distance,
    real: np.ndarray,
    fake: np.ndarray,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of one of the two distances; it errs on the wide side where they are large.

    Both are norms of F - G, so the measured distance is wrong by at most the norm of how far the
    two empirical functions are off. The bootstrap gives that norm's quantile. The percentiles of
    the resampled distances themselves would lie above a small true distance every time.

    Args:
        distance: `wasserstein` or `kolmogorov_smirnov`.
        real: [N]; values that are not finite are left out.
        fake: [M]; likewise.
        resamples: how often both are drawn with replacement.
        level: coverage aimed at, in (0.5, 1).
        seed: of the draws.

    Returns:
        The lower and the upper end.

    Raises:
        MetricRefused: fewer than ten finite values on a side.
    """
    norm, largest = _NORMS[distance]
    real, fake = _usable(real, fake)
    points = np.sort(np.concatenate([real, fake]))
    gap = _gap(real, fake, points)

    def error(real_again: np.ndarray, fake_again: np.ndarray) -> float:
        return norm(_gap(real_again, fake_again, points) - gap, points)

    # The quantile `level` is the upper end of the central interval of 2 level - 1.
    _, reach = bootstrap_interval(
        error, real, fake, resamples=resamples, level=2 * level - 1, seed=seed
    )
    value = norm(gap, points)
    return max(0.0, value - reach), min(largest, value + reach)


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


def _gap(real: np.ndarray, fake: np.ndarray, points: np.ndarray) -> np.ndarray:
    return _distribution(real, points) - _distribution(fake, points)


def _distribution(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.sort(values), points, side="right") / len(values)


def _area(gap: np.ndarray, points: np.ndarray) -> float:
    return float(np.abs(gap[:-1]) @ np.diff(points))


def _height(gap: np.ndarray, points: np.ndarray) -> float:
    return float(np.abs(gap).max())


# Each distance as a norm of the gap between two distribution functions, and its largest value.
_NORMS: dict[Distance, tuple[Distance, float]] = {
    wasserstein: (_area, np.inf),
    kolmogorov_smirnov: (_height, 1.0),
}
