"""Losses of generator and discriminator on logits; large logits mean real.

Logits are one number an image [B] or maps of pixels [B, 1, H, W]. Every loss is a mean over all of
them, taken in float32 (float64 stays) whatever autocast has made of the logits.
"""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from kernels.precision import accumulation_dtype

Loss = Literal["non_saturating", "hinge", "wasserstein", "relativistic"]


def discriminator_loss(
    kind: Loss, real_logits: Tensor, fake_logits: Tensor, weights: Tensor | None = None
) -> Tensor:
    """What the discriminator minimises.

    - ``non_saturating``: softplus(-r) + softplus(f), Goodfellow et al. 2014, Eq. 1.
    - ``hinge``: max(0, 1 - r) + max(0, 1 + f), Lim and Ye 2017.
    - ``wasserstein``: f - r, Arjovsky et al. 2017; needs a bound such as `interpolation_penalty`.
    - ``relativistic``: softplus(f - r) of pairs, Jolicoeur-Martineau 2019, as in Huang et al. 2024.

    Args:
        kind: one of the above.
        real_logits: r, of real images.
        fake_logits: f, of generated images; a pair is what stands at one place of the two.
        weights: of mean 1, by which the pixels [H, W] of maps count; all alike without them.

    Returns:
        The loss, a number.

    Raises:
        ValueError: unknown ``kind``, or pairs of logits that differ in shape.
    """
    real, fake = _wide(real_logits), _wide(fake_logits)
    match kind:
        case "non_saturating":
            return _mean(F.softplus(-real), weights) + _mean(F.softplus(fake), weights)
        case "hinge":
            return _mean(F.relu(1 - real), weights) + _mean(F.relu(1 + fake), weights)
        case "wasserstein":
            return _mean(fake, weights) - _mean(real, weights)
        case "relativistic":
            return _mean(F.softplus(-_difference(real, fake)), weights)
    raise _unknown(kind)


def generator_loss(
    kind: Loss,
    fake_logits: Tensor,
    real_logits: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """What the generator minimises; sources as in `discriminator_loss`.

    - ``non_saturating``: softplus(-f), Goodfellow et al. 2014, Section 3.
    - ``hinge``, ``wasserstein``: -f.
    - ``relativistic``: softplus(r - f) of pairs.

    Args:
        kind: one of the above.
        fake_logits: f, of generated images.
        real_logits: r, of real images; only ``relativistic`` looks at them.
        weights: as in `discriminator_loss`.

    Returns:
        The loss, a number.

    Raises:
        ValueError: unknown ``kind``, or pairs of logits that are missing or differ in shape.
    """
    fake = _wide(fake_logits)
    match kind:
        case "non_saturating":
            return _mean(F.softplus(-fake), weights)
        case "hinge" | "wasserstein":
            return -_mean(fake, weights)
        case "relativistic":
            if real_logits is None:
                raise ValueError("the relativistic loss compares pairs; give real_logits")
            return _mean(F.softplus(_difference(_wide(real_logits), fake)), weights)
    raise _unknown(kind)


def zero_of(kind: Loss, fake_logits: Tensor) -> Tensor | float:
    """The logit above which an image is taken for real, or what stands for it.

    Args:
        kind: as of `discriminator_loss`; losses of differences leave the zero open.
        fake_logits: of generated images, whose mean then stands for it.
    """
    return fake_logits.mean() if kind in ("relativistic", "wasserstein") else 0.0


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    return values.mean() if weights is None else (values * weights).mean()


def _wide(logits: Tensor) -> Tensor:
    return logits.to(accumulation_dtype(logits))


def _difference(real: Tensor, fake: Tensor) -> Tensor:
    # Broadcast, [B] and [B, 1] would be B * B pairs without a word.
    if real.shape != fake.shape:
        raise ValueError(f"logits {list(real.shape)} and {list(fake.shape)} make no pairs")
    return real - fake


def _unknown(kind: str) -> ValueError:
    return ValueError(f"{kind!r} is no loss; choose one of {', '.join(Loss.__args__)}")
