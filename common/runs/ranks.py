"""The processes of one distributed run: what the others do when one of them is lost."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytorch_lightning as pl
import torch.distributed
from pytorch_lightning.callbacks import Callback
from torch.distributed import distributed_c10d

from common.errors import Exit, UserError
from common.interrupts import Stopped, interrupts

# Ranks find each other after their imports, which a busy machine stretches.
START_TIMEOUT = timedelta(seconds=300)
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
            "see the first error above, then go on with --resume true",
            "the last checkpoint is kept",
        ) from error
