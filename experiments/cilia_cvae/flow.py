"""The class-conditional density of what an encoder makes of the training images."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# A layer stretches at most by e^2 and shrinks by as much, so a rare class cannot blow it up.
_MAX_LOG_SCALE = 2.0


class AggregatedPosterior(nn.Module):
    """Affine coupling flow (Dinh et al. 2017, Section 3) from standard normal noise to latents.

    The posteriors of all training images of a class together are not the prior that the KL term
    pulls them to: samples of the prior fall into holes between them. This density is fitted to
    them, and holds no image.

    Args:
        latent_dim: of z, at least 2.
        condition_dim: of the class and aspect vector.
        width: of the two hidden layers of each coupling.
        num_layers: couplings; every second one moves the other half.
    """

    def __init__(
        self, latent_dim: int, condition_dim: int, width: int = 256, num_layers: int = 8
    ) -> None:
        super().__init__()
        self.fixed = latent_dim // 2
        self.layers = nn.ModuleList(
            _Coupling(self.fixed, latent_dim - self.fixed, condition_dim, width)
            for _ in range(num_layers)
        )
        orders = [torch.randperm(latent_dim) for _ in range(num_layers)]
        self.register_buffer("order", torch.stack(orders))
        self.register_buffer("inverse", torch.stack([order.argsort() for order in orders]))

    def nll(self, z: Tensor, condition: Tensor) -> Tensor:
        """-ln p(z | condition) [B] in nats of z [B, latent_dim]."""
        log_scales = z.new_zeros(len(z))
        for layer, order in zip(self.layers, self.order, strict=True):
            fixed, moved = z[:, order].tensor_split([self.fixed], 1)
            shift, log_scale = layer(fixed, condition)
            z = torch.cat([fixed, (moved - shift) * (-log_scale).exp()], 1)
            log_scales = log_scales + log_scale.sum(1)
        square = 0.5 * z.square().sum(1)
        return square + 0.5 * z.shape[1] * math.log(2 * math.pi) + log_scales

    def forward(self, noise: Tensor, condition: Tensor) -> Tensor:
        """Latents [B, latent_dim] of standard normal noise [B, latent_dim]."""
        z = noise
        for layer, inverse in zip(reversed(self.layers), self.inverse.flip(0), strict=True):
            fixed, moved = z.tensor_split([self.fixed], 1)
            shift, log_scale = layer(fixed, condition)
            z = torch.cat([fixed, moved * log_scale.exp() + shift], 1)[:, inverse]
        return z


class _Coupling(nn.Module):
    """Shift and log-scale of one half of z as functions of the other half."""

    def __init__(self, fixed: int, moved: int, condition_dim: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(fixed + condition_dim, width)
        self.second = nn.Linear(width, width)
        self.last = nn.Linear(width, 2 * moved)
        # Starts as the identity.
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, fixed: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        x = F.silu(self.first(torch.cat([fixed, condition], 1)))
        shift, raw = self.last(F.silu(self.second(x))).chunk(2, 1)
        return shift, _MAX_LOG_SCALE * torch.tanh(raw / _MAX_LOG_SCALE)
