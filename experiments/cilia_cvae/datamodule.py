"""Ciliary cross-sections: class folders of single images."""

from pathlib import Path

import numpy as np

from common.data.datamodule import ImageDataModule
from common.data.image_io import find_images
from common.data.manifest import Sample
from common.data.splits import group_of
from common.errors import Exit, UserError, relative
from experiments.cilia_cvae import biology

_SHIPPED = {"train": "train", "val": "val", "validation": "val", "test": "test"}


class CiliaDataModule(ImageDataModule):
    """`<class>/<image>`, or `<train|val|test>/<class>/<image>` where the data came split."""

    default_card = "cilia_tem"

    def scan(self, root: Path) -> list[Sample]:
        """Images of the card's classes.

        A class without a folder is left out; a folder that is no class but holds images, or a
        class folder without one, is an error; folders without images are passed over.
        """
        shipped = sorted(name for name in _SHIPPED if (root / name).is_dir())
        folders = [(root / name, _SHIPPED[name]) for name in shipped] or [(root, "")]
        return [s for folder, split in folders for s in self._scan_classes(root, folder, split)]

    def simulate(self, root: Path) -> None:
        """Writes simulated cross-sections and `tables/ground_truth.csv`."""
        from experiments.cilia_cvae.simulator import simulate

        simulate(root, self.simulated_images, seed=0, mean_size=self.simulated_size)

    def measure(self, image: np.ndarray) -> dict[str, float]:
        """Doublets, central pair and dynein arms; see `biology`."""
        return biology.measure(image)

    def _scan_classes(self, root: Path, folder: Path, split: str) -> list[Sample]:
        samples = []
        for entry in sorted(p for p in folder.iterdir() if p.is_dir()):
            images = find_images(entry)
            if entry.name in self.classes:
                samples += [self._sample(root, path, entry.name, split) for path in images]
                if not images:
                    raise _empty(entry)
            elif images:
                raise self._unknown(entry, len(images))
        return samples

    def _sample(self, root: Path, path: Path, label: str, split: str) -> Sample:
        name = path.relative_to(root).as_posix()
        group = group_of(name, self.card.group, self.card.derivative_suffixes)
        return Sample(name, group, label, split)

    def _unknown(self, folder: Path, count: int) -> UserError:
        return UserError(
            Exit.INPUT,
            relative(folder),
            f"holds {count} images but is no class of data card {self.card.name}",
            f"rename or move it; the classes are {', '.join(self.classes)}",
        )


def _empty(folder: Path) -> UserError:
    return UserError(
        Exit.INPUT,
        relative(folder),
        "is a class folder without images",
        "copy its images again, or delete the folder to go on without the class",
    )
