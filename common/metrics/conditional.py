"""Whether each class looks like itself: distances over all images do not see swapped labels."""

import hashlib
from collections.abc import Mapping, Sequence
from math import hypot
from typing import NamedTuple

from scipy import stats
from torch import Tensor

from common.metrics.bootstrap import kernel_estimate
from common.metrics.fidelity import MIN_KERNEL_IMAGES
from common.metrics.protocol import Measured, MetricRefused
from common.metrics.sides import where


class Estimate(NamedTuple):
    """Kernel distance of one class.

    Attributes:
        value: unbiased squared MMD of all its images; None where they are too few.
        error: its jackknife standard error.
        images: on the side that has fewer.
    """

    value: float | None
    error: float
    images: int


def estimates(
    real: Tensor, fake: Tensor, real_labels: Sequence[str], fake_labels: Sequence[str]
) -> dict[str, Estimate]:
    """Of each class, by its name, in alphabetical order.

    Args:
        real: features [N, D].
        fake: features [M, D].
        real_labels: class of each real image.
        fake_labels: class that each synthetic image was asked to be.
    """
    found = {}
    for name in sorted({*real_labels, *fake_labels}):
        pair = real[where(real_labels, name)], fake[where(fake_labels, name)]
        images = min(map(len, pair))
        measured = kernel_estimate(*pair) if images >= MIN_KERNEL_IMAGES else (None, 0.0)
        found[name] = Estimate(*measured, images)
    return found


def mean_distance(found: Mapping[str, Estimate], level: float = 0.95) -> Measured:
    """Mean over the classes of the kernel distance between real and synthetic images of one.

    Each class counts the same, however rare. Those with fewer than ten images on a side are left
    out, and the note names them.

    Args:
        found: of `estimates`.
        level: coverage aimed at by the interval, in (0, 1).

    Raises:
        MetricRefused: fewer than two classes have ten images on either side.
    """
    enough = {name: one for name, one in found.items() if one.value is not None}
    if len(enough) < 2:
        needed = f"at least {MIN_KERNEL_IMAGES} images on each side"
        raise MetricRefused(f"Two classes with {needed} are needed; there are {len(enough)}.")
    value = sum(one.value for one in enough.values()) / len(enough)
    error = hypot(*(one.error for one in enough.values())) / len(enough)
    reach = _reach(error, min(one.images for one in enough.values()), level)
    worst = max(enough, key=lambda name: enough[name].value)
    note = f"largest for {worst}: {enough[worst].value:.4g}"
    left_out = [name for name in found if name not in enough]
    note += f"; too few images of {', '.join(left_out)}" if left_out else ""
    # Means over other classes are other numbers.
    which = hashlib.sha256("\n".join(enough).encode()).hexdigest()[:8]
    rule = f"classes={len(enough)}:{which}"
    return Measured(value, value - reach, value + reach, rule, note)


def class_distance(found: Estimate, level: float = 0.95) -> Measured:
    """Kernel distance between real and synthetic images of one class, without subsets.

    Args:
        found: one of `estimates`.
        level: coverage aimed at by the interval, in (0, 1).

    Raises:
        MetricRefused: there are fewer than ten images on a side.
    """
    if found.value is None:
        needed = f"At least {MIN_KERNEL_IMAGES} images on each side are needed"
        raise MetricRefused(f"{needed}; there are {found.images}.")
    reach = _reach(found.error, found.images, level)
    return Measured(found.value, found.value - reach, found.value + reach)


def _reach(error: float, images: int, level: float) -> float:
    return float(stats.t.ppf((1 + level) / 2, images - 1)) * error
