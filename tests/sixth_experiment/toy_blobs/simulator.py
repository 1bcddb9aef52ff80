"""Gaussian blobs with noise, in two channels of 16 bit."""

from pathlib import Path

import numpy as np

from common.data.image_io import write_ome_tiff

FRAMES = 5


def simulate(root: Path, num_images: int, seed: int, size: int) -> None:
    """Writes ``num_images`` frames [2, size, size] of uint16 in folders of one video each."""
    for k in range(num_images):
        rng = np.random.default_rng([seed, k])
        folder = root / f"video{k // FRAMES:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        frame = np.stack([_blob(rng, size) for _ in range(2)])
        path = folder / f"frame{k % FRAMES:02d}.ome.tif"
        write_ome_tiff(path, frame, "CYX", (0.5, 0.5), ("nuclei", "actin"))


def _blob(rng: np.random.Generator, size: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    centre_y, centre_x = rng.uniform(0.3 * size, 0.7 * size, 2)
    blob = np.exp(-((y - centre_y) ** 2 + (x - centre_x) ** 2) / (2 * (size / 8) ** 2))
    return (300 + 3000 * blob + rng.normal(0, 60, blob.shape)).clip(0, 65535).astype(np.uint16)
