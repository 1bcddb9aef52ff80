"""White noise of each domain's camera: measured in recordings, added to samples.

The noise of one frame has nothing to do with that of the next, and a sequence has as many planes of
it as it has frames and domains. A generator whose layers share one plane each cannot draw that, and
a discriminator tells its samples by the lack of it, whatever they show.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.data.sequence_datamodule import SequenceDataModule
from common.preprocess.noise import MEDIAN_OF_NORMAL, NOISE_KERNEL, NOISE_KERNEL_NORM

# Groups of pixels by the grey value of their surroundings; objects fill some, background another.
_GROUPS = 4
# Training sequences that are measured.
_SEQUENCES = 64


class CameraNoise(nn.Module):
    """Adds to each domain of a sequence white noise as strong as one of the recordings has it.

    Recordings differ in light, and so in noise. Within one it is the same everywhere here, as
    strong as in the least noisy parts: objects brighter than those get less than they should.

    Args:
        domains: how many.
        frames: of a sequence.
        image_size: side of a frame in pixels.
        enabled: without it nothing is measured or added.

    Attributes:
        strengths: standard deviations [64, D], at least 0, of frames in [-1, 1], one row a
            recording; 0 until measured.
        noise_values: normal numbers that a sequence takes.
    """

    strengths: Tensor

    def __init__(self, domains: int, frames: int, image_size: int, enabled: bool) -> None:
        super().__init__()
        self.register_buffer("strengths", torch.zeros(_SEQUENCES, domains))
        # The first of them chooses the recording.
        self.noise_values = 1 + domains * frames * image_size**2 if enabled else 0

    def forward(self, frames: Tensor, noise: Tensor) -> Tensor:
        """Frames [B, D, T, S, S] with the noise of their cameras.

        Args:
            frames: without it.
            noise: standard normal values [B, noise_values].
        """
        if not self.noise_values:
            return frames
        choice, values = noise.tensor_split([1], 1)
        uniform = (1 + torch.erf(choice[:, 0] / 2**0.5)) / 2
        row = (uniform * _SEQUENCES).long().clamp(max=_SEQUENCES - 1)
        return frames + self.strengths[row][:, :, None, None, None] * values.reshape(frames.shape)

    def measure_once(self, data: SequenceDataModule, tell: bool = True) -> None:
        """Measures in training sequences, unless that was done; a checkpoint holds what was found.

        Args:
            data: set up.
            tell: prints what was found.
        """
        if not self.noise_values or self.strengths.any():
            return
        seen = data.spread("train", _SEQUENCES)
        self.measure(seen["image"], seen["mask"])
        if tell:
            middle = self.strengths.median(0).values.tolist()
            found = " and ".join(f"{value / 2:.2%}" for value in middle)
            print(f"noise of cameras: {found} of the window, medians by domain", flush=True)

    def measure(self, frames: Tensor, masks: Tensor) -> None:
        """Takes the strengths over from recordings.

        Args:
            frames: float32 [N, D, T, S, S] in [-1, 1]; of fewer than 64, some count more than once.
            masks: 1 inside of each frame and 0 on the canvas around it [N, 1, S, S].
        """
        count, domains, times = frames.shape[:3]
        masks = masks.expand(-1, times, -1, -1)
        found = [
            noise_level(one, mask)
            for sequence, mask in zip(frames, masks, strict=True)
            for one in sequence
        ]
        rows = torch.arange(_SEQUENCES) * count // _SEQUENCES
        self.strengths.copy_(torch.stack(found).view(count, domains)[rows])


def noise_level(frames: Tensor, masks: Tensor) -> Tensor:
    """Standard deviation of the white noise in images, whatever they show, as a scalar.

    Pixels are sorted into groups by the mean of the 3 x 3 pixels around them. In each group the
    median of what a kernel leaves that is blind to smooth images tells of noise and fine detail;
    the least of them counts, such as that of background. Where images are detailed all over the
    result is too high; where noise grows with the grey value it is that of the least noisy group.
    Of integers it comes in steps of a quarter of a grey level.

    Args:
        frames: float32 [N, S, S] in [-1, 1]; what lies at either end was clipped and tells nothing.
        masks: pixels that count [N, S, S].

    Returns:
        At least 0; 0 where no pixel counts with all its neighbours.
    """
    kernel = torch.from_numpy(NOISE_KERNEL).to(frames) / NOISE_KERNEL_NORM
    kernels = torch.stack([kernel, torch.full_like(kernel, 1 / kernel.numel())])[:, None]
    left, around = F.conv2d(frames[:, None], kernels).unbind(1)
    unusable = (masks < 1) | (frames.abs() >= 1)
    usable = F.max_pool2d(unusable.float()[:, None], len(kernel), 1)[:, 0] == 0
    left, around = left[usable].abs(), around[usable]
    groups = left[around.argsort(stable=True)].tensor_split(max(1, min(_GROUPS, len(left))))
    found = torch.stack([group.median() for group in groups]).min() / MEDIAN_OF_NORMAL
    return found.nan_to_num(0)
