"""Whether the two networks are still playing."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from common.errors import Exit, UserError

# Logits of a working discriminator are a few units; a critic without a bound ran to 1e5.
WORST = 1e4


class CriticHealth(Callback):
    """Ends a training whose losses have run away, before it is saved.

    Loss and logits that are no longer finite are seen by the guard of every run.
    """

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks at the losses of the validation.

        Raises:
            UserError: one of them is beyond all reason.
        """
        for name in ("val/d_loss", "val/g_loss"):
            value = trainer.callback_metrics.get(name)
            if value is not None and abs(float(value)) > WORST:
                raise UserError(
                    Exit.NON_FINITE,
                    name,
                    f"is {float(value):.3g} after {trainer.images_seen} images: training diverged",
                    "lower --model.d_lr, raise --model.r1_weight or --model.interpolation_weight",
                    "the checkpoint before is kept",
                )
