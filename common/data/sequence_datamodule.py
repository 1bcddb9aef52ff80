"""Data modules of experiments whose samples are windows of consecutive moments."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from common.data.datamodule import ImageDataModule
from common.data.manifest import SPLITS, Sample
from common.data.reading import Normalise, SequenceReading
from common.data.sequence_datasets import SequenceDataset
from common.data.sequences import windows_of
from common.data.windows import read_levels
from common.errors import Exit, UserError, relative, require_positive

if TYPE_CHECKING:
    from common.metrics.protocol import Record


class SequenceDataModule(ImageDataModule):
    """Windows of moments, each moment an image of one or more channels.

    `scan` gives one sample a moment, with its files, its sequence and its number in that. Windows
    overlap and never reach over a gap in time or from one split into another.

    Args:
        frames: moments of a window.
        normalise: "fixed" by the window of the data card, or "sequence": each sequence and channel
            by levels of its own, the percentiles of all of its frames, see `windows`.
        kwargs: as for `ImageDataModule`.
    """

    # Scalars of `measure` that single moments have, by which a continued sequence is followed, and
    # the unit of each; "" for a pure number.
    followed: ClassVar[dict[str, str]] = {}

    def __init__(self, frames: int = 3, normalise: Normalise = "fixed", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_positive("data", frames=frames)
        self.frames = frames
        self.reading = SequenceReading(normalise=normalise)

    def prepare_data(self) -> None:
        """Also says how many windows there are."""
        known = self.prepared
        super().prepare_data()
        if self.prepared is not known:
            counts = ", ".join(f"{self._count(split)} {split}" for split in SPLITS)
            print(f"windows of {self.frames}: {counts}", flush=True)

    def setup(self, stage: str) -> None:
        """Also makes sure that there is something to train and validate on.

        Raises:
            UserError: a split has no window, or the data were prepared for something else.
        """
        super().setup(stage)
        if self.prepared is not None:
            self._refuse_other_reading()
        for split in ("train", "val") if self.prepared is not None else ():
            if not self._count(split):
                remedy = "lower --data.frames, or add data without gaps in time"
                raise self.without_window(split, remedy)

    def samples(self, split: str) -> list[Sample]:
        """First moments of all windows of a split."""
        return self.dataset(split).samples

    def dataset(self, split: str, policy: str = "none") -> SequenceDataset:
        """Windows of one split; arguments and errors as of `ImageDataModule.dataset`."""
        return self.windows(split, self.frames, policy)

    def windows(self, split: str, frames: int, policy: str = "none") -> SequenceDataset:
        """As `dataset`, of any number of moments."""
        moments = self.prepared.dataset(split, policy, self.seed)
        own = self.reading.normalise == "sequence"
        levels = read_levels(self.prepared.folder, split) if own else None
        return SequenceDataset(moments, frames, levels)

    def without_window(self, split: str, remedy: str) -> UserError:
        """The error of a split none of whose sequences is long enough."""
        problem = f"the {split} split has no window of {self.frames} consecutive moments"
        return UserError(Exit.INPUT, relative(self.prepared.folder), problem, remedy)

    def glance(self, canvas: np.ndarray) -> np.ndarray:
        """What `sequence_records` needs of a sequence, uint8 [C, T, S, S]; small, for all are kept.

        Nothing unless an experiment has such records.
        """
        return np.empty(0, np.float32)

    def sequence_records(
        self,
        train: np.ndarray,
        real: np.ndarray,
        fake: np.ndarray,
        record: "Callable[..., Record]",
    ) -> "list[Record]":
        """Numbers that take whole sets of sequences at once.

        Args:
            train: what `glance` gives of each training sequence [N, ...].
            real: of each held-out one.
            fake: of each generated one.
            record: makes a record of the evaluation.
        """
        return []

    def _refuse_other_reading(self) -> None:
        done = self.facts["reading"].get("normalise")
        if done != self.reading.normalise:
            raise UserError(
                Exit.INPUT,
                relative(self.prepared.folder),
                f"was prepared with normalise {done}, not {self.reading.normalise}",
                "correct the configuration, or prepare the raw images again",
            )

    def _count(self, split: str) -> int:
        return len(windows_of(self.prepared.samples(split), self.frames))
