"""What all modules share that hold a generator and a discriminator."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from common.adaptive_augment import AdaptiveProbability
from common.data.datasets import Batch
from common.optimizers import adam

# Probability of augmentation that means: as much as the discriminator overfits.
ADAPTIVE = -1.0


class AdversarialModule(pl.LightningModule):
    """Two networks with an Adam each, and steps that the module takes itself.

    A subclass sets the attributes and saves the hyper-parameters ``g_lr``, ``d_lr``, ``beta1``,
    ``beta2`` and ``augment_prob``, of which -1 follows the discriminator's overfitting.

    Attributes:
        generator: learns with ``g_lr``.
        discriminator: learns with ``d_lr``.
        adaptive: of augmentation.
    """

    generator: torch.nn.Module
    discriminator: torch.nn.Module
    adaptive: AdaptiveProbability

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for generator and discriminator, in this order."""
        betas, fused = (self.hparams.beta1, self.hparams.beta2), self.trainer.fused_optimizers
        return [
            adam(self.generator.parameters(), self.hparams.g_lr, betas, fused),
            adam(self.discriminator.parameters(), self.hparams.d_lr, betas, fused),
        ]

    def descend(self, optimizer: Any, loss: Tensor, clip_norm: float = 0.0) -> None:
        """One step of one optimizer.

        Args:
            optimizer: of `optimizers`.
            loss: a number with a graph.
            clip_norm: to which the norm of the gradient is cut; 0 cuts nothing.
        """
        optimizer.zero_grad()
        self.manual_backward(loss)
        if clip_norm:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()

    def probability(self) -> Tensor:
        """Of augmentation now, a tensor of no dimension."""
        fixed = self.hparams.augment_prob
        # A copy: the buffer changes in place while a graph may hold it.
        adaptive = self.adaptive.probability.clone()
        return adaptive if fixed == ADAPTIVE else torch.full_like(adaptive, fixed)

    def step_number(self, batch: Batch) -> int:
        """Of the step with this batch, counted from 0 by images: a resumed run has the same."""
        return self.trainer.images_seen // (len(batch["image"]) * self.trainer.world_size) - 1
