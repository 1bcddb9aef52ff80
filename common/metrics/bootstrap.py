"""Intervals for numbers measured on a sample.

They take images (or values) as independent draws. Frames of one sequence are not: where sequences
are drawn, `frames` consecutive rows belong to one, and whole sequences are left out or resampled.
Sequences of one position, or images of one patient, are taken as independent all the same: an
interval then tells about new images of the same groups, not about new groups.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy import optimize, special, stats
from torch import Tensor

# Rows and columns of a kernel matrix held at a time.
_ROWS = 512
# Places of a drawn quantile, of equal probability, over which an interval is averaged.
_BELOW = 2000


def bootstrap_interval(
    statistic: Callable[..., float],
    *arrays: np.ndarray,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap (Efron 1979), every array resampled by itself along its first axis.

    Not for distances: they cannot fall below zero and resampling adds to them, so the interval
    would miss every small one (`kernel_interval`, `distributions.interval`).

    Args:
        statistic: of the arrays, in their order.
        arrays: [N, …] each.
        resamples: how often they are drawn with replacement.
        level: coverage aimed at, in (0, 1).
        seed: of the draws.

    Returns:
        The lower and the upper end.
    """
    draw = np.random.default_rng(seed)
    found = [
        statistic(*(array[draw.integers(0, len(array), len(array))] for array in arrays))
        for _ in range(resamples)
    ]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def share_interval(count: float, of: float, level: float = 0.95) -> tuple[float, float]:
    """Exact binomial interval of a share (Clopper and Pearson 1934).

    Args:
        count: images with a property.
        of: all images, at least one; both may be numbers of `effective_draws`.
        level: coverage aimed at, in (0, 1).

    Returns:
        The lower and the upper end.
    """
    tail = (1 - level) / 2
    low = stats.beta.ppf(tail, count, of - count + 1) if count else 0.0
    high = stats.beta.ppf(1 - tail, count + 1, of - count) if count < of else 1.0
    return float(low), float(high)


def effective_draws(points: np.ndarray, frames: int) -> float:
    """How many independent draws tell as much about a share as frames of sequences do.

    The number of frames divided by how much more the share varies since whole sequences are drawn
    (Kish 1965; for binomial intervals Korn and Graubard 1998), but not fewer than there are
    sequences. Where all frames agree, nothing tells the divisor, and only sequences count.

    Args:
        points: bool [N], of each frame.
        frames: consecutive ones of one sequence.
    """
    share, sequences = points.mean(), len(points) // frames
    single = share * (1 - share) / len(points)
    if frames == 1 or single == 0 or sequences < 2:
        return float(sequences)
    grouped = points.reshape(sequences, frames).mean(1).var(ddof=1) / sequences
    return float(len(points) / np.clip(grouped / single, 1, frames))


def nearer_interval(
    count: float, of: float, chance: float, rank: float, among: int, level: float = 0.95
) -> tuple[float, float]:
    """Interval of a share that lies below a quantile of others which is a draw itself.

    What part of all others lies below the quantile is Beta(rank, among + 1 - rank), whatever they
    are (of ranks between two draws: Stigler 1977). The exact binomial interval is averaged over
    that, so that it lies above ``chance`` in at most 2.5 % of cases where both are of one kind.
    Where they are not, shares above ``chance`` are taken for copies, which lie below any quantile,
    among images by chance; shares below it for fewer everywhere.

    Args:
        count: images below the quantile.
        of: all images, at least one; both may be numbers of `effective_draws`.
        chance: share of all others that the quantile aims at, in (0, 1).
        rank: of the quantile among the others, from 1 on, between two where it is no whole number.
        among: how many others were drawn.
        level: coverage aimed at, in (0, 1).

    Returns:
        The lower and the upper end.
    """
    steps = (np.arange(_BELOW) + 0.5) / _BELOW
    below = stats.beta.ppf(steps, rank, among + 1 - rank)
    tail = (1 - level) / 2

    def nearer(share: float) -> np.ndarray:
        """What part of images lies below, where by the true quantile it would be ``share``."""
        if share < chance:
            return below * share / chance
        return 1 - (1 - below) * (1 - share) / (1 - chance)

    # Binomial tails by the incomplete beta function, which knows fractions of a draw, too.
    def at_least(share: float) -> float:
        return float(special.betainc(count, of - count + 1, nearer(share)).mean()) - tail

    def at_most(share: float) -> float:
        return float(special.betaincc(count + 1, of - count, nearer(share)).mean()) - tail

    low = optimize.brentq(at_least, 0, 1) if count else 0.0
    high = optimize.brentq(at_most, 0, 1) if count < of else 1.0
    return float(low), float(high)


def kernel_interval(
    real: Tensor,
    fake: Tensor,
    value: float,
    subset_error: float = 0.0,
    level: float = 0.95,
    frames: int = 1,
) -> tuple[float, float]:
    """Interval of a kernel distance: Student's t around it with the error of `kernel_error`.

    Resampling with replacement would put equal images into the unbiased estimator and shift it.

    Args:
        real: features [N, D].
        fake: features [M, D].
        value: of `fidelity.kernel_distance`.
        subset_error: standard deviation over its subsets / sqrt(number of subsets), the part of
            its error that is due to the draw of the subsets.
        level: coverage aimed at, in (0, 1).
        frames: consecutive rows of one sequence; at least two sequences on each side.

    Returns:
        The lower and the upper end.
    """
    error = float(np.hypot(kernel_error(real, fake, frames), subset_error))
    draws = min(len(real), len(fake)) // frames
    reach = float(stats.t.ppf((1 + level) / 2, draws - 1)) * error
    return value - reach, value + reach


def parts_interval(
    value: float, deviation: float, parts: int, level: float = 0.95
) -> tuple[float, float]:
    """Interval of a mean over parts of the images: Student's t.

    Args:
        value: the mean.
        deviation: of the parts, as of all there are (not the sample's).
        parts: how many, at least two.
        level: coverage aimed at, in (0, 1).
    """
    error = deviation / (parts - 1) ** 0.5
    reach = float(stats.t.ppf((1 + level) / 2, parts - 1)) * error
    return value - reach, value + reach


def kernel_error(real: Tensor, fake: Tensor, frames: int = 1) -> float:
    """Jackknife standard error of the unbiased squared MMD of all images, or of their sequences.

    For a two-sample U-statistic the jackknife variances of both samples add up (Arvesen 1969).
    Where both samples have one distribution it errs on the safe side.

    Args:
        real: features [N, D], at least three.
        fake: features [M, D], at least three.
        frames: consecutive rows of one sequence, which are left out together; at least two
            sequences on each side.
    """
    return kernel_estimate(real, fake, frames)[1]


def kernel_estimate(real: Tensor, fake: Tensor, frames: int = 1) -> tuple[float, float]:
    """The unbiased squared MMD of all images, without subsets, and its `kernel_error`.

    Args:
        real: features [N, D], at least three.
        fake: features [M, D], at least three.
        frames: as of `kernel_error`; the distance does not depend on it.
    """
    real, fake = real.detach().cpu(), fake.detach().cpu()
    n, m = len(real), len(fake)
    inner, inner_fake = _inner_sums(real), _inner_sums(fake)
    across, across_back = _row_sums(real, fake), _row_sums(fake, real)
    within = inner.sum() / (n * (n - 1)) + inner_fake.sum() / (m * (m - 1))
    variance = _jackknife(inner, across, m, _sequence_sums(real, frames))
    variance += _jackknife(inner_fake, across_back, n, _sequence_sums(fake, frames))
    return float(within - 2 * across.mean() / m), variance**0.5


def _inner_sums(x: Tensor) -> Tensor:
    lengths = torch.cat([rows.double().square().sum(1) for rows in x.split(_ROWS)])
    return _row_sums(x, x) - _kernel(lengths, x.shape[1])


def _row_sums(x: Tensor, y: Tensor) -> Tensor:
    """In float64, of which only a block is held at a time."""
    sums = []
    for rows in x.split(_ROWS):
        blocks = (_kernel(rows.double() @ part.double().T, x.shape[1]) for part in y.split(_ROWS))
        sums.append(sum(block.sum(1) for block in blocks))
    return torch.cat(sums)


def _kernel(products: Tensor, dim: int) -> Tensor:
    """In place: ``products`` is large, and nobody else's."""
    return products.div_(dim).add_(1).pow_(3)


def _sequence_sums(x: Tensor, frames: int) -> Tensor:
    """Over the pairs of unlike frames of each sequence, in both orders; 0 of single images."""
    sums = []
    for rows in x.unflatten(0, (-1, frames)).split(_ROWS):
        found = _kernel(rows.double() @ rows.double().mT, x.shape[1])
        sums.append(found.sum((1, 2)) - found.diagonal(dim1=1, dim2=2).sum(1))
    return torch.cat(sums)


def _jackknife(inner: Tensor, across: Tensor, others: int, own: Tensor) -> float:
    """Variance over leaving out each sequence, or image, in turn.

    Args:
        inner: sums of the rows of the kernel matrix within the side [N].
        across: of that with the other side [N].
        others: length of these.
        own: of `_sequence_sums`: pairs that the rows of one sequence hold twice.
    """
    count, n = len(own), len(inner)
    inner, across = (sums.unflatten(0, (count, -1)).sum(1) for sums in (inner, across))
    left = n - n // count
    within = (inner.sum() - 2 * inner + own) / (left * (left - 1))
    between = (across.sum() - across) / (left * others)
    left_out = within - 2 * between
    return float((count - 1) / count * (left_out - left_out.mean()).square().sum())
