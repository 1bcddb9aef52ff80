"""What a player's answers say: signal detection on counts.

Generated is the signal. Calling a generated image generated is a hit, calling a real one generated
a false alarm. `scoring.js` computes the same in the page.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from scipy import stats

from common.metrics.bootstrap import share_interval

# Of all intervals here.
LEVEL = 0.95


class Estimate(NamedTuple):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Counts:
    """How often each kind of image got each answer; at least one image of either kind."""

    hits: int
    misses: int
    false_alarms: int
    correct_rejections: int

    @property
    def generated(self) -> int:
        """Generated images shown."""
        return self.hits + self.misses

    @property
    def real(self) -> int:
        """Real images shown."""
        return self.false_alarms + self.correct_rejections


@dataclass(frozen=True)
class Score:
    """What is reported of one player.

    Attributes:
        accuracy: share of right answers, 0.5 by chance.
        hit_rate: share of the generated images that were called generated.
        false_alarm_rate: share of the real images that were called generated.
        d_prime: distance between what real and generated images look like, in standard deviations;
            0 where they cannot be told apart.
        criterion: 0 without a leaning, above 0 where the player leans to "real".
    """

    accuracy: Estimate
    hit_rate: Estimate
    false_alarm_rate: Estimate
    d_prime: Estimate
    criterion: Estimate


def count(truths: Iterable[bool], answers: Iterable[bool]) -> Counts:
    """Counts pairs of truth and answer; True stands for generated."""
    pairs = list(zip(truths, answers, strict=True))
    kinds = ((True, True), (True, False), (False, True), (False, False))
    return Counts(*(pairs.count(kind) for kind in kinds))


def score(counts: Counts) -> Score:
    """Accuracy and rates with exact intervals, d' and criterion with normal ones.

    The variance is that of Gourevitch and Galanter (1967). By exact enumeration the interval of d'
    holds the true one in 94 % of all quizzes or more: 5 to 100 images of either kind, d' from 0 to
    3, criterion 0 or 0.5.
    """
    sides = ((counts.hits, counts.generated), (counts.false_alarms, counts.real))
    z_hit, z_false_alarm = (_z(*side) for side in sides)
    error = sum(_variance(*side) for side in sides) ** 0.5
    reach = float(stats.norm.ppf((1 + LEVEL) / 2)) * error
    right = counts.hits + counts.correct_rejections
    return Score(
        accuracy=share(right, counts.generated + counts.real),
        hit_rate=share(*sides[0]),
        false_alarm_rate=share(*sides[1]),
        d_prime=_around(z_hit - z_false_alarm, reach),
        criterion=_around(-(z_hit + z_false_alarm) / 2, reach / 2),
    )


def share(number: int, of: int) -> Estimate:
    """A share with its exact interval (`share_interval`)."""
    return Estimate(number / of, *share_interval(number, of, LEVEL))


def _around(value: float, reach: float) -> Estimate:
    return Estimate(value, value - reach, value + reach)


def _z(number: int, of: int) -> float:
    return float(stats.norm.ppf(_rate(number, of)))


def _rate(number: int, of: int) -> float:
    """Log-linear correction (Hautus 1995): never 0 or 1, whose z would be infinite."""
    return (number + 0.5) / (of + 1)


def _variance(number: int, of: int) -> float:
    rate = _rate(number, of)
    return rate * (1 - rate) / (of * float(stats.norm.pdf(_z(number, of))) ** 2)
