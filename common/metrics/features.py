"""Feature extractors by name: images in, one row of numbers an image out.

Every channel is turned into its own grey image and the features of all channels are concatenated,
so no extractor ever mixes or drops a channel, and C channels give C times the features.
"""

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import Exit, UserError, relative
from common.metrics import fidelity, pretrained
from common.metrics.protocol import MetricRefused

Factory = Callable[[Path | None], "Extractor"]
EXTRACTORS: dict[str, Factory] = {}
# Grey images given to a network at a time, always exactly this many: a convolution may round
# differently for another batch, and features must not depend on how many images there are.
_CHUNK = 16
_SMALLEST = 16
_NOTHING = torch.zeros(0, 1, 0, 0, dtype=torch.uint8)


@dataclass(frozen=True)
class Extractor:
    """A network that turns images into features.

    Attributes:
        name: under which it is registered.
        dim: features of one channel.
        sha256: of its weights.
        network: uint8 [B, 3, H, W] to float32 [B, dim].
    """

    name: str
    dim: int
    sha256: str
    network: nn.Module

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features of uint8 images [N, C, H, W] as float32 [N, C * dim], on their device.

        Raises:
            MetricRefused: there are no images, or they are smaller than 16 pixels.
            TypeError: the images are not uint8 [N, C, H, W].
        """
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise TypeError(
                f"images must be uint8 [N, C, H, W], not {images.dtype} {images.ndim}-d"
            )
        count, channels, height, width = images.shape
        if count == 0 or min(height, width) < _SMALLEST:
            found = f"there are {count} of {height} x {width}"
            raise MetricRefused(f"Features need images of at least 16 x 16 pixels; {found}.")
        network = self.network.to(images.device).eval()
        planes = images.reshape(-1, 1, height, width)
        # TF32 and autocast would make features depend on the machine and on the caller.
        with (
            torch.autocast(images.device.type, enabled=False),
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        ):
            rows = [_padded(network, chunk) for chunk in planes.split(_CHUNK)]
        return torch.cat(rows).reshape(count, channels * self.dim)


def embed(images: Iterable[np.ndarray], extractor: Extractor) -> Tensor:
    """Features of images that come one by one, of which only a few are held at a time.

    Args:
        images: uint8 [C, H, W], all of one shape.
        extractor: what looks at them.

    Returns:
        float32 [N, C * dim]; the same as of all images at once.

    Raises:
        MetricRefused: there are no images, or they are smaller than 16 pixels.
    """
    rows, waiting = [], []
    for image in images:
        waiting.append(torch.from_numpy(image))
        if len(waiting) == _CHUNK:
            rows.append(extractor(torch.stack(waiting)))
            waiting = []
    if waiting or not rows:
        rows.append(extractor(torch.stack(waiting) if waiting else _NOTHING))
    return torch.cat(rows)


def register(name: str) -> Callable[[Factory], Factory]:
    """Enters a factory under a name; it is called with the weights file or None."""

    def enter(factory: Factory) -> Factory:
        EXTRACTORS[name] = factory
        return factory

    return enter


def extractor(name: str, weights: Path | None = None) -> Extractor:
    """Makes a registered extractor.

    Args:
        name: "efficientnet-lite0" and "random-conv" (nothing needed), or "inception" (needs its
            weights file).
        weights: local file; nothing is ever downloaded.

    Raises:
        UserError: the name is unknown, or the weights are missing, broken or not wanted.
    """
    if name not in EXTRACTORS:
        remedy = f"choose one of {', '.join(sorted(EXTRACTORS))}"
        raise UserError(Exit.USAGE, name, "is not a feature extractor", remedy)
    return EXTRACTORS[name](weights)


@register("efficientnet-lite0")
def _efficientnet(weights: Path | None) -> Extractor:
    _refuse(weights, "efficientnet-lite0 brings its own weights")
    network, digest = pretrained.efficientnet_lite0()
    return Extractor("efficientnet-lite0", pretrained.EFFICIENTNET_DIM, digest, network)


@register("random-conv")
def _random_conv(weights: Path | None) -> Extractor:
    _refuse(weights, "random-conv draws its own filters")
    network = RandomPyramid()
    digest = hashlib.sha256()
    for filters in network.buffers():
        digest.update(filters.numpy().tobytes())
    return Extractor("random-conv", RandomPyramid.DIM, digest.hexdigest(), network)


@register("inception")
def _inception(weights: Path | None) -> Extractor:
    if weights is None or not weights.is_file():
        subject = "inception" if weights is None else relative(weights)
        problem = "the weights file weights-inception-2015-12-05-6726825d.pth is not there"
        remedy = "fetch it from torch-fidelity's releases and give its path; nothing is downloaded"
        raise UserError(Exit.INPUT, subject, problem, remedy)
    content = weights.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    network = fidelity.inception(content, weights)
    return Extractor("inception", fidelity.INCEPTION_DIM, digest, network)


class RandomPyramid(nn.Module):
    """Four stages of eight fixed random filters, each at half the scale of the one before.

    Mean and standard deviation of every filter's response are its features: sensitive to
    brightness, contrast and texture at four scales, blind to where in the image they are. Most
    filters of the first stage sum to zero: brightness differs from image to image and would drown
    texture if all of them saw it. Random filters know nothing of content: the distances rank images
    that differ in such statistics and must never be called FID.
    """

    DIM = 64
    _WIDTH = 8
    _STAGES = 4
    _SUM_ZERO = 6
    # Brings features of ordinary images to order one, where the cubic kernel is not yet linear.
    _GREY_LEVELS_PER_UNIT = 32.0

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for stage in range(self._STAGES):
            inputs = self._WIDTH if stage else 3
            filters = torch.randn(self._WIDTH, inputs, 3, 3, generator=generator)
            if stage == 0:
                filters[: self._SUM_ZERO] -= filters[: self._SUM_ZERO].mean((1, 2, 3), keepdim=True)
            # He et al. 2015: the variance of the responses neither grows nor fades.
            self.register_buffer(f"filters{stage}", filters * math.sqrt(2 / (9 * inputs)))

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, 64] of uint8 images [B, 3, H, W], at least 16 pixels wide and high."""
        x = images.float() / self._GREY_LEVELS_PER_UNIT
        features = []
        for stage, filters in enumerate(self.buffers()):
            x = F.avg_pool2d(x, 2) if stage else x
            x = F.relu(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), filters))
            deviation, mean = torch.std_mean(x, dim=(2, 3), correction=0)
            features += [mean, deviation]
        return torch.cat(features, 1)


def _refuse(weights: Path | None, reason: str) -> None:
    if weights is not None:
        problem = f"is not used: {reason}"
        raise UserError(Exit.USAGE, relative(weights), problem, "leave the weights out")


def _padded(network: nn.Module, planes: Tensor) -> Tensor:
    missing = _CHUNK - len(planes)
    full = F.pad(planes, (0, 0, 0, 0, 0, 0, 0, missing))
    return network(full.expand(-1, 3, -1, -1))[: len(planes)]
