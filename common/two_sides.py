"""Held-out and generated images as a comparison needs them: on one canvas, in one window."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from common.data.canvas import crop_to_mask, extent, rectangle_mask
from common.data.check import planes
from common.data.datamodule import ImageDataModule
from common.data.image_io import read_image
from common.generation import grey_to_unit
from common.preprocess.geometry import fit_to_canvas
from common.runs.folder import RunFolder

# The canvas uint8 [C, size, size] and the image on it float32 [C, H, W] in [0, 1] of the window.
Seen = tuple[np.ndarray, np.ndarray]


def packed_images(data: ImageDataModule, split: str, rows: Sequence[int]) -> Iterator[Seen]:
    """Images of a split as training sees them, in the order of ``rows``."""
    dataset = data.prepared.dataset(split)
    storage = data.facts["storage"]
    for row in rows:
        sample = dataset.samples[row]
        grey = dataset.pixels[row].astype(np.float32) * storage["scale"] + storage["offset"]
        unit = grey_to_unit(grey, data.facts["window"])
        size = unit.shape[-1]
        mask = rectangle_mask(*extent(sample.height, sample.width, size), size)
        yield _to_uint8(unit), crop_to_mask(unit, mask)


def generated_images(
    folder: RunFolder, data: ImageDataModule, rows: Sequence[Mapping[str, str]]
) -> Iterator[Seen]:
    """Images of a run's `samples`, in the order of ``rows`` of their manifest."""
    for row in rows:
        image = read_image(folder.samples / row["name"], root=folder.samples)
        unit = grey_to_unit(planes(image, data.card), data.facts["window"])
        yield _to_uint8(fit_to_canvas(unit, data.facts["image_size"])), unit


def _to_uint8(unit: np.ndarray) -> np.ndarray:
    return np.rint(unit * 255).astype(np.uint8)
