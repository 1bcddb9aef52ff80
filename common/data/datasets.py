"""Datasets over packed pixels and over seeds; batches are dicts of tensors."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from common.data.augment import augment
from common.data.canvas import Fit, extent, rectangle_mask
from common.data.loader import IDLE, WHILE_READING
from common.data.manifest import Sample
from common.data.sampler import Key
from common.data.windows import Window
from common.errors import Exit, UserError, relative, visible


class Batch(TypedDict):
    """What every model receives.

    `image` [B, C, H, W] is uint8 or uint16 in the loader and float32 in [-1, 1] on the device, 1
    at the upper end of the data card's window. `mask` [B, 1, H, W] is 1 where the canvas holds
    image. `label` [B] is an index into the checkpoint's class list. `guide` [B, K, H, W] shows what
    an image is made from besides; uint8 in the loader and float32 in [0, 1] on the device.

    Of sequences `image` is [B, C, T, H, W]. `levels` [B, C, 2] are the grey values of each that
    become -1 and 1, where every sequence has its own.
    """

    name: list[str]
    image: NotRequired[Tensor]
    mask: Tensor
    label: Tensor
    seed: NotRequired[Tensor]
    guide: NotRequired[Tensor]
    levels: NotRequired[Tensor]


# Of the image in a row of the data set, or of that number in a plan, and of its mask [1, S, S]: the
# guide, uint8 [K, S, S].
Guides = Callable[[int, np.ndarray], np.ndarray]


class PackedDataset(Dataset[Batch]):
    """One split of a prepared folder, read through a memory map.

    Args:
        folder: prepared folder.
        split: "train", "val" or "test"; no other split's pixels are opened.
        samples: rows of that split in packed order, each with a label of ``classes``.
        classes: index = label; empty where the data set has none.
        policy: augmentation, see `augment`.
        seed: of the run; the augmentation of an image depends on (seed, epoch, index) alone.
        fit: how the images came onto the canvas, see `canvas`.
        guides: of the images; without them there are none in a batch.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        samples: Sequence[Sample],
        classes: Sequence[str] = (),
        policy: str = "none",
        seed: int = 0,
        fit: Fit = "aspect",
        guides: Guides | None = None,
    ) -> None:
        self.path = folder / f"{split}.npy"
        self.samples = list(samples)
        self.policy = policy
        self.seed = seed
        self.fit = fit
        self.guides = guides
        position = {name: k for k, name in enumerate(classes)}
        labels = [position[sample.label] if position else 0 for sample in samples]
        self.labels = torch.tensor(labels, dtype=torch.int64)
        # Where loader processes note what they read, see `loader.BatchLoader`.
        self.reading: Tensor | None = None
        self._pixels: np.ndarray | None = None

    @property
    def pixels(self) -> np.ndarray:
        """Packed pixels [N, C, H, W]; opened by whichever process reads first.

        Raises:
            UserError: the file is missing or damaged.
        """
        if self._pixels is None:
            self._pixels = open_packed(self.path)
        return self._pixels

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> Batch:
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        """A whole batch at once: torch's loader calls this instead of one call an image."""
        views = []
        for epoch, index in keys:
            self._note(index)
            try:
                views.append(self._view(epoch, index))
            except Exception as error:
                error.add_note(f"{WHILE_READING}{visible(self.samples[index].name)}")
                raise
        self._note(IDLE)
        return {
            **{name: torch.from_numpy(np.stack([v[name] for v in views])) for name in views[0]},
            "label": self.labels[[index for _, index in keys]],
            "name": [self.samples[index].name for _, index in keys],
        }

    @property
    def size(self) -> int:
        """Side of the canvas in pixels."""
        return self.pixels.shape[-1]

    def stored(self, index: int) -> np.ndarray:
        """Packed pixels of one sample [C, H, W], or [C, T, H, W] of a sequence."""
        return self.pixels[index]

    def window(self, index: int, usual: Window) -> Window:
        """Grey values of one sample that become -1 and 1: the usual ones, or its own."""
        return usual

    def extent(self, index: int) -> tuple[int, int]:
        """Rows and columns of the canvas that hold image."""
        sample = self.samples[index]
        return extent(sample.height, sample.width, self.size, self.fit)

    def _note(self, index: int) -> None:
        worker = get_worker_info()
        if worker is not None and self.reading is not None:
            self.reading[worker.id] = index

    def _view(self, epoch: int, index: int) -> dict[str, np.ndarray]:
        mask = rectangle_mask(*self.extent(index), self.size)
        arrays = {"image": self.stored(index), "mask": mask}
        if self.guides is not None:
            arrays["guide"] = self.guides(index, mask)
        return augment(arrays, self.policy, self.seed, epoch, index)


class SeedDataset(Dataset[Batch]):
    """What to generate: one row an image, each with a seed of its own.

    Args:
        seeds: one an image; image k is a function of the weights, seed k and label k.
        labels: class indices.
        extents: rows and columns of the canvas that will be kept, see `canvas.rectangle`.
        size: side of the canvas in pixels.
        guides: of the images, by number; without them there are none in a batch.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        labels: Sequence[int],
        extents: Sequence[tuple[int, int]],
        size: int,
        guides: Guides | None = None,
    ) -> None:
        self.seeds, self.labels, self.extents = list(seeds), list(labels), list(extents)
        self.size = size
        self.guides = guides

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """A whole batch at once."""
        masks = [rectangle_mask(*self.extents[index], self.size) for index in indices]
        batch: Batch = {
            "name": [f"{index:06d}" for index in indices],
            "seed": torch.tensor([self.seeds[index] for index in indices]),
            "label": torch.tensor([self.labels[index] for index in indices]),
            "mask": torch.from_numpy(np.stack(masks)),
        }
        if self.guides is not None:
            guides = [self.guides(index, mask) for index, mask in zip(indices, masks, strict=True)]
            batch["guide"] = torch.from_numpy(np.stack(guides))
        return batch


class SourcedDataset(SeedDataset):
    """As `SeedDataset`, each image made from another one.

    Args:
        seeds: one an image.
        sources: where the other images lie; gives label and mask as well.
        rows: of the sources, one an image.
    """

    def __init__(self, seeds: Sequence[int], sources: PackedDataset, rows: Sequence[int]) -> None:
        extents = [sources.extent(row) for row in rows]
        super().__init__(seeds, sources.labels[list(rows)].tolist(), extents, sources.size)
        self.sources, self.rows = sources, list(rows)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """A whole batch at once, with the other images as `image`, and their guides."""
        seen = self.sources.__getitems__([(0, self.rows[index]) for index in indices])
        return {**seen, **super().__getitems__(indices)}


def as_batch(batch: Batch) -> Batch:
    """Collation for datasets that already give whole batches."""
    return batch


def open_packed(path: Path) -> np.memmap:
    """Pixels of one split [N, C, H, W] as a memory map.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        raise UserError(
            Exit.INPUT,
            relative(path),
            f"cannot be read ({error.__class__.__name__})",
            "delete its folder and run make prepare again",
        ) from error
