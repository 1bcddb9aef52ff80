"""Stops a training that has become worthless, or that does nothing any more."""

import faulthandler
import os
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jsonargparse.typing import PositiveFloat
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from common.errors import TRACEBACK_IN, Exit, UserError, relative
from common.runs.ranks import lost_rank

_SHOWN = 3
# For a rank that has lost contact with another one to say so itself.
_LAST_WORDS_S = 5.0


@dataclass(frozen=True)
class Guard:
    """What watches over a training.

    Attributes:
        finite: look at loss, gradients and weights before each optimizer step.
        step_timeout_s: the run ends when nothing has moved on for so long.
        loader_timeout_s: the same for a loader process that is waited for.
        rank_timeout_s: the same for the other ranks of a run.
    """

    finite: bool = True
    step_timeout_s: PositiveFloat = 1800.0
    loader_timeout_s: PositiveFloat = 300.0
    rank_timeout_s: PositiveFloat = 120.0


class FiniteGuard(Callback):
    """Ends the run before a step with a loss, gradient or weight that is NaN or Inf.

    With a gradient scaler (float16) infinite gradients are the scaler's business.

    Args:
        enabled: else nothing is looked at.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._names: list[str] = []
        self._losses: list[Tensor] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remembers the files of the batch."""
        self._names = list(batch.get("name", ()))

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        """Remembers the loss: the device is waited for only once a step."""
        if self.enabled:
            self._losses.append(loss.detach())

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Looks at what this optimizer is about to change, and by what.

        Raises:
            UserError: names step, loss terms, learning rates and files.
        """
        if not self.enabled:
            return
        weights = [w for group in optimizer.param_groups for w in group["params"]]
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        gradients = [] if scaled else [w.grad for w in weights if w.grad is not None]
        values = {"a weight": weights, "the loss": self._losses, "a gradient": gradients}
        if not all_finite([tensor for tensors in values.values() for tensor in tensors]):
            # A weight of the other network spoils this one's loss.
            values["a weight"] = list(pl_module.parameters())
            bad = [what for what, tensors in values.items() if not all_finite(tensors)]
            raise self._error(trainer, bad[0])
        self._losses = []

    def _error(self, trainer: pl.Trainer, what: str) -> UserError:
        terms = {k: float(v) for k, v in trainer.callback_metrics.items() if k[:5] == "train"}
        shown = ", ".join(f"{name} {value:.4g}" for name, value in sorted(terms.items()))
        rates = ", ".join(f"{g['lr']:.3g}" for o in trainer.optimizers for g in o.param_groups)
        batch = trainer.fit_loop.epoch_loop.batch_idx + 1
        names = ", ".join(self._names[:_SHOWN])
        more = f" and {len(self._names) - _SHOWN} more" if len(self._names) > _SHOWN else ""
        return UserError(
            Exit.NON_FINITE,
            f"epoch {trainer.current_epoch + 1}, step {batch}, {trainer.images_seen} images",
            f"{what} is NaN or Inf ({shown or 'no terms logged'}; learning rate {rates}; "
            f"batch: {names}{more})",
            "look at these files and lower the learning rate, then go on with --resume true",
            "nothing was saved and the last checkpoint is kept",
        )


def all_finite(tensors: list[Tensor]) -> bool:
    """Whether no value is NaN or Inf; one pass over the memory, one answer from the device."""
    if not tensors:
        return True
    values = [tensor.detach() for tensor in tensors]
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(values)])
    # A norm hides no NaN, but may overflow where the values do not.
    return bool(torch.isfinite(norms).all()) or all(bool(v.isfinite().all()) for v in values)


class RunLog(Callback):
    """Writes the traceback of what ends a run into its log: a terminal gets one sentence.

    Args:
        path: of the log.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Appends it, with time and rank."""
        with suppress(OSError), self.path.open("a", encoding="utf-8") as stream:
            print(f"{datetime.now():%F %T} rank {trainer.global_rank}", file=stream)
            traceback.print_exception(exception, file=stream)
            exception.add_note(f"{TRACEBACK_IN}{relative(self.path)}")


class Watchdog(Callback):
    """Ends the process when nothing has moved on for too long; a hung rank cannot end itself.

    Args:
        timeout_s: longest time between two batches, validation and saving included.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._last = time.monotonic()
        self._where = "start"
        self._done = threading.Event()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Starts to watch."""
        self._moved("set-up")
        watch = threading.Thread(target=self._watch, args=(trainer,), daemon=True)
        watch.start()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The run is over."""
        self.stop()

    def stop(self) -> None:
        """Stops watching; after a failure, which Lightning does not call `teardown` for."""
        self._done.set()

    def on_exception(self, *args: Any) -> None:
        """The run ends by itself, unless that hangs as well."""
        self._moved("end")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """A step was done."""
        self._moved(f"the step after {trainer.images_seen} images")

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """A batch was validated."""
        self._moved(f"validation after {trainer.images_seen} images")

    def _moved(self, where: str) -> None:
        self._last, self._where = time.monotonic(), where

    def _watch(self, trainer: pl.Trainer) -> None:
        while not self._done.wait(min(1.0, self.timeout_s / 4)):
            silent = time.monotonic() - self._last
            if silent > self.timeout_s:
                problem = f"nothing has moved on for {silent:.0f} s since {self._where}"
                longer = "a longer --guard.step_timeout_s if this was just slow"
                self._give_up(trainer, f"rank {trainer.global_rank}", problem, f"; {longer}")
            lost = lost_rank(trainer)
            # It mostly breaks a connection, which says more.
            if lost is not None and not self._done.wait(_LAST_WORDS_S):
                self._give_up(trainer, f"rank {lost}", "has ended")

    def _give_up(self, trainer: pl.Trainer, subject: str, problem: str, more: str = "") -> None:
        remedy = f"see the first error above, if any, then go on with --resume true{more}"
        error = UserError(Exit.LOST, subject, problem, remedy, "the last checkpoint is kept")
        print(error, file=sys.stderr, flush=True)
        with suppress(OSError), trainer.folder.log.open("a", encoding="utf-8") as stream:
            faulthandler.dump_traceback(stream)
        for process in getattr(trainer.strategy.launcher, "procs", ()):
            process.kill()
        os._exit(int(Exit.LOST))
