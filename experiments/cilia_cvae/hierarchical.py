"""Hierarchical class-conditional variational autoencoder."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from common.data.canvas import log_aspect
from common.data.datasets import Batch
from common.errors import Exit, UserError, require_positive
from common.losses.variational import bounded, free_bits, warmup
from common.sampling import Sampler, seeded_noise
from experiments.cilia_cvae.generator import CiliaGenerator
from experiments.cilia_cvae.hierarchy import BottomUp, TopDown
from experiments.cilia_cvae.networks import Condition, require_multiple

# ln-variances of a pixel: from a deviation of 1.4 grey levels of 8 bits in [-1, 1] to all of them.
_PIXEL_BOUNDS = (-9.0, 1.0)


class HierarchicalCVAE(CiliaGenerator):
    """Grids of latents from coarse to fine, each with a learned class-conditional prior.

    A very deep VAE (Child 2021) with few groups: place and kind of the doublets are decided on the
    coarse grids, arms and spokes on the finest. Every pixel has a variance of its own, so that a
    sample has the grain of the likelihood and not the average of all grains.

    Args:
        classes: class names; index = label. Stored in the checkpoint.
        image_size: side of the canvas in pixels, a multiple of 2 ** len(multipliers).
        num_channels: of the image.
        lr: of Adam.
        width: channels at half resolution.
        multipliers: channels from half the resolution on in units of ``width``, each at half the
            side of the one before.
        latent_channels: of the latents by grid, the coarsest first; half the resolution has none.
        num_groups: of latents by grid, the coarsest first.
        condition_dim: of the class and aspect vector.
        kl_weight: of the KL term after the warm-up; 1 is the evidence lower bound.
        kl_warmup_images: images over which the weight grows from 0.
        free_nats: of a latent channel that the KL term does not press, see `free_bits`.
        truncation: standard deviation of the noise that samples are made from; below 1 they are
            more typical and less different.
        grain: share of the pixels' own standard deviation that samples have as noise.
        guide_channels: of the guides that the data give with each image; 0 for none.
    """

    def __init__(
        self,
        classes: Sequence[str],
        image_size: int = 128,
        num_channels: int = 1,
        lr: float = 5e-4,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 4, 4),
        latent_channels: Sequence[int] = (16, 16, 8),
        num_groups: Sequence[int] = (2, 4, 4),
        condition_dim: int = 128,
        kl_weight: float = 1.0,
        kl_warmup_images: int = 10_000,
        free_nats: float = 0.0,
        truncation: float = 1.0,
        grain: float = 1.0,
        guide_channels: int = 0,
    ) -> None:
        super().__init__(classes, image_size, num_channels, lr)
        self.save_hyperparameters()
        require_positive("model", width=width, condition_dim=condition_dim)
        widths = [width * multiplier for multiplier in multipliers]
        require_multiple(image_size, 1 << len(widths))
        if not len(latent_channels) == len(num_groups) == len(widths) - 1:
            raise UserError(
                Exit.USAGE,
                "--model.latent_channels and --model.num_groups",
                f"must name {len(widths) - 1} grids, one fewer than --model.multipliers",
                "correct the configuration",
            )
        self.condition = Condition(classes, condition_dim)
        shown = 1 + guide_channels
        self.encoder = BottomUp(num_channels + shown, widths, condition_dim)
        self.decoder = TopDown(
            image_size, num_channels, widths, latent_channels, num_groups, condition_dim, shown
        )
        self.shape = (num_channels, image_size, image_size)
        self.kl_weight = kl_weight
        self.kl_warmup_images = kl_warmup_images
        self.free_nats = free_nats
        self.truncation = truncation
        self.grain = grain
        self.guide_channels = guide_channels

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Parts of the negative bound in nats a pixel; in validation the warm-up is over."""
        image, mask = batch["image"], batch["mask"]
        pixels, kl = self._posterior(batch)
        mean, log_variance = _likelihood(pixels.float())
        num_values = mask.flatten(1).sum(1) * image.shape[1]
        squared = (mean - image).square()
        nll = 0.5 * (math.log(2 * math.pi) + log_variance + squared * (-log_variance).exp())
        reconstruction = (nll * mask).flatten(1).sum(1) / num_values
        weight, pressed = self.kl_weight, kl.sum(1)
        if self.training:
            weight *= warmup(self.trainer.images_seen, self.kl_warmup_images)
            pressed = free_bits(kl, self.free_nats)
        return {
            "reconstruction": reconstruction.mean(),
            "kl": (kl.sum(1) / num_values).mean(),
            "mse": ((squared * mask).flatten(1).sum(1) / num_values).mean(),
            "loss": (reconstruction + weight * pressed / num_values).mean(),
        }

    def units(self, batch: Batch) -> Tensor:
        """KL of posterior and prior [B, units] in nats a place of every latent channel."""
        shapes = self.decoder.latent_shapes
        places = [rows * columns for channels, rows, columns in shapes for _ in range(channels)]
        kl = self._posterior(batch)[1]
        return kl / torch.tensor(places, device=kl.device)

    def decode(self, label: Tensor, shown: Tensor, grain: Tensor, *noise: Tensor) -> Tensor:
        """Image [B, C, H, W] in [-1, 1] of standard normal noise, label and mask.

        Args:
            label: index of the class [B].
            shown: mask [B, 1, H, W], 1 in a rectangle of the aspect ratio that is wanted, else 0,
                and behind it the guide's channels.
            grain: noise of the pixels [B, C, H, W].
            noise: of the latents, one tensor [B, C, H, W] a group, the coarsest first.
        """
        condition = self.condition(label, log_aspect(shown[:, :1]))
        latents = [self.truncation * part for part in noise]
        return self._image(self.decoder.generate(latents, shown, condition), grain)

    def around(
        self, image: Tensor, label: Tensor, shown: Tensor, grain: Tensor, *noise: Tensor
    ) -> Tensor:
        """Image [B, C, H, W] in [-1, 1] drawn around the posterior of another one.

        Args:
            image: [B, C, H, W] in [-1, 1].
            label: as for `decode`, as all the others.
            shown: mask and guide.
            grain: noise of the pixels.
            noise: of the latents.
        """
        latents = [self.truncation * part for part in noise]
        return self._image(self._infer(image, label, shown, latents)[0], grain)

    def embed(self, image: Tensor) -> Tensor:
        """Means over the coarsest grid [B, D] of what the encoder sees in image [B, C, H, W].

        The image is in [-1, 1], whatever its class.
        """
        seen = torch.cat([image, self.whole(image)], 1)
        return self.encoder(seen, self.condition.of_no_class(len(image)))[0].mean((2, 3))

    def sampler(self, batch: Batch) -> Sampler:
        """The way down, and all noise by seed; around the batch's own images where it has any."""
        shapes = [self.shape, *self.decoder.latent_shapes]
        sizes = [math.prod(shape) for shape in shapes]
        drawn = seeded_noise(batch["seed"], sum(sizes)).split(sizes, 1)
        grain, *noise = (part.view(-1, *shape) for part, shape in zip(drawn, shapes, strict=True))
        latents = {f"z{k}": part for k, part in enumerate(noise)}
        shown = self.shown_by(batch)
        inputs = {"label": batch["label"], "shown": shown, "grain": grain, **latents}
        if "image" in batch:
            return Sampler(self.around, {"image": batch["image"], **inputs})
        return Sampler(self.decode, inputs)

    def _image(self, pixels: Tensor, grain: Tensor) -> Tensor:
        mean, log_variance = _likelihood(pixels)
        return (mean + self.grain * grain * (0.5 * log_variance).exp()).clamp(-1, 1)

    def _posterior(self, batch: Batch) -> tuple[Tensor, Tensor]:
        image = batch["image"]
        noise = [image.new_empty(len(image), *s).normal_() for s in self.decoder.latent_shapes]
        return self._infer(image, batch["label"], self.shown_by(batch), noise)

    def _infer(
        self, image: Tensor, label: Tensor, shown: Tensor, noise: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        mask = shown[:, :1]
        condition = self.condition(label, log_aspect(mask))
        features = self.encoder(torch.cat([image * mask, shown], 1), condition)
        return self.decoder.infer(features, noise, shown, condition)


def _likelihood(pixels: Tensor) -> tuple[Tensor, Tensor]:
    mean, raw = pixels.chunk(2, 1)
    return mean, bounded(raw, *_PIXEL_BOUNDS)
