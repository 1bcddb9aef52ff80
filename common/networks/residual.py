"""Residual generator and discriminator without any normalisation (Huang et al. 2024, R3GAN).

Bottlenecks with grouped convolutions start as the identity (Fixup, Zhang et al. 2019). There is no
style, no noise and no statistic of a batch: an image depends on its z alone, a logit on its image
alone. The relativistic loss with R1 and R2 keeps them stable.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from common.networks.equalized import COARSEST, resolutions
from kernels import bias_act, downsample2d, setup_filter, upsample2d
from kernels.precision import without_autocast

# Of the paper: channels inside a bottleneck per channel outside, channels of a group, filter.
_EXPANSION, _GROUP = 2, 16
_TAPS = (1, 2, 1)


class ResidualGenerator(nn.Module):
    """z -> image, from learned maps of 4 x 4 pixels.

    Args:
        image_size: side in pixels, a power of two.
        num_channels: of the image.
        latent_dim: of z.
        widths: channels at 4, 8, ... ``image_size`` pixels, multiples of 8, see `halving_widths`.
        depth: bottlenecks at each resolution.

    Raises:
        UserError: ``image_size`` is no power of two.
        ValueError: widths that do not fit.
    """

    def __init__(
        self,
        image_size: int,
        num_channels: int,
        latent_dim: int,
        widths: Sequence[int],
        depth: int = 2,
    ) -> None:
        super().__init__()
        _check(image_size, widths)
        self.maps = nn.Parameter(torch.randn(widths[0], COARSEST, COARSEST))
        self.read = nn.Linear(latent_dim, widths[0], bias=False)
        nn.init.normal_(self.read.weight, std=latent_dim**-0.5)
        total = depth * len(widths)
        stages = [_bottlenecks(widths[0], depth, total)]
        for before, after in pairwise(widths):
            stages.append(nn.Sequential(_Resample(before, after, upsample2d)))
            stages[-1].extend(_bottlenecks(after, depth, total))
        self.stages = nn.Sequential(*stages)
        self.head = _convolution(widths[-1], num_channels, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Image [B, num_channels, S, S], unbounded, of latent vectors z [B, latent_dim]."""
        x = self.read(z)[:, :, None, None] * self.maps
        x = self.stages(x)
        with without_autocast(x):
            return self.head(x.to(self.head.weight.dtype))


class ResidualDiscriminator(nn.Module):
    """Image -> logit, the mirror of `ResidualGenerator`; arguments as there."""

    def __init__(
        self, image_size: int, num_channels: int, widths: Sequence[int], depth: int = 2
    ) -> None:
        super().__init__()
        _check(image_size, widths)
        total = depth * len(widths)
        stages = [nn.Sequential(_convolution(num_channels, widths[-1], 1))]
        for before, after in pairwise(widths[::-1]):
            stages[-1].extend(_bottlenecks(before, depth, total))
            stages.append(nn.Sequential(_Resample(before, after, downsample2d)))
        stages[-1].extend(_bottlenecks(widths[0], depth, total))
        self.stages = nn.Sequential(*stages)
        self.maps = _convolution(widths[0], widths[0], COARSEST, groups=widths[0])
        self.head = nn.Linear(widths[0], 1, bias=False)
        nn.init.normal_(self.head.weight, std=widths[0] ** -0.5)

    def forward(self, image: Tensor) -> Tensor:
        """Logits [B] of images [B, num_channels, S, S] in about [-1, 1]."""
        x = self.stages(image)
        with without_autocast(x):
            x = x.to(self.head.weight.dtype)
            return self.head(self.maps(x).flatten(1)).squeeze(1)


class _Bottleneck(nn.Module):
    """1 x 1, grouped 3 x 3 and 1 x 1 convolution beside the identity, which they start as."""

    def __init__(self, width: int, total: int) -> None:
        super().__init__()
        inner = _EXPANSION * width
        # Fixup: what three layers in each of so many blocks add up to stays of the order of 1.
        gain = (2 / (1 + 0.2**2)) ** 0.5 * total**-0.25
        self.first = _convolution(width, inner, 1, gain)
        self.second = _convolution(inner, inner, 3, gain, groups=inner // _GROUP)
        self.third = _convolution(inner, width, 1, 0.0)
        self.biases = nn.Parameter(torch.zeros(2, inner))

    def forward(self, x: Tensor) -> Tensor:
        y = bias_act(self.first(x), self.biases[0], act="lrelu", gain=1)
        y = bias_act(self.second(y), self.biases[1], act="lrelu", gain=1)
        return x + self.third(y)


class _Resample(nn.Module):
    """Blurred change of resolution, and of the channels on the smaller side of it."""

    def __init__(self, before: int, after: int, resample: Callable[..., Tensor]) -> None:
        super().__init__()
        self.resample = resample
        same = before == after
        self.mix = nn.Identity() if same else _convolution(before, after, 1)
        self.register_buffer("taps", setup_filter(_TAPS), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.resample is upsample2d:
            return upsample2d(self.mix(x), self.taps)
        return self.mix(downsample2d(x, self.taps))


def _bottlenecks(width: int, depth: int, total: int) -> nn.Sequential:
    return nn.Sequential(*(_Bottleneck(width, total) for _ in range(depth)))


def _convolution(
    before: int, after: int, kernel: int, gain: float = 1.0, groups: int = 1
) -> nn.Conv2d:
    padding = kernel // 2 if kernel % 2 else 0
    layer = nn.Conv2d(before, after, kernel, padding=padding, groups=groups, bias=False)
    nn.init.normal_(layer.weight, std=gain / layer.weight[0].numel() ** 0.5)
    return layer


def _check(image_size: int, widths: Sequence[int]) -> None:
    if len(widths) != len(resolutions(image_size)):
        raise ValueError(f"{len(widths)} widths do not fit {image_size} px")
    if any(_EXPANSION * width % _GROUP for width in widths):
        raise ValueError(f"widths {list(widths)} are no multiples of {_GROUP // _EXPANSION}")
