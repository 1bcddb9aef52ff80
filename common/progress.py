"""Progress in images, with rate and remaining time."""

import sys
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

# In a log file a line every ten seconds is enough; a terminal is redrawn.
_LOG_INTERVAL_S = 10.0
_FORMAT = "{desc}: {n_fmt}/{total_fmt}{unit} [{elapsed}<{remaining}, {rate_fmt}]{postfix}"


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
        self._open("training", _planned(trainer), trainer.images_seen)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Moves on."""
        # The last batch may reach beyond the budget.
        self._bar.total = self._bar.total and max(self._bar.total, trainer.images_seen)
        self._bar.update(trainer.images_seen - self._bar.n)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Shows the validation loss."""
        loss = trainer.callback_metrics.get("val/loss")
        if self._bar is not None and loss is not None:
            self._bar.set_postfix_str(f"val/loss {float(loss):.4f}", refresh=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the last state."""
        self._close()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the bar over the planned images."""
        self._open("generating", len(trainer.datamodule.plan), 0)

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *args: Any
    ) -> None:
        """Moves on, by what all ranks did."""
        left = self._bar.total - self._bar.n
        self._bar.update(min(left, len(outputs["name"]) * trainer.world_size))

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the last state."""
        self._close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Leaves the terminal on a fresh line for the message."""
        self._close()

    def _open(self, name: str, total: int | None, initial: int) -> None:
        self._bar = images_bar(name, total, initial, self._enabled)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def images_bar(
    name: str, total: int | None, initial: int = 0, shown: bool = True, unit: str = "images"
) -> tqdm:
    """A bar in images or the like, redrawn in a terminal and a line every ten seconds elsewhere."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=initial,
        desc=name,
        unit=f" {unit}",
        disable=not shown,
        mininterval=0.5 if terminal else _LOG_INTERVAL_S,
        maxinterval=60,
        bar_format=_FORMAT,
        file=sys.stderr if terminal else _Lines(),
    )


class _Lines:
    """Whole lines instead of carriage returns."""

    def write(self, text: str) -> None:
        text = text.strip("\r\n")
        if text:
            print(text, file=sys.stderr, flush=True)

    def flush(self) -> None:
        sys.stderr.flush()


def _planned(trainer: pl.Trainer) -> int | None:
    batch = trainer.datamodule.batch_size * trainer.world_size
    by_epochs = trainer.max_epochs * trainer.num_training_batches * batch
    limits = [limit for limit in (trainer.image_budget, by_epochs) if limit > 0]
    return int(min(limits)) if limits else None
