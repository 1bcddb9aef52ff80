"""Sequences of yeast in traps, brightfield and fluorescence, from one generator."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from common.adaptive_augment import AdaptiveProbability, Augment
from common.adversarial_module import ADAPTIVE, AdversarialModule
from common.data.datasets import Batch
from common.data.sequence_datamodule import SequenceDataModule
from common.errors import require_positive
from common.losses.adversarial import discriminator_loss, generator_loss, zero_of
from common.losses.penalties import (
    PathLengthPenalty,
    gradient_square,
    lazy_weight,
    mixed_pixels,
    path_length,
)
from common.networks.style import mixed_styles
from common.sample_distance import SampleDistance
from common.sampling import DETAIL_SEED, Sampler, seeded_noise
from experiments.multi_stylegan import published
from experiments.multi_stylegan.camera_noise import CameraNoise
from experiments.multi_stylegan.continuation import estimated_shrinkage, following
from experiments.multi_stylegan.discriminator import PUBLISHED, Discriminator
from experiments.multi_stylegan.networks import Generator, Wiring
from experiments.multi_stylegan.pixel_map import read_pixel_map, require_still
from experiments.multi_stylegan.schedule import clip_norm, kinds, shares
from experiments.multi_stylegan.tricks import (
    Loss,
    boxes,
    consistency,
    cutmix_loss,
    hardest,
    mixed,
    number_wrong,
    order_loss,
    reordered,
)
from experiments.multi_stylegan.widths import discriminator_sizes, generator_widths


class MultiStyleGAN(AdversarialModule):
    """Generator with a path for each domain and U-Net discriminator (Reich et al. 2021).

    Each step shows the discriminator a batch of sequences and one of samples, augmented alike;
    then the generator follows. What comes on top is a switch each: CutMix, top-k and sequences in a
    wrong order have a schedule in images seen, penalties one in steps. With several processes
    top-k, wrong orders and how much a batch varies are of the part that one process has.

    Args:
        image_size: side of a frame in pixels, a power of two.
        num_channels: domains, brightfield first.
        frames: of a sequence.
        latent_dim: of z.
        style_dim: of w.
        width: channels of each path at full resolution, doubled at each halving.
        max_width: most channels of a path anywhere.
        mapping_layers: from z to w.
        wiring: "dual", or "published" as the released code has it.
        noise: whether each layer learns how much noise it adds; else none is added.
        camera_noise: whether samples get white noise as strong as training sequences have it; see
            `CameraNoise`.
        d_width: channels of the discriminator's first block; later ones have 2, 3, 6 and 8 times
            as many.
        d_levels: blocks of the discriminator, 3 to 5, each at half the side of the one before.
        widths: channels of a path at 4, 8, ... ``image_size`` pixels, each by itself; None leaves
            them to ``width`` and ``max_width``.
        d_widths: the same of the discriminator's blocks, at least 3; None leaves them to
            ``d_width`` and ``d_levels``.
        d_rising: see ``rising`` of `Discriminator`.
        released: networks do what those of the released code do: frames are in [0, 1] and upside
            down inside of them, the discriminator blurs what it has halved, and sees how much the
            whole batch varies.
        d_places: regions along each side that the discriminator averages, each by itself, before
            its logit of a sequence.
        d_blurs: whether it blurs before it halves, which nearly erases outlines one pixel wide.
        loss: "non_saturating", "hinge" or "wasserstein".
        g_lr: of the generator's Adam.
        d_lr: of the discriminator's.
        beta1: of both.
        beta2: of both.
        clip_norm: to which the norm of each gradient is cut; 0 cuts none. A step whose penalty
            stands for those of several has as many times that.
        pixel_weight: of the loss on the logits of pixels, beside that on sequences; not in CutMix.
        pixel_map: image file whose grey values tell how much each pixel counts in that loss, such
            as more where the trap is; "" for all alike. The weights lie in the checkpoint, and
            ``augment``, here and of the data, must leave pixels where they are.
        pixel_map_from: images seen when it begins to count.
        mixing_prob: of a sample to take its styles from a second z beyond some layer.
        r1_weight: gamma of the squared gradients at real sequences: that of the logit, and
            ``pixel_weight`` times the mean of pixels'; the loss holds gamma / 2 of it.
        r1_every: steps from one such penalty to the next, whose weight grows as much.
        path_length_weight: of the path length penalty.
        path_length_every: steps from one to the next, whose weight grows as much.
        augment: policy of `Augment`, the same for all frames and domains of a sequence.
        augment_prob: of each of its steps; -1 follows the discriminator's overfitting.
        adaptive_images: sequences in which that probability can go from 0 to 1.
        cutmix_prob: of a sequence to be mixed, reached after ``cutmix_images``; 0 for no CutMix.
        cutmix_images: sequences in which it rises from 0.
        cutmix_weight: of the consistency of mixed sequences.
        top_k_share: of samples that the generator learns from in the end; 1 for all.
        top_k_from: images seen when the share begins to fall.
        top_k_to: images seen when it has fallen.
        order_share: of a batch that is shown in a wrong order too, as generated; 0 for none.
        order_from: images seen when that begins.
        truncation: below 1 samples are more typical and less different.
        val_extractor: of the features that validation compares samples by.
        val_samples: how many samples.
    """

    def __init__(
        self,
        image_size: int = 256,
        num_channels: int = 2,
        frames: int = 3,
        latent_dim: int = 512,
        style_dim: int = 512,
        width: int = 32,
        max_width: int = 512,
        mapping_layers: int = 8,
        wiring: Wiring = "dual",
        noise: bool = True,
        camera_noise: bool = True,
        d_width: int = 32,
        d_levels: int = 5,
        widths: list[int] | None = None,
        d_widths: list[int] | None = None,
        d_rising: list[int] | None = None,
        released: bool = False,
        d_places: int = 1,
        d_blurs: bool = True,
        loss: Loss = "non_saturating",
        g_lr: float = 1e-3,
        d_lr: float = 2e-3,
        beta1: float = 0.0,
        beta2: float = 0.99,
        clip_norm: float = 5.0,
        pixel_weight: float = 1.0,
        pixel_map: str = "",
        pixel_map_from: int = 0,
        mixing_prob: float = 0.9,
        r1_weight: float = 10.0,
        r1_every: int = 16,
        path_length_weight: float = 2.0,
        path_length_every: int = 16,
        augment: str = "flip+translate+affine+brightness+contrast",
        augment_prob: float = ADAPTIVE,
        adaptive_images: int = 500_000,
        cutmix_prob: float = 0.5,
        cutmix_images: int = 500_000,
        cutmix_weight: float = 4.0,
        top_k_share: float = 0.5,
        top_k_from: int = 250_000,
        top_k_to: int = 750_000,
        order_share: float = 0.25,
        order_from: int = 750_000,
        truncation: float = 1.0,
        val_extractor: str = "efficientnet-lite0",
        val_samples: int = 200,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        require_positive(
            "model", num_channels=num_channels, frames=frames, latent_dim=latent_dim,
            style_dim=style_dim, width=width, d_width=d_width, d_places=d_places, g_lr=g_lr,
            d_lr=d_lr, r1_every=r1_every, path_length_every=path_length_every,
            adaptive_images=adaptive_images, top_k_share=top_k_share,
        )  # fmt: skip
        self.generator = Generator(
            image_size, num_channels, frames, latent_dim, style_dim,
            generator_widths(image_size, width, max_width, widths), mapping_layers, wiring,
            released,
        )  # fmt: skip
        for name, strength in self.generator.named_parameters():
            # They begin at 0, and strengths of released weights are kept.
            strength.requires_grad_(noise or not name.endswith(".strength"))
        self.discriminator = Discriminator(
            num_channels * frames,
            **discriminator_sizes(image_size, d_width, d_levels, d_widths, d_rising, d_places),
            blurs=d_blurs,
            released=released,
            **(PUBLISHED if released else {}),
        )
        self.camera = CameraNoise(num_channels, frames, image_size, camera_noise)
        self.augment = Augment(augment)
        self.adaptive = AdaptiveProbability(images=adaptive_images)
        self.path_length = PathLengthPenalty()
        self.register_buffer("pixel_weights", torch.ones(image_size, image_size))

    def setup(self, stage: str) -> None:
        """Reads the map of pixels where training begins."""
        if stage == "fit" and self.hparams.pixel_map:
            require_still(self.hparams.augment, self.trainer.datamodule.augment)
            size = self.hparams.image_size
            self.pixel_weights.copy_(read_pixel_map(Path(self.hparams.pixel_map), size))

    def on_fit_start(self) -> None:
        """Measures the noise of cameras, unless a resumed checkpoint holds it."""
        self.camera.measure_once(self.trainer.datamodule, self.trainer.is_global_zero)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One step of the discriminator and one of the generator."""
        real, step, schedule = batch["image"], self.step_number(batch), self.schedule()
        hparams = self.hparams
        group, seen = self.discriminator.group_size, self.trainer.images_seen
        judges, makes = kinds(hparams, seen, len(real), step, schedule, group)
        share = torch.full((), schedule["cutmix_prob"], device=self.device)
        g_optimizer, d_optimizer = self.optimizers()
        self.toggle_optimizer(d_optimizer)
        judged = partial(self.discriminator_terms, step=step)
        clip = clip_norm(hparams.clip_norm, step, hparams.r1_every, hparams.r1_weight)
        terms = self.learn(d_optimizer, judges, judged, real, share, loss="d_loss", clip_norm=clip)
        self.untoggle_optimizer(d_optimizer)
        self.toggle_optimizer(g_optimizer)
        made = partial(self.generator_terms, len(real), step)
        every, weight = hparams.path_length_every, hparams.path_length_weight
        clip = clip_norm(hparams.clip_norm, step, every, weight)
        terms |= self.learn(g_optimizer, makes, made, loss="g_loss", clip_norm=clip)
        self.untoggle_optimizer(g_optimizer)
        self.log_dict({f"train/{name}": value for name, value in (terms | schedule).items()})

    def discriminator_terms(
        self, real: Tensor, cutmix_prob: Tensor | float, step: int
    ) -> dict[str, Tensor]:
        """What is logged of one step of the discriminator, each a number.

        Args:
            real: sequences [B, D, T, S, S] in [-1, 1].
            cutmix_prob: of a sequence to be mixed, where the schedule says that some are.
            step: counted from 0; decides whether there is a penalty.
        """
        hparams, probability, schedule = self.hparams, self.probability(), self.schedule()
        with torch.no_grad():
            fake = self._samples(len(real))
        # Without augmentation it would be the caller's tensor that gets a gradient.
        shown = self.augment(real, probability).detach()
        made = self.augment(fake, probability)
        weight = lazy_weight(step, hparams.r1_every) * hparams.r1_weight
        shown.requires_grad_(weight > 0)
        real_logits, fake_logits = self.discriminator(shown), self.discriminator(made)
        loss = self._loss(discriminator_loss, real_logits, fake_logits)
        terms = {"augment_prob": probability}
        terms |= {"real_logit": real_logits[0].mean(), "fake_logit": fake_logits[0].mean()}
        zero = zero_of(hparams.loss, fake_logits[0])
        self.adaptive.update((real_logits[0] - zero).detach())
        if weight:
            pixels = hparams.pixel_weight**0.5 * mixed_pixels(real_logits[1])
            terms["r1"] = gradient_square(real_logits[0] + pixels, shown)
            loss = loss + weight / 2 * terms["r1"]
        wrong = number_wrong(schedule["order_share"], len(real), self.discriminator.group_size)
        if wrong:
            logit, _ = self.discriminator(self.augment(reordered(real[:wrong]), probability))
            share = schedule["order_share"]
            terms["order"] = order_loss(hparams.loss, logit, fake_logits[0], share)
            loss = loss + terms["order"]
        if schedule["cutmix_prob"] > 0:
            pixels, mask = (real_logits[1], fake_logits[1]), boxes(real, cutmix_prob)
            cut = self.discriminator(mixed(shown.detach(), made, mask))
            terms["cutmix"] = cutmix_loss(hparams.loss, *cut, mask)
            terms["consistency"] = consistency(cut[1], *pixels, mask)
            loss = loss + terms["cutmix"] + hparams.cutmix_weight * terms["consistency"]
        return terms | {"d_loss": loss}

    def generator_terms(self, count: int, step: int) -> dict[str, Tensor]:
        """What is logged of one step of the generator, each a number.

        Args:
            count: samples.
            step: counted from 0; decides whether there is a penalty.
        """
        fake = self._samples(count)
        logits = self.discriminator(self.augment(fake, self.probability()))
        kept = hardest(logits[0], self.schedule()["top_k_share"])
        logits = [found[kept] for found in logits]
        terms = {"g_loss": self._loss(generator_loss, logits)}
        weight = lazy_weight(step, self.hparams.path_length_every)
        if weight and self.hparams.path_length_weight:
            # Half of a batch is enough for it (Karras et al. 2020, Appendix B).
            styles = self._styles(max(1, count // 2))
            frames = self.generator.synthesize(styles, self._noise(len(styles))).flatten(1, 2)
            lengths = path_length(frames, styles, torch.randn_like(frames))
            terms["path_length"] = lengths.mean()
            penalty = self.path_length(lengths)
            terms["g_loss"] = terms["g_loss"] + weight * self.hparams.path_length_weight * penalty
        return terms

    def schedule(self) -> dict[str, float]:
        """What the number of images seen decides: shares and probabilities by name."""
        return shares(self.hparams, self.trainer.images_seen)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Both losses on sequences that were not trained on, without augmentation or penalty."""
        real = batch["image"]
        fake = self._samples(len(real))
        real_logits, fake_logits = self.discriminator(real), self.discriminator(fake)
        terms = {
            "d_loss": self._loss(discriminator_loss, real_logits, fake_logits),
            "g_loss": self._loss(generator_loss, fake_logits),
            "real_logit": real_logits[0].mean(),
            "fake_logit": fake_logits[0].mean(),
        }
        values = {f"val/{name}": value for name, value in terms.items()}
        self.log_dict(values, batch_size=len(real), sync_dist=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Samples: sequence k is a function of the weights and seed k."""
        return {**batch, "image": self.sampler(batch)()}

    def sampler(self, batch: Batch) -> Sampler:
        """The generator, and z and its noise by seed."""
        return Sampler(
            self.decode,
            {
                "z": seeded_noise(batch["seed"], self.hparams.latent_dim),
                "noise": seeded_noise(batch["seed"] + DETAIL_SEED, self.noise_values),
            },
        )

    def decode(self, z: Tensor, noise: Tensor) -> Tensor:
        """Sequences [B, domains, frames, S, S] in [-1, 1] of standard normal numbers.

        Args:
            z: [B, latent_dim].
            noise: [B, noise_values], of the generator, then of the cameras.
        """
        inner, outer = noise.tensor_split([self.generator.noise_values], 1)
        frames = self.generator(z, None, self.hparams.truncation, inner)
        return self.camera(frames, outer).clamp(-1, 1)

    @property
    def noise_values(self) -> int:
        """How many standard normal numbers are a sample's, beside its z."""
        return self.generator.noise_values + self.camera.noise_values

    @staticmethod
    def published_options(path: Path) -> dict[str, Any]:
        """What a file of released weights asks of the configuration; see `published`."""
        return published.published_options(path)

    def load_published(self, path: Path) -> str:
        """Takes over the networks of a file of released weights, and says of what sizes they are.

        Raises:
            UserError: as of `published.take_over`.
        """
        return published.take_over(path, self.generator, self.discriminator, self.hparams)

    def shrinkage(self, examples: Tensor, steps: int) -> Tensor:
        """By how much drawn changes are to be shrunk; see `continuation`."""
        return estimated_shrinkage(self.generator, examples, steps)

    def following(
        self, known: Tensor, count: int, steps: int, shrinkage: Tensor
    ) -> Iterator[Tensor]:
        """Frames that may follow known ones, one after the other; see `continuation`."""
        return following(self.generator, known, count, steps, shrinkage)

    def draw(self, folder: Path, data: SequenceDataModule, count: int, seed: int) -> list[str]:
        """Figures of samples, of the latent space and of how sequences go on; see `pictures`."""
        from experiments.multi_stylegan.pictures import draw

        return draw(folder, self, data, count, seed)

    def configure_callbacks(self) -> list[Callback]:
        """Measures samples at every validation."""
        return [SampleDistance(self.hparams.val_extractor, self.hparams.val_samples)]

    def _loss(self, kind: Any, *logits: Any) -> Tensor:
        """Of sequences, and of their pixels."""
        whole, pixels = zip(*logits, strict=True)
        loss = kind(self.hparams.loss, *whole)
        counts = self.trainer.images_seen >= self.hparams.pixel_map_from
        weights = self.pixel_weights if counts else None
        of_pixels = kind(self.hparams.loss, *pixels, weights=weights)
        return loss + self.hparams.pixel_weight * of_pixels

    def _styles(self, count: int) -> Tensor:
        """Styles of fresh z, of some with those of a second one beyond a layer of its own."""
        z = torch.randn(2, count, self.hparams.latent_dim, device=self.device)
        one = self.generator.mapping(z[0])
        if not self.training or not self.hparams.mixing_prob:
            return one
        return mixed_styles(one, self.generator.mapping(z[1]), self.hparams.mixing_prob)

    def _samples(self, count: int) -> Tensor:
        """Fresh sequences, with the noise of their cameras."""
        frames = self.generator.synthesize(self._styles(count), self._noise(count))
        noise = torch.randn(count, self.camera.noise_values, device=self.device)
        return self.camera(frames, noise)

    def _noise(self, count: int) -> Tensor:
        return torch.randn(count, self.generator.noise_values, device=self.device)
