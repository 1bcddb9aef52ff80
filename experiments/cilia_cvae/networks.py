"""Convolutional residual encoder and decoder, conditioned at every scale."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import Exit, UserError
from common.networks.blocks import ResidualBlock, group_norm

# Image sizes are multiples of this many pixels.
SIZE_STEP = 32
# Pixels of the image to one cell of the coarsest feature map.
COARSEST = 8
# Side and channels of the grid that z is read from and written to by one linear map. A ring of nine
# doublets turns with the cilium: on a grid this fine its orientation is linear in z, on the usual
# 4 x 4 grid the convolutions would have to invent it.
MAX_GRID, GRID_CHANNELS = 16, 16
# Pixels along a side of what the decoder's blocks take for one pixel, where a guide is shown.
GUIDE_PATCHES = (4, 2)


class Condition(nn.Module):
    """Defects and aspect ratio as one vector.

    A class is a set of defects: ``ODA_IDA`` is ``ODA`` and ``IDA``, see `defects`. What one class
    teaches of a defect serves all classes that have it, and sets that no class is can be asked for.

    Args:
        classes: class names; index = label.
        condition_dim: of the result.
    """

    def __init__(self, classes: Sequence[str], condition_dim: int) -> None:
        super().__init__()
        self.register_buffer("sets", torch.tensor(defects(classes)[1]), persistent=False)
        self.defect = nn.Linear(self.sets.shape[1], condition_dim)
        self.aspect = nn.Linear(1, condition_dim)
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(condition_dim, condition_dim), nn.SiLU())

    def forward(self, label: Tensor, log_aspect: Tensor) -> Tensor:
        """The vector [B, condition_dim].

        Args:
            label: class indices [B], or sets of defects [B, defects] of 0 and 1.
            log_aspect: ln(width / height) [B].
        """
        chosen = label if label.is_floating_point() else self.sets[label]
        return self.mix(self.defect(chosen) + self.aspect(log_aspect[:, None]))

    def of_no_class(self, count: int) -> Tensor:
        """The mean over all classes at equal sides [count, condition_dim], which tells no label."""
        every = torch.arange(len(self.sets), device=self.sets.device)
        square = torch.zeros(len(every), device=every.device)
        return self(every, square).mean(0).expand(count, -1)


def defects(classes: Sequence[str]) -> tuple[list[str], list[list[float]]]:
    """Names of what classes consist of, and which of them each class has, as 0 and 1.

    A class whose name joins other classes by underscores has what they have; any other one is a
    defect of its own, so that a name alone never makes two classes the same.
    """
    parts = {name: name.split("_") for name in classes}
    joined = {n for n, p in parts.items() if len(p) > 1 and all(q in parts for q in p)}
    single = [name for name in classes if name not in joined]
    rows = [[float(s in (parts[n] if n in joined else [n])) for s in single] for n in classes]
    # Such as a_b beside b_a: alike in parts, not in name.
    if len({tuple(row) for row in rows}) < len(rows):
        return list(classes), [[float(n == m) for m in classes] for n in classes]
    return single, rows


class Encoder(nn.Module):
    """q(z | x, class, aspect): a diagonal Gaussian.

    Args:
        image_size: side in pixels, a multiple of 32.
        num_channels: of the image; one more holds the mask.
        latent_dim: of z.
        width: channels at half resolution, doubled at each further halving.
        condition_dim: of the condition vector.
        guide_channels: of the guide.
    """

    def __init__(
        self,
        image_size: int,
        num_channels: int,
        latent_dim: int,
        width: int,
        condition_dim: int,
        guide_channels: int = 0,
    ) -> None:
        super().__init__()
        widths = stage_widths(width)
        grid = grid_side(image_size)
        shown = num_channels + 1 + guide_channels
        self.stem = nn.Conv2d(4 * shown, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            ResidualBlock(before, after, condition_dim) for before, after in pairwise(widths)
        )
        self.context = ResidualBlock(widths[-1], widths[-1], condition_dim)
        self.norm = group_norm(widths[-1])
        self.squeeze = nn.Conv2d(widths[-1], GRID_CHANNELS, 1)
        self.pool = nn.AdaptiveAvgPool2d(grid)
        self.head = nn.Linear(GRID_CHANNELS * grid**2, 2 * latent_dim)

    def forward(self, image: Tensor, shown: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and unbounded log-variance, each [B, latent_dim], of image [B, C, H, W].

        What is ``shown`` is the mask and behind it the guide, [B, 1 + guide_channels, H, W].
        """
        x = torch.cat([image * shown[:, :1], shown], dim=1)
        # Half of all work would be done at full resolution; a 2 x 2 block is one wide pixel here.
        x = self.stem(F.pixel_unshuffle(x, 2))
        for block in self.blocks:
            x = block(F.avg_pool2d(x, 2), condition)
        x = self.squeeze(F.silu(self.norm(self.context(x, condition))))
        mean, log_variance = self.head(self.pool(x).flatten(1)).chunk(2, dim=1)
        return mean, log_variance


class Decoder(nn.Module):
    """Mean of p(x | z, class, aspect); arguments as `Encoder`."""

    def __init__(
        self,
        image_size: int,
        num_channels: int,
        latent_dim: int,
        width: int,
        condition_dim: int,
        guide_channels: int = 0,
    ) -> None:
        super().__init__()
        widths = stage_widths(width)[::-1]
        self.side = image_size // COARSEST
        self.grid = grid_side(image_size)
        self.stem = nn.Linear(latent_dim + condition_dim, GRID_CHANNELS * self.grid**2)
        self.expand = nn.Conv2d(GRID_CHANNELS, widths[0], 1)
        self.context = ResidualBlock(widths[0], widths[0], condition_dim)
        self.blocks = nn.ModuleList(
            ResidualBlock(before, after, condition_dim) for before, after in pairwise(widths)
        )
        self.guides = nn.ModuleList(
            nn.Conv2d(guide_channels * patch**2, before, 1)
            for before, patch in zip(widths[:-1], GUIDE_PATCHES, strict=True)
            if guide_channels
        )
        self.norm = group_norm(widths[-1])
        self.head = nn.Conv2d(widths[-1], 4 * num_channels, 3, padding=1)

    def forward(self, z: Tensor, guide: Tensor, condition: Tensor) -> Tensor:
        """Image [B, C, H, W] in about [-1, 1] from z [B, latent_dim] and guide."""
        x = self.stem(torch.cat([z, condition], dim=1))
        x = self.expand(x.view(len(z), GRID_CHANNELS, self.grid, self.grid))
        if self.side != self.grid:
            x = F.interpolate(x, size=(self.side, self.side), mode="bilinear")
        x = self.context(x, condition)
        for stage, block in enumerate(self.blocks):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            if self.guides:
                x = x + self.guides[stage](F.pixel_unshuffle(guide, GUIDE_PATCHES[stage]))
            x = block(x, condition)
        return F.pixel_shuffle(self.head(F.silu(self.norm(x))), 2)


def stage_widths(width: int) -> list[int]:
    """Channels at 1/2, 1/4 and 1/8 of the resolution: width x 1, 2, 4."""
    return [width * factor for factor in (1, 2, 4)]


def grid_side(image_size: int) -> int:
    """Side of the grid that z is read from and written to.

    Raises:
        UserError: ``image_size`` is not a positive multiple of 32.
    """
    require_multiple(image_size, SIZE_STEP)
    return min(MAX_GRID, image_size // COARSEST)


def require_multiple(image_size: int, step: int) -> None:
    """Refuses a canvas that cannot be halved as often as a network does it.

    Raises:
        UserError: ``image_size`` is not a positive multiple of ``step`` pixels.
    """
    if image_size < step or image_size % step:
        problem = f"is not a multiple of {step} px, which the model needs"
        remedy = "choose 64, 96, 128, 224, 448 or another one"
        raise UserError(Exit.USAGE, f"--data.image_size {image_size}", problem, remedy)
