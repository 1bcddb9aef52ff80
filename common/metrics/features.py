"""Feature extractors by name: images in, one row of numbers an image out.

The rule for channels: each is turned into its own grey image, repeated to the three that a network
takes, and the features of all channels are concatenated. No channel is mixed or dropped, and C
channels give C times the features; an experiment's own encoder alone sees them together (`own`).
Grey values became uint8 by one window of the training set and are not stretched image by image:
only what ends in ``-published`` does that, as its authors did.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import Exit, UserError
from common.metrics import fidelity, pretrained, published
from common.metrics.protocol import MetricRefused
from common.metrics.random_filters import RandomPyramid
from common.metrics.weights import refuse

Factory = Callable[[Path | None], "Extractor"]
EXTRACTORS: dict[str, Factory] = {}
OWN = "own"
# Grey images given to a network at a time, always exactly this many: a convolution may round
# differently for another batch, and features must not depend on how many images there are.
_CHUNK = 16
_SMALLEST = 16


class Embedded(NamedTuple):
    """What a network says of N images.

    Attributes:
        features: float32 [N, C * dim].
        logits: of classes, float32 [N, C * classes]; None where the network has none.
    """

    features: Tensor
    logits: Tensor | None


class Embedder(Protocol):
    """What `embed` and the evaluation need: an `Extractor`, or one of clips.

    Attributes:
        name: under which it is registered.
        dim: features of one channel.
        sha256: of its weights.
        classes: logits of one channel, 0 for none.
        joint: whether all channels give one set of features together.
    """

    name: str
    dim: int
    sha256: str
    classes: int
    joint: bool

    def see(self, images: Tensor) -> Embedded:
        """Features and logits of a batch."""


@dataclass(frozen=True)
class Extractor:
    """A network that turns images into features.

    Attributes:
        name: under which it is registered.
        dim: features of one channel; of all of them where ``joint``.
        sha256: of its weights.
        network: uint8 [B, 3, H, W] to float32 [B, dim + classes]; where ``joint``, of [B, C, H, W].
        classes: logits of one channel, 0 for none.
        joint: whether it takes all channels at once.
    """

    name: str
    dim: int
    sha256: str
    network: nn.Module
    classes: int = 0
    joint: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """Features of uint8 images [N, C, H, W] as float32 [N, C * dim], on their device.

        Raises:
            MetricRefused: there are no images, or they are smaller than 16 pixels.
            TypeError: the images are not uint8 [N, C, H, W].
        """
        return self.see(images).features

    def see(self, images: Tensor) -> Embedded:
        """Features and logits of uint8 images [N, C, H, W], on their device.

        Raises:
            MetricRefused: there are no images, or they are smaller than 16 pixels.
            TypeError: the images are not uint8 [N, C, H, W].
        """
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise TypeError(
                f"images must be uint8 [N, C, H, W], not {images.dtype} {images.ndim}-d"
            )
        count, _, height, width = images.shape
        if count == 0 or min(height, width) < _SMALLEST:
            found = f"there are {count} of {height} x {width}"
            raise MetricRefused(f"Features need images of at least 16 x 16 pixels; {found}.")
        if not self.joint:
            images = images.reshape(-1, 1, height, width).expand(-1, 3, -1, -1)
        rows = run(self.network, images, _CHUNK).reshape(count, -1, self.dim + self.classes)
        features, logits = rows.split([self.dim, self.classes], 2)
        return Embedded(features.flatten(1), logits.flatten(1) if self.classes else None)


@torch.no_grad()
def run(network: nn.Module, images: Tensor, chunk: int) -> Tensor:
    """What a network gives for a batch of any size, in parts of always the same size."""
    network = network.to(images.device).eval()
    # TF32 and autocast would make features depend on the machine and on the caller.
    with (
        torch.autocast(images.device.type, enabled=False),
        torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
    ):
        parts = [network(_filled(part, chunk))[: len(part)] for part in images.split(chunk)]
    return torch.cat(parts)


def embed(
    images: Iterable[np.ndarray], extractor: Embedder, device: torch.device | str = "cpu"
) -> Embedded:
    """Features of images that come one by one, of which only a few are held at a time.

    Args:
        images: uint8 [C, H, W], or clips [T, C, H, W]; all of one shape.
        extractor: what looks at them.
        device: where it looks.

    Returns:
        The same as of all images at once, on the CPU.

    Raises:
        MetricRefused: there are no images, or they are too small or too short.
    """
    embedding = Embedding(extractor, device)
    for image in images:
        embedding.add(image)
    return embedding.result()


class Embedding:
    """As `embed`, for images that are handed over one by one; arguments and errors are its."""

    def __init__(self, extractor: Embedder, device: torch.device | str = "cpu") -> None:
        self._extractor, self._device = extractor, device
        self._rows: list[Embedded] = []
        self._waiting: list[Tensor] = []

    def add(self, image: np.ndarray) -> None:
        """Takes in one image."""
        self._waiting.append(torch.from_numpy(image))
        if len(self._waiting) == _CHUNK:
            self._look()

    def result(self) -> Embedded:
        """Features of all of them, on the CPU."""
        if self._waiting:
            self._look()
        if not self._rows:
            raise MetricRefused("Features need images; there are 0.")
        features, logits = zip(*self._rows, strict=True)
        return Embedded(torch.cat(features), torch.cat(logits) if self._extractor.classes else None)

    def _look(self) -> None:
        features, logits = self._extractor.see(torch.stack(self._waiting).to(self._device))
        self._rows.append(Embedded(features.cpu(), None if logits is None else logits.cpu()))
        self._waiting.clear()


def register(name: str) -> Callable[[Factory], Factory]:
    """Enters a factory under a name; it is called with the weights file or None."""

    def enter(factory: Factory) -> Factory:
        EXTRACTORS[name] = factory
        return factory

    return enter


def extractor(name: str, weights: Path | None = None) -> Extractor:
    """Makes a registered extractor.

    Args:
        name: "efficientnet-lite0" and "random-conv" (nothing needed), "inception" or
            "inception-published" (each needs its weights file).
        weights: local file; nothing is ever downloaded.

    Raises:
        UserError: the name is unknown, or the weights are missing, broken or not wanted.
    """
    return named(name, EXTRACTORS, "a feature extractor")(weights)


def named(
    name: str, table: Mapping[str, Callable[[Path | None], Any]], what: str
) -> Callable[[Path | None], Any]:
    """An entry of a table of extractors.

    Raises:
        UserError: there is none of that name; those that there are are listed.
    """
    if name not in table:
        raise UserError(
            Exit.USAGE, name, f"is not {what}", f"choose one of {', '.join(sorted(table))}"
        )
    return table[name]


def own(network: nn.Module, sha256: str, dim: int) -> Extractor:
    """An experiment's own encoder, which sees all channels of an image together.

    It knows these data best and is the easiest to deceive: where it was trained on the same images
    as the generator, what both overlook goes unseen. Its numbers compare within one digest only.

    Args:
        network: uint8 [B, C, H, W] to float32 [B, dim]; no image may depend on another.
        sha256: of its weights.
        dim: of a row.
    """
    return Extractor(OWN, dim, sha256, network, joint=True)


@register(OWN)
def _own(weights: Path | None) -> Extractor:
    raise UserError(Exit.USAGE, OWN, "is the encoder of a run", "name it where a run is evaluated")


@register("efficientnet-lite0")
def _efficientnet(weights: Path | None) -> Extractor:
    refuse(weights, "efficientnet-lite0 brings its own weights")
    network, digest = pretrained.efficientnet_lite0()
    dim, classes = pretrained.EFFICIENTNET_DIM, pretrained.IMAGENET_CLASSES
    return Extractor("efficientnet-lite0", dim, digest, network, classes)


@register("random-conv")
def _random_conv(weights: Path | None) -> Extractor:
    refuse(weights, "random-conv draws its own filters")
    network = RandomPyramid()
    digest = hashlib.sha256()
    for filters in network.buffers():
        digest.update(filters.numpy().tobytes())
    return Extractor("random-conv", RandomPyramid.DIM, digest.hexdigest(), network)


@register("inception")
def _inception(weights: Path | None) -> Extractor:
    content, digest, path = fidelity.INCEPTION_WEIGHTS.content(weights)
    network = fidelity.inception(content, path)
    dim, classes = fidelity.INCEPTION_DIM, fidelity.INCEPTION_CLASSES
    return Extractor("inception", dim, digest, network, classes)


@register("inception-published")
def _inception_published(weights: Path | None) -> Extractor:
    content, digest, path = published.INCEPTION_WEIGHTS.content(weights)
    network = published.inception(content, path)
    dim, classes = published.INCEPTION_DIM, pretrained.IMAGENET_CLASSES
    return Extractor("inception-published", dim, digest, network, classes)


def _filled(images: Tensor, count: int) -> Tensor:
    """To so many images with black ones behind them."""
    if len(images) == count:
        return images
    return torch.cat([images, images.new_zeros(count - len(images), *images.shape[1:])])
