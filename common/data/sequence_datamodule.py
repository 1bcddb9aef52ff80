"""Data modules of experiments whose samples are windows of consecutive moments."""

from typing import Any

from common.data.datamodule import ImageDataModule
from common.data.manifest import SPLITS, Sample
from common.data.reading import Normalise, SequenceReading
from common.data.sequence_datasets import SequenceDataset
from common.data.sequences import windows_of
from common.data.windows import read_levels
from common.errors import Exit, UserError, relative, require_positive


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
                raise UserError(
                    Exit.INPUT,
                    relative(self.prepared.folder),
                    f"the {split} split has no window of {self.frames} consecutive moments",
                    "lower --data.frames, or add data without gaps in time",
                )

    def samples(self, split: str) -> list[Sample]:
        """First moments of all windows of a split."""
        return self.dataset(split).samples

    def dataset(self, split: str, policy: str = "none") -> SequenceDataset:
        """Windows of one split; arguments and errors as of `ImageDataModule.dataset`."""
        moments = self.prepared.dataset(split, policy, self.seed)
        own = self.reading.normalise == "sequence"
        levels = read_levels(self.prepared.folder, split) if own else None
        return SequenceDataset(moments, self.frames, levels)

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
