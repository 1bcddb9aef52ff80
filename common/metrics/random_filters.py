"""Fixed random filters as features: they need no weights and know nothing of content."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RandomPyramid(nn.Module):
    """Four stages of eight fixed random filters, each at half the scale of the one before.

    Mean and standard deviation of every filter's response are its features: sensitive to
    brightness, contrast and texture at four scales, blind to where in the image they are. Most
    filters of the first stage sum to zero: brightness differs from image to image and would drown
    texture if all of them saw it. Random filters know nothing of content: the distances rank images
    that differ in such statistics and must never be called FID.
    """

    DIM = 64
    _WIDTH = 8
    _STAGES = 4
    _SUM_ZERO = 6
    # Brings features of ordinary images to order one, where the cubic kernel is not yet linear.
    _GREY_LEVELS_PER_UNIT = 32.0

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for stage in range(self._STAGES):
            inputs = self._WIDTH if stage else 3
            filters = torch.randn(self._WIDTH, inputs, 3, 3, generator=generator)
            if stage == 0:
                filters[: self._SUM_ZERO] -= filters[: self._SUM_ZERO].mean((1, 2, 3), keepdim=True)
            # He et al. 2015: the variance of the responses neither grows nor fades.
            self.register_buffer(f"filters{stage}", filters * math.sqrt(2 / (9 * inputs)))

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, 64] of uint8 images [B, 3, H, W], at least 16 pixels wide and high."""
        x = images.float() / self._GREY_LEVELS_PER_UNIT
        features = []
        for stage, filters in enumerate(self.buffers()):
            x = F.avg_pool2d(x, 2) if stage else x
            x = F.relu(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), filters))
            deviation, mean = torch.std_mean(x, dim=(2, 3), correction=0)
            features += [mean, deviation]
        return torch.cat(features, 1)
