"""R1: one run folder has one writer."""

import json
import platform
import shutil
import signal
from collections.abc import Callable

import pytest

from common.errors import Exit
from faults import SUBJECTS, Alive, Ended, call, run_all, run_one
from sabotage import TRAINING_STEP
from tiny_run import TinyRun

pytestmark = pytest.mark.faults

Tiny = Callable[[str, str], TinyRun]
LIMIT_S = 10


def test_a_second_writer_is_refused_and_the_first_is_not_disturbed(
    tiny: Tiny, tally: Callable
) -> None:
    whole, run = tiny(SUBJECTS[0], "whole"), tiny(SUBJECTS[0], "shared")
    assert run_one(whole.fit()).code == 0
    paused, go = run.workspace / "paused", run.workspace / "go"
    do = [call("sabotage:touch", path=str(paused)), call("sabotage:wait_for", path=str(go))]
    nth = run.epoch_batches + 3
    pause = call("sabotage:on_call", function=TRAINING_STEP, nth=nth, do=do)
    second: list[Ended] = []
    first: list[int] = []

    def intrude(victim: Alive) -> None:
        assert victim.wait_for(paused.exists)
        first.append(victim.pid)
        second.extend(run_all([run.fit(), run.resume()]))
        go.touch()

    ended = run_one(run.fit(sabotage=[pause], steer=intrude, timeout_s=120))
    refused = sum(_is_refused(one, first[0]) for one in second)
    undisturbed = ended.code == 0 and not run.changes(whole.outcome())
    tally("R1", refused * undisturbed, 2)
    assert undisturbed, ended.err
    assert refused == 2, [(one.code, one.err) for one in second]


def _is_refused(ended: Ended, pid: int) -> bool:
    names = all(word in "".join(ended.errors) for word in (str(pid), platform.node()))
    return ended.code == Exit.STORAGE and names and ended.elapsed < LIMIT_S


def test_the_lock_of_a_dead_process_is_taken_over(tiny: Tiny, tally: Callable) -> None:
    run = tiny(SUBJECTS[0], "dead")
    kill = call("sabotage:send", number=int(signal.SIGKILL))
    nth = run.epoch_batches + 3
    killed = run_one(
        run.fit(sabotage=[call("sabotage:on_call", function=TRAINING_STEP, nth=nth, do=[kill])])
    )
    assert killed.code == -signal.SIGKILL
    owner = json.loads((run.folder / ".lock").read_text())
    ended = run_one(run.resume())
    tally("R1", ended.code == 0, 1)
    assert ended.code == 0, ended.err
    assert owner["host"] == platform.node()


def test_of_two_that_start_at_once_one_trains(tiny: Tiny, tally: Callable) -> None:
    whole, run = tiny(SUBJECTS[0], "whole"), tiny(SUBJECTS[0], "raced")
    assert run_one(whole.fit()).code == 0
    for _ in range(3):
        shutil.rmtree(run.folder, ignore_errors=True)
        codes = sorted(ended.code for ended in run_all([run.fit(), run.fit()]))
        passed = codes == [0, Exit.STORAGE] and not run.changes(whole.outcome())
        tally("R1", passed, 1)
        assert passed, codes
