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

        That of a channel of a grid of latents is the sum over its places.
        """
        return None

    def guide_of(self, batch: Batch, channels: int) -> Tensor:
        """The guide [B, channels, H, W] of a batch; one without channels where none is wanted.

        Raises:
            UserError: the data give none, or one of other channels.
        """
        if not channels:
            return batch["mask"][:, :0]
        given = batch["guide"].shape[1] if "guide" in batch else 0
        if given != channels:
            problem = f"does not fit the data, whose guides have {given} channels"
            remedy = "use --data.layout true and --model.guide_channels 5, or neither"
            raise UserError(Exit.USAGE, f"--model.guide_channels {channels}", problem, remedy)
        return batch["guide"]

    def shown_by(self, batch: Batch, channels: int) -> Tensor:
        """Mask and guide of a batch [B, 1 + channels, H, W]."""
        return torch.cat([batch["mask"], self.guide_of(batch, channels)], 1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
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
        return {**batch, "image": self.sampler(batch)()}

    def configure_callbacks(self) -> list[Callback]:
        """Watches every training."""
        return [LatentHealth()]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over all parameters."""
        return adam(self.parameters(), self.lr, fused=self.trainer.fused_optimizers)
