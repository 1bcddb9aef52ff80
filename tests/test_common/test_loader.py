import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.datasets import PackedDataset, as_batch
from common.data.loader import BatchLoader, start_worker
from common.data.manifest import Sample
from common.data.sampler import EpochSampler
from common.errors import Exit, UserError
from common.interrupts import Stopped, interrupts

COUNT, BATCH = 24, 4


class Faulty(PackedDataset):
    """Does something while one image is read."""

    bad: int = -1
    fault: Callable[[], object]

    def _view(self, epoch: int, index: int) -> dict[str, np.ndarray]:
        if index == self.bad:
            self.fault()
        return super()._view(epoch, index)


@pytest.fixture
def dataset(tmp_path: Path) -> Faulty:
    pixels = np.arange(COUNT, dtype=np.uint8).reshape(-1, 1, 1, 1) + np.zeros((8, 8), np.uint8)
    np.save(tmp_path / "train.npy", pixels)
    samples = [Sample(f"image{k:02d}.png", f"group{k}", height=8, width=8) for k in range(COUNT)]
    return Faulty(tmp_path, "train", samples, policy="d4", seed=1)


@pytest.fixture
def load(dataset: Faulty) -> Iterator[Callable[..., BatchLoader]]:
    """Makes loaders of the data set, and leaves no process behind."""
    made = []

    def make(workers: int, timeout: float = 30, shuffle: bool = False) -> BatchLoader:
        loader = BatchLoader(
            dataset,
            batch_size=BATCH,
            sampler=EpochSampler(COUNT, 3, shuffle, multiple_of=BATCH),
            num_workers=workers,
            collate_fn=as_batch,
            timeout=timeout if workers else 0,
            worker_init_fn=start_worker,
            persistent_workers=workers > 0,
        )
        made.append(loader)
        return loader

    with interrupts.listening():
        yield make
        for loader in made:
            loader.stop_workers()


def content(loader: BatchLoader) -> list[tuple[list[str], bytes]]:
    return [(batch["name"], batch["image"].numpy().tobytes()) for batch in loader]


def epochs(loader: BatchLoader, first: int, last: int) -> list[Any]:
    found = []
    for epoch in range(first, last):
        loader.sampler.set_epoch(epoch)
        found += content(loader)
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_anywhere_the_batches_are_those_of_a_run_that_never_stopped(
    load: Callable[..., BatchLoader], workers: int
) -> None:
    whole = epochs(load(0, shuffle=True), 0, 3)
    assert len({tuple(names) for names, _ in whole}) == len(whole) == 3 * COUNT // BATCH
    for done in (0, 1, 5) if workers else range(6):
        loader = load(workers, shuffle=True)
        loader.sampler.resume(1, done * BATCH)
        assert len(loader) == COUNT // BATCH, "Lightning counts the batches of whole epochs"
        assert epochs(loader, 1, 3) == whole[6 + done :]


def refused(loader: BatchLoader, batches: int = 0) -> UserError:
    """The error with which a loader ends after some good batches."""
    iterator = iter(loader)
    for _ in range(batches):
        next(iterator)
    with pytest.raises(UserError) as caught:
        while True:
            next(iterator)
    assert interrupts.clean is caught.value
    return caught.value


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    os._exit(3)


def fail() -> None:
    raise ValueError("strange pixels\nin two lines")


def fail_without_words() -> None:
    raise RuntimeError


def hang() -> None:
    time.sleep(60)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (kill, ""),
        (leave, ""),
        (fail, "in two lines"),
        (fail_without_words, "RuntimeError"),
        (hang, "timed out"),
    ],
)
def test_a_lost_loader_process_is_named_with_its_file(
    dataset: Faulty, load: Callable[..., BatchLoader], fault: Callable[[], None], reason: str
) -> None:
    dataset.bad, dataset.fault = 13, fault
    loader = load(2, timeout=1 if fault is hang else 30)
    error = refused(loader)
    assert error.code == Exit.LOST
    assert "image13.png" in error.subject
    assert reason.lower() in error.problem.lower()
    assert "--data.num_workers" in error.remedy and "\n" not in str(error)
    assert "Traceback" not in str(error)


def test_no_process_is_left_after_stopping_not_even_one_that_hangs(
    dataset: Faulty, load: Callable[..., BatchLoader]
) -> None:
    dataset.bad, dataset.fault = 6, hang
    loader = load(2, timeout=1)
    refused(loader)
    workers = loader._iterator._workers
    assert any(worker.is_alive() for worker in workers)
    loader.stop_workers()
    for worker in workers:
        worker.join(20)
        assert worker.exitcode == -signal.SIGKILL


def test_a_process_killed_while_it_held_a_lock_does_not_keep_the_run_from_ending(
    load: Callable[..., BatchLoader],
) -> None:
    content(loader := load(2))
    iterator = loader._iterator
    # As if by a process that is killed just then.
    iterator._workers_done_event._cond.acquire()
    loader.stop_workers()
    # So does torch when Python exits.
    end = threading.Thread(target=iterator._shutdown_workers, daemon=True)
    end.start()
    end.join(20)
    assert not end.is_alive()


def test_a_stopped_loader_begins_again_with_other_processes(
    load: Callable[..., BatchLoader],
) -> None:
    loader = load(2)
    before = content(loader)
    loader.stop_workers()
    assert content(loader) == before


def test_stopping_a_loader_that_has_no_processes_is_nothing(
    load: Callable[..., BatchLoader],
) -> None:
    for workers in (0, 2):
        load(workers).stop_workers()
    content(loader := load(0))
    loader.stop_workers()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_that_names_its_cause_keeps_its_code(
    dataset: Faulty, load: Callable[..., BatchLoader], workers: int
) -> None:
    dataset.path.unlink()
    error = refused(load(workers))
    assert error.code == Exit.INPUT and "train.npy" in error.subject
    assert "make prepare" in error.remedy


def test_an_error_of_ours_in_the_main_process_stays_what_it_is(
    dataset: Faulty, load: Callable[..., BatchLoader]
) -> None:
    dataset.bad, dataset.fault = 6, fail
    iterator = iter(load(0))
    next(iterator)
    with pytest.raises(ValueError, match="strange pixels") as caught:
        next(iterator)
    assert interrupts.clean is caught.value


def test_a_process_that_dies_between_two_waits_is_missed_at_the_next(
    load: Callable[..., BatchLoader],
) -> None:
    loader = load(2)
    iterator = iter(loader)
    next(iterator)
    victim = loader._iterator._workers[0]
    victim.kill()
    # Joining it would take its exit code from torch.
    os.waitid(os.P_PID, victim.pid, os.WEXITED | os.WNOWAIT)
    # The step that was going on is not disturbed.
    assert interrupts.clean is None
    with pytest.raises(UserError, match="loader process was lost") as caught:
        next(iterator)
    assert caught.value.code == Exit.LOST


@pytest.mark.parametrize("workers", [0, 2])
def test_a_signal_ends_the_wait_for_a_slow_file(
    dataset: Faulty, load: Callable[..., BatchLoader], workers: int
) -> None:
    dataset.bad, dataset.fault = 6, hang
    iterator = iter(load(workers))
    next(iterator)
    interrupts.defer()
    started = time.monotonic()
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(Stopped) as caught:
        next(iterator)
    timer.join()
    assert interrupts.clean is caught.value and time.monotonic() - started < 25


def test_loader_processes_leave_signals_to_the_main_process(
    load: Callable[..., BatchLoader],
) -> None:
    loader = load(2)
    iterator = iter(loader)
    # Then both have begun.
    before = [next(iterator)["name"] for _ in range(2)]
    for worker in loader._iterator._workers:
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    assert before + [batch["name"] for batch in iterator] == [n for n, _ in content(load(0))]
