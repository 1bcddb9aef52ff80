"""Class-conditional variational autoencoder of ciliary cross-sections."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from common.data.canvas import log_aspect
from common.data.datasets import Batch
from common.errors import require_positive
from common.losses.variational import (
    bounded,
    free_bits,
    gaussian_kl,
    gaussian_nll,
    masked_edge_mse,
    masked_mse,
    warmup,
)
from common.sampling import DETAIL_SEED, Sampler, seeded_noise
from experiments.cilia_cvae.flow import AggregatedPosterior
from experiments.cilia_cvae.generator import CiliaGenerator
from experiments.cilia_cvae.networks import Condition, Decoder, Encoder

# ln-variances outside this range are never needed and only make the bound explode.
LOG_VARIANCE_BOUNDS = (-10.0, 4.0)
# A variance below one grey level of 8 bit in [-1, 1] would model the quantisation.
MIN_VARIANCE = (2 / 255) ** 2


class CiliaCVAE(CiliaGenerator):
    """Convolutional residual CVAE.

    The bound is E[-ln p(x | z, c)] + kl_weight * KL(q(z | x, c) || N(0, 1)) over the pixels inside
    the mask. The likelihood is Gaussian with one variance, the maximum-likelihood estimate over
    recent batches (sigma-VAE, Rybkin et al. 2021, Section 3.2), so that neither term needs a
    hand-made weight. Beside it a flow learns the density of all posteriors of a class, without any
    influence on the bound.

    Args:
        classes: class names; index = label. Stored in the checkpoint.
        image_size: side of the canvas in pixels, a multiple of 32.
        num_channels: of the image.
        latent_dim: of z.
        width: channels at half resolution.
        condition_dim: of the class and aspect vector.
        lr: of Adam.
        kl_weight: of the KL term after the warm-up; 1 is the evidence lower bound.
        kl_warmup_images: images over which the weight grows from 0.
        free_nats: of a latent dimension that the KL term does not press, see `free_bits`.
        noise_std: of the likelihood in units of the image, in [-1, 1]; 0 learns it.
        edge_weight: of the squared error of the image's gradient, in units of the likelihood's
            variance; above 0 the likelihood is one of noise that is stronger in coarse detail.
        sampling: "prior" draws z from N(0, 1), "aggregated" from the flow.
        truncation: standard deviation of the noise that samples are made from; below 1 they are
            more typical and less different.
        grain: share of the likelihood's standard deviation that samples have as noise.
        guide_channels: of the guides that the data give with each image; 0 for none.
    """

    def __init__(
        self,
        classes: Sequence[str],
        image_size: int = 128,
        num_channels: int = 1,
        latent_dim: int = 128,
        width: int = 32,
        condition_dim: int = 128,
        lr: float = 5e-4,
        kl_weight: float = 1.0,
        kl_warmup_images: int = 10_000,
        free_nats: float = 0.0,
        noise_std: float = 0.0,
        edge_weight: float = 0.0,
        sampling: Literal["prior", "aggregated"] = "aggregated",
        truncation: float = 1.0,
        grain: float = 0.0,
        guide_channels: int = 0,
    ) -> None:
        super().__init__(classes, image_size, num_channels, lr)
        self.save_hyperparameters()
        require_positive("model", latent_dim=latent_dim, width=width, condition_dim=condition_dim)
        shape = (image_size, num_channels, latent_dim, width, condition_dim, guide_channels)
        self.condition = Condition(classes, condition_dim)
        self.encoder = Encoder(*shape)
        self.decoder = Decoder(*shape)
        self.density = AggregatedPosterior(latent_dim, condition_dim)
        self.shape = (num_channels, image_size, image_size)
        self.latent_dim = latent_dim
        self.kl_weight = kl_weight
        self.kl_warmup_images = kl_warmup_images
        self.free_nats = free_nats
        self.learns_variance = noise_std == 0
        self.edge_weight = edge_weight
        self.sampling = sampling
        self.truncation = truncation
        self.grain = grain
        self.guide_channels = guide_channels
        self.register_buffer("variance", torch.tensor(noise_std**2 or 0.1))

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Parts of the loss in nats a pixel; in validation the warm-up is over.

        ``kl`` is to the prior; ``density`` is -ln of what the flow gives z.
        """
        image, mask = batch["image"], batch["mask"]
        shown = self.shown_by(batch)
        condition = self.condition(batch["label"], log_aspect(mask))
        mean, log_variance = self._posterior(image, shown, condition)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        decoded = self.decoder(z, shown[:, 1:], condition).float()
        mse = masked_mse(decoded, image, mask)
        variance, weight, free = self.variance.clone(), self.kl_weight, 0.0
        if self.training:
            if self.learns_variance:
                with torch.no_grad():
                    self.variance.lerp_(mse.mean().clamp_min(MIN_VARIANCE), 0.05)
                variance = self.variance.clone()
            weight *= warmup(self.trainer.images_seen, self.kl_warmup_images)
            free = self.free_nats
        # Nats a pixel: comparable between canvas sizes and aspect ratios.
        num_values = mask.flatten(1).sum(1) * image.shape[1]
        kl = gaussian_kl(mean, log_variance)
        density = self.density.nll(z.detach(), condition.detach().float())
        terms = {
            "reconstruction": gaussian_nll(mse, variance, num_values) / num_values,
            "kl": kl.sum(1) / num_values,
            "density": density / num_values,
            "edge": 0.5 * masked_edge_mse(decoded, image, mask) / variance,
        }
        loss = terms["reconstruction"] + weight * free_bits(kl, free) / num_values
        terms["loss"] = loss + self.edge_weight * terms["edge"]
        if self.training:
            # Not in validation: which checkpoint is best must not hang on the flow.
            terms["loss"] = terms["loss"] + terms["density"]
        return {name: value.mean() for name, value in terms.items()} | {"mse": mse.mean()}

    def units(self, batch: Batch) -> Tensor:
        """KL of posterior and prior [B, latent_dim] in nats."""
        condition = self.condition(batch["label"], log_aspect(batch["mask"]))
        shown = self.shown_by(batch)
        return gaussian_kl(*self._posterior(batch["image"], shown, condition))

    def decode(
        self, z: Tensor, label: Tensor, shown: Tensor, grain: Tensor | None = None
    ) -> Tensor:
        """Image [B, C, H, W] in [-1, 1] of noise, label and mask.

        Args:
            z: standard normal noise [B, latent_dim], which the sampler turns into latents.
            label: index of the class [B].
            shown: mask [B, 1, H, W], 1 in a rectangle of the aspect ratio that is wanted, else 0,
                and behind it the guide's channels, where the model has any.
            grain: standard normal noise of the pixels [B, C, H, W], where the model has any.
        """
        condition = self.condition(label, log_aspect(shown[:, :1]))
        z = self.truncation * z
        if self.sampling == "aggregated":
            z = self.density(z, condition)
        return self._pixels(z, shown, condition, grain)

    def around(
        self,
        image: Tensor,
        z: Tensor,
        label: Tensor,
        shown: Tensor,
        grain: Tensor | None = None,
    ) -> Tensor:
        """Image [B, C, H, W] in [-1, 1] drawn around the posterior of another one.

        Args:
            image: [B, C, H, W] in [-1, 1].
            z: standard normal noise [B, latent_dim].
            label: index of the class [B].
            shown: as for `decode`.
            grain: as for `decode`.
        """
        condition = self.condition(label, log_aspect(shown[:, :1]))
        mean, log_variance = self._posterior(image, shown, condition)
        z = mean + self.truncation * z * (0.5 * log_variance).exp()
        return self._pixels(z, shown, condition, grain)

    def sampler(self, batch: Batch) -> Sampler:
        """The decoder, and noise by seed; around the batch's own images where it has any."""
        shown = self.shown_by(batch)
        name = "shown" if self.guide_channels else "mask"
        z = seeded_noise(batch["seed"], self.latent_dim)
        inputs = {"z": z, "label": batch["label"], name: shown}
        if self.grain:
            inputs["grain"] = seeded_noise(batch["seed"] + DETAIL_SEED, *self.shape)
        if "image" in batch:
            return Sampler(self.around, {"image": batch["image"], **inputs})
        return Sampler(self.decode, inputs)

    def embed(self, image: Tensor) -> Tensor:
        """Posterior mean [B, latent_dim] of image [B, C, H, W] in [-1, 1], whatever its class."""
        return self._posterior(image, self.whole(image), self.condition.of_no_class(len(image)))[0]

    def _posterior(self, image: Tensor, shown: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.encoder(image, shown, condition)
        return mean.float(), bounded(raw.float(), *LOG_VARIANCE_BOUNDS)

    def _pixels(self, z: Tensor, shown: Tensor, condition: Tensor, grain: Tensor | None) -> Tensor:
        image = self.decoder(z, shown[:, 1:], condition)
        if grain is not None:
            image = image + self.grain * self.variance.sqrt() * grain
        return image.clamp(-1, 1)
