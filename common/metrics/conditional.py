"""Whether each class looks like itself: distances over all images do not see swapped labels."""

import hashlib
from collections.abc import Sequence
from math import hypot

import torch
from scipy import stats
from torch import Tensor

from common.metrics.bootstrap import kernel_estimate
from common.metrics.fidelity import MIN_KERNEL_IMAGES
from common.metrics.protocol import Measured, MetricRefused


def class_kernel_distance(
    real: Tensor,
    fake: Tensor,
    real_labels: Sequence[str],
    fake_labels: Sequence[str],
    level: float = 0.95,
) -> Measured:
    """Mean over the classes of the kernel distance between real and synthetic images of one.

    Each class counts the same, however rare. That of a class is the unbiased squared MMD of all its
    images; those with fewer than ten on a side are left out, and the note names them.

    Args:
        real: features [N, D].
        fake: features [M, D].
        real_labels: class of each real image.
        fake_labels: class that each synthetic image was asked to be.
        level: coverage aimed at by the interval, in (0, 1).

    Raises:
        MetricRefused: fewer than two classes have ten images on either side.
    """
    found, fewest, left_out = {}, [], []
    for name in sorted({*real_labels, *fake_labels}):
        pair = _of(name, real, real_labels), _of(name, fake, fake_labels)
        images = min(map(len, pair))
        if images < MIN_KERNEL_IMAGES:
            left_out.append(name)
            continue
        found[name] = kernel_estimate(*pair)
        fewest.append(images)
    if len(found) < 2:
        needed = f"at least {MIN_KERNEL_IMAGES} images on each side"
        raise MetricRefused(f"Two classes with {needed} are needed; there are {len(found)}.")
    value = sum(distance for distance, _ in found.values()) / len(found)
    error = hypot(*(error for _, error in found.values())) / len(found)
    reach = float(stats.t.ppf((1 + level) / 2, min(fewest) - 1)) * error
    worst = max(found, key=lambda name: found[name][0])
    note = f"largest for {worst}: {found[worst][0]:.4g}"
    note += f"; too few images of {', '.join(left_out)}" if left_out else ""
    # Means over other classes are other numbers.
    which = hashlib.sha256("\n".join(found).encode()).hexdigest()[:8]
    rule = f"classes={len(found)}:{which}"
    return Measured(value, value - reach, value + reach, rule, note)


def _of(name: str, features: Tensor, labels: Sequence[str]) -> Tensor:
    return features[torch.tensor([label == name for label in labels], dtype=torch.bool)]
