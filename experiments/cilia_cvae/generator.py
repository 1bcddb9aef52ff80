"""The shape that every generator of this experiment has."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from common.data.datasets import Batch
from common.errors import Exit, UserError, require_positive
from common.optimizers import adam
from common.sampling import Sampler
from experiments.cilia_cvae.health import LatentHealth


class CiliaGenerator(pl.LightningModule, ABC):
    """A class-conditional generator: terms of its loss, and the network that samples.

    Args:
        classes: class names; index = label. Stored in the checkpoint.
        image_size: side of the canvas in pixels.
        num_channels: of the image.
        lr: of Adam.
    """

    # Channels of the guides that the data give with each image.
    guide_channels: int = 0

    def __init__(
        self,
        classes: Sequence[str],
        image_size: int = 128,
        num_channels: int = 1,
        lr: float = 5e-4,
    ) -> None:
        super().__init__()
        require_positive("model", lr=lr)
        self.lr = lr

    @abstractmethod
    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """What is logged of one batch, each a scalar; ``loss`` is what training lowers."""

    @abstractmethod
    def sampler(self, batch: Batch) -> Sampler:
        """The network that samples, fed by the seeds, labels and masks of a batch."""

    def units(self, batch: Batch) -> Tensor | None:
        """KL of posterior and prior [B, units] in nats; None of a model without latent units.

        That of a channel of a grid of latents is the mean over its places.
        """
        return None

    def shown_by(self, batch: Batch) -> Tensor:
        """Mask and guide of a batch [B, 1 + guide_channels, H, W]."""
        self.refuse_other_guides(batch)
        return torch.cat([batch["mask"], *([batch["guide"]] if self.guide_channels else [])], 1)

    def whole(self, image: Tensor) -> Tensor:
        """As `shown_by`, of images [B, C, H, W] that fill their canvas and have no guide."""
        shown = image.new_zeros(len(image), 1 + self.guide_channels, *image.shape[2:])
        shown[:, 0] = 1
        return shown

    def refuse_other_guides(self, batch: Batch) -> None:
        """A guide that a model does not see would be told of its images all the same.

        Raises:
            UserError: the data give none where the model wants one, or one of other channels.
        """
        given = batch["guide"].shape[1] if "guide" in batch else 0
        if given != self.guide_channels:
            problem = f"does not fit the data, whose guides have {given} channels"
            remedy = "use --data.layout true and --model.guide_channels 5, or neither"
            subject = f"--model.guide_channels {self.guide_channels}"
            raise UserError(Exit.USAGE, subject, problem, remedy)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        self.refuse_other_guides(batch)
        terms = self.terms(batch)
        self.log_dict({f"train/{name}": value for name, value in terms.items()})
        return terms["loss"]

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The same terms of images that were not trained on."""
        terms = self.terms(batch)
        values = {f"val/{name}": value for name, value in terms.items()}
        self.log_dict(values, batch_size=len(batch["image"]), sync_dist=True)
        return terms

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Samples: image k is a function of the weights, seed k, label and aspect ratio."""
        self.refuse_other_guides(batch)
        return {**batch, "image": self.sampler(batch)()}

    def configure_callbacks(self) -> list[Callback]:
        """Watches every training."""
        return [LatentHealth()]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over all parameters."""
        return adam(self.parameters(), self.lr, fused=self.trainer.hardware.fused_optimizer)
