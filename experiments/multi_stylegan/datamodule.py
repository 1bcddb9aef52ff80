"""Sequences of yeast in traps: brightfield and fluorescence."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jsonargparse.typing import NonNegativeInt

from common.data.listing import find_files
from common.data.manifest import Sample
from common.data.sequence_datamodule import SequenceDataModule
from common.errors import Exit, UserError, relative
from common.metrics.protocol import Record
from experiments.multi_stylegan import tlfm
from experiments.multi_stylegan.tlfm import FILE_PATTERN

_IMAGES = (".tif", ".tiff", ".png")
_MOVIES = (".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm")
# Of a test split that is simulated by itself: moments of a trap, traps of a position.
_MOMENTS, _TRAPS = 12, 5


class YeastDataModule(SequenceDataModule):
    r"""`<position>/<files>`, a file for each channel of each moment; a position is a group.

    Folders such as `train` and `test` around the positions are a split that came with the data.

    Args:
        file_pattern: regular expression that is searched in the path below the raw folder, with
            the groups `time` (digits) and `channel` (begins with the name of a channel of the
            card, such as BF0), and where there are such things `z`, `trap` and `position` (else
            the folder). In place of `channel` it may have a group for each channel, named as that:
            `im(?P<time>\d+)_(?:(?P<BF>channel1_phase)|(?P<GFP>channel2_cdc))`.
        split_by: what lies whole in one split: "position" (of the published positions the
            published split, where all are there), "trap", or "time", pieces of ``frames`` moments
            or a little more. Of the last two held-out numbers are optimistic: the same cells, or
            the same chip, were trained on.
        simulated_test: moments of further simulated positions, five traps each, which are the test
            split; 0 takes that from the others, by position.
        simulated_planes: focal planes of every simulated moment; each is a sequence of its own.
        augment: as for `ImageDataModule`. Traps stand upright and are symmetric: a model that is
            shown all orientations has to draw them.
        kwargs: as for `SequenceDataModule`.
    """

    default_card = "yeast_traps"
    simulator_files = (
        "simulator.py",
        "trap.py",
        "position.py",
        "cells.py",
        "growth.py",
        "scene.py",
        "microscope.py",
    )
    followed: ClassVar[dict[str, str]] = {"cell_area": "px²", "gfp_level": ""}

    def __init__(
        self,
        file_pattern: str = FILE_PATTERN,
        split_by: Literal["position", "trap", "time"] = "position",
        simulated_test: NonNegativeInt = 0,
        simulated_planes: Literal[1, 2, 3] = 1,
        augment: str = "mirror",
        **kwargs: Any,
    ) -> None:
        super().__init__(augment=augment, **kwargs)
        self.file_pattern = file_pattern
        self.split_by = split_by
        self.simulated_test = simulated_test
        self.simulated_planes = simulated_planes
        self._pattern: re.Pattern[str] = tlfm.compiled(file_pattern, self.card.channels)

    def scan(self, root: Path) -> list[Sample]:
        """One sample a moment that has all channels of the card.

        Raises:
            UserError: no name of a file matches the pattern, no moment has all channels, or two
                files are the same channel of one moment.
        """
        names = self._names(root)
        found = self._scanned(names)
        if names and not found.samples:
            raise self._without_moments(root, names, found.left_out)
        samples = found.samples
        if self.split_by == "trap":
            samples = [replace(one, group=one.sequence.rpartition("/")[0]) for one in samples]
        splits = tlfm.split_of_folders(samples)
        if self.split_by == "position" and not any(splits):
            splits = tlfm.official_split(samples)
        return [replace(one, split=split) for one, split in zip(samples, splits, strict=True)]

    def left_out(self, root: Path) -> Mapping[str, str]:
        """Files whose moment lacks another channel."""
        return self._scanned(self._names(root)).left_out

    @property
    def simulated_options(self) -> tuple[int, ...]:
        """Moments of the test split, if it is a simulation of its own, and several focal planes."""
        if self.simulated_planes > 1:
            return (self.simulated_test, self.simulated_planes)
        return (self.simulated_test,) if self.simulated_test else ()

    def simulate(self, root: Path) -> None:
        """Writes simulated recordings, with their ground truth."""
        from experiments.multi_stylegan.simulator import simulate

        count, test, size = self.simulated_images, self.simulated_test, self.simulated_size
        shared = {"mean_size": size, "planes": self.simulated_planes}
        simulate(root / "train" if test else root, count, seed=0, **shared)
        if test:
            # Another seed gives other positions, whatever their names.
            positions = math.ceil(test / (_MOMENTS * _TRAPS))
            how = {"frames_per_trap": _MOMENTS, "positions": positions}
            simulate(root / "test", test, seed=1, **shared, **how)

    def measure(self, image: np.ndarray) -> dict[str, float]:
        """What is known of the cells of a sequence [C, T, H, W] in [0, 1]; see `biology`."""
        from experiments.multi_stylegan import biology

        return biology.measure(image)

    def glance(self, canvas: np.ndarray) -> np.ndarray:
        """What the order of frames is seen in: float32 [C, T, s, s] in [0, 1]."""
        from experiments.multi_stylegan.temporal_order import small

        return small(torch.from_numpy(canvas)[None].float() / 255)[0].numpy()

    def sequence_records(
        self,
        train: np.ndarray,
        real: np.ndarray,
        fake: np.ndarray,
        record: Callable[..., Record],
    ) -> list[Record]:
        """Whether frames are in an order that real ones have; see `temporal_order`."""
        from experiments.multi_stylegan.temporal_order import order_records

        return order_records(train, real, fake, record)

    def _names(self, root: Path) -> list[str]:
        names = [path.relative_to(root).as_posix() for path in find_files(root, _IMAGES)]
        movies = [] if names else find_files(root, _MOVIES)
        if movies:
            raise UserError(
                Exit.INPUT,
                relative(movies[0]),
                "is a video, and recordings have a file for each channel of each moment",
                "write its frames into image files whose names match --data.file_pattern",
            )
        return names

    def _scanned(self, names: list[str]) -> tlfm.Scanned:
        block = self.frames if self.split_by == "time" else 0
        return tlfm.scan(names, self._pattern, self.card.channels, block)

    def _without_moments(
        self, root: Path, names: list[str], left_out: Mapping[str, str]
    ) -> UserError:
        if left_out:
            name, why = next(iter(left_out.items()))
            remedy = "add the missing files, or choose a data card with fewer channels"
            return UserError(Exit.INPUT, name, f"cannot be used: {why}", remedy)
        return UserError(
            Exit.INPUT,
            relative(root),
            f"holds no channel whose name matches --data.file_pattern, only such as {names[0]}",
            "write an expression for these names, as in data_cards/yeast_traps.md",
        )
