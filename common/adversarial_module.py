"""What all modules share that hold a generator and a discriminator."""

from collections.abc import Callable, Hashable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from common.adaptive_augment import AdaptiveProbability
from common.data.datasets import Batch
from common.optimizers import adam
from common.step_graphs import StepGraphs

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
        self._graphs = StepGraphs()

    def on_train_start(self) -> None:
        """Begins without graphs: each of them holds addresses of tensors of its own training."""
        alone = self.device.type == "cuda" and self.trainer.world_size == 1
        self._graphs = StepGraphs(self.trainer.hardware.cuda_graphs and alone)

    def on_train_end(self) -> None:
        """Lets go of the graphs, which cannot be copied with the module."""
        self._graphs = StepGraphs()

    def on_validation_model_zero_grad(self) -> None:
        """Gradients that graphs add to stay where they are; a replayed step zeroes them itself."""
        if not self._graphs.enabled:
            super().on_validation_model_zero_grad()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for generator and discriminator, in this order."""
        betas = (self.hparams.beta1, self.hparams.beta2)
        fused = self.trainer.hardware.fused_optimizer
        return [
            adam(self.generator.parameters(), self.hparams.g_lr, betas, fused),
            adam(self.discriminator.parameters(), self.hparams.d_lr, betas, fused),
        ]

    def learn(
        self,
        optimizer: Any,
        kind: Hashable,
        terms_of: Callable[..., dict[str, Tensor]],
        *inputs: Tensor,
        loss: str,
        clip_norm: float = 0.0,
    ) -> dict[str, Tensor]:
        """One step of one optimizer; with ``hardware.cuda_graphs`` its passes may be replayed.

        Args:
            optimizer: of `optimizers`.
            kind: whatever decides what ``terms_of`` does, besides ``inputs``; see `StepGraphs`.
            terms_of: what is logged, by name.
            inputs: its arguments.
            loss: name of the term that is minimised.
            clip_norm: to which the norm of the gradient is cut; 0 cuts nothing.
        """

        def passes(*tensors: Tensor) -> dict[str, Tensor]:
            # Gradients that graphs share stay where they are.
            optimizer.zero_grad(set_to_none=not self._graphs.enabled)
            terms = terms_of(*tensors)
            self.manual_backward(terms[loss])
            return {name: value.detach() for name, value in terms.items()}

        terms = self._graphs((loss, kind), passes, *inputs)
        if clip_norm:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, clip_norm * self._loss_scale())
        optimizer.step()
        return terms

    def probability(self) -> Tensor:
        """Of augmentation now, a tensor of no dimension."""
        fixed = self.hparams.augment_prob
        # A copy: the buffer changes in place while a graph may hold it.
        adaptive = self.adaptive.probability.clone()
        return adaptive if fixed == ADAPTIVE else torch.full_like(adaptive, fixed)

    def step_number(self, batch: Batch) -> int:
        """Of the step with this batch, counted from 0 by images: a resumed run has the same."""
        return self.trainer.images_seen // (len(batch["image"]) * self.trainer.world_size) - 1

    def _loss_scale(self) -> float:
        """By what gradients are too large, until the optimizer steps, for half precision's sake."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return scaler.get_scale() if scaler else 1.0
