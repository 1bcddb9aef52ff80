"""Which pixels count how much in the loss on the logits of pixels; CutMix counts all alike."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.adaptive_augment import NONE, Augment
from common.errors import Exit, UserError, relative


def read_pixel_map(path: Path, size: int) -> Tensor:
    """Weights of pixels, float32 [size, size] of mean 1, from the grey values of an image.

    Raises:
        UserError: the file cannot be read, holds more than one plane, or only zeros.
    """
    # Training has to work without an image library.
    from common.data.image_io import read_image
    from common.preprocess.geometry import resize

    pixels = read_image(path).pixels.squeeze()
    if pixels.ndim != 2 or pixels.min() < 0 or not pixels.any():
        problem = f"is no map of pixels: it holds {pixels.shape} values from {pixels.min():g} on"
        remedy = "name a grey image that is not black all over"
        raise UserError(Exit.USAGE, relative(path), problem, remedy)
    weights = torch.from_numpy(resize(pixels.astype(np.float32)[None], size, size)[0])
    # Cubic interpolation goes below 0 beside an edge.
    weights = weights.clamp(min=0)
    return weights / weights.mean()


def require_still(augment: str, of_data: str) -> None:
    """Refuses augmentation that moves what is seen away from its weights.

    Args:
        augment: policy of what the discriminator sees.
        of_data: policy of training data.

    Raises:
        UserError: one of them does.
    """
    if Augment(augment).moves:
        option, instead = f"--model.augment {augment}", "none, or brightness+contrast"
    elif not {NONE, "photometric"}.issuperset(of_data.split("+")):
        option, instead = f"--data.augment {of_data}", "none, or photometric"
    else:
        return
    problem = "moves pixels, and the weights of --model.pixel_map stand still"
    raise UserError(Exit.USAGE, option, problem, f"choose {instead}, or leave out the map")
