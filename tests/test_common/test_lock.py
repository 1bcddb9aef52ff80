import errno
import fcntl
import json
import os
import platform
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import Exit, UserError
from common.runs.lock import SAMPLES, TRAINING, RunLock, refuse_locked


def fork(work: Callable[[], object]) -> tuple[int, int]:
    """A process that has done ``work`` and stays, with a pipe that it holds."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os.write(writing, b"done")
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(writing)
    assert os.read(reading, 4) == b"done"
    return pid, reading


def kill(process: tuple[int, int]) -> None:
    pid, reading = process
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reading)


def test_a_locked_folder_is_refused_with_process_and_host(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    holder = fork(RunLock(folder).acquire)
    try:
        before = (folder / TRAINING).read_bytes()
        who = rf"is being written by process {holder[0]} on {re.escape(platform.node())} since \d"
        for look in (RunLock(folder).acquire, lambda: refuse_locked(folder)):
            with pytest.raises(UserError, match=who) as caught:
                look()
            assert caught.value.code == Exit.STORAGE
            assert "nothing was changed" in str(caught.value)
        assert (folder / TRAINING).read_bytes() == before
        assert json.loads(before)["pid"] == holder[0]
    finally:
        kill(holder)


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    kill(fork(RunLock(tmp_path).acquire))
    assert json.loads((tmp_path / TRAINING).read_text())["pid"] != os.getpid()
    refuse_locked(tmp_path)
    lock = RunLock(tmp_path)
    lock.acquire()
    assert json.loads((tmp_path / TRAINING).read_text())["pid"] == os.getpid()
    lock.release()


def test_a_lock_that_was_given_back_is_free(tmp_path: Path) -> None:
    lock, other = RunLock(tmp_path), RunLock(tmp_path)
    lock.release()
    lock.acquire()
    with pytest.raises(UserError, match=f"process {os.getpid()} "):
        other.acquire()
    lock.release()
    assert (tmp_path / TRAINING).read_text() == "", "it still names a process and its host"
    lock.release()
    other.acquire()
    other.release()


def test_a_child_that_was_forked_meanwhile_does_not_keep_a_lock(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    lock.acquire()
    child = fork(lambda: None)
    try:
        lock.release()
        refuse_locked(tmp_path)
    finally:
        kill(child)


def test_looking_takes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    refuse_locked(tmp_path / "absent")
    assert not list(tmp_path.iterdir())
    kill(fork(RunLock(tmp_path).acquire))
    before = (tmp_path / TRAINING).read_bytes()
    refuse_locked(tmp_path)
    assert (tmp_path / TRAINING).read_bytes() == before


def test_training_and_what_follows_it_have_locks_of_their_own(tmp_path: Path) -> None:
    training, samples = RunLock(tmp_path), RunLock(tmp_path, SAMPLES)
    training.acquire()
    samples.acquire()
    training.release()
    refuse_locked(tmp_path)
    samples.release()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', "null"])
def test_a_holder_that_has_not_signed_yet_is_another_process(tmp_path: Path, content: str) -> None:
    lock = RunLock(tmp_path)
    lock.acquire()
    (tmp_path / TRAINING).write_text(content)
    with pytest.raises(UserError, match="by another process"):
        refuse_locked(tmp_path)
    lock.release()


def test_a_folder_that_cannot_be_made_is_an_error_of_storage(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file in the way")
    with pytest.raises(UserError, match=r"cannot be locked \(.+\)") as caught:
        RunLock(tmp_path / "runs/first").acquire()
    assert caught.value.code == Exit.STORAGE


def test_a_file_system_without_locks_is_an_error_of_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(UserError, match="No locks available") as caught:
        RunLock(tmp_path).acquire()
    assert caught.value.code == Exit.STORAGE
