"""Frames of fluorescence videos of mitochondria."""

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse.typing import NonNegativeInt

from common.data.movie_datamodule import MovieDataModule
from common.errors import require_positive
from experiments.mitogan import biology


class MitoDataModule(MovieDataModule):
    """Videos, sequences or single frames of labelled mitochondria; a video is a group.

    Args:
        simulated_frames: of one simulated video.
        simulated_test: frames of further simulated videos, which are the test split; 0 takes it
            from the others, by video.
        kwargs: as for `MovieDataModule`.
    """

    default_card = "mito_videos"
    simulator_files = (
        *("simulator.py", "cell.py", "tubules.py", "motion.py", "topology.py", "imaging.py"),
        "microscope.py",
    )

    def __init__(
        self, simulated_frames: int = 30, simulated_test: NonNegativeInt = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        require_positive("data", simulated_frames=simulated_frames)
        self.simulated_frames = simulated_frames
        self.simulated_test = simulated_test

    @property
    def simulated_name(self) -> str:
        """Another one for another number of frames of a video, or of the test split."""
        *start, digest = super().simulated_name.split("-")
        told = f"{digest} {self.simulated_frames} {self.simulated_test}"
        return "-".join([*start, hashlib.sha256(told.encode()).hexdigest()[: len(digest)]])

    def simulate(self, root: Path) -> None:
        """Writes simulated videos, with their ground truth in `tables` and `ground_truth`."""
        from experiments.mitogan.simulator import simulate

        count, frames = self.simulated_images, self.simulated_frames
        how = {"seed": 0, "mean_size": self.simulated_size, "frames_per_video": frames}
        if not self.simulated_test:
            simulate(root, count, **how)
            return
        simulate(root / "train", count, **how)
        simulate(root / "test", self.simulated_test, **how, first=math.ceil(count / frames))

    def measure(self, image: np.ndarray) -> dict[str, float]:
        """Foreground, width, length, branches, ends, components and loops; see `biology`."""
        size = self.facts["canvas_pixel_size_um"]
        return biology.measure(image, size[0] if size else None)
