"""Two small networks."""

import torch
from torch import Tensor, nn


class Generator(nn.Module):
    """Maps z [B, latent_dim] to images [B, num_channels, image_size, image_size] in [-1, 1]."""

    def __init__(self, image_size: int, num_channels: int, latent_dim: int, width: int) -> None:
        super().__init__()
        self.shape = (width, image_size // 4, image_size // 4)
        self.stem = nn.Linear(latent_dim, width * (image_size // 4) ** 2)
        self.body = nn.Sequential(
            nn.ReLU(),
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(width, num_channels, 4, stride=2, padding=1),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Generates."""
        return torch.tanh(self.body(self.stem(z).unflatten(1, self.shape)))


class Discriminator(nn.Module):
    """Maps images [B, num_channels, H, W] to logits [B]."""

    def __init__(self, num_channels: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(num_channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 1, 4, stride=2, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Judges."""
        return self.body(x).mean((1, 2, 3))
