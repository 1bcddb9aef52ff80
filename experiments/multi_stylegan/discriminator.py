"""U-Net discriminator: one logit for a sequence, and one for each of its pixels.

Schönfeld et al. 2020 (U-Net GAN), with the blocks of Reich et al. 2021 (Multi-StyleGAN).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.networks.discriminator import minibatch_deviation
from common.networks.equalized import TAPS, EqualizedConv, EqualizedLinear
from kernels import bias_act, filter2d, setup_filter, upsample2d
from kernels.precision import without_autocast

# Of the paper: which block of encoder and decoder attends, blocks of the encoder that see how much
# the batch varies, features of the head.
_ATTENDS_DOWN, _ATTENDS_UP, _VARYING, _HEAD = 2, 1, 2, 128
# Arguments by which the discriminator does what the released code's does.
PUBLISHED: dict[str, Any] = {"group_size": 0, "blur_last": True}


class Discriminator(nn.Module):
    """Sequences -> logits.

    Args:
        channels: domains times frames.
        widths: channels of the encoder's blocks, from full resolution on, each at half the side of
            the one before; at least 3.
        group_size: samples that `minibatch_deviation` compares; 0 takes the whole batch.
        blur_last: blurs what has been halved, as published, instead of what is to be halved.
        places: along each side, whose features the logit of a sequence is made of; each is the
            mean over its part of the frame. With 1, as published, the logit hardly tells where in
            the frame something is.
        blurs: before halving, see `EqualizedConv`.
        rising: channels of what comes from below into each of the decoder's blocks, from the
            coarsest on; None is the difference of the neighbouring ``widths``, at least a quarter
            of the larger one.
        released: frames are turned into what the released code takes for frames, see `Generator`.
    """

    def __init__(
        self,
        channels: int,
        widths: Sequence[int] = (128, 256, 384, 768, 1024),
        group_size: int = 4,
        blur_last: bool = False,
        places: int = 1,
        blurs: bool = True,
        rising: Sequence[int] | None = None,
        released: bool = False,
    ) -> None:
        super().__init__()
        self.places = places
        self.group_size = group_size
        self.released = released
        sizes = pairwise([channels, *widths])
        varying = range(len(widths) - _VARYING, len(widths))
        self.encoder = nn.ModuleList(
            Attention(*size) if k == _ATTENDS_DOWN else Residual(*size, k in varying, group_size)
            for k, size in enumerate(sizes)
        )
        self.down = nn.ModuleList(
            # Without an activation, as published: with one simulated traps were learnt more slowly.
            BlurLast(width) if blur_last else EqualizedConv(width, width, 3, down=2, blur=blurs)
            for width in widths[:-1]
        )
        upwards = list(pairwise(widths[::-1]))
        # What comes from below and the encoder's block of that side are a block's input together.
        rising = rising or [max(below - beside, below // 4) for below, beside in upwards]
        self.up = nn.ModuleList(
            EqualizedConv(below, risen, 1, bias=False)
            for (below, _), risen in zip(upwards, rising, strict=True)
        )
        inputs = [risen + beside for risen, (_, beside) in zip(rising, upwards, strict=True)]
        self.decoder = nn.ModuleList(
            Attention(size, after) if k == _ATTENDS_UP else Residual(size, after)
            for k, (size, (_, after)) in enumerate(zip(inputs, upwards, strict=True))
        )
        self.head = nn.Sequential(
            EqualizedLinear(widths[-1] * places**2, _HEAD, "lrelu"), EqualizedLinear(_HEAD, 1)
        )
        self.pixel_bias = nn.Parameter(torch.zeros(widths[0]))
        self.pixel_head = EqualizedConv(widths[0], 1, 1, bias=False)
        self.register_buffer("taps", setup_filter(TAPS), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of sequences and of their pixels.

        Args:
            x: [B, domains, frames, S, S] in about [-1, 1]; S halves as often as there are widths
                after the first.

        Returns:
            [B, 1] and [B, 1, 1, S, S].
        """
        x, beside = ((x.flip(-2) + 1) / 2 if self.released else x).flatten(1, 2), []
        for k, block in enumerate(self.encoder):
            x = block(x)
            if k < len(self.down):
                beside.append(x)
                x = self.down[k](x)
        # Differences between similar sequences need more than bfloat16.
        with without_autocast(x):
            whole = F.adaptive_avg_pool2d(x.to(self.pixel_bias.dtype), self.places)
            logit = self.head(whole.flatten(1))
        for up, block in zip(self.up, self.decoder, strict=True):
            # A mixture of channels and a filter may change places, and fewer pixels are mixed so.
            larger = upsample2d(up(x), self.taps)
            x = block(torch.cat([larger, beside.pop()], 1))
        with without_autocast(x):
            x = bias_act(x.to(self.pixel_bias.dtype), self.pixel_bias, act="lrelu")
            pixels = self.pixel_head(x)[:, None]
        return logit, pixels.flip(-2) if self.released else pixels


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside a 1 x 1 one.

    Args:
        before: channels of the input.
        after: channels of the result.
        varying: adds how much a group of samples varies to what the convolutions see.
        group_size: samples of a group; 0 is the whole batch.
    """

    def __init__(self, before: int, after: int, varying: bool = False, group_size: int = 0) -> None:
        super().__init__()
        self.first = EqualizedConv(before + varying, after, 3, "lrelu")
        self.second = EqualizedConv(after, after, 3, "lrelu", gain=0.5**0.5)
        self.beside = EqualizedConv(before, after, 1, bias=False, gain=0.5**0.5)
        self.varying = varying
        self.group_size = group_size

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, before, H, W] to [B, after, H, W]."""
        y = x
        if self.varying:
            deviation = minibatch_deviation(x.float(), self.group_size or len(x))
            y = torch.cat([x, deviation.to(x.dtype)], 1)
        return self.second(self.first(y)) + self.beside(x)


class Attention(nn.Module):
    """Every pixel looks at all others, pooled in squares of four (Wang et al. 2018, non-local).

    Args:
        before: channels of the input.
        after: channels of the result.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.query = EqualizedConv(before, after // 8, 1, bias=False)
        self.key = EqualizedConv(before, after // 8, 1, bias=False)
        self.value = EqualizedConv(before, after // 2, 1, bias=False)
        self.mix = EqualizedConv(after // 2, after, 1, bias=False, gain=0.5**0.5)
        self.beside = EqualizedConv(before, after, 1, bias=False, gain=0.5**0.5)
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, before, H, W] to [B, after, H, W]."""
        query, key, value = (
            made.flatten(2).transpose(1, 2)
            for made in (
                self.query(x),
                F.max_pool2d(self.key(x), 2),
                F.max_pool2d(self.value(x), 2),
            )
        )
        seen = torch.softmax(query @ key.transpose(1, 2), -1) @ value
        seen = seen.transpose(1, 2).unflatten(2, x.shape[-2:])
        return self.strength * self.mix(seen) + self.beside(x)


class BlurLast(EqualizedConv):
    """3 x 3 convolution of stride 2 with the filter behind it, where it removes no aliasing."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3, down=2)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, width, H, W] to [B, width, H / 2, W / 2]."""
        y = F.conv2d(x, self.weight * self.scale, self.bias, stride=2)
        return filter2d(y, self.taps, padding=[0, 1, 0, 1])
