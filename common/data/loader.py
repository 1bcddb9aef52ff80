"""The loader of batches: interruptible while it waits, and able to name the file it waits for."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._C import _remove_worker_pids
from torch.utils.data import DataLoader

from common.errors import Exit, UserError, quoted_error
from common.interrupts import Stopped, die_with_parent, interrupts

IDLE = -1
# A killed process may have to wait for a disk before it is gone.
_END_S = 5
# How the last line of an error from a loader process begins, which has gone on with other files.
WHILE_READING = "while reading "


class BatchLoader(DataLoader):
    """torch's loader; what goes wrong while a batch is awaited comes with the names of its files.

    The data set has ``samples`` with a ``name`` each, and ``reading``: one shared integer a loader
    process, in which that process notes the index it works on.
    """

    def __iter__(self) -> Iterator[Any]:
        if self.num_workers and self.dataset.reading is None:
            self.dataset.reading = torch.full((self.num_workers,), IDLE).share_memory_()
        batches: Iterator[Any]
        try:
            # Loader processes that live on from the epoch before have to answer here.
            with self.waiting():
                batches = super().__iter__()
        except (Stopped, UserError) as error:
            # Lightning cannot clean up after a loader that gave it no iterator.
            batches = _raising(error)
        interrupts.defer_lost_children()
        return _Batches(self, batches)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around every wait for the loader processes.

        Raises:
            UserError: one of them was lost or hangs, or could not use a file.
            Stopped: a signal.
        """
        with interrupts.waiting():
            try:
                interrupts.raise_lost_child()
                yield
            except StopIteration:
                raise
            except Exception as error:
                if not self.num_workers:
                    raise
                raise quoted_error(str(error)) or self._lost(error) from error

    def stop_workers(self) -> None:
        """Ends the loader processes, also those that hang; the next epoch would start others."""
        iterator, self._iterator = self._iterator, None
        if iterator is None:
            return
        _remove_worker_pids(id(iterator))
        for worker in iterator._workers:
            worker.kill()
        for worker in iterator._workers:
            worker.join(_END_S)
        # Left to itself torch would ask them to end, now or when Python exits, and wait for ever
        # for the lock of that request where one was killed while it held it.
        iterator._worker_pids_set, iterator._shutdown = False, True
        if hasattr(iterator, "_pin_memory_thread_done_event"):
            iterator._pin_memory_thread_done_event.set()

    def names_being_read(self) -> list[str]:
        """Files that the loader processes had not finished."""
        indices = set(self.dataset.reading.tolist()) - {IDLE}
        return [self.dataset.samples[index].name for index in sorted(indices)]

    def _lost(self, error: Exception) -> UserError:
        names, lines = self.names_being_read(), str(error).strip().splitlines()
        if lines and lines[-1].startswith(WHILE_READING):
            names = [lines.pop().removeprefix(WHILE_READING)]
        return UserError(
            Exit.LOST,
            ", ".join(names[:3]) or "loader",
            "a loader process was lost or hangs while reading it "
            f"({lines[-1] if lines else 'no reason given'})",
            "look at the file and at the memory of the machine, or lower --data.num_workers",
        )


class _Batches(Iterator[Any]):
    def __init__(self, loader: BatchLoader, batches: Iterator[Any]) -> None:
        self.loader = loader
        self.batches = batches

    def __next__(self) -> Any:
        with self.loader.waiting():
            return next(self.batches)


def _raising(error: BaseException) -> Iterator[Any]:
    raise error
    yield


def start_worker(worker: int) -> None:
    """To be called first in a loader process: signals are the main process's business."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()
