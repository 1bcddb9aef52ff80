"""Frames of fluorescence videos of mitochondria."""

from pathlib import Path
from typing import Any

import numpy as np

from common.data.movie_datamodule import MovieDataModule
from common.errors import require_positive
from experiments.mitogan import biology


class MitoDataModule(MovieDataModule):
    """Videos, sequences or single frames of labelled mitochondria; a video is a group.

    Args:
        simulated_frames: of one simulated video.
        kwargs: as for `MovieDataModule`.
    """

    default_card = "mito_videos"
    simulator_files = (
        *("simulator.py", "cell.py", "tubules.py", "motion.py", "topology.py", "imaging.py"),
        "microscope.py",
    )

    def __init__(self, simulated_frames: int = 30, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        require_positive("data", simulated_frames=simulated_frames)
        self.simulated_frames = simulated_frames

    @property
    def simulated_name(self) -> str:
        """Also tells how many frames make a video."""
        return f"{super().simulated_name}-{self.simulated_frames}t"

    def simulate(self, root: Path) -> None:
        """Writes simulated videos, with their ground truth in `tables` and `ground_truth`."""
        from experiments.mitogan.simulator import simulate

        frames = self.simulated_frames
        simulate(root, self.simulated_images, 0, self.simulated_size, frames_per_video=frames)

    def measure(self, image: np.ndarray) -> dict[str, float]:
        """Foreground, width, length, branches, ends, components and loops; see `biology`."""
        size = self.facts["canvas_pixel_size_um"]
        return biology.measure(image, size[0] if size else None)
