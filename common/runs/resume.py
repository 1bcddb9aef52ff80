"""What makes a resumed run equal to one that never stopped."""

import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.core.optimizer import _init_optimizers_and_lr_schedulers


class SeededSteps(Callback):
    """Makes all randomness of a step a function of (seed, images seen, rank).

    A resumed run then draws what it would have drawn, with no generator state to store, and the
    ranks of a run draw different noise, which one common seed would not give them. All validations
    of a run draw the same, so that they differ by the weights alone.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: pl.Trainer, *args: object) -> None:
        """Seeds the generators of torch (all devices), NumPy and Python."""
        self._seed(trainer.images_seen, trainer.global_rank, 0)

    def on_validation_start(self, trainer: pl.Trainer, *args: object) -> None:
        """The same ones, whatever was trained on before."""
        self._seed(0, trainer.global_rank, 1)

    def _seed(self, images_seen: int, rank: int, purpose: int) -> None:
        key = np.random.SeedSequence([self.seed, images_seen, rank, purpose])
        drawn = key.generate_state(3, np.uint32).tolist()
        torch.manual_seed(drawn[0])
        np.random.seed(drawn[1])
        random.seed(drawn[2])


class CarriedNumbers(Callback):
    """Saves the newest of each number that steps log, also of those that few steps compute.

    Lightning logs a number again until the same epoch computes it anew, or the history would lack
    a penalty whose steps are never those that are logged. It does not save it, so that a run that
    is resumed between two such steps would log none.
    """

    def __init__(self) -> None:
        self._carried: dict[str, float] = {}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds them as ``carried``."""
        found = trainer.fit_loop.epoch_loop._results.metrics(on_step=True)["log"]
        checkpoint["carried"] = {name: float(value) for name, value in found.items()}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keeps them for the first step; older checkpoints have none."""
        self._carried = checkpoint.get("carried", {})

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Logs them as if the epoch had not been interrupted; a new one begins without any."""
        if batch_idx:
            pl_module.log_dict(self._carried)
        self._carried = {}


class TypedSettingsWin(Callback):
    """Takes optimizer settings from this start's configuration, not from the checkpoint."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Overwrites what was loaded; the rate of a scheduled optimizer stays its scheduler's."""
        if trainer.ckpt_path is None:
            return
        fresh, *_ = _init_optimizers_and_lr_schedulers(pl_module)
        kept = {"params", "lr", "initial_lr"} if trainer.lr_scheduler_configs else {"params"}
        for loaded, configured in zip(trainer.optimizers, fresh, strict=True):
            for old, new in zip(loaded.param_groups, configured.param_groups, strict=True):
                old.update({key: value for key, value in new.items() if key not in kept})
