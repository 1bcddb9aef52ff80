"""Small recordings of traps in the layout of the published ones: a bright disc on a dim ground."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.data.image_io import write_ome_tiff

# Of the files: token, level of the ground and of the disc.
CHANNELS = {
    "BF": ("00-BF0", 6000, 9000),
    "GFP": ("01-GFP", 300, 1800),
    "RFP": ("02-RFP", 100, 1500),
}


def name_of(position: str, trap: int, z: int, time: int, channel: str) -> str:
    return f"{position}/img_{time:09d}_{CHANNELS[channel][0]}_{z:03d}_trap_{trap:03d}.tif"


def frame(seed: Sequence[int], time: int, channel: str, size: int) -> np.ndarray:
    """A disc that grows and drifts with time, with noise; another one for each seed."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0.3, 0.6, 2) * size + 0.4 * time
    radius = rng.uniform(0.12, 0.2) * size + 0.3 * time
    y, x = np.mgrid[:size, :size]
    inside = np.hypot(y - centre[0], x - centre[1]) < radius
    _, low, high = CHANNELS[channel]
    noise = np.random.default_rng([*seed, time, *channel.encode()]).normal(0, 60, (size, size))
    return np.rint(np.where(inside, high, low) + noise).clip(0, 65535).astype(np.uint16)


def write_traps(
    root: Path,
    positions: Sequence[str] = ("Pos1", "Pos2", "Pos3", "Pos4", "Pos5"),
    traps: int = 1,
    planes: int = 1,
    times: Sequence[int] = range(5),
    size: int = 24,
    channels: Sequence[str] = ("BF", "GFP"),
) -> Path:
    """Writes all channels of every moment."""
    for place, position in enumerate(positions):
        (root / position).mkdir(parents=True)
        for trap in range(traps):
            for z in range(planes):
                for time in times:
                    for channel in channels:
                        pixels = frame((place, trap, z), time, channel, size)
                        path = root / name_of(position, trap, z, time, channel)
                        write_ome_tiff(path, pixels, "YX")
    return root
