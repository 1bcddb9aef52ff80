"""W1: a loader process that dies, raises or hangs ends the run, which names the file and saves."""

import signal
from collections.abc import Callable
from itertools import cycle
from typing import NamedTuple

import pytest

from common.errors import Exit
from faults import SUBJECTS, Call, Ended, call, run_all
from sabotage import VALIDATION_STEP
from tiny_run import BATCH, TinyRun, images_in

pytestmark = pytest.mark.faults

Tiny = Callable[[str, str], TinyRun]
TIMEOUT_S = 3
LIMIT_S = 20


class Moment(NamedTuple):
    """When a file is read that a process does not survive, and what is done by then at least."""

    split: str
    epoch: int
    batch: int
    saved_batches: Callable[[int], int]


# Loader processes read ahead, two of them by up to four batches; the one that has raised goes on
# with others long before the batch is asked for.
MOMENTS = {
    "in the first epoch": Moment("train", 0, 5, lambda epoch: 1),
    "in the second epoch": Moment("train", 1, 3, lambda epoch: epoch),
    "in validation": Moment("val", 1, 0, lambda epoch: 2 * epoch),
}
FAULTS: dict[str, list[Call]] = {
    "killed": [call("sabotage:send", number=int(signal.SIGKILL))],
    "segmentation fault": [call("sabotage:send", number=int(signal.SIGSEGV))],
    "exit 3": [call("sabotage:leave", code=3)],
    "hangs": [call("sabotage:sleep", seconds=600)],
    "raises": [call("sabotage:fail", error="builtins:ValueError", text="cannot be read")],
    "out of memory": [
        call("sabotage:limit_memory", extra=1 << 28),
        call("sabotage:devour_memory"),
    ],
}


def problems(run: TinyRun, moment: Moment, ended: Ended) -> list[str]:
    found = []
    if ended.hung or ended.code not in (Exit.LOST, Exit.INPUT):
        found.append(f"exit {ended.code}")
    if ended.elapsed > TIMEOUT_S + LIMIT_S:
        found.append(f"took {ended.elapsed:.0f} s")
    if ended.left:
        found.append(f"left: {ended.left}")
    if not ended.errors or _name(run, moment) not in ended.errors[-1]:
        found.append("the file is not named")
    images, needed = images_in(run.last) or 0, BATCH * moment.saved_batches(run.epoch_batches)
    if images < needed or images != run.images_logged():
        found.append(f"{images} images saved, {run.images_logged()} done, at least {needed}")
    return found


def test_a_lost_loader_process_ends_a_run_that_saves_and_names_the_file(
    tiny: Tiny, tally: Callable
) -> None:
    subjects = cycle(SUBJECTS)
    names = [(fault, moment) for fault in FAULTS for moment in MOMENTS]
    runs = [tiny(next(subjects), f"worker{k}") for k in range(len(names))]
    options = ["--data.num_workers", "2", "--guard.loader_timeout_s", str(TIMEOUT_S)]
    victims = []
    for run, (fault, name) in zip(runs, names, strict=True):
        moment = MOMENTS[name]
        reading = call(
            "sabotage:on_reading",
            index=_index(run, moment),
            epoch=moment.epoch,
            do=FAULTS[fault],
            split=moment.split,
        )
        victims.append(run.fit(*options, sabotage=[reading]))
    wrong = [
        (case, run.experiment, found, ended.err)
        for case, run, ended in zip(names, runs, run_all(victims), strict=True)
        if (found := problems(run, MOMENTS[case[1]], ended))
    ]
    tally("W1", len(names) - len(wrong), len(names))
    assert not wrong


def test_a_loader_process_that_hangs_does_not_keep_a_failing_run_from_ending(
    tiny: Tiny, tally: Callable
) -> None:
    run = tiny(SUBJECTS[0], "stuck")
    hang = call("sabotage:sleep", seconds=600)
    reading = call("sabotage:on_reading", index=run.image_of(0, 4), epoch=0, do=[hang])
    poison = call("sabotage:poison_images", nth=2)
    (ended,) = run_all([run.fit("--data.num_workers", "2", sabotage=[reading, poison])])
    holds = ended.code == Exit.NON_FINITE and not ended.left and not ended.hung
    tally("W1", int(holds), 1)
    assert holds, ended


def test_a_loader_process_that_dies_idle_is_noticed_before_the_next_epoch(
    tiny: Tiny, tally: Callable
) -> None:
    run = tiny(SUBJECTS[0], "idle")
    kill = call(
        "sabotage:on_call", function=VALIDATION_STEP, nth=1, do=[call("sabotage:kill_workers")]
    )
    victim = run.fit("--data.num_workers", "2", sabotage=[kill], timeout_s=LIMIT_S)
    (ended,) = run_all([victim])
    saved = images_in(run.last) == run.images_logged() == run.epoch_batches * BATCH
    holds = ended.code == Exit.LOST and not ended.left and saved
    tally("W1", int(holds), 1)
    assert holds, ended


def _index(run: TinyRun, moment: Moment) -> int:
    return run.image_of(moment.epoch, moment.batch) if moment.split == "train" else 0


def _name(run: TinyRun, moment: Moment) -> str:
    return run.samples(moment.split)[_index(run, moment)]
