"""Ciliary cross-sections: class folders of single images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from common.data.datamodule import ImageDataModule
from common.data.datasets import Guides, SeedDataset
from common.data.image_io import find_images
from common.data.manifest import Sample
from common.data.splits import SPLIT_FOLDERS, group_of
from common.errors import Exit, UserError, relative
from common.utility.classification import Classification
from common.utility.task import Training
from experiments.cilia_cvae import biology, ultrastructure
from experiments.cilia_cvae.layout import KINDS, VERSION, LayoutGuides, describe, read_layouts
from experiments.cilia_cvae.layout import sample as sample_layout

# Whose layouts training needs.
_READ = ("train", "val")


class CiliaDataModule(ImageDataModule):
    """`<class>/<image>`, or `<train|val|test>/<class>/<image>` where the data came split."""

    default_card = "cilia_tem"
    simulator_files = ("simulator.py", "anatomy.py")

    def __init__(self, layout: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layout = layout
        self._known: dict[str, Any] = {}

    def prepare_training(self) -> None:
        """Reads the microtubules of training and validation images, where they are wanted.

        Says of which classes it is not known whether they have arms.
        """
        unknown = [name for name in self.classes if name not in ultrastructure.ULTRASTRUCTURE]
        if self.layout and unknown:
            named = f"arms are known of classes named as in data_cards/{self.default_card}.md"
            print(f"note: layouts show no arms in {', '.join(unknown)}; {named}", flush=True)
        for split in _READ if self.layout else ():
            read_layouts(self.prepared, split)

    def setup(self, stage: str) -> None:
        """Also describes the layouts of the training images, where training begins."""
        super().setup(stage)
        if self.layout and stage == "fit":
            labels = [sample.label for sample in self.prepared.samples("train")]
            self._known = describe(read_layouts(self.prepared, "train"), labels)

    def guides(self, split: str) -> Guides | None:
        """Layouts of a split's images."""
        if not self.layout:
            return None
        samples = self.prepared.samples(split)
        shapes = [(sample.height, sample.width) for sample in samples]
        labels = [sample.label for sample in samples]
        return LayoutGuides(read_layouts(self.prepared, split), shapes, labels)

    def guide_facts(self) -> dict[str, Any]:
        """Names of the guide's channels, and what `layout.sample` draws from."""
        return {"channels": list(KINDS), "layouts": self._known} if self.layout else {}

    def plan_generation(self, count: int, seed: int, labels: str) -> SeedDataset:
        """Also draws a layout for each image, by its seed and label."""
        plan = super().plan_generation(count, seed, labels)
        if self.layout:
            plan.guides = self._drawn_guides(plan)
        return plan

    def annotations(self, plan: SeedDataset) -> list[tuple[int, str, float, float]]:
        """Centres of the microtubules that each image was shown."""
        layouts = plan.guides.layouts if isinstance(plan.guides, LayoutGuides) else []
        return [
            (number, KINDS[kind], float(x), float(y))
            for number, layout in enumerate(layouts)
            if layout is not None
            for (x, y), kind in zip(layout.points, layout.kinds, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Also what is known of layouts."""
        return super().state_dict() | {"layout": self._known}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores it."""
        super().load_state_dict(state_dict)
        self._known = state_dict.get("layout", {})

    # As the system that this experiment follows names its images.
    namings: ClassVar[dict[str, str]] = {
        "upstream": "Generated Images {size}/Synthetic_{label}_{time}_{number:04d}"
    }

    def scan(self, root: Path) -> list[Sample]:
        """Images of the card's classes.

        A class without a folder is left out, and folders without images are passed over; a class
        folder without an image, or an image that lies in no class folder, is an error.
        """
        names = [path.relative_to(root) for path in find_images(root)]
        lost = [name for name in names if self._class_of(name) is None]
        if lost:
            raise self._lost(lost)
        filled = {folder for name in names for folder in name.parents}
        for folder in sorted(p.relative_to(root) for p in (*root.glob("*"), *root.glob("*/*"))):
            is_class = self._class_of(folder / "any") == folder.name
            if is_class and folder not in filled and (root / folder).is_dir():
                raise _empty(root / folder)
        return [self._sample(name) for name in names]

    def simulate(self, root: Path) -> None:
        """Writes simulated cross-sections and `tables/ground_truth.csv`."""
        from experiments.cilia_cvae.simulator import simulate

        simulate(root, self.simulated_images, seed=0, mean_size=self.simulated_size)

    def measure(self, image: np.ndarray) -> dict[str, float]:
        """Doublets, central pair and dynein arms; see `biology`."""
        return biology.measure(image)

    def checks(self, label: str, measured: Mapping[str, float]) -> dict[str, bool]:
        """Numbers of microtubules, and arms; see `ultrastructure`."""
        return ultrastructure.checks(label, measured)

    def task(self, training: Training, device: torch.device) -> Classification:
        """Which class a cross-section shows."""
        return Classification(self.classes, device, training)

    def _drawn_guides(self, plan: SeedDataset) -> LayoutGuides:
        if not self._known:
            problem = "asks for layouts, which this run was trained without"
            raise UserError(Exit.USAGE, "--data.layout true", problem, "leave it out")
        if self._known.get("version") != VERSION:
            problem = "were described by another version of this project"
            raise UserError(Exit.CHECKPOINT, "layouts of the run", problem, "train it again")
        names = [self.facts["classes"][label] for label in plan.labels]
        drawn = [
            sample_layout(self._known, name, np.random.default_rng([seed, *b"layout"]))
            for seed, name in zip(plan.seeds, names, strict=True)
        ]
        return LayoutGuides(drawn, plan.extents, names)

    def _class_of(self, name: Path) -> str | None:
        """Class by the first folder, or by the second where that names a split."""
        folders = name.parts[:-1]
        inner = folders[1:] if _split(name) else folders
        if not inner or inner[0] not in self.classes:
            return None
        # What lies below two classes or two splits says two things.
        ambiguous = any(f in self.classes or f.lower() in SPLIT_FOLDERS for f in inner[1:])
        return None if ambiguous else inner[0]

    def _sample(self, name: Path) -> Sample:
        key = name.as_posix()
        group = group_of(key, self.card.group, self.card.derivative_suffixes)
        return Sample(key, group, self._class_of(name), _split(name))

    def _lost(self, names: list[Path]) -> UserError:
        more = f", nor do {len(names) - 1} more images" if len(names) > 1 else ""
        return UserError(
            Exit.INPUT,
            names[0].as_posix(),
            f"lies in no folder <class> or <train|val|test>/<class>{more}",
            f"move or remove it; the classes are {', '.join(self.classes)}",
        )


def _split(name: Path) -> str:
    return SPLIT_FOLDERS.get(name.parts[0].lower(), "")


def _empty(folder: Path) -> UserError:
    return UserError(
        Exit.INPUT,
        relative(folder),
        "is a class folder without images (what a link leads to does not count)",
        "copy its images again, or delete the folder to go on without the class",
    )
