"""Signals and lost loader processes, held back until a run can be saved whole.

In the middle of a training step a model is neither what it was nor what it will be. The only place
where a run waits between two steps is the wait for the next batch, so that is where a signal or
the death of a loader process becomes an exception: the state of that moment is worth saving.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_PR_SET_PDEATHSIG = 1
# make passes on a signal that the whole process group has received already.
_ECHO_S = 0.25
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """A signal that ends the command; no ``except Exception`` may swallow it.

    Args:
        signum: of the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.kept = ""

    @property
    def code(self) -> int:
        """What a shell calls a process that the signal has ended: 130 or 143."""
        return 128 + self.signum


class Interrupts:
    """What the process does with SIGINT, SIGTERM and SIGCHLD; there is one, `interrupts`.

    Attributes:
        pending: signal that was received, None before.
        clean: exception that was raised in `waiting`, when all steps were complete.
        is_first_rank: other ranks go on until the first one, which saves, is gone; if they stopped
            earlier they would break its step.
        step_complete: false while the gradients of several batches are added up.
    """

    def __init__(self) -> None:
        self.pending: int | None = None
        self.clean: BaseException | None = None
        self.is_first_rank = self.step_complete = True
        self._deferring = self._waiting = self._child_died = False
        self._child_handler: Any = None
        self._since = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes over both signals: outside of training they raise `Stopped` at once."""
        self.pending = self.clean = None
        self.is_first_rank = self.step_complete = True
        self._deferring = False
        before = self._take_over()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def defer(self) -> None:
        """From now on they wait for `waiting`."""
        self._deferring = True
        self._take_over()

    def release(self) -> None:
        """Training is over: they raise at once again."""
        self._deferring = False

    def defer_lost_children(self) -> None:
        """Takes over torch's SIGCHLD handler, which raises wherever the step happens to be."""
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler) and handler != self._on_child:
            self._child_handler = handler
            signal.signal(signal.SIGCHLD, self._on_child)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around the wait for a batch.

        Raises:
            Stopped: a signal came before or comes meanwhile.
        """
        try:
            self._waiting = True
            self._raise_pending()
            yield
        except StopIteration:
            raise
        except BaseException as error:
            self.clean = error if self.step_complete else None
            raise
        finally:
            self._waiting = False

    def raise_lost_child(self) -> None:
        """Lets torch look after its loader processes, if one has died since the last wait.

        Raises:
            RuntimeError: from torch.
        """
        if self._child_died:
            self._on_child(signal.SIGCHLD, None)

    def _take_over(self) -> dict[int, Any]:
        # Python lets no other thread do that.
        if threading.current_thread() is not threading.main_thread():
            return {}
        return {number: signal.signal(number, self._on_signal) for number in _SIGNALS}

    def _raise_pending(self) -> None:
        if self.pending is not None and self.is_first_rank and self.step_complete:
            stop = Stopped(self.pending)
            # Here and not in `waiting` alone: the signal may come just as that is left.
            self.clean = stop if self._waiting else None
            self._waiting = False
            raise stop

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.pending is not None:
            again = time.monotonic() - self._since > _ECHO_S
            # Other ranks end with the first one.
            if again and self.is_first_rank:
                os._exit(128 + signum)
            return
        self.pending, self._since = signum, time.monotonic()
        if self._waiting or not self._deferring:
            self._raise_pending()
        else:
            name = signal.Signals(signum).name
            # Not print: this may have interrupted one.
            os.write(2, f"{name}: finishing the step; once more ends it at once\n".encode())

    def _on_child(self, signum: int, frame: FrameType | None) -> None:
        self._child_died = not self._waiting
        if self._waiting:
            self._child_handler(signum, frame)


interrupts = Interrupts()


def die_with_parent() -> None:
    """Asks Linux to kill this process when the one that started it is gone; else nothing."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
