"""Class-conditional variational autoencoder of ciliary cross-sections."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from common.data.canvas import log_aspect
from common.data.datasets import Batch
from common.errors import require_positive
from common.losses.variational import bounded, gaussian_kl, gaussian_nll, masked_mse
from common.optimizers import adam
from common.sampling import Sampler, seeded_noise
from experiments.cilia_cvae.networks import Condition, Decoder, Encoder

# ln-variances outside this range are never needed and only make the bound explode.
LOG_VARIANCE_BOUNDS = (-10.0, 4.0)
# A variance below one grey level of 8 bit in [-1, 1] would model the quantisation.
MIN_VARIANCE = (2 / 255) ** 2


class CiliaCVAE(pl.LightningModule):
    """Convolutional residual CVAE.

    The bound is E[-ln p(x | z, c)] + kl_weight * KL(q(z | x, c) || N(0, 1)) over the pixels inside
    the mask. The likelihood is Gaussian with one variance, the maximum-likelihood estimate over
    recent batches (sigma-VAE, Rybkin et al. 2021, Section 3.2), so that neither term needs a
    hand-made weight.

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
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        require_positive(
            "model", latent_dim=latent_dim, width=width, condition_dim=condition_dim, lr=lr
        )
        shape = (image_size, num_channels, latent_dim, width, condition_dim)
        self.condition = Condition(len(classes), condition_dim)
        self.encoder = Encoder(*shape)
        self.decoder = Decoder(*shape)
        self.latent_dim = latent_dim
        self.lr = lr
        self.kl_weight = kl_weight
        self.kl_warmup_images = kl_warmup_images
        self.register_buffer("variance", torch.tensor(0.1))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Negative bound of one batch, in nats a pixel."""
        terms = self._terms(batch)
        with torch.no_grad():
            self.variance.lerp_(terms["mse"].clamp_min(MIN_VARIANCE), 0.05)
        warmup = min(1.0, self.trainer.images_seen / max(self.kl_warmup_images, 1))
        loss = terms["reconstruction"] + self.kl_weight * warmup * terms["kl"]
        self.log_dict({f"train/{name}": value for name, value in (terms | {"loss": loss}).items()})
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The full bound (warm-up over), so that epochs can be compared."""
        terms = self._terms(batch)
        loss = terms["reconstruction"] + self.kl_weight * terms["kl"]
        values = {f"val/{name}": value for name, value in (terms | {"loss": loss}).items()}
        self.log_dict(values, batch_size=len(batch["image"]), sync_dist=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Samples of the prior: image k is a function of the weights, seed k, label and aspect."""
        return {**batch, "image": self.sampler(batch)()}

    def sampler(self, batch: Batch) -> Sampler:
        """The decoder, and z by seed."""
        z = seeded_noise(batch["seed"], self.latent_dim)
        return Sampler(self.decode, {"z": z, "label": batch["label"], "mask": batch["mask"]})

    def decode(self, z: Tensor, label: Tensor, mask: Tensor) -> Tensor:
        """Mean image [B, C, H, W] in [-1, 1] of z, label and mask.

        Args:
            z: standard normal [B, latent_dim].
            label: index of the class [B].
            mask: [B, 1, H, W], 1 in a rectangle of the aspect ratio that is wanted, else 0.
        """
        return self.decoder(z, self.condition(label, log_aspect(mask))).clamp(-1, 1)

    def embed(self, image: Tensor) -> Tensor:
        """Posterior mean [B, latent_dim] of image [B, C, H, W] in [-1, 1], whatever its class.

        The condition is the mean over all classes at equal sides, so a label cannot tell anything.
        """
        classes = torch.arange(self.condition.embedding.num_embeddings, device=image.device)
        condition = self.condition(classes, torch.zeros(len(classes), device=image.device))
        mask = torch.ones_like(image[:, :1])
        return self.encoder(image, mask, condition.mean(0).expand(len(image), -1))[0]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over encoder and decoder."""
        return adam(self.parameters(), self.lr, fused=self.trainer.fused_optimizers)

    def _terms(self, batch: Batch) -> dict[str, Tensor]:
        image, mask = batch["image"], batch["mask"]
        condition = self.condition(batch["label"], log_aspect(mask))
        mean, raw = self.encoder(image, mask, condition)
        log_variance = bounded(raw.float(), *LOG_VARIANCE_BOUNDS)
        z = mean + torch.randn_like(log_variance) * (0.5 * log_variance).exp()
        mse = masked_mse(self.decoder(z, condition).float(), image, mask)
        num_values = mask.flatten(1).sum(1) * image.shape[1]
        nll = gaussian_nll(mse, self.variance.clone(), num_values)
        kl = gaussian_kl(mean.float(), log_variance).sum(1)
        # Nats a pixel: comparable between canvas sizes and aspect ratios.
        return {
            "reconstruction": (nll / num_values).mean(),
            "kl": (kl / num_values).mean(),
            "mse": mse.mean(),
        }
