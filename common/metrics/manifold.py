"""How well two sets of features cover each other, from the neighbours of every point.

A point's ball reaches to its k-th nearest neighbour in its own set. What lies in no ball of the
other set is of no kind that the other set knows.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.metrics.bootstrap import bootstrap_interval, effective_draws, share_interval
from common.metrics.protocol import Measured, MetricRefused
from common.spread import evenly

# Naeem et al. 2020; Kynkäänniemi et al. 2019 take 3.
NEIGHBOURS = 5
COVERING = ("precision", "recall", "density", "coverage", "effective_number")
# Rows of a distance matrix held at a time.
_ROWS = 128


@dataclass(frozen=True)
class Manifold:
    """Membership of each point, from which four numbers are means.

    Attributes:
        precise: [M] whether a synthetic point lies in the ball of a real one; precision is the
            share that look real (Kynkäänniemi et al. 2019).
        recalled: [N] whether a real point lies in the ball of a synthetic one; recall is the share
            that the synthetic ones could be (the same).
        crowd: [M] balls of real points that hold a synthetic point, divided by k; density, their
            mean, expects 1 where both sets are alike, may be greater, and counts an outlier among
            the real points little (Naeem et al. 2020).
        covered: [N] whether the ball of a real point holds a synthetic one; coverage is the share
            of real points with a synthetic one nearby (the same).
    """

    precise: Tensor
    recalled: Tensor
    crowd: Tensor
    covered: Tensor


def covering(real: Tensor, fake: Tensor, frames: int = 1) -> dict[str, Measured]:
    """The numbers of `COVERING`, with intervals over the points whose mean they are.

    The balls are taken as given: the intervals tell about more points of the one set beside the
    same points of the other.

    Args:
        real: features [N, D].
        fake: features [M, D].
        frames: consecutive points of one sequence; the intervals are over sequences.

    Raises:
        MetricRefused: a set has no more than five points, or features are not finite.
    """
    found = manifold(real, fake)
    rule = f"k={NEIGHBOURS}"
    shares = {
        "precision": found.precise,
        "recall": found.recalled,
        "coverage": found.covered,
    }
    measured = {name: share(points, rule, frames) for name, points in shares.items()}
    interval = bootstrap_interval(np.mean, found.crowd.unflatten(0, (-1, frames)).numpy())
    measured["density"] = Measured(_mean(found.crowd), *interval, rule)
    measured["effective_number"] = _diversity(real, fake)
    return {name: measured[name] for name in COVERING}


def share(points: Tensor, rule: str, frames: int = 1) -> Measured:
    """Of the points [N] that are true, with its interval over sequences of so many points."""
    draws = effective_draws(points.numpy(), frames)
    count = int(points.sum()) * draws / len(points)
    return Measured(_mean(points), *share_interval(count, draws), rule)


def _diversity(real: Tensor, fake: Tensor) -> Measured:
    """Beside that of as many real images, seen from the middle of the real ones."""
    count, middle = min(len(real), len(fake)), real.mean(0)
    own, other = (effective_number(spread(side, count) - middle) for side in (fake, real))
    return Measured(own, rule=f"of {count}", note=f"of as many real images {other:.4g}")


def spread(rows: Tensor, count: int) -> Tensor:
    """So many rows from everywhere in [N, …], or all: the first may all be of one class."""
    return rows[evenly(len(rows), count)]


def manifold(real: Tensor, fake: Tensor) -> Manifold:
    """Which points of two sets lie in each other's balls.

    Args:
        real: features [N, D].
        fake: features [M, D].

    Raises:
        MetricRefused: a set has no more than five points, or features are not finite.
    """
    real, fake = usable(real, fake, fewest=NEIGHBOURS + 1)
    reach_real, reach_fake = reach(real, NEIGHBOURS), reach(fake, NEIGHBOURS)
    precise = torch.zeros(len(fake), dtype=torch.bool)
    crowd = torch.zeros(len(fake), dtype=torch.float64)
    recalled, covered = [], []
    for rows, limit in zip(real.split(_ROWS), reach_real.split(_ROWS), strict=True):
        distances = torch.cdist(rows, fake)
        inside = distances < limit[:, None]
        precise |= inside.any(0)
        crowd += inside.sum(0)
        covered.append(inside.any(1))
        recalled.append((distances < reach_fake).any(1))
    return Manifold(precise, torch.cat(recalled), crowd / NEIGHBOURS, torch.cat(covered))


def effective_number(features: Tensor) -> float:
    """How many entirely different images would be as diverse: the Vendi score.

    The exponential of the entropy of the eigenvalues of K / n with the cosine kernel K (Friedman
    and Dieng 2023); 1 where all images are alike, n where no two have anything in common. It grows
    with n: compare at equal numbers only.

    Args:
        features: [N, D]; they are centred by whoever wants angles from the middle of a set.

    Raises:
        MetricRefused: there are no features, or one is not finite, or a row is zero.
    """
    (rows,) = usable(features, fewest=1)
    lengths = rows.norm(dim=1, keepdim=True)
    if not lengths.all():
        raise MetricRefused("An image without features has no direction.")
    rows = rows / lengths
    square = rows.T @ rows if rows.shape[1] < len(rows) else rows @ rows.T
    weights = torch.linalg.eigvalsh(square / len(rows)).clamp(min=0)
    weights = weights[weights > 0]
    return float(torch.exp(-(weights * weights.log()).sum()))


def nearest(points: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of each point to the nearest of others, and which that is.

    Args:
        points: [N, D].
        others: [M, D].

    Returns:
        Euclidean distances [N], and indices [N].
    """
    found = [torch.cdist(rows, others).min(1) for rows in points.split(_ROWS)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def reach(points: Tensor, neighbours: int, frames: int = 1) -> Tensor:
    """Distance of each of the points [N, D] to its k-th nearest among the others, [N].

    Args:
        points: features.
        neighbours: k.
        frames: consecutive rows of one sequence, none of which is another one to the others.
    """
    found, sequence = [], torch.arange(len(points)) // frames
    for rows, own in zip(points.split(_ROWS), sequence.split(_ROWS), strict=True):
        distances = torch.cdist(rows, points)
        distances[own[:, None] == sequence] = torch.inf
        found.append(distances.kthvalue(neighbours, dim=1).values)
    return torch.cat(found)


def usable(*sets: Tensor, fewest: int) -> tuple[Tensor, ...]:
    """Features in float64 on the CPU.

    Raises:
        MetricRefused: a set has too few of them, or one is not finite.
    """
    if min(map(len, sets)) < fewest:
        counts = " and ".join(str(len(features)) for features in sets)
        raise MetricRefused(f"At least {fewest} images are needed in each set; there are {counts}.")
    if not all(features.isfinite().all() for features in sets):
        raise MetricRefused("Features are not finite.")
    return tuple(features.detach().cpu().double() for features in sets)


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
