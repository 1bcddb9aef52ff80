"""Feature extractors of clips by name: sequences of frames in, one row of numbers a clip out.

The rule for channels is that of `features`: each becomes its own grey clip.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from common.metrics import i3d, transnet
from common.metrics.features import Embedded, named, run
from common.metrics.protocol import MetricRefused
from common.metrics.published import PublishedClips
from common.metrics.weights import refuse

# Grey clips given to a network at a time, always exactly this many, as in `features`.
_CHUNK = 4
_SMALLEST = 16


@dataclass(frozen=True)
class ClipExtractor:
    """A network that turns clips into features.

    Attributes:
        name: under which it is listed.
        dim: features of one channel.
        sha256: of its weights.
        network: uint8 [B, 3, T, H, W] to float32 [B, dim].
        min_frames: fewest that it can judge.
    """

    name: str
    dim: int
    sha256: str
    network: nn.Module
    min_frames: int = 2
    classes: ClassVar[int] = 0
    joint: ClassVar[bool] = False

    def __call__(self, clips: Tensor) -> Tensor:
        """Features of uint8 clips [N, T, C, H, W] as float32 [N, C * dim], on their device.

        Raises:
            MetricRefused: there are no clips, or they are too short or smaller than 16 pixels.
            TypeError: the clips are not uint8 [N, T, C, H, W].
        """
        return self.see(clips).features

    def see(self, clips: Tensor) -> Embedded:
        """As calling it, in the form of `features.Extractor.see`."""
        if clips.dtype != torch.uint8 or clips.ndim != 5:
            raise TypeError(
                f"clips must be uint8 [N, T, C, H, W], not {clips.dtype} {clips.ndim}-d"
            )
        count, frames, _, height, width = clips.shape
        if count == 0 or min(height, width) < _SMALLEST:
            found = f"there are {count} of {height} x {width}"
            raise MetricRefused(f"Features need clips of at least 16 x 16 pixels; {found}.")
        if frames < self.min_frames:
            found = f"these have {frames}"
            raise MetricRefused(f"{self.name} needs at least {self.min_frames} frames; {found}.")
        planes = clips.movedim(2, 1).reshape(-1, 1, frames, height, width)
        rows = run(self.network, planes.expand(-1, 3, -1, -1, -1), _CHUNK)
        return Embedded(rows.reshape(count, -1), None)


def clip_extractor(name: str, weights: Path | None = None) -> ClipExtractor:
    """Makes an extractor of clips.

    Args:
        name: "transnetv2" (nothing needed), "i3d" or "i3d-published" (each needs its file).
        weights: local file; nothing is ever downloaded.

    Raises:
        UserError: the name is unknown, or the weights are missing, broken or not wanted.
    """
    return named(name, CLIP_EXTRACTORS, "a feature extractor of clips")(weights)


def _transnet(weights: Path | None) -> ClipExtractor:
    refuse(weights, "transnetv2 brings its own weights")
    network, digest = transnet.transnet()
    return ClipExtractor("transnetv2", transnet.TRANSNET_DIM, digest, network)


def _i3d(weights: Path | None) -> ClipExtractor:
    content, digest, path = i3d.FVD_WEIGHTS.content(weights)
    network = i3d.fvd_network(content, digest, path)
    return ClipExtractor("i3d", i3d.FVD_DIM, digest, network, i3d.FVD_FRAMES)


def _i3d_published(weights: Path | None) -> ClipExtractor:
    content, digest, path = i3d.KINETICS_WEIGHTS.content(weights)
    network = PublishedClips(i3d.kinetics_i3d(content, path))
    return ClipExtractor("i3d-published", i3d.I3D_DIM, digest, network)


CLIP_EXTRACTORS: dict[str, Callable[[Path | None], ClipExtractor]] = {
    "i3d": _i3d,
    "i3d-published": _i3d_published,
    "transnetv2": _transnet,
}
