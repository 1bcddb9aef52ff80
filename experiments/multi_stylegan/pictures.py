"""Figures of a trained run: real sequences and samples, a walk, and how sequences go on."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from common.callbacks import image_grid, to_uint8
from common.data.image_io import write_png
from common.data.movie_video import write_video
from common.data.sequence_datamodule import SequenceDataModule
from common.sampling import seeded_noise
from common.sequence_writer import film
from experiments.multi_stylegan.continuation import between, continued

if TYPE_CHECKING:
    from experiments.multi_stylegan.module import MultiStyleGAN

SEQUENCES, WALK, CONTINUED = "sequences.png", "interpolation.mp4", "continuation.mp4"
# Frames from one seed to the next, frames a second, frames added to a sequence, steps of a search,
# sequences that tell how much of a drawn change comes true.
_STEPS, _RATE, _ADDED, _SEARCH, _EXAMPLES = 12, 12, 10, 60, 8


@torch.no_grad()
def draw(
    folder: Path, model: "MultiStyleGAN", data: SequenceDataModule, count: int, seed: int
) -> list[str]:
    """Writes all figures.

    Args:
        folder: gets them.
        model: with the weights of a checkpoint, in evaluation mode.
        data: set up; its validation sequences are looked at, never its test sequences.
        count: seeds of the walk, and sequences of either kind; as many of these as there are
            validation sequences if those are fewer.
        seed: the first of them.

    Returns:
        Names of the files.
    """
    device = model.device
    real = data.spread("val", count)["image"].to(device)
    seeds = torch.arange(seed, seed + count, device=device)
    fake = model.predict_step({"seed": seeds}, 0)["image"]
    write_png(folder / SEQUENCES, above(real, fake))
    z = seeded_noise(seeds, model.hparams.latent_dim)
    walk = between(model.generator.mapping(z, model.hparams.truncation), _STEPS)
    moments = [model.generator.synthesize(part)[:, :, 0] for part in walk.split(16)]
    _write(folder / WALK, torch.cat(moments).movedim(0, 1))
    if real.shape[2] < 2:
        return [SEQUENCES, WALK]
    with torch.enable_grad():
        examples = data.spread("val", _EXAMPLES)["image"].to(device)
        shrinkage = model.shrinkage(examples, _SEARCH)
        sequence = continued(model.generator, real[:1], _ADDED, _SEARCH, shrinkage)
    _write(folder / CONTINUED, sequence[0], rate=2)
    return [SEQUENCES, WALK, CONTINUED]


def above(real: Tensor, fake: Tensor) -> np.ndarray:
    """Real sequences in the first row, generated ones in the second, a white line between them.

    Of each the frames are side by side and the domains below each other.

    Args:
        real: [N, D, T, S, S] in [-1, 1].
        fake: the same of as many or more; further ones are left out.

    Returns:
        Grey values uint8 [H, W].
    """
    both = torch.cat([real, fake[: len(real)]])
    return image_grid(to_uint8(both.cpu()), columns=len(real))


def _write(path: Path, frames: Tensor, rate: int = _RATE) -> None:
    """A film of frames [D, N, S, S] in [-1, 1], the domains below each other."""
    unit = ((frames.clamp(-1, 1) + 1) / 2).cpu().float().numpy()
    write_video(path, film(unit), rate)
