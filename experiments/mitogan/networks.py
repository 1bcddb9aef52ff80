"""Generators and discriminators by the name of their backbone."""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from common.networks.discriminator import Discriminator
from common.networks.equalized import halving_widths, resolutions
from common.networks.residual import ResidualDiscriminator, ResidualGenerator
from common.networks.style import MappingNetwork, Noise, SynthesisNetwork, mixed_styles

Backbone = Literal["style", "residual", "dcgan"]
# Radford et al. 2016, Section 3.
_INITIAL_DEVIATION, _SLOPE = 0.02, 0.2
# Small sets do with two layers (Karras et al. 2020, limited data, Appendix C).
_MAPPING_LAYERS = 2


class StyleGenerator(nn.Module):
    """Mapping and synthesis of StyleGAN2; in training some images mix the styles of two z.

    Args:
        image_size: side in pixels, a power of two.
        num_channels: of the image.
        latent_dim: of z and w.
        widths: channels at 4, 8, ... ``image_size`` pixels.
        mixing_prob: of an image to take its styles from a second z beyond some layer
            (Karras et al. 2019, Section 3.1).
    """

    def __init__(
        self,
        image_size: int,
        num_channels: int,
        latent_dim: int,
        widths: list[int],
        mixing_prob: float,
    ) -> None:
        super().__init__()
        self.mapping = MappingNetwork(latent_dim, latent_dim, _MAPPING_LAYERS)
        self.synthesis = SynthesisNetwork(image_size, num_channels, latent_dim, widths)
        self.mixing_prob = mixing_prob
        self.noise_values = self.synthesis.noise_values

    def forward(self, z: Tensor, noise: Tensor | None, truncation: float = 1.0) -> Tensor:
        """Image [B, C, S, S] in [-1, 1] of z [B, latent_dim] and noise [B, noise_values].

        Noise is fresh where it is None.
        """
        w = self.mapping(z, truncation)
        styles = self._mixed(w, z) if self.training and self.mixing_prob else w
        return self.drawn(styles, "fresh" if noise is None else noise)

    def drawn(self, styles: Tensor, noise: Noise) -> Tensor:
        """Image [B, C, S, S] in [-1, 1] of styles and noise, see `SynthesisNetwork`."""
        # Most of a frame is black, which a sum of layers with noise never quite is, and that shows.
        return self.synthesis(styles, noise).tanh()

    def _mixed(self, w: Tensor, z: Tensor) -> Tensor:
        other = self.mapping(torch.randn_like(z))
        pair = (style[:, None].expand(-1, self.synthesis.num_styles, -1) for style in (w, other))
        return mixed_styles(*pair, self.mixing_prob)


class PlainGenerator(nn.Module):
    """z -> image where nothing but z decides; takes what `StyleGenerator` takes.

    Args:
        network: maps z [B, latent_dim] to an image.
    """

    noise_values = 0

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, noise: Tensor | None, truncation: float = 1.0) -> Tensor:
        """Image [B, C, S, S] of z [B, latent_dim]; a truncation below 1 shortens z."""
        return self.network(truncation * z)


class DCGenerator(nn.Sequential):
    """Transposed convolutions with batch normalisation (Radford et al. 2016, Fig. 1)."""

    def __init__(
        self, image_size: int, num_channels: int, latent_dim: int, widths: list[int]
    ) -> None:
        resolutions(image_size)
        layers: list[nn.Module] = [nn.Unflatten(1, (latent_dim, 1, 1))]
        layers += _grown(latent_dim, widths[0], stride=1, padding=0)
        for before, after in pairwise(widths[:-1]):
            layers += _grown(before, after, stride=2, padding=1)
        last = nn.ConvTranspose2d(widths[-2], num_channels, 4, stride=2, padding=1)
        super().__init__(*layers, last, nn.Tanh())
        self.apply(_initialise)


class DCDiscriminator(nn.Sequential):
    """Strided convolutions with leaky ReLU (Radford et al. 2016).

    Args:
        image_size: side in pixels, a power of two.
        num_channels: of the image.
        widths: channels at 4, 8, ... pixels; those of the full resolution are not used.
        normalised: with batch normalisation. A critic whose gradient is penalised image by image
            has none (Gulrajani et al. 2017, Section 4).
    """

    def __init__(
        self, image_size: int, num_channels: int, widths: list[int], normalised: bool
    ) -> None:
        resolutions(image_size)
        sizes = [num_channels, *widths[-2::-1]]
        layers: list[nn.Module] = []
        for k, (before, after) in enumerate(pairwise(sizes)):
            layers.append(nn.Conv2d(before, after, 4, stride=2, padding=1))
            layers += [nn.BatchNorm2d(after)] if normalised and k else []
            layers.append(nn.LeakyReLU(_SLOPE))
        super().__init__(*layers, nn.Conv2d(sizes[-1], 1, 4), nn.Flatten(0))
        self.apply(_initialise)


def generator(
    backbone: Backbone,
    image_size: int,
    num_channels: int,
    latent_dim: int,
    width: int,
    max_width: int,
    mixing_prob: float,
) -> nn.Module:
    """The generator of a backbone.

    Args:
        backbone: its name.
        image_size: side in pixels, a power of two.
        num_channels: of the image.
        latent_dim: of z.
        width: channels at full resolution, doubled at each halving.
        max_width: most channels anywhere.
        mixing_prob: of `StyleGenerator`.
    """
    widths = halving_widths(image_size, width, max_width)
    if backbone == "style":
        return StyleGenerator(image_size, num_channels, latent_dim, widths, mixing_prob)
    shape = (image_size, num_channels, latent_dim, widths)
    if backbone == "residual":
        return PlainGenerator(nn.Sequential(ResidualGenerator(*shape), nn.Tanh()))
    return PlainGenerator(DCGenerator(*shape))


def discriminator(
    backbone: Backbone,
    image_size: int,
    num_channels: int,
    width: int,
    max_width: int,
    normalised: bool,
) -> nn.Module:
    """The discriminator of a backbone; arguments as of `generator`, logits [B].

    Args:
        backbone: its name.
        image_size: side in pixels, a power of two.
        num_channels: of the image.
        width: channels at full resolution.
        max_width: most channels anywhere.
        normalised: of `DCDiscriminator`.
    """
    widths = halving_widths(image_size, width, max_width)
    if backbone == "style":
        return Discriminator(image_size, num_channels, widths)
    if backbone == "residual":
        return ResidualDiscriminator(image_size, num_channels, widths)
    return DCDiscriminator(image_size, num_channels, widths, normalised)


def _grown(before: int, after: int, stride: int, padding: int) -> list[nn.Module]:
    convolution = nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False)
    return [convolution, nn.BatchNorm2d(after), nn.ReLU()]


def _initialise(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, std=_INITIAL_DEVIATION)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, _INITIAL_DEVIATION)
