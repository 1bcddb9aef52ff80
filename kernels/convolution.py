"""Convolution of an image that is resampled on the way, in as few operations as there can be."""

from typing import Any, NamedTuple

from torch import Tensor
from torch.nn import functional as F

from kernels.resampling import upfirdn2d


class Resampling(NamedTuple):
    """What happens to the image around a convolution."""

    up: int
    down: int
    padding: list[int]  # of the upsampled image: x0, x1, y0, y1
    filter: Tensor | None
    flip_weight: bool  # True correlates, False convolves

    def with_filter_padding(self) -> list[int]:
        """[x0, x1, y0, y1] so that the filters neither shift nor shrink the image."""
        f = self.filter
        sizes = (1, 1) if f is None else (f.shape[-1], f.shape[0])
        padding = list(self.padding)
        for axis, taps in enumerate(sizes):
            if self.up > 1:
                padding[2 * axis] += (taps + self.up - 1) // 2
                padding[2 * axis + 1] += (taps - self.up) // 2
            if self.down > 1:
                padding[2 * axis] += (taps - self.down + 1) // 2
                padding[2 * axis + 1] += (taps - self.down) // 2
        return padding


def convolve(
    x: Tensor, w: Tensor, job: Resampling, groups: int = 1
) -> tuple[Tensor, dict[str, Any] | None]:
    """Upsampling, convolution and downsampling, but for the filter that may end them.

    Args:
        x: [N, groups * C_in, H, W].
        w: [groups * C_out, C_in, kh, kw].
        job: the resampling.
        groups: parts of the channels that do not mix.

    Returns:
        The image, and the arguments of the `upfirdn2d` that is still to be applied, if any.
    """
    up, down, f = job.up, job.down, job.filter
    padding = job.with_filter_padding()
    pointwise = w.shape[2:] == (1, 1)
    if up > 1 and down > 1:
        x = upfirdn2d(x, f, up=up, padding=padding, gain=up**2)
        return _correlate(x, w, job, groups), {"down": down}
    if up > 1 and pointwise:
        # Convolving the smaller image is the same and cheaper.
        closing = {"up": up, "padding": padding, "fir_gain": up**2}
        return _correlate(x, w, job, groups), closing
    if up > 1:
        return _transpose(x, w, job, groups)
    if down > 1 and pointwise:
        return _correlate(upfirdn2d(x, f, down=down, padding=padding), w, job, groups), None
    if down > 1:
        x = upfirdn2d(x, f, padding=padding)
        return _correlate(x, w, job, groups, stride=down), None
    x0, x1, y0, y1 = padding
    if x0 == x1 >= 0 and y0 == y1 >= 0:
        return _correlate(x, w, job, groups, padding=(y0, x0)), None
    return _correlate(F.pad(x, padding), w, job, groups), None


def _correlate(x: Tensor, w: Tensor, job: Resampling, groups: int, **how: Any) -> Tensor:
    return F.conv2d(x, w if job.flip_weight else w.flip(2, 3), groups=groups, **how)


def _transpose(x: Tensor, w: Tensor, job: Resampling, groups: int) -> tuple[Tensor, dict[str, Any]]:
    """Upsampling by zeros and convolution in one, with what the filter has yet to pad or crop."""
    up, (kh, kw) = job.up, w.shape[2:]
    x0, x1, y0, y1 = job.with_filter_padding()
    x0, x1, y0, y1 = x0 - kw + 1, x1 - kw + up, y0 - kh + 1, y1 - kh + up
    # What both ends would crop is not computed in the first place.
    cut_x, cut_y = max(min(-x0, -x1), 0), max(min(-y0, -y1), 0)
    w = w.flip(2, 3) if job.flip_weight else w
    w = w.unflatten(0, [groups, -1]).transpose(1, 2).flatten(0, 1)
    y = F.conv_transpose2d(x, w, stride=up, padding=(cut_y, cut_x), groups=groups)
    padding = [x0 + cut_x, x1 + cut_x, y0 + cut_y, y1 + cut_y]
    return y, {"padding": padding, "fir_gain": up**2}
