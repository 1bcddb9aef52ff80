"""Order of the images as a pure function of (seed, epoch)."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

Key = tuple[int, int]


def epoch_order(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """Permutation of ``range(num_samples)`` for one epoch; the same on every machine and rank."""
    return np.random.default_rng([seed, epoch]).permutation(num_samples)


class EpochSampler(Sampler[Key]):
    """Yields (epoch, index), so that whatever is drawn for an image can depend on both.

    Lightning calls `set_epoch`, on resuming too: nothing has to be stored to continue exactly.

    Args:
        num_samples: images in the split.
        seed: of the run.
        shuffle: else the order of the manifest.
        multiple_of: the order is filled up from its own head to a multiple of this, which gives
            every batch (training) or every rank (validation) the same number of images.
        rank: of this process.
        world_size: number of processes; this one takes every ``world_size``-th image.
    """

    def __init__(
        self,
        num_samples: int,
        seed: int = 0,
        shuffle: bool = False,
        multiple_of: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self.shuffle = shuffle
        self.total = -(-num_samples // multiple_of) * multiple_of
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self._resumed = (-1, 0)

    def resume(self, epoch: int, done: int) -> None:
        """Leaves out the first ``done`` images of this rank in that one epoch."""
        self.epoch = epoch
        self._resumed = (epoch, done)

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Key]:
        order = np.arange(self.num_samples)
        if self.shuffle:
            order = epoch_order(self.num_samples, self.seed, self.epoch)
        filled = np.resize(order, self.total)
        epoch, done = self._resumed
        mine = filled[self.rank :: self.world_size]
        for index in mine[done if self.epoch == epoch else 0 :]:
            yield self.epoch, int(index)

    def __len__(self) -> int:
        return len(range(self.rank, self.total, self.world_size))
