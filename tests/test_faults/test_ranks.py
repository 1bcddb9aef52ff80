"""P1: a rank that dies, raises or hangs ends the whole run soon, with the first cause."""

import signal
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import pytest

from common.data.sampler import epoch_order
from common.errors import Exit
from faults import SUBJECTS, Call, Ended, call, run_all
from sabotage import TRAINING_STEP
from tiny_run import BATCH, TinyRun, images_in, newest

pytestmark = pytest.mark.faults

Tiny = Callable[[str, str], TinyRun]
TIMEOUT_S = 10
# The second rank imports everything anew, on a machine that does other things as well.
START_S = 60
OPTIONS = (
    *("--trainer.devices", "2", "--trainer.strategy", "ddp_find_unused_parameters_true"),
    *("--guard.rank_timeout_s", str(TIMEOUT_S), "--guard.step_timeout_s", "60"),
)


class Fault(NamedTuple):
    """What happens in which rank, and what the run has to exit with and to say."""

    rank: int
    do: list[Call]
    code: int
    says: str = ""


def sent(number: int) -> list[Call]:
    return [call("sabotage:send", number=int(number))]


RAISED = [call("sabotage:fail", error="builtins:ValueError", text="the first cause")]
FAULTS = {
    "kill 1": Fault(1, sent(signal.SIGKILL), Exit.LOST, "rank"),
    "kill 0": Fault(0, sent(signal.SIGKILL), -signal.SIGKILL),
    "raise 1": Fault(1, RAISED, Exit.BUG, "the first cause"),
    "raise 0": Fault(0, RAISED, Exit.BUG, "the first cause"),
    "exit 1": Fault(1, [call("sabotage:leave", code=9)], Exit.LOST, "rank"),
    "hang 1": Fault(1, [call("sabotage:sleep", seconds=600)], Exit.LOST, "rank"),
    "SIGTERM": Fault(0, sent(signal.SIGTERM), 128 + signal.SIGTERM),
    "bad file": Fault(1, [call("sabotage:refuse_file", name="odd.png")], Exit.INPUT, "odd.png"),
}


def problems(name: str, run: TinyRun, ended: Ended) -> list[str]:
    fault, found = FAULTS[name], []
    took = ended.at - marker(run).stat().st_mtime if marker(run).exists() else None
    if ended.hung or took is None or took > TIMEOUT_S + 5:
        found.append(f"took {took} s from the fault to the end")
    # What another rank has raised may be known to the first one as a lost connection only.
    if ended.code not in {fault.code, Exit.LOST if fault.rank else fault.code}:
        found.append(f"exit {ended.code}")
    if ended.left:
        found.append(f"left: {ended.left}")
    if fault.says and not any(fault.says in line for line in ended.errors):
        found.append(f"does not say {fault.says}")
    epoch = run.epoch_batches * BATCH
    done = newest(run) or 0
    if done < epoch or (name == "SIGTERM" and images_in(run.last) != epoch + 4 * BATCH):
        found.append(f"{done} images are saved")
    return found


def marker(run: TinyRun) -> Path:
    """Appears when the fault happens."""
    return run.workspace / f"{run.name}-happens"


def sabotage(run: TinyRun, name: str) -> list[Call]:
    """In the second step of the second epoch, in both of the processes."""
    fault = FAULTS[name]
    do = [call("sabotage:touch", path=str(marker(run))), *fault.do]
    if name == "bad file":
        # Every second image is of the second rank.
        index = int(epoch_order(len(run.samples()), 0, 1)[1])
        return _in_all([call("sabotage:on_reading", index=index, epoch=1, do=do)])
    nth = run.epoch_batches // 2 + 2
    happens = call("sabotage:on_call", function=TRAINING_STEP, nth=nth, do=do)
    return _in_all([call("sabotage:in_rank", rank=fault.rank, do=[happens])])


def test_a_lost_rank_ends_the_run_with_the_first_cause(tiny: Tiny, tally: Callable) -> None:
    subjects = cycle(SUBJECTS)
    runs = {name: tiny(next(subjects), f"rank{k}") for k, name in enumerate(FAULTS)}
    victims = [
        run.fit(*OPTIONS, sabotage=sabotage(run, name), timeout_s=START_S + 40, grace_s=1)
        for name, run in runs.items()
    ]
    wrong = [
        (name, run.experiment, found, ended.err)
        for (name, run), ended in zip(runs.items(), run_all(victims), strict=True)
        if (found := problems(name, run, ended))
    ]
    tally("P1", len(runs) - len(wrong), len(runs))
    assert not wrong


def test_a_rank_that_dies_while_the_first_one_is_busy_is_named(tiny: Tiny, tally: Callable) -> None:
    """No connection breaks then; Lightning would kill the first one without a word."""
    run = tiny(SUBJECTS[0], "busy")
    nth = run.epoch_batches // 2 + 2
    busy = [call("sabotage:sleep", seconds=40)]
    both = [
        call(
            "sabotage:in_rank",
            rank=rank,
            do=[call("sabotage:on_call", function=TRAINING_STEP, nth=nth, do=do)],
        )
        for rank, do in ((0, busy), (1, sent(signal.SIGKILL)))
    ]
    victim = run.fit(*OPTIONS, sabotage=_in_all(both), timeout_s=START_S + 40, grace_s=1)
    (ended,) = run_all([victim])
    named = any("rank 1: has ended" in line for line in ended.errors)
    holds = ended.code == Exit.LOST and named and not ended.left
    tally("P1", int(holds), 1)
    assert holds, ended


def _in_all(calls: list[Call]) -> list[Call]:
    return [call("faults:apply_in_rank", calls=calls), *calls]
