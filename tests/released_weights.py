"""Files of weights as the released code of multi_stylegan has them."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from experiments.multi_stylegan.published_baseline import random_weights
from running import ROOT

REFERENCE = ROOT.parent / "shared/reference/multi_stylegan_published_wiring.npz"
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_file(), reason="needs the reference of ../shared"
)
# Of what random layers give to the frames.
_FAINT = 0.05


def write_released(
    path: Path,
    widths: Sequence[int] = (8, 8, 8, 4),
    d_widths: Sequence[int] = (8, 16, 24),
    latent_dim: int = 8,
    mapping_layers: int = 2,
    frames: int = 3,
    domains: int = 2,
    d_rising: Sequence[int] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """An `.npz` of random numbers; returns the weights of generator and discriminator."""
    sizes = (widths, d_widths, latent_dim, mapping_layers, frames, domains)
    parts = random_weights(*sizes, d_rising)
    for name, tensor in parts[0].items():
        if re.fullmatch(r"\w*output_block\w+(\.\d+)?\.(modulated_convolution\.weight|bias)", name):
            # Most frames would be black and white.
            tensor *= _FAINT
    names = ("generator", "discriminator")
    arrays = {f"{n}/{k}": v for n, part in zip(names, parts, strict=True) for k, v in part.items()}
    np.savez(path, **{name: array.numpy() for name, array in arrays.items()})
    return parts
