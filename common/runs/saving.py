"""When a run saves what: `last.ckpt` to go on from, `best.ckpt` to generate with."""

import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jsonargparse.typing import NonNegativeInt
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

from common.errors import UserError, relative
from common.interrupts import Stopped, interrupts
from common.runs.checkpoints import load_checkpoint
from common.runs.ema import EMA

# Room for both generations and the one that is being written.
_GENERATIONS = 3


class LastCheckpoint(Checkpoint):
    """Saves `last.ckpt` at the end of epochs and of the run, and when the run is interrupted.

    What it replaces becomes `previous.ckpt`, see `DurableCheckpointIO`. The first one
    that a process writes is read back.

    Args:
        every_n_batches: saves in the middle of epochs, too; 0 only at their end.
    """

    def __init__(self, every_n_batches: NonNegativeInt = 0) -> None:
        self.every_n_batches = every_n_batches
        self.every_n_epochs = 1
        self.path = Path()
        self._saved_at = -1
        self._was_read = False
        self._warned = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A resumed run is as its checkpoint is."""
        self._saved_at = trainer.images_seen

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """A loader process that hangs would keep the run from ending."""
        _stop_workers(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Saves every so many batches, but an epoch's last batch belongs to its end."""
        batches = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        interrupts.step_complete = not trainer.fit_loop._should_accumulate()
        due = self.every_n_batches and batches % self.every_n_batches == 0
        if due and interrupts.step_complete and not trainer.is_last_batch:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves after validation and after all other callbacks of the epoch."""
        epochs = trainer.current_epoch + 1
        last = trainer.should_stop or epochs == trainer.max_epochs
        last = last or 0 < trainer.max_steps <= trainer.global_step
        if last or self.every_n_batches or epochs % self.every_n_epochs == 0:
            self._save(trainer)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Saves where the run was interrupted between two steps; waits for no other rank."""
        _stop_workers(trainer)
        whole = isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy)
        if exception is not interrupts.clean or not trainer.is_global_zero or not whole:
            return
        if trainer.images_seen > max(self._saved_at, 0) and not trainer.sanity_checking:
            if trainer.validating:
                EMA.of(trainer).restore_training_weights(pl_module)
            checkpoint = trainer._checkpoint_connector.dump_checkpoint()
            if trainer.validating:
                _repeat_validation(checkpoint)
            elif trainer.fit_loop.epoch_loop.batch_progress.current.ready == 0:
                _begin_epoch_again(trainer, checkpoint)
            trainer.strategy.save_checkpoint(checkpoint, self.path)
            self._saved_at = trainer.images_seen
        kept = f"{relative(self.path)} is current: {trainer.images_seen} images"
        if isinstance(exception, (Stopped, UserError)) and self.path.is_file():
            exception.kept = kept

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved_at = trainer.images_seen
        if trainer.is_global_zero:
            self._check()

    def _check(self) -> None:
        if not self._was_read:
            load_checkpoint(self.path, to_resume=True)
            self._was_read = True
        size = self.path.stat().st_size
        self._warned = self._warned or warn_of_small_disk(self.path.parent, size)


class BestCheckpoint(ModelCheckpoint):
    """Saves `best.ckpt`. A score that is NaN is none, and the state holds no path."""

    def on_exception(self, *args: Any) -> None:
        """Nothing: what was interrupted was not measured."""

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        """Whether ``current`` is better than what is kept."""
        if current is not None and not math.isfinite(float(current)):
            return False
        return super().check_monitor_top_k(trainer, current)

    def state_dict(self) -> dict[str, Any]:
        """The kept scores by file name."""
        scores = {Path(path).name: float(score) for path, score in self.best_k_models.items()}
        return {"scores": scores, "best": Path(self.best_model_path).name}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them, wherever the run folder is now."""
        folder = Path(self.dirpath)
        scores = {str(folder / k): torch.tensor(v) for k, v in state_dict["scores"].items()}
        self.best_k_models = scores
        self.best_model_path = str(folder / state_dict["best"]) if state_dict["best"] else ""
        if scores:
            worst = max if self.mode == "min" else min
            self.kth_best_model_path = worst(scores, key=lambda path: float(scores[path]))
            self.kth_value = scores[self.kth_best_model_path]
            self.best_model_score = scores.get(self.best_model_path)


def warn_of_small_disk(folder: Path, checkpoint_bytes: int) -> bool:
    """Says so where the disk will soon be too small, before a save fails."""
    free, needed = shutil.disk_usage(folder).free, _GENERATIONS * checkpoint_bytes
    if free < needed:
        text = f"{free >> 20} MiB are free, {needed >> 20} MiB are needed to save"
        print(f"warning: {text}", file=sys.stderr)
    return free < needed


def _stop_workers(trainer: pl.Trainer) -> None:
    if trainer.datamodule is not None:
        trainer.datamodule.stop_workers()


def _begin_epoch_again(trainer: pl.Trainer, checkpoint: dict[str, Any]) -> None:
    """Takes back the step that Lightning counts when it resumes before an epoch's first batch."""
    if trainer.fit_loop.epoch_loop._should_check_val_epoch():
        checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1


def _repeat_validation(checkpoint: dict[str, Any]) -> None:
    """Makes Lightning's loops believe that validation had begun with no batch done yet."""
    none = {"ready": 0, "started": 0, "processed": 0, "completed": 0}
    checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"] = {
        "total": none | {"ready": 1, "started": 1},
        "current": dict(none),
        "is_last_batch": False,
    }
