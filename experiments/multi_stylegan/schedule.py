"""When each part of multi_stylegan's training counts, in images seen and in steps."""

from collections.abc import Hashable
from typing import Any

from common.losses.penalties import lazy_weight
from experiments.multi_stylegan.tricks import number_of, number_wrong


def ramp(images_seen: int, start: int, end: int) -> float:
    """0 up to ``start``, 1 from ``end`` on, a line between; a step where the two are one."""
    if images_seen >= end:
        return 1.0
    return max(0.0, (images_seen - start) / (end - start)) if end > start else 0.0


def shares(hparams: Any, images_seen: int) -> dict[str, float]:
    """Shares and probabilities by name.

    Args:
        hparams: of `MultiStyleGAN`.
        images_seen: so far.
    """
    fallen = ramp(images_seen, hparams.top_k_from, hparams.top_k_to)
    begun = hparams.frames > 1 and images_seen >= hparams.order_from
    return {
        "cutmix_prob": hparams.cutmix_prob * ramp(images_seen, 0, hparams.cutmix_images),
        "top_k_share": 1 - fallen * (1 - hparams.top_k_share),
        "order_share": hparams.order_share if begun else 0.0,
    }


def kinds(
    hparams: Any,
    images_seen: int,
    count: int,
    step: int,
    schedule: dict[str, float],
    group_size: int,
) -> tuple[Hashable, Hashable]:
    """All that decides which operations a step of discriminator and generator consists of.

    Args:
        hparams: of `MultiStyleGAN`.
        images_seen: so far.
        count: sequences of a batch.
        step: counted from 0.
        schedule: of `shares`.
        group_size: of the discriminator.
    """
    mapped = images_seen >= hparams.pixel_map_from
    wrong = number_wrong(schedule["order_share"], count, group_size)
    kept = number_of(schedule["top_k_share"], count)
    judges = (lazy_weight(step, hparams.r1_every), schedule["cutmix_prob"] > 0, wrong, mapped)
    return judges, (count, lazy_weight(step, hparams.path_length_every), kept, mapped)


def clip_norm(norm: float, step: int, every: int, weight: float) -> float:
    """The norm of a step, which grows with a penalty that stands for those of several.

    Cut to that of a step without it, such a penalty loses most of its weight.

    Args:
        norm: of a step without penalty.
        step: counted from 0.
        every: steps from one penalty to the next.
        weight: of the penalty; with 0 there is none.
    """
    return norm * max(1.0, lazy_weight(step, every) if weight else 0.0)
