"""Latents on several grids, the coarse ones deciding what the fine ones may be."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.losses.variational import bounded, gaussian_kl_between
from common.networks.blocks import ResidualBlock, group_norm

# ln-variances of priors and posteriors; the ratio of two of them never leaves e^8.
_LOG_VARIANCE_BOUNDS = (-6.0, 2.0)


class Gaussian(NamedTuple):
    """A diagonal Gaussian: mean and log-variance of one shape."""

    mean: Tensor
    log_variance: Tensor

    def draw(self, noise: Tensor) -> Tensor:
        """The point that standard normal noise stands for."""
        return self.mean + noise * (0.5 * self.log_variance).exp()


class BottomUp(nn.Module):
    """Features of an image on every grid.

    Args:
        num_channels: of the image and of what is shown beside it.
        widths: channels from half the resolution on, each at half the side of the one before.
        condition_dim: of the condition vector.
    """

    def __init__(self, num_channels: int, widths: Sequence[int], condition_dim: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4 * num_channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            ResidualBlock(before, after, condition_dim) for before, after in pairwise(widths)
        )

    def forward(self, x: Tensor, condition: Tensor) -> list[Tensor]:
        """Maps [B, C, H, W] to the features below half the resolution, the coarsest first."""
        x = self.stem(F.pixel_unshuffle(x, 2))
        features = []
        for block in self.blocks:
            x = block(F.avg_pool2d(x, 2), condition)
            features.insert(0, x)
        return features


class StochasticBlock(nn.Module):
    """One group of latents of the way down (Child 2021, Fig. 3).

    Args:
        width: channels of the state and of the features.
        latent_channels: of the latents at each place of the grid.
        condition_dim: of the condition vector.
    """

    def __init__(self, width: int, latent_channels: int, condition_dim: int) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.prior = ResidualBlock(width, width + 2 * latent_channels, condition_dim)
        self.posterior = ResidualBlock(2 * width, 2 * latent_channels, condition_dim)
        self.merge = nn.Conv2d(latent_channels, width, 1)
        self.block = ResidualBlock(width, width, condition_dim)

    def infer(
        self, state: Tensor, features: Tensor, noise: Tensor, condition: Tensor
    ) -> tuple[Tensor, Tensor]:
        """New state, and KL [B, latent_channels] of posterior and prior summed over the grid.

        Noise [B, latent_channels, H, W] is turned into latents by the posterior.
        """
        prior, more = self._prior(state, condition)
        posterior = _gaussian(self.posterior(torch.cat([state, features], 1), condition))
        z = posterior.draw(noise)
        kl = gaussian_kl_between(*posterior, *prior).flatten(2).sum(2)
        return self._next(state + more, z.to(state.dtype), condition), kl

    def generate(self, state: Tensor, noise: Tensor, condition: Tensor) -> Tensor:
        """New state of noise [B, latent_channels, H, W], which the prior turns into latents."""
        prior, more = self._prior(state, condition)
        return self._next(state + more, prior.draw(noise), condition)

    def _prior(self, state: Tensor, condition: Tensor) -> tuple[Gaussian, Tensor]:
        found = self.prior(state, condition)
        parameters, more = found.split([2 * self.latent_channels, state.shape[1]], 1)
        return _gaussian(parameters), more

    def _next(self, state: Tensor, z: Tensor, condition: Tensor) -> Tensor:
        return self.block(state + self.merge(z), condition)


class TopDown(nn.Module):
    """From a learned constant by way of all latents to mean and log-variance of the pixels.

    Args:
        image_size: side in pixels.
        num_channels: of the image.
        widths: channels from half the resolution on, as for `BottomUp`.
        latent_channels: of the latents, by grid, the coarsest first.
        num_groups: stochastic blocks, by grid, the coarsest first.
        condition_dim: of the condition vector.
        shown_channels: of what every grid is shown at its own resolution.
    """

    def __init__(
        self,
        image_size: int,
        num_channels: int,
        widths: Sequence[int],
        latent_channels: Sequence[int],
        num_groups: Sequence[int],
        condition_dim: int,
        shown_channels: int,
    ) -> None:
        super().__init__()
        coarse = list(reversed(widths))
        side = image_size >> len(widths)
        self.start = nn.Parameter(torch.zeros(1, coarse[0], side, side))
        self.places = nn.Conv2d(condition_dim, coarse[0], 1)
        self.levels = nn.ModuleList(
            nn.ModuleList(StochasticBlock(width, latents, condition_dim) for _ in range(groups))
            for width, latents, groups in zip(coarse[:-1], latent_channels, num_groups, strict=True)
        )
        self.grow = nn.ModuleList(
            ResidualBlock(before, after, condition_dim) for before, after in pairwise(coarse)
        )
        self.patches = [1 << (len(widths) - level) for level in range(len(widths))]
        self.see = nn.ModuleList(
            nn.Conv2d(shown_channels * patch**2, width, 1)
            for patch, width in zip(self.patches, [coarse[0], *coarse[:-1]], strict=True)
        )
        self.norm = group_norm(coarse[-1])
        self.head = nn.Conv2d(coarse[-1], 2 * 4 * num_channels, 3, padding=1)
        self.latent_shapes = [
            (latents, side << level, side << level)
            for level, (latents, groups) in enumerate(zip(latent_channels, num_groups, strict=True))
            for _ in range(groups)
        ]

    def infer(
        self,
        features: Sequence[Tensor],
        noise: Sequence[Tensor],
        shown: Tensor,
        condition: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Pixels as `generate` gives them, and KL [B, units] of all latent channels.

        Features are those of `BottomUp`; the rest is as for `generate`.
        """
        state, found, waiting = self._begin(shown, condition), [], iter(noise)
        for level, (blocks, seen) in enumerate(zip(self.levels, features, strict=True)):
            for block in blocks:
                state, kl = block.infer(state, seen, next(waiting), condition)
                found.append(kl)
            state = self._larger(level, state, shown, condition)
        return self._pixels(state), torch.cat(found, 1)

    def generate(self, noise: Sequence[Tensor], shown: Tensor, condition: Tensor) -> Tensor:
        """Mean and raw log-variance [B, 2 C, H, W] of noise of `latent_shapes`.

        What is ``shown`` is [B, shown_channels, H, W].
        """
        state, waiting = self._begin(shown, condition), iter(noise)
        for level, blocks in enumerate(self.levels):
            for block in blocks:
                state = block.generate(state, next(waiting), condition)
            state = self._larger(level, state, shown, condition)
        return self._pixels(state)

    def _begin(self, shown: Tensor, condition: Tensor) -> Tensor:
        return self.start + self.places(condition[:, :, None, None]) + self._seen(0, shown)

    def _larger(self, level: int, state: Tensor, shown: Tensor, condition: Tensor) -> Tensor:
        state = F.interpolate(state, scale_factor=2, mode="nearest")
        return self.grow[level](state + self._seen(level + 1, shown), condition)

    def _seen(self, level: int, shown: Tensor) -> Tensor:
        return self.see[level](F.pixel_unshuffle(shown, self.patches[level]))

    def _pixels(self, state: Tensor) -> Tensor:
        return F.pixel_shuffle(self.head(F.silu(self.norm(state))), 2)


def _gaussian(parameters: Tensor) -> Gaussian:
    mean, raw = parameters.float().chunk(2, 1)
    return Gaussian(mean, bounded(raw, *_LOG_VARIANCE_BOUNDS))
