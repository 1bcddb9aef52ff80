"""Class-conditional rectified flow with classifier-free guidance."""

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import RFlowScheduler
from torch import Tensor
from torch.nn import functional as F

from common.data.datasets import Batch
from common.errors import Exit, UserError, require_positive
from common.losses.variational import masked_mse
from common.sampling import Sampler, seeded_noise
from experiments.cilia_cvae.generator import CiliaGenerator
from experiments.cilia_cvae.networks import require_multiple

# Times run from 0 (image) to this (noise), as MONAI's schedulers count them.
TIMES = 1000


class CiliaDiffusion(CiliaGenerator):
    """Straight paths from noise to image (Liu et al. 2023), on patches instead of pixels.

    The network sees a block of ``patch_size`` x ``patch_size`` pixels as one wide pixel and
    predicts the velocity image - noise; the loss is its mean squared error inside the mask. Times
    are drawn logit-normal (Esser et al. 2024, Section 3.1). One label in ten is hidden together
    with the guide, so that one network also gives the velocity of all images together, from which
    guidance leads away (Ho and Salimans 2022, Eq. 6).

    Args:
        classes: class names; index = label. Stored in the checkpoint.
        image_size: side of the canvas in pixels.
        num_channels: of the image.
        lr: of Adam.
        width: unit of the channels.
        patch_size: pixels along a side of what the network takes for one pixel.
        multipliers: channels of the U-Net's levels in units of ``width``, the finest first.
        attention: whether a level has self-attention.
        num_blocks: residual blocks a level.
        num_heads: of each self-attention.
        label_dropout: share of the training labels, and guides, that is hidden.
        contrast: images are multiplied by this, so that their standard deviation is about one.
        guidance: weight of class and guide; 1 is the model as trained, more is more typical. None
            is 1 with guides, else 1.5.
        num_steps: of the sampler, by Euler's method.
        guide_channels: of the guides that the data give with each image; 0 for none.
    """

    def __init__(
        self,
        classes: Sequence[str],
        image_size: int = 128,
        num_channels: int = 1,
        lr: float = 5e-4,
        width: int = 64,
        patch_size: int = 4,
        multipliers: Sequence[int] = (3, 4, 6),
        attention: Sequence[bool] = (False, False, True),
        num_blocks: int = 1,
        num_heads: int = 3,
        label_dropout: float = 0.1,
        contrast: float = 2.0,
        guidance: float | None = None,
        num_steps: int = 40,
        guide_channels: int = 0,
    ) -> None:
        super().__init__(classes, image_size, num_channels, lr)
        self.save_hyperparameters()
        require_positive("model", width=width, patch_size=patch_size, num_steps=num_steps)
        if num_steps > TIMES:
            problem = f"is more than the {TIMES} times of the schedule"
            raise UserError(Exit.USAGE, f"--model.num_steps {num_steps}", problem, "choose fewer")
        channels = [width * multiplier for multiplier in multipliers]
        require_multiple(image_size, patch_size << (len(channels) - 1))
        values = num_channels * patch_size**2
        self.network = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=values + (1 + guide_channels) * patch_size**2,
            out_channels=values,
            channels=channels,
            attention_levels=attention,
            num_res_blocks=num_blocks,
            num_head_channels=[size // num_heads for size in channels],
            norm_num_groups=8,
            num_class_embeds=len(classes) + 1,
        )
        self.hidden = len(classes)
        self.shape = (num_channels, image_size, image_size)
        self.patch_size = patch_size
        self.label_dropout = label_dropout
        self.contrast = contrast
        self.guidance = guidance if guidance is not None else (1.0 if guide_channels else 1.5)
        self.num_steps = num_steps
        self.guide_channels = guide_channels

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Squared error of the velocity at random times, in units of the image's variance."""
        image, mask, label = self.contrast * batch["image"], batch["mask"], batch["label"]
        shown = self.shown_by(batch)
        noise = torch.randn_like(image)
        scheduler = _scheduler()
        time = scheduler.sample_timesteps(image)
        noisy = scheduler.add_noise(image, noise, time)
        if self.training:
            drop = torch.rand(len(label), device=label.device) < self.label_dropout
            label = label.masked_fill(drop, self.hidden)
            shown = torch.where(drop[:, None, None, None], _without_guide(shown), shown)
        velocity = self.velocity(noisy, time, label, shown)
        return {"loss": masked_mse(velocity.float(), image - noise, mask).mean()}

    def velocity(self, noisy: Tensor, time: Tensor, label: Tensor, shown: Tensor) -> Tensor:
        """Direction [B, C, H, W] from noise to image, at the noisy images [B, C, H, W].

        Args:
            noisy: on the way, in units of the image's standard deviation.
            time: [B], 0 for images to 1,000 for noise.
            label: index of the class [B]; one more than the last is any class.
            shown: mask [B, 1, H, W], 1 in a rectangle of the aspect ratio that is wanted, else 0,
                and behind it the guide's channels.
        """
        # What becomes of the rest of the canvas is never learned, so it must not be seen either.
        inside = noisy * shown[:, :1]
        patches = [F.pixel_unshuffle(x, self.patch_size) for x in (inside, shown)]
        found = self.network(torch.cat(patches, 1), time, class_labels=label)
        return F.pixel_shuffle(found, self.patch_size)

    def guided(self, noisy: Tensor, time: Tensor, label: Tensor, shown: Tensor) -> Tensor:
        """Velocity [B, C, H, W] towards a class and a guide, away from all images together.

        Args:
            noisy: [B, C, H, W] on the way, in units of the image's standard deviation.
            time: [B], 1,000 for noise down to 0 for images.
            label: index of the class [B].
            shown: mask [B, 1, H, W], 1 in a rectangle of the aspect ratio that is wanted, else 0,
                and behind it the guide's channels.
        """
        velocity = self.velocity(noisy, time, label, shown)
        if self.guidance == 1:
            return velocity
        hidden = torch.full_like(label, self.hidden)
        every = self.velocity(noisy, time, hidden, _without_guide(shown))
        return every + self.guidance * (velocity - every)

    def sampler(self, batch: Batch) -> Sampler:
        """The network of one step, and noise by seed."""
        noise = seeded_noise(batch["seed"], *self.shape)
        return self._step(noise, float(TIMES), batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Follows the velocity from noise to image in ``num_steps`` steps."""
        self.refuse_other_guides(batch)
        scheduler = _scheduler()
        scheduler.set_timesteps(self.num_steps)
        image = seeded_noise(batch["seed"], *self.shape)
        for step in range(self.num_steps):
            # MONAI's own times are rounded to 16 bits, and its steps between them cut to integers.
            time = TIMES * (1 - step / self.num_steps)
            image, _ = scheduler.step(self._step(image, time, batch)(), time, image)
        # Noise remains outside the mask; a canvas is white there.
        image = torch.where(batch["mask"] > 0, image / self.contrast, 1.0)
        return {**batch, "image": image.clamp(-1, 1)}

    def _step(self, noisy: Tensor, time: float, batch: Batch) -> Sampler:
        times = torch.full((len(noisy),), time, device=noisy.device)
        shown = self.shown_by(batch)
        inputs = {"noisy": noisy, "time": times, "label": batch["label"], "shown": shown}
        return Sampler(self.guided, inputs, output="velocity")


def _without_guide(shown: Tensor) -> Tensor:
    """The mask, and a guide without any spot; an image of nothing known looks the same."""
    return torch.cat([shown[:, :1], torch.zeros_like(shown[:, 1:])], 1)


def _scheduler() -> RFlowScheduler:
    # MONAI's is a torch module that was never initialised, so no module can hold one.
    return RFlowScheduler(TIMES, use_discrete_timesteps=False, sample_method="logit-normal")
