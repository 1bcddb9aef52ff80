"""Progress in images, with rate and remaining time."""

import sys
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

# In a log file a line every ten seconds is enough; a terminal is redrawn.
_LOG_INTERVAL_S = 10.0


class ImagesProgress(ProgressBar):
    """One bar over the whole run instead of one an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm | None = None
        self._enabled = True

    def enable(self) -> None:
        """Shows the bar."""
        self._enabled = True

    def disable(self) -> None:
        """Hides it; Lightning calls this on all ranks but the first."""
        self._enabled = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the bar at the images of the checkpoint."""
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=self._total(trainer),
            initial=trainer.images_seen,
            desc="training",
            unit="img",
            unit_scale=True,
            disable=not self._enabled,
            mininterval=0.5 if terminal else _LOG_INTERVAL_S,
            maxinterval=60,
            bar_format="{desc}: {n_fmt}/{total_fmt} images [{elapsed}<{remaining}, {rate_fmt}]{postfix}",
            file=sys.stderr if terminal else _Lines(),
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Moves on."""
        self._bar.update(trainer.images_seen - self._bar.n)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Shows the validation loss."""
        loss = trainer.callback_metrics.get("val/loss")
        if self._bar is not None and loss is not None:
            self._bar.set_postfix_str(f"val/loss {float(loss):.4f}", refresh=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the last state."""
        self._bar.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leaves the terminal on a fresh line for the message."""
        if self._bar is not None:
            self._bar.close()

    def _total(self, trainer: pl.Trainer) -> int | None:
        per_epoch = trainer.num_training_batches * trainer.datamodule.batch_size
        by_epochs = trainer.max_epochs * per_epoch * trainer.world_size
        limits = [n for n in (trainer.image_budget, by_epochs) if n > 0]
        return int(min(limits)) if limits else None


class _Lines:
    """Whole lines instead of carriage returns."""

    def write(self, text: str) -> None:
        text = text.strip("\r\n")
        if text:
            print(text, file=sys.stderr, flush=True)

    def flush(self) -> None:
        sys.stderr.flush()
