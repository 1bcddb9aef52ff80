"""Whether synthetic images repeat the images that a model was trained on.

The yardstick is the held-out split: those images come from the same source, and no model has seen
them. Training images are drawn down to their number, because the nearest of more is nearer.

Features are those of images as they are stored, while trainings may see each in eight orientations
(`data.augment`): a turned copy can be missed. What is compared `COARSELY` is turned.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from torch import Tensor

from common.data.near_duplicates import orientations, standardised
from common.metrics.bootstrap import bootstrap_interval, effective_draws, nearer_interval
from common.metrics.manifold import nearest, reach, share, usable
from common.metrics.protocol import Measured

# Of further held-out images, so many are expected to be as near to a training image as what is
# called a copy.
CHANCE = 0.01
# The quantile of n distances below which that share of further ones is expected; part of the rule.
THRESHOLD = f"threshold at rank {CHANCE:g} (n + 1)"
# Fewer held-out images say nothing about a share of that size.
FEWEST = 100
# Of one class alone: the intervals then say how little is known.
FEWEST_OF_CLASS = 20
REPEATING = ("copied_share", "authentic_share", "nearest_ratio", "membership_auc")
REPEATING_OF_CLASS = ("membership_auc", "nearest_ratio")
# Of the note of what is measured in features.
AS_STORED = "orientations as stored"
COARSELY = ("coarse_copied_share", "coarse_membership_auc")


@dataclass(frozen=True)
class Memorization:
    """What is known of each synthetic image.

    Attributes:
        to_train: [M] distance to the nearest training image.
        index: [M] which that is.
        to_held_out: [M] distance to the nearest held-out image.
        held_out_index: [M] which that is.
        ratio: [M] distance to the nearest training image divided by that to the nearest held-out
            one, of equally many of both.
        near: [M] as `copied`, of equally many training images.
        near_held_out: [M] the same of as many held-out images: what an image of this kind does
            that copies nothing.
        copied: [M] whether it is nearer than all but `CHANCE` of further held-out images would be.
        authentic: [M] whether it is farther from its training image than that is from others.
    """

    to_train: Tensor
    index: Tensor
    to_held_out: Tensor
    held_out_index: Tensor
    ratio: Tensor
    near: Tensor
    near_held_out: Tensor
    copied: Tensor
    authentic: Tensor


def repeating(
    held_out: Tensor,
    fake: Tensor,
    train: Tensor,
    found: Memorization | None = None,
    frames: int = 1,
) -> dict[str, Measured]:
    """The numbers of `REPEATING`, with images as they are stored: a turned copy can be missed.

    Where nothing is copied, `CHANCE` is what to expect of the copied share. Its interval is about
    other synthetic and other held-out images, since these make the threshold: it lies above
    `CHANCE` in 2.5 % of cases where nothing is copied.

    Args:
        held_out: features [H, D].
        fake: features [M, D].
        train: features [T, D].
        found: of `memorization`, where it is known.
        frames: consecutive rows of one sequence; the intervals are over sequences.

    Raises:
        MetricRefused: fewer than 100 images in one of the two real sets, or no synthetic one.
    """
    found = found or memorization(train, held_out, fake, frames=frames)
    rule = f"{len(train)} training images{'; whole sequences' if frames > 1 else ''}"
    near, beside = (float(points.double().mean()) for points in (found.near, found.near_held_out))
    chance = (
        f"{CHANCE:g} is expected of held-out images; beside as many images, "
        f"{near:.3g} are that near to training ones and {beside:.3g} to held-out ones"
    )
    return _noted(
        {
            "copied_share": _share_of_copies(found.copied, len(held_out), rule, chance, frames),
            "authentic_share": share(found.authentic, rule, frames),
            "nearest_ratio": _median(found.ratio, rule, frames),
            "membership_auc": _attack(train, held_out, fake, rule, frames),
        },
        AS_STORED,
    )


def repeating_of_class(held_out: Tensor, fake: Tensor, train: Tensor) -> dict[str, Measured]:
    """Membership AUC and nearest ratio among the images of one class, as they are stored.

    Args:
        held_out: features [H, D], all of that class.
        fake: features [M, D], asked to be of it.
        train: features [T, D], all of it.

    Raises:
        MetricRefused: fewer than 20 images in one of the three sets.
    """
    train, held_out, fake = usable(train, held_out, fake, fewest=FEWEST_OF_CLASS)
    rule = f"{len(train)} training images of the class"
    to_some, to_others, _ = _to_as_many(train, held_out, fake, seed=0)
    few = f"few images: {len(held_out)} are held out" if len(held_out) < FEWEST else ""
    found = {
        "membership_auc": _attack(train, held_out, fake, rule),
        "nearest_ratio": _median(_ratio(to_some, to_others), rule),
    }
    return _noted(found, AS_STORED, few)


def repeating_coarsely(
    held_out: np.ndarray, fake: np.ndarray, train: np.ndarray
) -> dict[str, Measured]:
    """The numbers of `COARSELY`: what images show on the whole, without the finest grain.

    Networks look at grain first: to them, a smooth copy is as far from its training image as from
    every other one. Here flips and rotations of an image count as that image. The share and its
    interval are to be read as those of `repeating`.

    Args:
        held_out: `near_duplicates.descriptor` [H, 255].
        fake: the same of synthetic images [M, 255].
        train: the same of those trained on [T, 255].

    Raises:
        MetricRefused: fewer than 100 images in one of the two real sets, or no synthetic one.
    """
    known = np.concatenate([held_out, train])
    sets = (torch.from_numpy(standardised(side, known)) for side in (held_out, fake, train))
    held_out, fake, train = sets
    usable(train, held_out, fewest=FEWEST)
    usable(fake, fewest=1)
    rule = f"{len(train)} training images"
    turned = _turned(train)
    copied = nearest(fake, turned)[0] < _threshold(nearest(held_out, turned)[0])
    chance = f"{CHANCE:g} is expected of held-out images, lower frequencies alone"
    return {
        "coarse_copied_share": _share_of_copies(copied, len(held_out), rule, chance),
        "coarse_membership_auc": _attack(train, held_out, _turned(fake), rule),
    }


def memorization(
    train: Tensor, held_out: Tensor, fake: Tensor, seed: int = 0, frames: int = 1
) -> Memorization:
    """Compares synthetic images with those trained on and those held out.

    Args:
        train: features [T, D]; for `ratio` both real sets are drawn down to the smaller.
        held_out: features [H, D].
        fake: features [M, D].
        seed: of the draw.
        frames: consecutive rows of one sequence, which are drawn together.

    Raises:
        MetricRefused: fewer than 100 images in one of the two real sets, or no synthetic one.
    """
    train, held_out = usable(train, held_out, fewest=FEWEST)
    (fake,) = usable(fake, fewest=1)
    to_train, index = nearest(fake, train)
    copied = to_train < _threshold(nearest(held_out, train)[0])
    to_held_out, held_out_index = nearest(fake, held_out)
    to_some, to_others, some = _to_as_many(train, held_out, fake, seed, frames)
    threshold = _threshold(nearest(held_out, some)[0])
    # Alaa et al. 2022: authenticity.
    authentic = to_train > reach(train, 1, frames)[index]
    return Memorization(
        to_train=to_train,
        index=index,
        to_held_out=to_held_out,
        held_out_index=held_out_index,
        ratio=_ratio(to_some, to_others),
        near=to_some < threshold,
        near_held_out=to_others < threshold,
        copied=copied,
        authentic=authentic,
    )


def membership(
    train: Tensor, held_out: Tensor, fake: Tensor, seed: int = 0, frames: int = 1
) -> tuple[Tensor, Tensor]:
    """How near the synthetic images come to each image trained on, and to each held out.

    An attacker who sees synthetic images alone takes an image for a member if one of them is near
    (Chen et al. 2020, GAN-Leaks, full black box). `area` tells how often he is right.

    Args:
        train: features [T, D], drawn down to the number of held-out ones.
        held_out: features [H, D].
        fake: features [M, D].
        seed: of the draw.
        frames: consecutive rows of one sequence, which are drawn together.

    Returns:
        Distances of members and of others.
    """
    train, held_out, fake = usable(train, held_out, fake, fewest=2)
    drawn = _drawn(train, len(held_out), seed, frames)
    return nearest(drawn, fake)[0], nearest(held_out, fake)[0]


def area(members: np.ndarray, others: np.ndarray) -> float:
    """Area under the curve of "nearer is a member": 0.5 is chance, 1 is certainty.

    The share of pairs in which the member is nearer, ties counting half (Mann and Whitney 1947).

    Args:
        members: distances, of any shape.
        others: distances, of any shape.
    """
    others = np.sort(others, axis=None)
    upto = np.searchsorted(others, members, "left") + np.searchsorted(others, members, "right")
    return float(1 - upto.mean() / (2 * len(others)))


def _threshold(distances: Tensor) -> float:
    """Below it lies `CHANCE` of further distances, as is to be expected of these [H].

    The usual quantile lies above nearly two of a hundred: twice as many would count as copies.
    """
    return float(np.quantile(distances.numpy(), CHANCE, method="weibull"))


def _share_of_copies(
    copied: Tensor, held_out: int, rule: str, note: str, frames: int = 1
) -> Measured:
    draws, share = effective_draws(copied.numpy(), frames), float(copied.double().mean())
    count = int(copied.sum()) * draws / len(copied)
    rank = _rank(held_out, frames)
    interval = nearer_interval(count, draws, CHANCE, rank, held_out // frames)
    return Measured(share, *interval, f"{rule}; {THRESHOLD}", note)


def _rank(held_out: int, frames: int) -> float:
    """Of the threshold among held-out sequences, as if all frames of one were equally near.

    So few frames are nearer that they do not tell how alike those of one sequence are: the lower
    end of the interval errs on the safe side.
    """
    place = max(1.0, CHANCE * (held_out + 1))
    beyond = place % 1
    return (1 - beyond) * ceil(place // 1 / frames) + beyond * ceil((place // 1 + 1) / frames)


def _noted(found: dict[str, Measured], *words: str) -> dict[str, Measured]:
    return {
        name: one._replace(note="; ".join(filter(None, [one.note, *words])))
        for name, one in found.items()
    }


def _turned(descriptors: Tensor) -> Tensor:
    return torch.from_numpy(orientations(descriptors.numpy())).flatten(0, 1)


def _to_as_many(
    train: Tensor, held_out: Tensor, fake: Tensor, seed: int, frames: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """Distances [M] to the nearest of equally many images of both, and those trained on."""
    count = min(len(train), len(held_out))
    some, others = (_drawn(side, count, seed, frames) for side in (train, held_out))
    return nearest(fake, some)[0], nearest(fake, others)[0], some


def _ratio(to_train: Tensor, to_held_out: Tensor) -> Tensor:
    return to_train / to_held_out.clamp(min=1e-12)


def _median(ratios: Tensor, rule: str, frames: int = 1) -> Measured:
    found = ratios.numpy().reshape(-1, frames)
    interval = bootstrap_interval(np.median, found)
    note = "1 is chance; interval over synthetic images alone"
    return Measured(float(np.median(found)), *interval, rule, note)


def _attack(train: Tensor, held_out: Tensor, fake: Tensor, rule: str, frames: int = 1) -> Measured:
    distances = membership(train, held_out, fake, frames=frames)
    pair = [side.numpy().reshape(-1, frames) for side in distances]
    return Measured(area(*pair), *bootstrap_interval(area, *pair), rule, "0.5 is chance")


def _drawn(features: Tensor, count: int, seed: int, frames: int = 1) -> Tensor:
    """So many rows, of whole sequences: those of others would show more of the data."""
    if len(features) <= count:
        return features
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(features) // frames, generator=generator)
    return features.unflatten(0, (-1, frames))[order[: count // frames]].flatten(0, 1)
