"""K3 a resumed run equals one that never stopped, K4 also at the traps, K5 also after three."""

import signal
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest

from faults import Call, call, run_all, run_one
from sabotage import OPTIMIZER_STEP, TRAINING_STEP
from tiny_run import BATCH, EPOCHS, TinyRun, differences, images_in, read

pytestmark = pytest.mark.faults

Tiny = Callable[[str, str], TinyRun]
WORKERS = ("0", "2")
SAVE_EVERY = ("--last.every_n_batches", "4")


class Stop(NamedTuple):
    """How a run is stopped: what is done to it, how it ends, how many batches are saved then.

    Options are those of both starts, or of the first one only.
    """

    sabotage: list[Call]
    code: int
    batches: int | None = None
    options: tuple[str, ...] = ()
    first: tuple[str, ...] = ()


KILLED, INTERRUPTED, TERMINATED = -signal.SIGKILL, 128 + signal.SIGINT, 128 + signal.SIGTERM
LAZY = [call("sabotage:lazy_regularisation", every=3)]
SANITY = ("--trainer.num_sanity_val_steps", "2")


def sent_at(number: int, nth: int, function: str = TRAINING_STEP) -> list[Call]:
    """A signal to the run itself at a call, counted from 1 in this process."""
    do = [call("sabotage:send", number=int(number))]
    return [call("sabotage:on_call", function=function, nth=nth, do=do)]


def stops(epoch: int) -> dict[str, Stop]:
    """By name; ``epoch`` is the number of batches of an epoch, of which four make a run."""
    middle = epoch + epoch // 2
    return {
        "end of epoch": Stop([], 0, 2 * epoch, first=("--trainer.max_epochs", "2")),
        "middle": Stop(sent_at(signal.SIGKILL, 2 * epoch + 3), KILLED),
        "after SIGTERM": Stop(sent_at(signal.SIGTERM, middle), TERMINATED, middle),
        "after SIGKILL": Stop(sent_at(signal.SIGKILL, middle + 1), KILLED),
    }


def traps(epoch: int, optimizers: int) -> dict[str, Stop]:
    third = sent_at(signal.SIGTERM, epoch + 3)
    between = sent_at(signal.SIGINT, optimizers * (epoch + 3), OPTIMIZER_STEP)
    at_end = sent_at(signal.SIGKILL, 2 * epoch + 1)
    on_last = ("--last.every_n_batches", str(epoch))
    return {
        "save on an epoch's last batch": Stop(at_end, KILLED, 2 * epoch, on_last),
        "SIGINT between two optimizers": Stop(between, INTERRUPTED, epoch + 3),
        "lazy step": Stop(LAZY + third, TERMINATED, epoch + 3),
        "sanity validation": Stop(third, TERMINATED, epoch + 3, SANITY),
    }


def reference(run: TinyRun, *options: str, sabotage: Sequence[Call] = ()) -> dict[str, str]:
    """Outcome of the run that is not stopped."""
    ended = run_one(run.fit(*options, sabotage=list(sabotage)))
    assert ended.code == 0, ended.err
    assert run.images_logged() == EPOCHS * run.epoch_batches * BATCH
    return run.outcome()


class Case(NamedTuple):
    """A run that is stopped and resumed, and what it must be equal to in the end."""

    name: str
    run: TinyRun
    stop: Stop
    expected: dict[str, str]
    options: tuple[str, ...] = ()
    again: Sequence[Call] = ()


def stop_and_resume(cases: Sequence[Case]) -> list[tuple]:
    """Those that were stopped otherwise than meant, or that do not end as expected."""
    first, second = [], []
    for case in cases:
        options, stop = (*case.options, *case.stop.options), case.stop
        first.append(case.run.fit(*options, *stop.first, sabotage=stop.sabotage))
        second.append(case.run.resume(*options, sabotage=list(case.again)))
    stopped = run_all(first)
    saved = [images_in(case.run.last) for case in cases]
    resumed = run_all(second)
    return [
        (case.name, case.options, one.code, one.err, images, two.code, two.err, changed)
        for case, one, images, two in zip(cases, stopped, saved, resumed, strict=True)
        if (changed := case.run.changes(case.expected))
        or two.code != 0
        or one.code != case.stop.code
        or images != (case.stop.batches * BATCH if case.stop.batches else images)
    ]


def all_equal(group: str, cases: Sequence[Case], tally: Callable) -> None:
    wrong = stop_and_resume(cases)
    tally(group, len(cases) - len(wrong), len(cases))
    assert not wrong


def test_two_runs_differ_where_their_seeds_do(subject: str, tiny: Tiny) -> None:
    runs = [tiny(subject, name) for name in ("one", "again", "other")]
    seeds = ("0", "0", "1")
    victims = [run.fit("--seed_everything", seed) for run, seed in zip(runs, seeds, strict=True)]
    assert [ended.code for ended in run_all(victims)] == [0, 0, 0]
    one, again, other = (run.outcome() for run in runs)
    assert not differences(one, again)
    assert {"last/state_dict", "last/optimizer_states", "history"} <= set(differences(one, other))


def test_a_stopped_run_that_goes_on_equals_one_that_never_stopped(
    subject: str, tiny: Tiny, tally: Callable
) -> None:
    whole = tiny(subject, "whole")
    expected = reference(whole, *SAVE_EVERY)
    stopped = stops(whole.epoch_batches)
    cases = [(name, workers) for name in stopped for workers in WORKERS]
    steps = []
    for k, (name, workers) in enumerate(cases):
        options = (*SAVE_EVERY, "--data.num_workers", workers)
        steps.append(Case(name, tiny(subject, f"stopped{k}"), stopped[name], expected, options))
    all_equal("K3", steps, tally)


def test_a_run_that_stops_at_a_trap_equals_one_that_never_stopped(
    subject: str, tiny: Tiny, tally: Callable
) -> None:
    whole = tiny(subject, "whole")
    plain = reference(whole)
    lazy = reference(tiny(subject, "lazy"), sabotage=LAZY)
    assert differences(plain, lazy)
    optimizers = len(read(whole.last)["optimizer_states"])
    stopped = traps(whole.epoch_batches, optimizers)
    steps = []
    for k, (name, stop) in enumerate(stopped.items()):
        again, outcome = (LAZY, lazy) if name == "lazy step" else ([], plain)
        steps.append(Case(name, tiny(subject, f"trap{k}"), stop, outcome, again=again))
    all_equal("K4", steps, tally)


def test_a_run_stopped_before_the_first_batch_of_an_epoch_equals_one_that_never_stopped(
    subject: str, tiny: Tiny, tally: Callable
) -> None:
    """Nothing is saved at the end of the epoch before, so the stop itself has to."""
    options = ("--trainer.check_val_every_n_epoch", "2")
    expected = reference(tiny(subject, "every-other"), *options)
    cases = []
    for epoch in (1, 2):
        run = tiny(subject, f"before{epoch}")
        send = call("sabotage:send", number=int(signal.SIGTERM))
        index = run.image_of(epoch, 0)
        reading = [call("sabotage:on_reading", index=index, epoch=epoch, do=[send])]
        stop = Stop(reading, TERMINATED, epoch * run.epoch_batches)
        cases.append(Case(str(epoch), run, stop, expected, options))
    all_equal("K4", cases, tally)


def test_three_crashes_and_resumptions_in_a_row_leave_no_trace(
    subject: str, tiny: Tiny, tally: Callable
) -> None:
    expected = reference(tiny(subject, "whole"), *SAVE_EVERY)
    run = tiny(subject, "crashing")
    epoch = run.epoch_batches
    codes = []
    for k, step in enumerate((epoch + 2, epoch, epoch // 2 + 1)):
        start = run.resume if k else run.fit
        codes.append(run_one(start(*SAVE_EVERY, sabotage=sent_at(signal.SIGKILL, step))).code)
    ended = run_one(run.resume(*SAVE_EVERY))
    changed = run.changes(expected)
    passed = codes == [KILLED] * 3 and ended.code == 0 and not changed
    tally("K5", passed, 1)
    assert passed, (codes, ended.err, changed)
