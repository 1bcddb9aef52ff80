"""A GAN of two small networks, with two optimizers."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import softplus

from common.data.datasets import Batch
from common.optimizers import adam
from common.sampling import Sampler, seeded_noise
from experiments.toy_blobs.networks import Discriminator, Generator


class BlobGAN(pl.LightningModule):
    """Non-saturating GAN (Goodfellow et al. 2014).

    Args:
        image_size: side in pixels, a multiple of 4.
        num_channels: of the image.
        latent_dim: of z.
        width: channels of both networks.
        g_lr: of the generator.
        d_lr: of the discriminator.
    """

    def __init__(
        self,
        image_size: int = 32,
        num_channels: int = 2,
        latent_dim: int = 8,
        width: int = 8,
        g_lr: float = 2e-4,
        d_lr: float = 2e-4,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator = Generator(image_size, num_channels, latent_dim, width)
        self.discriminator = Discriminator(num_channels, width)
        self.latent_dim, self.g_lr, self.d_lr = latent_dim, g_lr, d_lr

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Discriminator, then generator."""
        real = batch["image"]
        fake = self.generator(torch.randn(len(real), self.latent_dim, device=self.device))
        g_optimizer, d_optimizer = self.optimizers()
        judged_fake = self.discriminator(fake.detach())
        d_loss = (softplus(-self.discriminator(real)) + softplus(judged_fake)).mean()
        self._step(d_optimizer, d_loss)
        g_loss = softplus(-self.discriminator(fake)).mean()
        self._step(g_optimizer, g_loss)
        self.log_dict({"train/d_loss": d_loss, "train/g_loss": g_loss})

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The discriminator's loss on held-back images."""
        loss = softplus(-self.discriminator(batch["image"])).mean()
        self.log("val/loss", loss, batch_size=len(batch["image"]), sync_dist=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Images by seed."""
        return {**batch, "image": self.sampler(batch)()}

    def sampler(self, batch: Batch) -> Sampler:
        """The generator, and z by seed."""
        return Sampler(self.generator, {"z": seeded_noise(batch["seed"], self.latent_dim)})

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One for each network."""
        fused = self.trainer.hardware.fused_optimizer
        return [
            adam(self.generator.parameters(), self.g_lr, (0.5, 0.99), fused),
            adam(self.discriminator.parameters(), self.d_lr, (0.5, 0.99), fused),
        ]

    def _step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
