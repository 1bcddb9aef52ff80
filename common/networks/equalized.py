"""Layers whose weights are drawn from N(0, 1) and scaled as they are used.

Such weights all learn at the same relative speed under Adam (Karras et al. 2018, Section 4.1).
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import Exit, UserError
from kernels import bias_act, setup_filter, upfirdn2d

Act = Literal["linear", "lrelu"]
# Low-pass filter around changes of resolution (Karras et al. 2020).
TAPS = (1, 3, 3, 1)
# Side of the coarsest feature map in pixels.
COARSEST = 4


class EqualizedLinear(nn.Module):
    """Fully connected layer with activation.

    Args:
        before: features of the input.
        after: features of the result.
        act: lrelu has the gain sqrt(2), which keeps the variance.
        bias: value that the bias starts from.
        lr_multiplier: speed of this layer relative to others.
    """

    def __init__(
        self,
        before: int,
        after: int,
        act: Act = "linear",
        bias: float = 0.0,
        lr_multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((after,), bias / lr_multiplier))
        self.act = act
        self.gain = lr_multiplier / before**0.5
        self.lr_multiplier = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, before] to [B, after]."""
        y = F.linear(x, self.weight * self.gain)
        return bias_act(y, self.bias * self.lr_multiplier, act=self.act)


class EqualizedConv(nn.Module):
    """Convolution that keeps the size of an image or halves it, with activation.

    Args:
        before: channels of the input.
        after: channels of the result.
        kernel: side of the kernel in pixels, odd.
        act: lrelu has the gain sqrt(2), which keeps the variance.
        down: 2 halves the image, 1 does not.
        bias: whether there is one.
        gain: factor of the result.
        blur: whether the image is filtered before it is halved, which nearly erases outlines one
            pixel wide.
    """

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int = 3,
        act: Act = "linear",
        down: int = 1,
        bias: bool = True,
        gain: float = 1.0,
        blur: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(after)) if bias else None
        self.act = act
        self.down = down
        self.scale = (before * kernel**2) ** -0.5
        self.gain = gain * (2**0.5 if act == "lrelu" else 1)
        self.register_buffer(
            "taps", setup_filter(TAPS) if down > 1 and blur else None, persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, before, H, W] to [B, after, H / down, W / down]."""
        kernel = self.weight.shape[-1]
        padding = kernel // 2
        if self.taps is None:
            y = F.conv2d(x, self.weight * self.scale, stride=self.down, padding=padding)
        else:
            # The padding of filter and kernel together; a 1 x 1 kernel can do with fewer pixels.
            more = padding + (len(TAPS) - self.down) // 2
            sparse = self.down if kernel == 1 else 1
            x = upfirdn2d(x, self.taps, down=sparse, padding=more)
            y = F.conv2d(x, self.weight * self.scale, stride=self.down // sparse)
        return bias_act(y, self.bias, act=self.act, gain=self.gain)


def halving_widths(image_size: int, finest: int, widest: int = 512) -> list[int]:
    """Channels at 4, 8, ... ``image_size`` pixels: doubled at each halving, up to a limit.

    Args:
        image_size: side in pixels, a power of two, at least 8.
        finest: channels at full resolution.
        widest: most channels anywhere.

    Raises:
        UserError: ``image_size`` is no such power of two.
    """
    sides = resolutions(image_size)
    return [min(widest, finest * image_size // side) for side in sides]


def resolutions(image_size: int) -> list[int]:
    """Sides 4, 8, ... ``image_size`` of feature maps in pixels.

    Raises:
        UserError: ``image_size`` is no power of two, or below 8.
    """
    if image_size < 2 * COARSEST or image_size & (image_size - 1):
        problem = "is no power of two of at least 8 px, which the model needs"
        remedy = "choose 32, 64, 128, 256 or 512"
        raise UserError(Exit.USAGE, f"--data.image_size {image_size}", problem, remedy)
    return [1 << level for level in range(COARSEST.bit_length() - 1, image_size.bit_length())]
