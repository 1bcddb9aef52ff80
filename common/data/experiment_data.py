"""What an experiment says of its data; all else is the same in all of them."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch

from common.data.cards import Card, load_card
from common.data.datasets import Guides, SeedDataset
from common.data.manifest import Sample
from common.data.reading import Reading

if TYPE_CHECKING:
    from common.utility.task import Task, Training


class ExperimentData(pl.LightningDataModule, ABC):
    """Where images and labels are, how to make stand-ins for them, what a biologist measures."""

    default_card: ClassVar[str]
    # Arguments that decide which channels an image has.
    channel_arguments: ClassVar[tuple[str, ...]] = ("card",)
    # Files of the experiment's folder that decide what `simulate` writes.
    simulator_files: ClassVar[tuple[str, ...]] = ("simulator.py",)
    # Ways to name generated files, besides by number; see `generation.pattern_of`.
    namings: ClassVar[dict[str, str]] = {}
    # Moments of one sample, 0 where samples are single images.
    frames: int = 0
    # What happens to an image between its file and the canvas.
    reading: Reading = Reading()

    @classmethod
    def channels_of(cls, card: Card | str | None) -> tuple[str, ...]:
        """Names of the channels of an image, from the arguments in `channel_arguments`.

        Args:
            card: or its name; None for the default one.
        """
        return (card if isinstance(card, Card) else load_card(card or cls.default_card)).channels

    @abstractmethod
    def scan(self, root: Path) -> list[Sample]:
        """Every image below the raw folder with its group and label; reads no pixels."""

    def left_out(self, root: Path) -> Mapping[str, str]:
        """Files of the data set that `scan` cannot use, by name, and why; reads no pixels."""
        return {}

    @abstractmethod
    def simulate(self, root: Path) -> None:
        """Writes a stand-in for the real data, in its layout, with ground truth."""

    def measure(self, image: np.ndarray) -> dict[str, float]:
        """Named biological scalars of one image, float32 [C, H, W] in [0, 1] of the window."""
        return {}

    def checks(self, label: str, measured: Mapping[str, float]) -> dict[str, bool]:
        """Whether what was measured of an image is what its class stands for, by name of a check.

        Args:
            label: class of the image.
            measured: of `measure`, NaN where something could not be measured.
        """
        return {}

    def guides(self, split: str) -> Guides | None:
        """What the images of a split are made from besides label and mask; None for nothing."""
        return None

    def guide_facts(self) -> dict[str, Any]:
        """What guides of images to come are drawn from, as plain numbers; empty without guides."""
        return {}

    def annotations(self, plan: SeedDataset) -> list[tuple[int, str, float, float]]:
        """What generated images are told to show where: number, structure, x and y.

        Args:
            plan: of `plan_generation`. Places are shares of the image's width and height.
        """
        return []

    def task(self, training: "Training", device: torch.device) -> "Task | None":
        """What these images are wanted for, as a judge of others; None where nothing is named."""
        return None
