"""Exponential moving average of the weights, in images instead of steps."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from jsonargparse.typing import NonNegativeInt, PositiveFloat
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class EMA(WeightAveraging):
    """Averages weights and buffers; the checkpoint's ``state_dict`` is the average.

    After every step average = lerp(current, average, 0.5 ** (batch images / half-life), and the
    half-life grows with the run until it reaches its value (Karras et al. 2020, Appendix B, and
    the ramp of their ADA code), so that short runs are not dominated by their first steps. What is
    no floating number, a counter for instance, is copied.

    Args:
        half_life_images: images after which a weight's share in the average has halved.
        ramp: the half-life is at most this share of the images seen so far.
    """

    def __init__(
        self, half_life_images: NonNegativeInt = 10_000, ramp: PositiveFloat = 0.05
    ) -> None:
        super().__init__(use_buffers=True, multi_avg_fn=self._lerp)
        self.half_life_images = half_life_images
        self.ramp = ramp
        self._weight = 1.0
        self._last_images = 0
        self._swapped = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Averages with the weight that belongs to the number of images seen."""
        if trainer.global_step == self._latest_update_step:
            return  # gradients are still being accumulated
        images = trainer.images_seen
        half_life = min(self.half_life_images, self.ramp * images)
        self._weight = 1 - 0.5 ** ((images - self._last_images) / max(half_life, 1e-8))
        self._last_images = images
        super().on_train_batch_end(trainer, pl_module, *args)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Continues from the number of images of the checkpoint."""
        self._last_images = trainer.images_seen

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Puts the average in place."""
        super().on_validation_epoch_start(trainer, pl_module)
        self._swapped = True

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Puts the weights in training back."""
        self.restore_training_weights(pl_module)

    def restore_training_weights(self, pl_module: pl.LightningModule) -> None:
        """Puts the weights in training back, also where a validation is left early."""
        if self._swapped:
            self._swap_models(pl_module)
            self._swapped = False

    @staticmethod
    def of(trainer: pl.Trainer) -> "EMA":
        """The one of this run."""
        return next(c for c in trainer.callbacks if isinstance(c, EMA))

    def _lerp(self, average: Sequence[Tensor], current: Sequence[Tensor], _: Tensor) -> None:
        # They come grouped by type.
        if average[0].is_floating_point():
            torch._foreach_lerp_(average, current, self._weight)
        else:
            torch._foreach_copy_(average, current)
