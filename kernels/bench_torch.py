"""What else torch offers in an operator's place: same values, other operations.

`kernels.bench` times them beside the operators. Each is the shortest that its idea allows.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

SQRT2 = 2**0.5


def bias_act(x: Tensor, b: Tensor) -> Tensor:
    """Leaky ReLU of ``x + b`` [N, C, H, W] by sqrt(2), as a layer is usually written."""
    return F.leaky_relu(x + b.to(x.dtype)[:, None, None], 0.2) * SQRT2


def noise_bias_act(x: Tensor, noise: Tensor, strength: Tensor, b: Tensor, clamp: float) -> Tensor:
    """As `bias_act`, with noise [N, 1, H, W] of a strength [], and limited to ``clamp``."""
    return bias_act(x + (strength * noise).to(x.dtype), b).clamp(-clamp, clamp)


class Resampling(NamedTuple):
    """Up, down, and rows and columns of zeros before and after; alike along both axes."""

    up: int
    down: int
    before: int
    after: int

    @property
    def gain(self) -> int:
        """Keeps the mean of an image."""
        return self.up**2


# For a filter of four taps: twice the size, half the size, the same size.
UP, DOWN, BLUR = Resampling(2, 1, 2, 1), Resampling(1, 2, 1, 1), Resampling(1, 1, 2, 1)


def resamplings(taps: Tensor, how: Resampling) -> dict[str, Callable[[Tensor], Tensor]]:
    """Formulations of `upfirdn2d` with four symmetric taps along both axes.

    Args:
        taps: [4], of the device and type of the image; their sum is 1.
        how: `UP`, `DOWN` or `BLUR`.
    """
    square = how.gain * taps.outer(taps)
    line = how.up * taps

    def zeros_inserted(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = F.pad(x.reshape(n, c, h, 1, w, 1), [0, how.up - 1, 0, 0, 0, how.up - 1])
        x = F.pad(x.reshape(n, c, h * how.up, w * how.up), [how.before, how.after] * 2)
        y = F.conv2d(x, square.expand(c, 1, -1, -1), groups=c)
        return y[:, :, :: how.down, :: how.down]

    def depthwise(x: Tensor) -> Tensor:
        return _filtered(x, square, how, x.shape[1])

    def folded(x: Tensor) -> Tensor:
        y = _filtered(x.reshape(-1, 1, *x.shape[2:]), square, how)
        return y.unflatten(0, x.shape[:2])[:, :, 0]

    def separable(x: Tensor) -> Tensor:
        y = _filtered(x.reshape(-1, 1, *x.shape[2:]), line[None], how)
        return _filtered(y, line[:, None], how).unflatten(0, x.shape[:2])[:, :, 0]

    def interpolated(x: Tensor) -> Tensor:
        y = F.interpolate(F.pad(x, [1] * 4), scale_factor=2.0, mode="bilinear")
        return y[:, :, 2:-2, 2:-2]

    found = {"zeros inserted": zeros_inserted, "depthwise": depthwise}
    found |= {"folded": folded, "separable": separable}
    return found | ({"interpolate": interpolated} if how == UP else {})


def _filtered(x: Tensor, kernel: Tensor, how: Resampling, groups: int = 1) -> Tensor:
    """Convolution of ``groups`` channels alone, along the axes where the kernel has taps."""
    along = [taps > 1 for taps in kernel.shape]
    up, down = ([factor if a else 1 for a in along] for factor in (how.up, how.down))
    weight = kernel.expand(groups, 1, -1, -1)
    if how.up > 1:
        border = [3 - how.before if a else 0 for a in along]
        return F.conv_transpose2d(x, weight, stride=up, padding=border, groups=groups)
    # What it pads too much on one side is cut off, which is cheaper than padding before.
    border = [how.before if a else 0 for a in along]
    y = F.conv2d(x, weight, stride=down, padding=border, groups=groups)
    high, wide = (size // d for size, d in zip(x.shape[2:], down, strict=True))
    return y[:, :, :high, :wide]


def grouped(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    """Modulated convolution with weights for each sample, as groups of one convolution."""
    w = _weights(weight, styles).flatten(0, 1).to(x.dtype)
    y = F.conv2d(x.flatten(0, 1)[None], w, padding=weight.shape[-1] // 2, groups=len(x))
    return y.unflatten(1, [len(x), -1])[0]


def scaled(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    """Modulated convolution that scales activations before and after a shared one."""
    demodulation = (styles.square() @ weight.square().sum((2, 3)).T + 1e-8).rsqrt()
    y = plain(x * styles.to(x.dtype)[:, :, None, None], weight)
    return y * demodulation.to(x.dtype)[:, :, None, None]


def unfolded(x: Tensor, weight: Tensor, styles: Tensor) -> Tensor:
    """Modulated convolution as a matrix product with the patches of each sample."""
    size = weight.shape[-1]
    patches = F.unfold(x, size, padding=size // 2)
    w = _weights(weight, styles).flatten(2).to(x.dtype)
    return torch.einsum("nok,nkp->nop", w, patches).unflatten(2, x.shape[2:])


def plain(x: Tensor, weight: Tensor, *_: Tensor) -> Tensor:
    """The convolution alone: what a modulated one cannot do without."""
    return F.conv2d(x, weight.to(x.dtype), padding=weight.shape[-1] // 2)


def _weights(weight: Tensor, styles: Tensor) -> Tensor:
    """[N, C_out, C_in, kh, kw]."""
    w = weight * styles[:, None, :, None, None]
    return w * (w.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
