"""Windows of consecutive moments, over the packed pixels of single ones."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from common.data.datasets import Batch, PackedDataset
from common.data.sampler import Key
from common.data.sequences import windows_of
from common.data.windows import Window


class SequenceDataset(PackedDataset):
    """All windows of one split; a batch has `image` [B, C, T, S, S].

    A window is named by its first moment. Augmentation is the same for all of its frames and
    channels.

    Args:
        moments: packed pixels of single moments; policy and seed are those of the windows.
        frames: T.
        levels: grey values [C, 2] by sequence, which then come with each batch.
    """

    def __init__(
        self, moments: PackedDataset, frames: int, levels: Mapping[str, np.ndarray] | None = None
    ) -> None:
        windows = windows_of(moments.samples, frames)
        first = [moments.samples[row] for row in windows[:, 0]]
        folder, split = moments.path.parent, moments.path.stem
        settings = {"policy": moments.policy, "seed": moments.seed, "fit": moments.fit}
        super().__init__(folder, split, first, **settings)
        self.windows = windows
        self.labels = moments.labels[windows[:, 0]]
        self.levels = levels

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        """A whole batch at once, with its levels where there are any."""
        batch = super().__getitems__(keys)
        if self.levels is not None:
            found = [self.levels[self.samples[index].sequence] for _, index in keys]
            batch["levels"] = torch.from_numpy(np.stack(found))
        return batch

    def stored(self, index: int) -> np.ndarray:
        """Packed pixels [C, T, S, S] of a window."""
        return np.stack([self.pixels[row] for row in self.windows[index]], 1)

    def window(self, index: int, usual: Window) -> Window:
        """Grey values that become -1 and 1: the usual ones, or those of the sequence."""
        return usual if self.levels is None else self.levels[self.samples[index].sequence]
