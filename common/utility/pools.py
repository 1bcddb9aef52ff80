"""Images to train a task model on: parts of the real ones, synthetic ones, and both."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from common.data.augment import augment

if TYPE_CHECKING:
    from common.run_images import Seen


@dataclass(frozen=True)
class Pool:
    """Images that a model is trained or tested on.

    Attributes:
        images: uint8 [N, C, S, S].
        labels: int64 [N], index into the classes.
        groups: [N] names of what must not be split, such as a patient.
    """

    images: np.ndarray
    labels: np.ndarray
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "Pool":
        """The images of these rows, in that order."""
        return Pool(self.images[rows], self.labels[rows], self.groups[rows])


def gather(
    seen: "Iterable[Seen]", count: int, classes: Sequence[str], groups: Sequence[str] = ()
) -> Pool:
    """Takes images in.

    Args:
        seen: the images, all of one shape.
        count: how many there are, at least one.
        classes: index = label; without any every label is 0.
        groups: of each image; without them every image is one of its own.
    """
    position = {name: index for index, name in enumerate(classes)}
    labels, names = np.zeros(count, np.int64), []
    images: np.ndarray | None = None
    for row, one in enumerate(seen):
        if images is None:
            images = np.empty((count, *one.canvas.shape), np.uint8)
        images[row] = one.canvas
        labels[row] = position[one.label] if position else 0
        names.append(one.name)
    return Pool(images, labels, np.array(list(groups) or names))


def part(pool: Pool, percent: int, seed: int) -> Pool:
    """Draws a share of every class, whole groups as far as they go.

    Smaller shares of one seed lie within larger ones, so a difference between shares is not one
    between draws.

    Args:
        pool: to draw from.
        percent: of the images of each class, rounded up.
        seed: of the draw.
    """
    if percent == 100:
        return pool
    rng = np.random.default_rng(seed)
    names = np.unique(pool.groups)
    rank = dict(zip(names, rng.permutation(len(names)), strict=True))
    order = rng.permutation(len(pool))
    order = order[np.argsort([rank[group] for group in pool.groups[order]], kind="stable")]
    chosen = []
    for label in np.unique(pool.labels):
        rows = order[pool.labels[order] == label]
        chosen.append(rows[: -(-len(rows) * percent // 100)])
    return pool.take(np.sort(np.concatenate(chosen)))


def batches(
    pools: Sequence[Pool], policy: str, seed: int, count: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless training data cut at ``count`` images: pools in turn, then classes in turn.

    Every pool and every class that a pool has is drawn equally often, however rare it is: what is
    scored weighs classes equally, and few real images do not drown among many synthetic ones.

    Args:
        pools: one or more.
        policy: of `augment`.
        seed: of drawing and augmentation.
        count: images in all, rounded up to whole batches.
        batch_size: images a batch.

    Yields:
        uint8 images [B, C, S, S] and labels [B].
    """
    rng = np.random.default_rng(seed)
    drawn = [_draws(pool, rng) for pool in pools]
    for start in range(0, count, batch_size):
        images, labels = [], []
        for index in range(start, start + batch_size):
            which = index % len(pools)
            row = next(drawn[which])
            view = augment({"image": pools[which].images[row]}, policy, seed, index, row)
            images.append(torch.from_numpy(view["image"]))
            labels.append(pools[which].labels[row])
        yield torch.stack(images), torch.tensor(np.array(labels))


def _draws(pool: Pool, rng: np.random.Generator) -> Iterator[int]:
    """Rows of the pool without end; each class is gone through in a new order again and again."""
    members = [np.flatnonzero(pool.labels == label) for label in np.unique(pool.labels)]
    waiting: list[list[int]] = [[] for _ in members]
    while True:
        for which in rng.permutation(len(members)):
            if not waiting[which]:
                waiting[which] = rng.permutation(members[which]).tolist()
            yield waiting[which].pop()
