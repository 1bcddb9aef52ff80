"""The processes of one distributed run: what the others do when one of them is lost."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytorch_lightning as pl
import torch.distributed
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies.launchers import subprocess_script
from torch.distributed import distributed_c10d

from common.errors import Exit, UserError
from common.interrupts import Stopped, interrupts

# How gloo, NCCL and torch's store say that a connection is gone.
_LOST_CONTACT = re.compile(
    r"gloo|nccl|connection|socket|timed? ?out|(?<!re)store\b|broken pipe", re.IGNORECASE
)


class RankTimeout(Callback):
    """Lets no collective call wait for a rank that hangs: the default is half an hour.

    Args:
        timeout_s: longest wait.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Once the ranks have found each other."""
        if torch.distributed.is_initialized():
            distributed_c10d._set_pg_timeout(timedelta(seconds=self.timeout_s))


def watch_ranks_ourselves() -> None:
    """Lightning's own watcher kills this process too, before it has said a word."""
    subprocess_script._launch_process_observer = lambda processes: None


def lost_rank(trainer: pl.Trainer) -> int | None:
    """A rank started by this process that has ended with an error."""
    processes = getattr(trainer.strategy.launcher, "procs", ())
    return next((k for k, process in enumerate(processes, 1) if process.poll()), None)


@contextmanager
def lost_ranks(trainer: pl.Trainer) -> Iterator[None]:
    """Says of a broken connection that another rank is the cause.

    Raises:
        UserError: instead of what the connection's library raises.
        Stopped: the same, where a signal to all of them explains it.
    """
    try:
        yield
    except RuntimeError as error:
        if trainer.world_size < 2 or not _LOST_CONTACT.search(str(error)):
            raise
        if interrupts.pending is not None:
            raise Stopped(interrupts.pending) from error
        raise UserError(
            Exit.LOST,
            f"rank {trainer.global_rank}",
            "another rank has ended or does not answer",
            "see the first error above, then go on with --resume true; a longer "
            "--guard.rank_timeout_s if the first rank was only slow (preview, saving)",
            "the last checkpoint is kept",
        ) from error
