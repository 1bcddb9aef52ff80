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
    from common.utility.task import Balance

# Of Cui et al. 2019: what an n-th image of a class adds is this to the power of n - 1.
_NOVELTY = 0.999


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


def class_shares(counts: np.ndarray, balance: "Balance") -> np.ndarray:
    """How often images of each class are drawn, as shares of one.

    - ``classes``: each class alike, however rare; right for scores that weigh classes equally.
    - ``effective``: each image counts inversely to the effective number of images of its class,
      (1 - b^n) / (1 - b) with b = 0.999 (Cui et al. 2019, Eq. 2); by how often it is drawn instead
      of by its loss. Classes of far fewer than 1,000 images are drawn alike, far larger ones as
      frequent as they are.
    - ``none``: as frequent as its images are.

    Args:
        counts: images of each class, at least one.
        balance: one of these.
    """
    effective = (1 - _NOVELTY**counts) / (1 - _NOVELTY)
    weights = {"classes": 1 / counts, "effective": 1 / effective, "none": np.ones(len(counts))}
    shares = counts * weights[balance]
    return shares / shares.sum()


def batches(
    pools: Sequence[Pool],
    policy: str,
    seed: int,
    count: int,
    batch_size: int,
    balance: "Balance" = "classes",
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless training data cut at ``count`` images: pools in turn, then classes by their shares.

    Every pool is drawn equally often: few real images do not drown among many synthetic ones.

    Args:
        pools: one or more.
        policy: of `augment`.
        seed: of drawing and augmentation.
        count: images in all, rounded up to whole batches.
        batch_size: images a batch.
        balance: of `class_shares`, which each pool has by its own counts.

    Yields:
        uint8 images [B, C, S, S] and labels [B].
    """
    rng = np.random.default_rng(seed)
    drawn = [_draws(pool, balance, rng) for pool in pools]
    for start in range(0, count, batch_size):
        images, labels = [], []
        for index in range(start, start + batch_size):
            which = index % len(pools)
            row = next(drawn[which])
            view = augment({"image": pools[which].images[row]}, policy, seed, index, row)
            images.append(torch.from_numpy(view["image"]))
            labels.append(pools[which].labels[row])
        yield torch.stack(images), torch.tensor(np.array(labels))


def _draws(pool: Pool, balance: "Balance", rng: np.random.Generator) -> Iterator[int]:
    """Rows of the pool without end; each class is gone through in a new order again and again.

    The class that is farthest behind its share comes next, so shares are kept at every moment.
    """
    names, counts = np.unique(pool.labels, return_counts=True)
    members = [np.flatnonzero(pool.labels == name) for name in names]
    waiting: list[list[int]] = [[] for _ in members]
    shares, behind = class_shares(counts, balance), np.zeros(len(members))
    while True:
        behind += shares
        # Where several are equally far behind, chance decides.
        which = int(np.argmax(np.round(behind, 9) + 1e-9 * rng.random(len(members))))
        behind[which] -= 1
        if not waiting[which]:
            waiting[which] = rng.permutation(members[which]).tolist()
        yield waiting[which].pop()
