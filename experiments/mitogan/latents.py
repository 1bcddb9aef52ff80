"""Walks through the latent space: from seed to seed, and along directions with names."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.sampling import DETAIL_SEED, in_chunks, seeded_noise
from experiments.mitogan.networks import StyleGenerator

Measure = Callable[[np.ndarray], dict[str, float]]
# Styles from whose spread directions are found, and how far one goes along them, in deviations.
_STYLES, _FAR = 4096, 2.0


@dataclass(frozen=True)
class Direction:
    """A direction in the space of styles.

    Attributes:
        vector: [style_dim], as long as the spread of styles along it (one standard deviation).
        share: of the variance of styles that lies along it.
        feature: the number that changes most along it, in units of its spread over images; ""
            where all images measure the same.
        change: how much, from `-_FAR` to `_FAR` deviations of the styles.
        changes: of all numbers.
    """

    vector: Tensor
    share: float
    feature: str
    change: float
    changes: dict[str, float]


@torch.no_grad()
def interpolation(generator: torch.nn.Module, latent_dim: int, seeds: range, steps: int) -> Tensor:
    """Images [N, C, S, S] in [-1, 1] on the way from seed to seed and back to the first.

    Styles are interpolated on a straight line, z on a great circle where there are no styles; the
    noise is that of the first seed throughout, so that nothing flickers.

    Args:
        generator: in evaluation mode.
        latent_dim: of z.
        seeds: two or more.
        steps: images for each pair of neighbours.
    """
    ends = _latents(generator, latent_dim, seeds)
    shares = torch.arange(steps, device=ends.device)[:, None] / steps
    mix = torch.lerp if isinstance(generator, StyleGenerator) else _great_circle
    parts = [mix(a, b, shares) for a, b in zip(ends, ends.roll(-1, 0), strict=True)]
    latents = torch.cat(parts)
    noise = _noise(generator, latents, seeds[:1]).expand(len(latents), -1)
    return _images(generator, latents, noise)


@torch.no_grad()
def directions(
    generator: StyleGenerator, latent_dim: int, measure: Measure, count: int, seeds: range
) -> list[Direction]:
    """Principal directions of styles (Härkönen et al. 2020), named by what they change.

    Args:
        generator: in evaluation mode.
        latent_dim: of z.
        measure: named numbers of an image, floats [C, S, S] in [0, 1].
        count: how many, those of most variance first.
        seeds: of the images that are moved.
    """
    styles = _latents(generator, latent_dim, range(_STYLES))
    _, sizes, axes = torch.linalg.svd(styles - styles.mean(0), full_matrices=False)
    power = sizes.square()
    starts = _latents(generator, latent_dim, seeds)
    noise = _noise(generator, starts, seeds)
    spread = _spread(_measured(generator, starts, noise, measure))
    found = []
    for axis, size, own in zip(axes[:count], sizes, power, strict=False):
        vector = axis * size / len(styles) ** 0.5
        ends = [
            _measured(generator, starts + sign * _FAR * vector, noise, measure) for sign in (-1, 1)
        ]
        changes = {
            name: float(np.nanmean(ends[1][name] - ends[0][name]) / spread[name])
            for name in spread
            if np.isfinite(ends[1][name] - ends[0][name]).any()
        }
        feature = max(changes, key=lambda name: abs(changes[name]), default="")
        share = float(own / power.sum())
        found.append(Direction(vector, share, feature, changes.get(feature, 0.0), changes))
    return found


@torch.no_grad()
def along(
    generator: StyleGenerator, latent_dim: int, direction: Direction, seed: int, steps: int
) -> Tensor:
    """Images [steps, C, S, S] of one seed, moved along a direction from one side to the other."""
    start = _latents(generator, latent_dim, range(seed, seed + 1))
    shares = torch.linspace(-_FAR, _FAR, steps, device=start.device)[:, None]
    noise = _noise(generator, start, range(seed, seed + 1)).expand(steps, -1)
    return _images(generator, start + shares * direction.vector, noise)


def _latents(generator: torch.nn.Module, latent_dim: int, seeds: range) -> Tensor:
    """Styles of the seeds [N, style_dim], or z where there are no styles."""
    device = next(generator.parameters()).device
    z = seeded_noise(torch.tensor(seeds, device=device), latent_dim)
    return in_chunks(generator.mapping, z) if isinstance(generator, StyleGenerator) else z


def _noise(generator: torch.nn.Module, latents: Tensor, seeds: range) -> Tensor:
    """That of `generate` for the seeds [N, noise_values]."""
    shifted = torch.tensor(seeds, device=latents.device) + DETAIL_SEED
    return seeded_noise(shifted, generator.noise_values)


def _images(generator: torch.nn.Module, latents: Tensor, noise: Tensor) -> Tensor:
    styled = isinstance(generator, StyleGenerator)
    return in_chunks(generator.drawn if styled else generator, latents, noise).clamp(-1, 1)


def _measured(
    generator: StyleGenerator, latents: Tensor, noise: Tensor, measure: Measure
) -> dict[str, np.ndarray]:
    images = (_images(generator, latents, noise).cpu().numpy() + 1) / 2
    rows = [measure(image) for image in images]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _spread(measured: dict[str, np.ndarray]) -> dict[str, float]:
    """Standard deviations of what differs between images at all."""
    found = {name: float(np.nanstd(v)) for name, v in measured.items() if np.isfinite(v).any()}
    return {name: deviation for name, deviation in found.items() if deviation > 0}


def _great_circle(first: Tensor, second: Tensor, shares: Tensor) -> Tensor:
    """From z to z without leaving the lengths that z has (Shoemake 1985)."""
    cosine = torch.cosine_similarity(first, second, 0).clamp(-1 + 1e-6, 1 - 1e-6)
    angle = cosine.arccos()
    return (((1 - shares) * angle).sin() * first + (shares * angle).sin() * second) / angle.sin()
