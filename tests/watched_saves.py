"""Saves whose every request to the operating system is seen, and may be the last."""

import functools
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

from common.runs.checkpoints import DurableCheckpointIO
from common.runs.saving import LastCheckpoint
from common.storage import sweep_partial_files
from sabotage import replace_function


class Event(NamedTuple):
    """Something that a save asks of the operating system."""

    what: str
    file: str
    size: int = 0

    @property
    def on_unfinished(self) -> bool:
        """Whether it concerns what is to become `last.ckpt`."""
        return re.fullmatch(r"\.last\.ckpt\.[0-9a-f]{8}\.part", self.file) is not None


def watch_saves(folder: str, log: str = "", kill_at: int = 0, share: float = 0.0) -> None:
    """Sees everything that is done to files below ``folder``.

    Args:
        folder: of the checkpoints.
        log: file that receives one line of JSON an event.
        kill_at: number (from 1) of the event before which the process dies.
        share: of a write's bytes that reach the disk before it dies.
    """
    count = 0

    def event(what: str, path: Any, data: bytes = b"", stream: Any = None) -> None:
        nonlocal count
        path = Path(path).absolute()
        if not path.is_relative_to(folder):
            return
        count += 1
        if log:
            with os.fdopen(os.open(log, os.O_APPEND | os.O_CREAT | os.O_WRONLY), "w") as lines:
                lines.write(json.dumps(Event(what, path.name, len(data))) + "\n")
        if count == kill_at:
            if share:
                stream.write(data[: max(1, int(share * len(data)))])
                stream.flush()
            os.kill(os.getpid(), signal.SIGKILL)

    _watch_opening(event)
    for name in ("replace", "rename", "link", "unlink", "remove"):
        replace_function(f"os:{name}", functools.partial(_watched_call, name, event))
    replace_function("os:fsync", functools.partial(_watched_fsync, event))


def save_epochs(folder: str, count: int, first: int = 1) -> None:
    """Saves ``count`` small checkpoints as a run does that starts, and ends so many epochs."""
    sweep_partial_files(Path(folder))
    callback = LastCheckpoint()
    callback.path = Path(folder) / "last.ckpt"
    for epoch in range(first, first + count):
        images = 100 * epoch
        weights = torch.full((50_000,), float(epoch))
        checkpoint = {
            "state_dict": {"weight": weights},
            "hyper_parameters": {},
            "callbacks": {"ImagesSeen": {"count": images}},
            "loops": {"fit_loop": {"epoch_loop.batch_progress": {"current": {"processed": 0}}}},
            "epoch": epoch,
            "optimizer_states": [],
        }
        trainer = SimpleNamespace(
            current_epoch=epoch,
            images_seen=images,
            max_epochs=-1,
            max_steps=-1,
            global_step=images,
            should_stop=False,
            is_global_zero=True,
            save_checkpoint=functools.partial(DurableCheckpointIO().save_checkpoint, checkpoint),
        )
        callback.on_train_epoch_end(trainer, None)


class _Stream:
    """A file that tells what is done to it."""

    def __init__(self, stream: Any, path: Any, event: Callable) -> None:
        self._stream, self._path, self._event = stream, path, event

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *args: object) -> None:
        self._stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, data: Any) -> int:
        self._event("write", self._path, data, self._stream)
        return self._stream.write(data)

    def flush(self) -> None:
        self._event("flush", self._path)
        self._stream.flush()


def _watch_opening(event: Callable) -> None:
    def watch(original: Callable) -> Callable:
        def opened(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if "r" in mode or isinstance(path, int):
                return original(path, mode, *args, **kwargs)
            event("open", path)
            return _Stream(original(path, mode, *args, **kwargs), path, event)

        return opened

    for name in ("io:open", "builtins:open"):
        replace_function(name, watch)


def _watched_call(name: str, event: Callable, original: Callable) -> Callable:
    def watched(path: Any, *args: Any, **kwargs: Any) -> Any:
        event(name, path)
        return original(path, *args, **kwargs)

    return watched


def _watched_fsync(event: Callable, original: Callable) -> Callable:
    def watched(fd: int) -> None:
        event("fsync", Path(f"/proc/self/fd/{fd}").readlink())
        original(fd)

    return watched
