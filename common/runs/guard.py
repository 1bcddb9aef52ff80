"""Stops a training that has become worthless."""

import math

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from common.errors import Exit, UserError


class FiniteGuard(Callback):
    """Ends the run when a validation metric is no finite number, before anything is saved."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Checkpoint callbacks come after this one.

        Raises:
            UserError: names the metrics.
        """
        bad = [k for k, v in trainer.callback_metrics.items() if not math.isfinite(float(v))]
        if bad:
            raise UserError(
                Exit.NON_FINITE,
                ", ".join(sorted(bad)),
                f"not finite after {trainer.images_seen} images, epoch {trainer.current_epoch + 1}",
                "lower the learning rate",
                "the checkpoints of the epoch before are kept",
            )
