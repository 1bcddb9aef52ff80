import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.distributed

from common.errors import Exit, UserError
from common.interrupts import Stopped, interrupts
from common.runs.ranks import RankTimeout, lost_ranks
from two_ranks import fork_rank

LOST = [
    "[/third_party/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:38021",
    "Application timeout caused pair closure",
    "Timed out waiting 1000ms for recv operation to complete",
    "NCCL communicator was aborted on rank 0. Original reason for failure was: watchdog",
    "wait timeout after 120000ms, keys: /default_pg/0//cpu//1/0",
    "Broken pipe",
    "failed to recv, got 0 bytes: the server of the TCPStore is gone",
]


@pytest.fixture(autouse=True)
def pending() -> Iterator[None]:
    interrupts.pending = None
    yield
    interrupts.pending = None


def ends(error: BaseException, world_size: int = 2) -> None:
    with lost_ranks(SimpleNamespace(world_size=world_size, global_rank=1)):
        raise error


@pytest.mark.parametrize("text", LOST)
def test_a_broken_connection_is_blamed_on_another_rank(text: str) -> None:
    with pytest.raises(UserError, match="rank 1: another rank has ended") as caught:
        ends(RuntimeError(text))
    assert caught.value.code == Exit.LOST
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize("text", LOST)
def test_alone_it_stays_what_it_is(text: str) -> None:
    with pytest.raises(RuntimeError, match=re.escape(text)):
        ends(RuntimeError(text), world_size=1)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Error(s) in loading state_dict: stored, but cannot restore"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("no connection"),
        UserError(Exit.INPUT, "a.png", "lost the connection", "look at it"),
        Stopped(signal.SIGTERM),
    ],
)
def test_other_errors_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        ends(error)
    assert caught.value is error


def test_after_a_signal_to_all_ranks_a_broken_connection_is_its_consequence() -> None:
    interrupts.pending = signal.SIGTERM
    with pytest.raises(Stopped) as caught:
        ends(RuntimeError(LOST[0]))
    assert caught.value.code == 143


def test_nothing_is_said_where_nothing_was_lost() -> None:
    with lost_ranks(SimpleNamespace(world_size=2, global_rank=0)):
        pass
    RankTimeout(1.0).setup(None, None, "fit")


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_a_rank_that_hangs_is_waited_for_as_long_as_was_asked(tmp_path: Path) -> None:
    hanging, waiting = (fork_rank(rank, tmp_path, _waits_for_a_sleeper) for rank in (1, 0))
    deadline = time.monotonic() + 60
    try:
        while (ended := os.waitpid(waiting, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert os.waitstatus_to_exitcode(ended[1]) == Exit.LOST
    finally:
        os.kill(hanging, signal.SIGKILL)
        os.waitpid(hanging, 0)
        if ended == (0, 0):
            os.kill(waiting, signal.SIGKILL)
            os.waitpid(waiting, 0)


def _waits_for_a_sleeper(rank: int) -> int:
    """The second rank sleeps, where the first wants its number."""
    torch.distributed.barrier()
    trainer = SimpleNamespace(world_size=2, global_rank=rank)
    RankTimeout(1.0).setup(trainer, None, "fit")
    if rank:
        time.sleep(60)
    try:
        with lost_ranks(trainer):
            torch.distributed.all_reduce(torch.ones(1))
    except UserError as error:
        return int(error.code)
    return 0
