"""The published layer plan and loss, so that the other models can be compared with them.

Layers, sizes and loss follow the public notebooks named in the data card, unbounded log-variance
included. One habit does not: mean and log-variance are those of the batch at hand, not global
variables of the last one. Nor does what surrounds the model here unless it is switched off: the
eight orientations of `data.augment`, the average of weights, images that keep their aspect ratio.

The squared error is a sum over pixels and the KL term is not: on a smaller canvas the KL weighs
more, at 96 px (224 / 96)^2 = 5.4 times as much as it was published at 224 px, and 21.8 times as
much as at 448 px.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.data.datasets import Batch
from common.losses.variational import gaussian_kl, masked_mse
from common.sampling import Sampler, seeded_noise
from experiments.cilia_cvae.generator import CiliaGenerator
from experiments.cilia_cvae.networks import require_multiple

_DROPOUT = 0.3


class PublishedCVAE(CiliaGenerator):
    """Convolutions, then dense layers that the one-hot class joins once on either side.

    The image is taken as [0, 1]; the loss of an image is the sum of its squared errors plus the
    KL term, unweighted. The mask is not known to the network, which was trained on images squeezed
    to a square (`data.fit: squash`); on a canvas it sees the continued edges as image.

    Args:
        classes: class names; index = label. Stored in the checkpoint.
        image_size: side of the canvas in pixels, a multiple of 2 ** stages.
        num_channels: of the image.
        lr: of Adam.
        encoder_channels: of the stages, each of which ends in a 2 x 2 maximum.
        decoder_channels: of the stages, each of which ends in a doubling.
        grid_channels: of the grid that the decoder's dense layers end in.
        repeats: convolutions a stage.
        dense: widths of the encoder's dense layers; the decoder's are these in reverse.
        latent_dim: of z.
        truncation: standard deviation of the noise that z is made from.
    """

    def __init__(
        self,
        classes: Sequence[str],
        image_size: int = 224,
        num_channels: int = 1,
        lr: float = 1e-3,
        encoder_channels: Sequence[int] = (32, 64, 128),
        decoder_channels: Sequence[int] = (64, 32, 16),
        grid_channels: int = 64,
        repeats: int = 1,
        dense: Sequence[int] = (512, 256),
        latent_dim: int = 128,
        truncation: float = 1.0,
    ) -> None:
        super().__init__(classes, image_size, num_channels, lr)
        self.save_hyperparameters()
        side = _side(image_size, len(encoder_channels))
        num_classes = len(classes)
        self.convolutions = nn.Sequential(
            *_convolutions([num_channels, *encoder_channels], repeats, lambda: nn.MaxPool2d(2))
        )
        features = encoder_channels[-1] * side**2 + num_classes
        self.dense = nn.Sequential(*_dense([features, *dense]))
        self.mean = nn.Linear(dense[-1], latent_dim)
        self.log_variance = nn.Linear(dense[-1], latent_dim)
        side = _side(image_size, len(decoder_channels))
        self.grid = (grid_channels, side, side)
        widths = [latent_dim + num_classes, *reversed(dense)]
        self.expand = nn.Sequential(
            *_dense(widths), nn.Linear(dense[0], grid_channels * side**2), nn.ReLU()
        )
        self.deconvolutions = nn.Sequential(
            *_convolutions(
                [grid_channels, *decoder_channels], repeats, lambda: nn.Upsample(scale_factor=2)
            ),
            nn.Conv2d(decoder_channels[-1], num_channels, 3, padding=1),
            nn.Sigmoid(),
        )
        self.num_classes = num_classes
        self.latent_dim = latent_dim
        self.truncation = truncation

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """The published loss of an image and its parts; ``mse`` is in [-1, 1], inside the mask."""
        image, label, mask = batch["image"], batch["label"], batch["mask"]
        mean, log_variance = (x.float() for x in self.encode(image, label))
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        decoded = self._pixels(z, label).float()
        kl = gaussian_kl(mean, log_variance).sum(1)
        # In [0, 1].
        squared = (decoded - image).square().flatten(1).sum(1) / 4
        return {
            "reconstruction": squared.mean(),
            "kl": kl.mean(),
            "mse": masked_mse(decoded, image, mask).mean(),
            "loss": (squared + kl).mean(),
        }

    def units(self, batch: Batch) -> Tensor:
        """KL of posterior and prior [B, latent_dim] in nats."""
        mean, log_variance = self.encode(batch["image"], batch["label"])
        return gaussian_kl(mean.float(), log_variance.float())

    def encode(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, each [B, latent_dim], of image [B, C, H, W] in [-1, 1]."""
        return self._encode(image, self._one_hot(label, image))

    def embed(self, image: Tensor) -> Tensor:
        """Posterior mean [B, latent_dim] of image [B, C, H, W] in [-1, 1], whatever its class."""
        every = image.new_full((len(image), self.num_classes), 1 / self.num_classes)
        return self._encode(image, every)[0]

    def decode(self, noise: Tensor, label: Tensor) -> Tensor:
        """Image [B, C, H, W] in [-1, 1] of standard normal noise and label.

        Args:
            noise: of z [B, latent_dim].
            label: index of the class [B].
        """
        return self._pixels(self.truncation * noise, label)

    def around(self, image: Tensor, label: Tensor, noise: Tensor) -> Tensor:
        """Image [B, C, H, W] in [-1, 1] drawn around the posterior of another one.

        This is how the published images were made, around images that were trained on.

        Args:
            image: [B, C, H, W] in [-1, 1].
            label: index of the class [B].
            noise: of z [B, latent_dim].
        """
        mean, log_variance = self.encode(image, label)
        return self._pixels(mean + self.truncation * noise * (0.5 * log_variance).exp(), label)

    def sampler(self, batch: Batch) -> Sampler:
        """The decoder, and z by seed; around the batch's own images where it has any."""
        label, noise = batch["label"], seeded_noise(batch["seed"], self.latent_dim)
        if "image" in batch:
            inputs = {"image": batch["image"], "label": label, "noise": noise}
            return Sampler(self.around, inputs)
        return Sampler(self.decode, {"noise": noise, "label": label})

    def _encode(self, image: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        features = self.convolutions((image + 1) / 2).flatten(1)
        x = self.dense(torch.cat([features, classes], 1))
        return self.mean(x), self.log_variance(x)

    def _pixels(self, z: Tensor, label: Tensor) -> Tensor:
        x = self.expand(torch.cat([z, self._one_hot(label, z)], 1))
        return 2 * self.deconvolutions(x.view(-1, *self.grid)) - 1

    def _one_hot(self, label: Tensor, like: Tensor) -> Tensor:
        return F.one_hot(label, self.num_classes).to(like.dtype)


def _convolutions(
    channels: Sequence[int], repeats: int, resize: Callable[[], nn.Module]
) -> Iterator[nn.Module]:
    for before, after in pairwise(channels):
        for first in (before, *[after] * (repeats - 1)):
            yield nn.Conv2d(first, after, 3, padding=1)
            yield nn.ReLU()
        yield resize()


def _dense(widths: Sequence[int]) -> Iterator[nn.Module]:
    for before, after in pairwise(widths):
        yield from (
            nn.Linear(before, after),
            nn.ReLU(),
            # Keras's momentum and epsilon.
            nn.BatchNorm1d(after, eps=1e-3, momentum=0.01),
            nn.Dropout(_DROPOUT),
        )


def _side(image_size: int, stages: int) -> int:
    require_multiple(image_size, 2**stages)
    return image_size // 2**stages
