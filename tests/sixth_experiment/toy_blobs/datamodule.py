"""Blobs: one folder a video, one two-channel TIFF a frame."""

from pathlib import Path

import numpy as np

from common.data.datamodule import ImageDataModule
from common.data.image_io import find_images
from common.data.manifest import Sample
from common.data.splits import group_of
from experiments.toy_blobs import biology
from experiments.toy_blobs.simulator import simulate


class BlobsDataModule(ImageDataModule):
    """`<video>/<frame>.ome.tif`, split by video."""

    default_card = str(Path(__file__).with_name("card.md"))

    def scan(self, root: Path) -> list[Sample]:
        """Every frame with its video."""
        names = [path.relative_to(root).as_posix() for path in find_images(root)]
        return [Sample(name, group_of(name, self.card.group, ())) for name in names]

    def simulate(self, root: Path) -> None:
        """Writes videos of five frames."""
        simulate(root, self.simulated_images, seed=0, size=self.simulated_size)

    def measure(self, image: np.ndarray) -> dict[str, float]:
        """Share of bright pixels in each channel."""
        return biology.measure(image)
