"""White noise of each domain's camera: measured in recordings, added to samples.

Frames of a sequence come with noise that has nothing to do with each other, two domains with six
planes of it. A generator whose layers share one plane each cannot draw that, and a discriminator
tells its samples by the lack of it, whatever they show.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Blind to planes, edges along the axes and everything smooth; 6 times as loud as white noise is
# (Immerkær 1996).
_SIEVE = ((1.0, -2.0, 1.0), (-2.0, 4.0, -2.0), (1.0, -2.0, 1.0))
_LOUDER = 6.0
# Median of the absolute values of a normal distribution of standard deviation 1.
_MEDIAN = 0.67449
# Groups of pixels by the grey value of their surroundings; objects fill some, background another.
_GROUPS = 8


class CameraNoise(nn.Module):
    """Adds to each domain of a sequence white noise of its own strength.

    Args:
        domains: how many.
    """

    strength: Tensor

    def __init__(self, domains: int) -> None:
        super().__init__()
        self.register_buffer("strength", torch.zeros(domains))

    def forward(self, frames: Tensor, noise: Tensor) -> Tensor:
        """Frames [B, D, T, S, S] with theirs.

        Args:
            frames: without it.
            noise: standard normal values [B, D * T * S * S].
        """
        return frames + self.strength[:, None, None, None] * noise.view_as(frames)

    def measure(self, frames: Tensor) -> None:
        """Takes the strengths over from recordings [N, D, T, S, S], S at least 3."""
        found = [noise_level(domain.flatten(0, 1)) for domain in frames.float().unbind(1)]
        self.strength.copy_(torch.stack(found))


def noise_level(frames: Tensor) -> Tensor:
    """Standard deviation of the white noise in images, whatever they show, as a scalar.

    Pixels are sorted into groups by the mean of 3 x 3 pixels around them. What a filter that is
    blind to smooth images leaves of each group is noise and fine detail; the least of the groups
    counts, such as background. Where images are detailed all over, the result is too high, and too
    low where noise was smoothed away or grows with the grey value.

    Args:
        frames: float32 [N, S, S], S at least 3.
    """
    sieve = torch.tensor(_SIEVE, device=frames.device) / _LOUDER
    kernels = torch.stack([sieve, torch.full_like(sieve, 1 / sieve.numel())])[:, None]
    left, around = F.conv2d(frames[:, None], kernels).movedim(1, 0).flatten(1)
    groups = left.abs()[around.argsort(stable=True)].tensor_split(_GROUPS)
    return torch.stack([group.median() for group in groups]).min() / _MEDIAN
