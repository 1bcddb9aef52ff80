"""Pieces of convolutional networks that several experiments share."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FiLM(nn.Module):
    """Feature-wise linear modulation (Perez et al. 2018, Eq. 1).

    The condition [B, D] gives a scale and a shift for every channel of x [B, C, H, W]; it starts
    as the identity.
    """

    def __init__(self, condition_dim: int, num_channels: int) -> None:
        super().__init__()
        self.affine = nn.Linear(condition_dim, 2 * num_channels)
        nn.init.zeros_(self.affine.weight)
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Modulates ``x``."""
        scale, shift = self.affine(condition)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(x + shift, x, scale)


class ResidualBlock(nn.Module):
    """Pre-activation residual block, its second normalisation modulated by a condition.

    Args:
        in_channels: of x.
        out_channels: of the result.
        condition_dim: of the condition [B, condition_dim].
    """

    def __init__(self, in_channels: int, out_channels: int, condition_dim: int) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels)
        self.film = FiLM(condition_dim, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1, bias=False)
        )
        # The block starts as its skip path, which keeps deep stacks stable from the first step.
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Maps [B, in_channels, H, W] to [B, out_channels, H, W]."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.film(self.norm2(h), condition)))
        return self.skip(x) + h


class GroupNorm(nn.GroupNorm):
    """Group normalisation (Wu and He 2018), under autocast on a CPU by the float32 kernel.

    That for bfloat16 in channels_last is up to nine times slower (torch 2.13).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, C, H, W] to the same shape and, but for autocast on a GPU, type."""
        if x.device.type == "cpu" and x.dtype != self.weight.dtype:
            return super().forward(x.to(self.weight.dtype)).to(x.dtype)
        return super().forward(x)


def group_norm(num_channels: int) -> nn.GroupNorm:
    """`GroupNorm` with groups of at least 8 channels, 32 groups at most."""
    groups = max(1, min(32, num_channels // 8))
    while num_channels % groups:
        groups -= 1
    return GroupNorm(groups, num_channels)
