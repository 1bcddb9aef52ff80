"""Intervals that tell of other models and of other held-out groups."""

from typing import NamedTuple

import numpy as np
from scipy import stats

from common.metrics.protocol import Measured
from common.utility.task import Score

# An error estimated from fewer held-out groups says next to nothing.
FEWEST_GROUPS = 5
_RESAMPLES = 1000
# A variance that is nothing but rounding.
_NO_SPREAD = 1e-20


def group_draws(groups: np.ndarray) -> np.ndarray:
    """How often each image is in each draw: float64 [1 + 1000, N].

    The first draw holds each image once; the others draw whole groups with replacement.

    Args:
        groups: [N] names of what must not be split.
    """
    index = np.unique(groups, return_inverse=True)[1]
    count = index.max() + 1
    rng = np.random.default_rng(0)
    drawn = [np.ones(count)]
    for _ in range(_RESAMPLES):
        drawn.append(np.bincount(rng.integers(0, count, count), minlength=count))
    return np.stack(drawn)[:, index].astype(np.float64)


class Summary(NamedTuple):
    """What a record says of a score.

    Attributes:
        ends: value and interval, by the names of a record's fields.
        images: that it is about.
        groups: that these come from.
        note: "" where there is none.
    """

    ends: dict[str, float | None]
    images: int
    groups: int
    note: str


def summarize(score: Score, groups: np.ndarray, note: str = "", lowest: float = 0.0) -> Summary:
    """The mean of models with its interval, of `over_models`.

    Args:
        score: of several models; where it is about no image, there is no value.
        groups: [N] of the test images.
        note: what is to be said besides.
        lowest: as in `over_models`.
    """
    images, count = int(score.about.sum()), len(np.unique(groups[score.about]))
    if not images:
        return Summary({"value": None}, 0, 0, "There is no image of these classes.")
    found = over_models(score.values, count, lowest)
    ends = {"value": found.value, "low": found.low, "high": found.high}
    return Summary(ends, images, count, "; ".join(filter(None, [note, found.note])))


def over_models(
    found: np.ndarray, groups: int, lowest: float = 0.0, level: float = 0.95
) -> Measured:
    """Mean of the models with Student's t interval; none of one model, or of few groups.

    The error has two parts: of the models, from the spread between them, and of the held-out
    images, from the spread between draws of their groups. The degrees of freedom are Welch's.

    Args:
        found: float64 [models, draws] of one score, of all images first; NaN where a draw holds
            none of the images that the score is about.
        groups: of the images that the score is about.
        lowest: 0 for a score, -1 for a difference between two; either is 1 at most, and an
            interval ends where values do.
        level: coverage aimed at, in (0, 1).
    """
    models, value = len(found), float(found[:, 0].mean())
    if models < 2 or groups < FEWEST_GROUPS:
        return Measured(value)
    drawn = found[:, 1:].mean(0)
    of_models = found[:, 0].var(ddof=1) / models
    of_groups = np.nanvar(drawn, ddof=1)
    total = of_models + of_groups
    # A share of 0 among eight images does not prove that it is 0.
    if total < _NO_SPREAD:
        return Measured(value, note="all models and draws agree, so there is no interval")
    freedom = total**2 / (of_models**2 / (models - 1) + of_groups**2 / (groups - 1))
    reach = float(stats.t.ppf((1 + level) / 2, freedom) * total**0.5)
    return Measured(value, max(value - reach, lowest), min(value + reach, 1.0))
