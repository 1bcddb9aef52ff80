"""Feature extractors of clips by name: sequences of frames in, one row of numbers a clip out.

The rule for channels is that of `features`: each becomes its own grey clip.

Measured on drifting blobs: TransNet V2 sees order and standstill from six frames on, and well from
twelve; of three frames it takes any order for the right one. Networks for images that are given
three consecutive frames as red, green and blue (``-triplets``) see both from three frames on: what
moves has coloured fringes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from common.metrics import i3d, transnet
from common.metrics.features import Embedded, extractor, named, run
from common.metrics.protocol import MetricRefused
from common.metrics.published import PublishedClips
from common.metrics.weights import refuse

# Grey clips given to a network at a time, always exactly this many, as in `features`.
_CHUNK = 4
_WINDOWS = 16
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


class Triplets(nn.Module):
    """Looks at every three consecutive frames as one image in colours, and averages over them.

    Args:
        network: uint8 [B, 3, H, W] to float32 [B, dim, or more].
        dim: of its first columns, which are taken.
    """

    def __init__(self, network: nn.Module, dim: int) -> None:
        super().__init__()
        self.network, self.dim = network, dim

    def forward(self, clips: Tensor) -> Tensor:
        """Features [B, dim] of grey clips uint8 [B, 3, T, H, W], at least three frames long."""
        windows = clips[:, 0].unfold(1, 3, 1).movedim(-1, 2)  # [B, T - 2, 3, H, W]
        flat = windows.flatten(0, 1)
        # Short clips give fewer than fill a chunk, and always as many.
        rows = run(self.network, flat, min(_WINDOWS, len(flat)))[:, : self.dim]
        return rows.unflatten(0, windows.shape[:2]).mean(1)


def clip_extractor(name: str, weights: Path | None = None) -> ClipExtractor:
    """Makes an extractor of clips.

    Args:
        name: "transnetv2", "efficientnet-lite0-triplets" and "random-conv-triplets" (nothing
            needed), "i3d" or "i3d-published" (each needs its file).
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


def _triplets(images: str) -> Callable[[Path | None], ClipExtractor]:
    name = f"{images}-triplets"

    def make(weights: Path | None) -> ClipExtractor:
        refuse(weights, f"{name} brings its own weights")
        of_images = extractor(images)
        network = Triplets(of_images.network, of_images.dim)
        return ClipExtractor(name, of_images.dim, of_images.sha256, network, min_frames=3)

    return make


CLIP_EXTRACTORS: dict[str, Callable[[Path | None], ClipExtractor]] = {
    "efficientnet-lite0-triplets": _triplets("efficientnet-lite0"),
    "i3d": _i3d,
    "i3d-published": _i3d_published,
    "random-conv-triplets": _triplets("random-conv"),
    "transnetv2": _transnet,
}
