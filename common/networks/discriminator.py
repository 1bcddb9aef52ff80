"""Residual discriminator (Karras et al. 2020, StyleGAN2, "resnet")."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from common.networks.equalized import COARSEST, EqualizedConv, EqualizedLinear, resolutions
from kernels.precision import without_autocast


class Discriminator(nn.Module):
    """Image -> logit, with a blurred halving in each block.

    Args:
        image_size: side in pixels, a power of two.
        num_channels: of the image.
        widths: channels at 4, 8, ... ``image_size`` pixels, see `halving_widths`.
        group_size: images that `minibatch_deviation` compares; 1 judges each image alone.

    Raises:
        UserError: ``image_size`` is no power of two.
        ValueError: there are more or fewer widths than resolutions.
    """

    def __init__(
        self, image_size: int, num_channels: int, widths: Sequence[int], group_size: int = 4
    ) -> None:
        super().__init__()
        if len(widths) != len(resolutions(image_size)):
            raise ValueError(f"{len(widths)} widths do not fit {image_size} px")
        coarsest = widths[0]
        self.group_size = group_size
        self.from_image = EqualizedConv(num_channels, widths[-1], 1, "lrelu")
        self.blocks = nn.Sequential(*(_Block(*pair) for pair in pairwise(widths[::-1])))
        self.context = EqualizedConv(coarsest + (group_size > 1), coarsest, 3, "lrelu")
        self.head = nn.Sequential(
            nn.Flatten(),
            EqualizedLinear(coarsest * COARSEST**2, coarsest, "lrelu"),
            EqualizedLinear(coarsest, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Logits [B] of images [B, num_channels, S, S] in about [-1, 1]."""
        x = self.blocks(self.from_image(image))
        # Differences between similar images, and the logit itself, need more than bfloat16.
        with without_autocast(x):
            x = x.to(self.context.weight.dtype)
            if self.group_size > 1:
                x = torch.cat([x, minibatch_deviation(x, self.group_size)], dim=1)
            return self.head(self.context(x)).squeeze(1)


class _Block(nn.Module):
    """Two convolutions beside a 1 x 1 one, both halving; the sum keeps the variance."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = EqualizedConv(before, before, 3, "lrelu")
        self.second = EqualizedConv(before, after, 3, "lrelu", down=2, gain=0.5**0.5)
        self.skip = EqualizedConv(before, after, 1, down=2, bias=False, gain=0.5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)) + self.skip(x)


def group_of(batch: int, group_size: int) -> int:
    """Images of a group: the largest number up to ``group_size`` that divides the batch."""
    return max(n for n in range(1, min(group_size, batch) + 1) if batch % n == 0)


def minibatch_deviation(x: Tensor, group_size: int) -> Tensor:
    """How much the images of a group differ, as a feature map (Karras et al. 2018, Section 3).

    Args:
        x: features [B, C, H, W].
        group_size: images of a group, see `group_of`.

    Returns:
        Standard deviation over the group, mean over features and pixels, [B, 1, H, W]. The groups
        are k, k + B / size, k + 2 B / size, ...
    """
    batch, _, height, width = x.shape
    size = group_of(batch, group_size)
    variance = x.reshape(size, batch // size, -1).var(0, correction=0)
    # The root of exactly 0 has an infinite slope.
    deviation = (variance + 1e-8).sqrt().mean(1)
    return deviation.repeat(size)[:, None, None, None].expand(-1, 1, height, width)
