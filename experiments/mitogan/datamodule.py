"""Frames of fluorescence videos of mitochondria."""

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
        simulated_test_frames: of each of these videos. Coverage asks how near samples come to a
            held-out frame, measured by its nearest others; those of its own video are near copies.
        kwargs: as for `MovieDataModule`.
    """

    default_card = "mito_videos"
    simulator_files = (
        *("simulator.py", "cell.py", "tubules.py", "motion.py", "topology.py", "imaging.py"),
        "microscope.py",
    )

    def __init__(
        self,
        simulated_frames: int = 30,
        simulated_test: NonNegativeInt = 0,
        simulated_test_frames: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        require_positive(
            "data", simulated_frames=simulated_frames, simulated_test_frames=simulated_test_frames
        )
        self.simulated_frames = simulated_frames
        self.simulated_test = simulated_test
        self.simulated_test_frames = simulated_test_frames

    @property
    def simulated_options(self) -> tuple[int, ...]:
        """Frames of a video, and those of the test split."""
        of_test = (self.simulated_test_frames,) if self.simulated_test else ()
        return self.simulated_frames, self.simulated_test, *of_test

    def simulate(self, root: Path) -> None:
        """Writes simulated videos, with their ground truth in `tables` and `ground_truth`."""
        from experiments.mitogan.simulator import simulate

        count, frames, test = self.simulated_images, self.simulated_frames, self.simulated_test
        how = {"seed": 0, "mean_size": self.simulated_size}
        simulate(root / "train" if test else root, count, frames_per_video=frames, **how)
        if test:
            how |= {"frames_per_video": self.simulated_test_frames}
            simulate(root / "test", test, first=math.ceil(count / frames), **how)

    def measure(self, image: np.ndarray) -> dict[str, float]:
        """Foreground, width, length, branches, ends, components and loops; see `biology`."""
        size = self.facts["canvas_pixel_size_um"]
        return biology.measure(image, size[0] if size else None)
