"""Style-based generator: mapping network and synthesis network (Karras et al. 2020, StyleGAN2)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from common.networks.equalized import COARSEST, TAPS, EqualizedLinear, resolutions
from kernels import modulated_layer, setup_filter, upsample2d
from kernels.precision import accumulation_dtype, without_autocast

# Flat values [B, noise_values] for all layers, or where they come from.
Noise = Tensor | Literal["fresh", "none"]
# Share that the average of w keeps with each batch (Karras et al. 2020, reference configuration).
_AVERAGE_DECAY = 0.998


class MappingNetwork(nn.Module):
    """z -> w, with a running average of w to truncate towards.

    Runs in float32 under autocast: its layers are small and what follows multiplies by w.

    Args:
        latent_dim: of z.
        style_dim: of w.
        layers: 8 in the paper; 2 suffice for small data sets (Karras et al. 2020, ADA).
        lr_multiplier: speed of these layers relative to all others.
    """

    average: Tensor

    def __init__(
        self, latent_dim: int, style_dim: int, layers: int = 8, lr_multiplier: float = 0.01
    ) -> None:
        super().__init__()
        sizes = [latent_dim, *[style_dim] * layers]
        self.layers = nn.Sequential(
            *(EqualizedLinear(*pair, "lrelu", 0.0, lr_multiplier) for pair in pairwise(sizes))
        )
        self.register_buffer("average", torch.zeros(style_dim))

    def forward(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        """Styles w [B, style_dim].

        Args:
            z: latent vectors [B, latent_dim]; only their direction counts.
            truncation: share of the way from the average to w that is gone; below 1 images are
                more typical and less different.
        """
        with without_autocast(z):
            z = z.to(accumulation_dtype(z))
            w = self.layers(z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt())
            if self.training:
                self.average.lerp_(w.detach().mean(0), 1 - _AVERAGE_DECAY)
        return w if truncation == 1 else torch.lerp(self.average, w, truncation)


def mixed_styles(one: Tensor, other: Tensor, probability: float) -> Tensor:
    """Styles of which some images take another's beyond a layer (Karras et al. 2019, Section 3.1).

    Args:
        one: [B, L, style_dim], of each of L layers.
        other: the same; what images take beyond a layer that is drawn for each.
        probability: of an image to be mixed at all.
    """
    count, layers = one.shape[:2]
    first = torch.randint(1, layers, (count, 1), device=one.device)
    mixes = torch.rand(count, 1, device=one.device) < probability
    swapped = mixes & (torch.arange(layers, device=one.device) >= first)
    return torch.where(swapped[..., None], other, one)


class SynthesisNetwork(nn.Module):
    """w -> image, from a learned constant of 4 x 4 pixels through one block a resolution.

    Each block adds its own image to the enlarged one of the block before.

    Args:
        image_size: side in pixels, a power of two.
        num_channels: of the image.
        style_dim: of w.
        widths: channels at 4, 8, ... ``image_size`` pixels, see `halving_widths`.

    Raises:
        UserError: ``image_size`` is no power of two.
        ValueError: there are more or fewer widths than resolutions.
    """

    def __init__(
        self, image_size: int, num_channels: int, style_dim: int, widths: Sequence[int]
    ) -> None:
        super().__init__()
        sides = resolutions(image_size)
        self.constant = nn.Parameter(torch.randn(widths[0], COARSEST, COARSEST))
        self.blocks = nn.ModuleList(
            SynthesisBlock(before, after, side, num_channels, style_dim)
            for before, after, side in zip([0, *widths[:-1]], widths, sides, strict=True)
        )
        # Two styles a block, one less in the first; the last one is of the last image.
        self.num_styles = 2 * len(sides)
        self.noise_values = sum(block.noise_values for block in self.blocks)

    def forward(
        self, styles: Tensor, noise: Noise = "fresh", generator: torch.Generator | None = None
    ) -> Tensor:
        """Image [B, num_channels, S, S], unbounded, in float32 (float64 stays).

        Args:
            styles: w [B, style_dim], or one for each layer [B, num_styles, style_dim].
            noise: standard normal values [B, noise_values], which make images repeatable (see
                `common.sampling.seeded_noise`); or "fresh" ones, or "none".
            generator: of fresh noise; the one of torch by default.
        """
        if styles.ndim == 2:
            styles = styles[:, None].expand(-1, self.num_styles, -1)
        if isinstance(noise, str):
            noise = self._drawn(styles, generator) if noise == "fresh" else None
        parts = [None] * len(self.blocks)
        if noise is not None:
            parts = noise.split([block.noise_values for block in self.blocks], dim=1)
        x, image = self.constant.expand(len(styles), -1, -1, -1), None
        for k, (block, part) in enumerate(zip(self.blocks, parts, strict=True)):
            # The style of a block's image is that of the next block's first layer.
            first = max(2 * k - 1, 0)
            x, image = block(x, image, styles[:, first : 2 * k + 2], part)
        return image

    def _drawn(self, styles: Tensor, generator: torch.Generator | None) -> Tensor:
        where = generator.device if generator is not None else styles.device
        shape = (len(styles), self.noise_values)
        return torch.randn(shape, generator=generator, device=where).to(styles)


class SynthesisBlock(nn.Module):
    """The layers of one resolution, and its part of the image.

    Args:
        before: channels of the block before, at half the resolution; 0 for the first block, which
            has one layer instead of two.
        after: channels of the result.
        side: of the result in pixels.
        num_channels: of the image.
        style_dim: of w.
    """

    def __init__(
        self, before: int, after: int, side: int, num_channels: int, style_dim: int
    ) -> None:
        super().__init__()
        sizes = [(before, after, 2)] if before else []
        self.layers = nn.ModuleList(
            StyleLayer(*size, style_dim) for size in [*sizes, (after, after, 1)]
        )
        self.to_image = ToImage(after, num_channels, style_dim)
        self.side = side
        self.noise_values = len(self.layers) * side**2
        self.register_buffer("taps", setup_filter(TAPS), persistent=False)

    def forward(
        self, x: Tensor, image: Tensor | None, styles: Tensor, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Features [B, after, side, side] and the image up to here.

        Args:
            x: features of the block before.
            image: of the block before, or None.
            styles: w of each layer and of the image [B, layers + 1, style_dim].
            noise: standard normal values [B, noise_values], or None.
        """
        planes = [None] * len(self.layers)
        if noise is not None:
            planes = noise.view(-1, len(planes), 1, self.side, self.side).unbind(1)
        for layer, w, plane in zip(self.layers, styles.unbind(1), planes, strict=False):
            x = layer(x, w, plane)
        part = self.to_image(x, styles[:, -1])
        return x, part if image is None else upsample2d(image, self.taps) + part


class StyleLayer(nn.Module):
    """Modulated 3 x 3 convolution, noise, bias and leaky ReLU; 2 enlarges the image first."""

    def __init__(self, before: int, after: int, up: int, style_dim: int) -> None:
        super().__init__()
        # Demodulation undoes any scale, so these weights need no other equalisation.
        self.weight = nn.Parameter(torch.randn(after, before, 3, 3))
        self.bias = nn.Parameter(torch.zeros(after))
        self.strength = nn.Parameter(torch.zeros(()))
        self.affine = EqualizedLinear(style_dim, before, bias=1.0)
        self.up = up
        self.register_buffer("taps", setup_filter(TAPS) if up > 1 else None, persistent=False)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """Maps x [B, before, H, W], styles w [B, style_dim] and noise [B, 1, up H, up W]."""
        return modulated_layer(
            x,
            self.weight,
            _styles(self.affine, w),
            noise,
            up=self.up,
            padding=1,
            resample_filter=self.taps,
            strength=self.strength,
            b=self.bias,
        )


class ToImage(nn.Module):
    """Modulated 1 x 1 convolution without demodulation: features to an image in float32."""

    def __init__(self, before: int, num_channels: int, style_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_channels, before, 1, 1))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.affine = EqualizedLinear(style_dim, before, bias=1.0)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Maps x [B, before, H, W] and styles w [B, style_dim]."""
        # A sum of images in half precision would lose the faint detail of the fine ones.
        with without_autocast(x):
            styles = _styles(self.affine, w) * x.shape[1] ** -0.5
            x = x.to(styles.dtype)
            return modulated_layer(
                x, self.weight, styles, demodulate=False, b=self.bias, act="linear"
            )


def _styles(affine: EqualizedLinear, w: Tensor) -> Tensor:
    with without_autocast(w):
        return affine(w)
