"""Generator of sequences in several domains at once (Reich et al. 2021, Multi-StyleGAN)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from common.networks.equalized import COARSEST, TAPS, EqualizedLinear, resolutions
from common.networks.style import MappingNetwork
from kernels import modulated_layer, setup_filter, upsample2d
from kernels.precision import without_autocast

# dual: each domain's images are read from its own path. published: as the released code has it,
# where all but the coarsest images are read from the path of the first domain.
Wiring = Literal["dual", "published"]
_FAINT = 0.1


class Generator(nn.Module):
    """z -> a sequence of frames in each domain, from one style and one path of layers a domain.

    The paths have weights, biases, constants and strengths of noise of their own; what modulates
    them, and the noise itself, is the same for all. In dual wiring they begin alike, so that at
    first all domains show the same things in the same places. Each level adds its own frames to the
    enlarged ones of the level before.

    Args:
        image_size: side in pixels, a power of two.
        domains: how many, such as 2 for brightfield and fluorescence.
        frames: of a sequence.
        latent_dim: of z.
        style_dim: of w.
        widths: channels of each path at 4, 8, ... ``image_size`` pixels.
        mapping_layers: from z to w.
        wiring: whose features frames are read from.
        released: frames are what networks of the released code take for frames: in [0, 1] and with
            the last row first; here they are turned into ours, in [-1, 1].

    Raises:
        UserError: ``image_size`` is no power of two.
        ValueError: there are more or fewer widths than resolutions.
    """

    def __init__(
        self,
        image_size: int,
        domains: int = 2,
        frames: int = 3,
        latent_dim: int = 512,
        style_dim: int = 512,
        widths: Sequence[int] = (512,) * 7,
        mapping_layers: int = 8,
        wiring: Wiring = "dual",
        released: bool = False,
    ) -> None:
        super().__init__()
        sides = resolutions(image_size)
        # One style a layer, and one for the frames of the last level.
        self.num_styles = 2 * len(sides)
        self.mapping = Mapping(self.num_styles, latent_dim, style_dim, mapping_layers)
        self.constants = nn.Parameter(torch.randn(domains, widths[0], COARSEST, COARSEST))
        self.levels = nn.ModuleList(
            Level(before, after, side, domains, frames, style_dim)
            for before, after, side in zip([0, *widths[:-1]], widths, sides, strict=True)
        )
        if wiring == "dual":
            with torch.no_grad():
                self.constants.copy_(self.constants[:1].clone())
            for level in self.levels:
                level.align_paths()
        self.noise_values = sum(level.noise_values for level in self.levels)
        self.register_buffer("noise", torch.randn(self.noise_values))
        self.wiring = wiring
        self.num_frames = frames
        self.released = released

    def forward(
        self,
        z: Tensor | Sequence[Tensor],
        inject_index: int | None = None,
        truncation: float = 1.0,
        noise: Tensor | None = None,
        randomize_noise: bool = True,
    ) -> Tensor:
        """Frames [B, domains, frames, S, S], unbounded, in float32 (float64 stays).

        Args:
            z: latent vectors [B, latent_dim], or two of them, whose styles are mixed.
            inject_index: of two, the first gives as many styles, the second the others; None draws
                it, so that each gives one at least.
            truncation: see `MappingNetwork`.
            noise: standard normal values [B, noise_values], which make images repeatable.
            randomize_noise: without ``noise``, whether it is drawn anew or the generator's own.
        """
        one, *others = [z] if isinstance(z, Tensor) else z
        styles = self.mapping(one, truncation)
        if others:
            (other,) = others
            if inject_index is None:
                inject_index = int(torch.randint(1, self.num_styles, ()))
            mixed = self.mapping(other, truncation)[:, inject_index:]
            styles = torch.cat([styles[:, :inject_index], mixed], 1)
        if noise is None and randomize_noise:
            noise = torch.randn(len(styles), self.noise_values, device=styles.device)
        return self.synthesize(styles, noise)

    def synthesize(self, styles: Tensor, noise: Tensor | None = None) -> Tensor:
        """Frames [B, domains, frames, S, S].

        Args:
            styles: w of each layer [B, num_styles, style_dim].
            noise: standard normal values [B, noise_values]; None is the generator's own.
        """
        noise = self.noise[None] if noise is None else noise
        parts = noise.to(styles.dtype).split([level.noise_values for level in self.levels], dim=1)
        features = [path.expand(len(styles), -1, -1, -1) for path in self.constants]
        images: list[Tensor | None] = [None] * len(features)
        for k, (level, part) in enumerate(zip(self.levels, parts, strict=True)):
            # The style of a level's frames is that of the next level's first layer.
            w = styles[:, max(2 * k - 1, 0) : 2 * k + 2]
            shared = self.wiring == "published" and k > 0
            # What nobody reads is not computed.
            paths = features[:1] if shared else features
            features = level(paths, w, part)
            read = features * len(images) if shared else features
            images = level.add_frames(read, images, w[:, -1])
        made = torch.stack(images, 1)
        return (2 * made - 1).flip(-2) if self.released else made


class Mapping(MappingNetwork):
    """z -> one w for every layer."""

    def __init__(self, num_styles: int, latent_dim: int, style_dim: int, layers: int) -> None:
        super().__init__(latent_dim, style_dim, layers)
        self.num_styles = num_styles

    def forward(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        """Styles [B, num_styles, style_dim], all alike; arguments as in `MappingNetwork`."""
        w = super().forward(z, truncation)
        return w[:, None].expand(-1, self.num_styles, -1)


class Level(nn.Module):
    """The layers of one resolution in all domains, and their part of the frames.

    Args:
        before: channels of the level before, at half the resolution; 0 for the first level, which
            has one layer instead of two.
        after: channels of the result.
        side: of the result in pixels.
        domains: how many.
        frames: of a sequence.
        style_dim: of w.
    """

    def __init__(
        self, before: int, after: int, side: int, domains: int, frames: int, style_dim: int
    ) -> None:
        super().__init__()
        # (channels before, side of the kernel): two pixels suffice where the filter blurs, too.
        sizes = [(before, 2)] if before else []
        sizes.append((after, 3))
        self.affines = nn.ModuleList(
            EqualizedLinear(style_dim, size, bias=1.0) for size, _ in [*sizes, (after, 1)]
        )
        self.paths = nn.ModuleList(
            nn.ModuleList(Layer(size, after, kernel) for size, kernel in sizes)
            for _ in range(domains)
        )
        self.frames = nn.ModuleList(Frames(after, frames) for _ in range(domains))
        self.side = side
        self.noise_values = len(sizes) * side**2
        self.register_buffer("taps", setup_filter(TAPS), persistent=False)

    def align_paths(self) -> None:
        """Gives all paths the weights of the first."""
        for path in self.paths[1:]:
            path.load_state_dict(self.paths[0].state_dict())

    def forward(self, features: Sequence[Tensor], w: Tensor, noise: Tensor) -> list[Tensor]:
        """Features [B, after, side, side] of as many domains as came.

        Args:
            features: of the level before, of each domain.
            w: of each layer and of the frames [B, layers + 1, style_dim].
            noise: standard normal values [B or 1, noise_values].
        """
        planes = noise.view(len(noise), -1, 1, self.side, self.side).unbind(1)
        found = list(features)
        for k, plane in enumerate(planes):
            styles = _styles(self.affines[k], w[:, k])
            layers = [path[k] for path in self.paths[: len(found)]]
            pairs = zip(layers, found, strict=True)
            found = [layer(x, styles, plane, self.taps) for layer, x in pairs]
        return found

    def add_frames(
        self, features: Sequence[Tensor], images: Sequence[Tensor | None], w: Tensor
    ) -> list[Tensor]:
        """Frames [B, frames, side, side] of each domain up to here.

        Args:
            features: that each domain's frames are read from.
            images: frames of the level before, or None.
            w: of the frames [B, style_dim].
        """
        # A sum of images in half precision would lose the faint detail of the fine ones.
        with without_autocast(w):
            styles = self.affines[-1](w)
            parts = [layer(x, styles) for layer, x in zip(self.frames, features, strict=True)]
        pairs = zip(parts, images, strict=True)
        return [part if old is None else part + upsample2d(old, self.taps) for part, old in pairs]


class Layer(nn.Module):
    """Modulated convolution of one path, noise, bias and leaky ReLU.

    A kernel of 2 pixels enlarges the image: each pixel becomes 2 x 2, which the filter blurs.
    """

    def __init__(self, before: int, after: int, kernel: int) -> None:
        super().__init__()
        # Demodulation undoes any scale, so these weights need no other equalisation.
        self.weight = nn.Parameter(torch.randn(after, before, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(after))
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, styles: Tensor, noise: Tensor, taps: Tensor) -> Tensor:
        """Maps x [B, before, H, W], styles [B, before] and noise [B or 1, 1, up H, up W]."""
        up = self.weight.shape[-1] == 2
        return modulated_layer(
            x,
            self.weight,
            styles,
            noise,
            up=2 if up else 1,
            padding=[1, 0, 1, 0] if up else 1,
            resample_filter=taps if up else None,
            strength=self.strength,
            b=self.bias,
        )


class Frames(nn.Module):
    """Modulated 1 x 1 convolution without demodulation: features to the frames of one domain."""

    def __init__(self, before: int, frames: int) -> None:
        super().__init__()
        # Frames begin with little contrast, as most of microscopy has; weights change too slowly
        # to get there from unit variance.
        self.weight = nn.Parameter(_FAINT * torch.randn(frames, before, 1, 1))
        self.bias = nn.Parameter(torch.zeros(frames))

    def forward(self, x: Tensor, styles: Tensor) -> Tensor:
        """Maps x [B, before, H, W] and styles [B, before] in the precision of the latter."""
        styles = styles * x.shape[1] ** -0.5
        x = x.to(styles.dtype)
        return modulated_layer(x, self.weight, styles, demodulate=False, b=self.bias, act="linear")


def _styles(affine: EqualizedLinear, w: Tensor) -> Tensor:
    with without_autocast(w):
        return affine(w)
