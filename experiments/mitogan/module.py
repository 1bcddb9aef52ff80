"""Generative adversarial network of mitochondria from few frames."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from common.adaptive_augment import AdaptiveProbability, Augment
from common.adversarial_module import ADAPTIVE, AdversarialModule
from common.data.canvas import black_outside
from common.data.datamodule import ImageDataModule
from common.data.datasets import Batch
from common.errors import require_positive
from common.losses.adversarial import Loss, discriminator_loss, generator_loss, zero_of
from common.losses.penalties import gradient_square, interpolation_penalty, lazy_weight
from common.sample_distance import SampleDistance
from common.sampling import DETAIL_SEED, Sampler, seeded_noise
from experiments.mitogan.health import CriticHealth
from experiments.mitogan.networks import Backbone, discriminator, generator


class MitoGAN(AdversarialModule):
    """Generator and discriminator, and the game they play.

    Each step shows the discriminator one batch of frames and one of samples, both augmented alike
    and before that black where the canvas goes on around the frames; every ``critic_steps`` steps
    the generator follows. The recommended small-data preset is the default: style backbone, R1
    penalty, and augmentation that grows with the overfitting of the discriminator (Karras et al.
    2020, limited data).

    Args:
        image_size: side of the canvas in pixels, a power of two.
        num_channels: of the image; a mask may be the last one.
        backbone: "style" (StyleGAN2), "residual" (R3GAN) or "dcgan".
        latent_dim: of z.
        width: channels at full resolution, doubled at each halving.
        max_width: most channels anywhere.
        loss: "non_saturating", "hinge", "wasserstein" or "relativistic".
        g_lr: of the generator's Adam.
        d_lr: of the discriminator's.
        beta1: of both.
        beta2: of both.
        r1_weight: gamma of the squared gradient at frames; the loss holds gamma / 2 of it.
        r2_weight: the same at samples.
        interpolation_weight: of the gradient penalty between frames and samples (WGAN-GP).
        penalty_every: steps from one penalty to the next, whose weight grows as much.
        critic_steps: steps of the discriminator for one of the generator.
        augment: policy of `Augment` for what the discriminator sees.
        mask_channels: how many channels, the last ones, are masks: moved, but never made brighter.
        augment_prob: of each of its steps; -1 follows the discriminator's overfitting.
        adaptive_images: frames in which that probability can go from 0 to 1.
        mixing_prob: of images with the styles of two z, of the style backbone.
        truncation: below 1 samples are more typical and less different.
        val_extractor: of the features that validation compares samples by.
        val_samples: how many samples.
    """

    def __init__(
        self,
        image_size: int = 64,
        num_channels: int = 1,
        backbone: Backbone = "style",
        latent_dim: int = 128,
        width: int = 32,
        max_width: int = 256,
        loss: Loss = "non_saturating",
        g_lr: float = 2e-3,
        d_lr: float = 2e-3,
        beta1: float = 0.0,
        beta2: float = 0.99,
        r1_weight: float = 1.0,
        r2_weight: float = 0.0,
        interpolation_weight: float = 0.0,
        penalty_every: int = 4,
        critic_steps: int = 1,
        augment: str = "microscopy",
        mask_channels: int = 0,
        augment_prob: float = ADAPTIVE,
        adaptive_images: int = 100_000,
        mixing_prob: float = 0.9,
        truncation: float = 1.0,
        val_extractor: str = "efficientnet-lite0",
        val_samples: int = 200,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        require_positive(
            "model", latent_dim=latent_dim, width=width, penalty_every=penalty_every, g_lr=g_lr,
            d_lr=d_lr, critic_steps=critic_steps, adaptive_images=adaptive_images,
        )  # fmt: skip
        shape = (image_size, num_channels)
        self.generator = generator(backbone, *shape, latent_dim, width, max_width, mixing_prob)
        normalised = interpolation_weight == 0
        self.discriminator = discriminator(backbone, *shape, width, max_width, normalised)
        self.augment = Augment(augment, range(num_channels - mask_channels))
        self.adaptive = AdaptiveProbability(images=adaptive_images)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One step of the discriminator, and of the generator where it is its turn."""
        seen, step = (batch["image"], batch["mask"]), self.step_number(batch)
        g_optimizer, d_optimizer = self.optimizers()
        judged = partial(self.discriminator_terms, step=step)
        kind = lazy_weight(step, self.hparams.penalty_every)
        terms = self.learn(d_optimizer, kind, judged, *seen, loss="d_loss")
        if step % self.hparams.critic_steps == 0:
            terms |= self.learn(g_optimizer, None, self.generator_terms, *seen, loss="g_loss")
        self.log_dict({f"train/{name}": value for name, value in terms.items()})

    def discriminator_terms(self, real: Tensor, mask: Tensor, step: int) -> dict[str, Tensor]:
        """What is logged of one step of the discriminator, each a number.

        Args:
            real: frames [B, C, S, S] in [-1, 1].
            mask: 1 where the canvas holds a frame [B, 1, S, S].
            step: counted from 0; decides whether there is a penalty.
        """
        hparams, probability = self.hparams, self.probability()
        with torch.no_grad():
            fake = self._samples(mask)
        real = self.augment(black_outside(real, mask), probability)
        fake = self.augment(fake, probability)
        weight = lazy_weight(step, hparams.penalty_every)
        real.requires_grad_(weight > 0 and hparams.r1_weight > 0)
        fake.requires_grad_(weight > 0 and hparams.r2_weight > 0)
        real_logits, fake_logits = self.discriminator(real), self.discriminator(fake)
        self.adaptive.update((real_logits - zero_of(hparams.loss, fake_logits)).detach())
        loss = discriminator_loss(hparams.loss, real_logits, fake_logits)
        terms = {"augment_prob": probability, "real_sign": real_logits.sign().mean()}
        terms |= {"real_logit": real_logits.mean(), "fake_logit": fake_logits.mean()}
        if real.requires_grad:
            terms["r1"] = gradient_square(real_logits, real)
            loss = loss + weight * hparams.r1_weight / 2 * terms["r1"]
        if fake.requires_grad:
            terms["r2"] = gradient_square(fake_logits, fake)
            loss = loss + weight * hparams.r2_weight / 2 * terms["r2"]
        if weight and hparams.interpolation_weight:
            terms["interpolation"] = interpolation_penalty(self.discriminator, real, fake)
            loss = loss + weight * hparams.interpolation_weight * terms["interpolation"]
        return terms | {"d_loss": loss}

    def generator_terms(self, real: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Loss of the generator; frames [B, C, S, S] are what the relativistic one compares to."""
        probability = self.probability()
        fake = self.augment(self._samples(mask), probability)
        real_logits = None
        if self.hparams.loss == "relativistic":
            with torch.no_grad():
                shown = self.augment(black_outside(real, mask), probability)
                real_logits = self.discriminator(shown)
        loss = generator_loss(self.hparams.loss, self.discriminator(fake), real_logits)
        return {"g_loss": loss}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Both losses on frames that were not trained on, without augmentation or penalty."""
        real, fake = black_outside(batch["image"], batch["mask"]), self._samples(batch["mask"])
        logits = self.discriminator(real), self.discriminator(fake)
        terms = {
            "d_loss": discriminator_loss(self.hparams.loss, *logits),
            "g_loss": generator_loss(self.hparams.loss, *reversed(logits)),
            "real_logit": logits[0].mean(),
            "fake_logit": logits[1].mean(),
        }
        values = {f"val/{name}": value for name, value in terms.items()}
        self.log_dict(values, batch_size=len(real), sync_dist=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Samples: image k is a function of the weights and seed k."""
        return {**batch, "image": black_outside(self.sampler(batch)(), batch["mask"])}

    def sampler(self, batch: Batch) -> Sampler:
        """The generator, and z and its noise by seed."""
        inputs = {"z": seeded_noise(batch["seed"], self.hparams.latent_dim)}
        if count := self.generator.noise_values:
            inputs["noise"] = seeded_noise(batch["seed"] + DETAIL_SEED, count)
        return Sampler(self.decode, inputs)

    def decode(self, z: Tensor, noise: Tensor | None = None) -> Tensor:
        """Image [B, C, S, S] in [-1, 1] of standard normal numbers.

        Args:
            z: [B, latent_dim].
            noise: [B, noise_values], of the style backbone.
        """
        return self.generator(z, noise, self.hparams.truncation).clamp(-1, 1)

    def draw(self, folder: Path, data: ImageDataModule, count: int, seed: int) -> list[str]:
        """Figures of what the discriminator looks at and of the latent space; see `pictures`."""
        from experiments.mitogan.pictures import draw

        return draw(folder, self, data, count, seed)

    def configure_callbacks(self) -> list[Callback]:
        """Measures samples at every validation, and watches the critic."""
        return [
            SampleDistance(self.hparams.val_extractor, self.hparams.val_samples),
            CriticHealth(),
        ]

    def _samples(self, mask: Tensor) -> Tensor:
        """Fresh samples, one a mask [B, 1, S, S], on the part of the canvas that a frame has."""
        z = torch.randn(len(mask), self.hparams.latent_dim, device=mask.device)
        return black_outside(self.generator(z, None), mask)
