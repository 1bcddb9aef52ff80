"""What is done to victims: faults at a named moment, deterministic wherever that is possible.

Every function here is called in the victim before its command line. Names of functions to watch
read ``module:name`` or ``module:Class.name``.
"""

import ctypes
import functools
import importlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import Exit, UserError
from faults import Call

# Calls of Lightning's strategy, the same for automatic and for manual optimization.
TRAINING_STEP = "pytorch_lightning.strategies.strategy:Strategy.training_step"
VALIDATION_STEP = "pytorch_lightning.strategies.strategy:Strategy.validation_step"
OPTIMIZER_STEP = "pytorch_lightning.core.optimizer:LightningOptimizer.step"
_READING = "common.data.datasets:PackedDataset._view"
SAVING = "common.runs.checkpoints:DurableCheckpointIO.save_checkpoint"


def on_call(function: str, nth: int, do: Sequence[Call], after: bool = False) -> None:
    """Does something at the ``nth`` call (from 1) of a function in each process."""

    def watch(original: Callable) -> Callable:
        count = 0

        @functools.wraps(original)
        def watched(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            now = count == nth
            if now and not after:
                _do(do)
            result = original(*args, **kwargs)
            if now and after:
                _do(do)
            return result

        return watched

    replace_function(function, watch)


def on_reading(index: int, epoch: int, do: Sequence[Call], split: str = "train") -> None:
    """Does something while image ``index`` is read in that epoch, in whichever process reads."""

    def watch(original: Callable) -> Callable:
        def watched(data: Any, now: int, which: int) -> Any:
            if (which, now, data.path.stem) == (index, epoch, split):
                _do(do)
            return original(data, now, which)

        return watched

    replace_function(_READING, watch)


def send(number: int, to: str = "self", times: int = 1) -> None:
    """Sends a signal to this process, its parent or its whole group, as often as asked."""
    for k in range(times):
        # Sooner would be taken for an echo.
        time.sleep(0.3 * bool(k))
        if to == "group":
            os.killpg(0, number)
        else:
            os.kill(os.getppid() if to == "parent" else os.getpid(), number)


def sleep(seconds: float) -> None:
    """Waits on, whatever signal comes."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(left)


def kill_workers() -> None:
    """Of the training, while they wait for the next epoch."""
    for process in multiprocessing.active_children()[:2]:
        process.kill()


def touch(path: str) -> None:
    Path(path).touch()


def wait_for(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.01)


def put_temporary_files_in(path: str) -> None:
    """There and nowhere else; TMPDIR alone is passed over where it cannot be written to."""
    tempfile.tempdir = path


def remove_tree(path: str) -> None:
    shutil.rmtree(path)


def put_file_in_place_of(path: str) -> None:
    """The folder is kept beside it."""
    Path(path).rename(f"{path}-kept")
    touch(path)


def leave(code: int) -> None:
    """Ends the process without a word."""
    os._exit(code)


def leave_a_child(path: str) -> None:
    """Starts a process that nobody waits for."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    touch(path)


def fail(error: str, text: str) -> None:
    """Raises, for instance ``builtins:ValueError``."""
    module, name = error.split(":")
    raise getattr(importlib.import_module(module), name)(text)


def refuse_file(name: str) -> None:
    raise UserError(Exit.INPUT, name, "cannot be read", "replace it")


def in_rank(rank: int, do: Sequence[Call]) -> None:
    """Does something in one rank only; the first has no rank in its environment at its start."""
    if int(os.environ.get("LOCAL_RANK", 0)) == rank:
        _do(do)


def limit_files(size: int) -> None:
    """The kernel refuses files above ``size`` bytes, as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def limit_memory(extra: int) -> None:
    """The kernel refuses more than ``extra`` bytes of address space beyond what is in use."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + extra
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def devour_memory() -> None:
    """Asks for more than there is; only meant behind `limit_memory`."""
    assert resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    held = []
    while True:
        held.append(bytearray(1 << 26))


def become_ordinary() -> None:
    """Root may write where the mode forbids it; without its capabilities it may not."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    none = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")


def change_mode(path: str, mode: int) -> None:
    Path(path).chmod(mode)


def record_generators(path: str) -> None:
    """Leaves digests of the generators of torch, NumPy and Python at the end of training."""
    from outcome import digest

    def record(*args: Any) -> None:
        name, keys, *rest = np.random.get_state()
        states = {"torch": torch.get_rng_state(), "numpy": [name, keys.tolist(), *rest]}
        states["python"] = random.getstate()
        Path(path).write_text(json.dumps({key: digest(value) for key, value in states.items()}))

    def watch(original: Callable) -> Callable:
        def watched(*args: Any, **kwargs: Any) -> Any:
            record()
            return original(*args, **kwargs)

        return watched

    replace_function("pytorch_lightning.loops.fit_loop:_FitLoop.on_run_end", watch)


def poison_images(nth: int, split: str = "training") -> None:
    """One pixel of the ``nth`` batch of training or validation is NaN."""
    count = 0

    def watch(original: Callable) -> Callable:
        def watched(data: Any, batch: Any, index: int) -> Any:
            nonlocal count
            batch = original(data, batch, index)
            count += getattr(data.trainer, split)
            if getattr(data.trainer, split) and count == nth:
                batch["image"][0, 0, 0, 0] = float("nan")
                batch["mask"][0, 0, 0, 0] = 1.0
            return batch

        return watched

    replace_function("common.data.datamodule:ImageDataModule.on_after_batch_transfer", watch)


def poison_gradients(nth: int) -> None:
    """A gradient is infinite at the ``nth`` step of an optimizer or the one after."""
    _after_backward(nth, lambda parameter: parameter.grad, float("inf"))


def poison_weights(nth: int) -> None:
    """A weight is NaN at that step, while loss and gradient are finite."""
    _after_backward(nth, lambda parameter: parameter.data, float("nan"))


def _after_backward(nth: int, part: Callable, value: float) -> None:
    """Automatic optimization computes gradients within the step, manual optimization before it."""
    count = 0

    def poison(parameter: torch.nn.Parameter) -> None:
        poisoned = part(parameter)
        poisoned[(0,) * poisoned.ndim] = value

    def watch(original: Callable) -> Callable:
        def watched(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == nth:
                first = optimizer.param_groups[0]["params"][0]
                first.register_post_accumulate_grad_hook(poison)
            return original(optimizer, *args, **kwargs)

        return watched

    replace_function(OPTIMIZER_STEP, watch)


def _do(calls: Sequence[Call]) -> None:
    for one in calls:
        one()


def replace_function(function: str, make: Callable[[Callable], Callable]) -> None:
    """Puts what ``make`` makes of it in the place of ``module:name``."""
    module, name = function.split(":")
    *owners, name = name.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    setattr(owner, name, make(getattr(owner, name)))


def spoil_checkpoints() -> None:
    """Checkpoints hold something that can be written, but not be read back safely."""

    def watch(original: Callable) -> Callable:
        def watched(io: Any, checkpoint: dict, *args: Any, **kwargs: Any) -> None:
            original(io, checkpoint | {"spoilt": Path()}, *args, **kwargs)

        return watched

    replace_function(SAVING, watch)


def lazy_regularisation(every: int) -> None:
    """Shrinks the weights at every so manieth batch of an epoch, as lazy penalties come and go."""

    def watch(original: Callable) -> Callable:
        def watched(strategy: Any, batch: Any, index: int, *args: Any, **kwargs: Any) -> Any:
            if index % every == every - 1:
                with torch.no_grad():
                    for parameter in strategy.lightning_module.parameters():
                        parameter.mul_(0.99)
            return original(strategy, batch, index, *args, **kwargs)

        return watched

    replace_function(TRAINING_STEP, watch)
