"""K3 a resumed run equals one that never stopped, K4 also at the traps, K5 also after three."""

import signal
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest

from faults import Call, Ended, call, run_all, run_one
from sabotage import OPTIMIZER_STEP, TRAINING_STEP
from tiny_run import BATCH, EPOCHS, TinyRun, differences, read

pytestmark = pytest.mark.faults

Tiny = Callable[[str, str], TinyRun]
WORKERS = ("0", "2")
SAVE_EVERY = ("--last.every_n_batches", "4")


class Stop(NamedTuple):
    """How a run is stopped: what is done to it, how it ends, its options."""

    sabotage: list[Call]
    code: int
    options: tuple[str, ...] = ()


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
        "end of epoch": Stop([], 0, ("--trainer.max_epochs", "2")),
        "middle": Stop(sent_at(signal.SIGKILL, 2 * epoch + 3), KILLED),
        "after SIGTERM": Stop(sent_at(signal.SIGTERM, middle), TERMINATED),
        "after SIGKILL": Stop(sent_at(signal.SIGKILL, middle + 1), KILLED),
    }


def traps(epoch: int, optimizers: int) -> dict[str, Stop]:
    third = sent_at(signal.SIGTERM, epoch + 3)
    between = sent_at(signal.SIGINT, optimizers * (epoch + 3), OPTIMIZER_STEP)
    on_last = ("--last.every_n_batches", str(epoch))
    return {
        "save on an epoch's last batch": Stop(
            sent_at(signal.SIGKILL, 2 * epoch + 1), KILLED, on_last
        ),
        "SIGINT between two optimizers": Stop(between, INTERRUPTED),
        "lazy step": Stop(LAZY + third, TERMINATED),
        "sanity validation": Stop(third, TERMINATED, SANITY),
    }


def reference(run: TinyRun, *options: str, sabotage: Sequence[Call] = ()) -> dict[str, str]:
    """Outcome of the run that is not stopped."""
    ended = run_one(run.fit(*options, sabotage=list(sabotage)))
    assert ended.code == 0, ended.err
    assert run.images_logged() == EPOCHS * run.epoch_batches * BATCH
    return run.outcome()


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
    runs = [tiny(subject, f"stopped{k}") for k in range(len(cases))]
    first, second = [], []
    for run, (name, workers) in zip(runs, cases, strict=True):
        options = (*SAVE_EVERY, "--data.num_workers", workers)
        stop = stopped[name]
        first.append(run.fit(*options, *stop.options, sabotage=stop.sabotage))
        second.append(run.resume(*options))
    was, now = run_all(first), run_all(second)
    wrong = [
        (case, one.code, one.err, two.code, two.err, changed)
        for case, run, one, two in zip(cases, runs, was, now, strict=True)
        if (changed := _changed(run, two, expected)) or one.code != stopped[case[0]].code
    ]
    tally("K3", len(cases) - len(wrong), len(cases))
    assert not wrong


def test_a_run_that_stops_at_a_trap_equals_one_that_never_stopped(
    subject: str, tiny: Tiny, tally: Callable
) -> None:
    whole = tiny(subject, "whole")
    plain = reference(whole)
    lazy = reference(tiny(subject, "lazy"), sabotage=LAZY)
    assert differences(plain, lazy)
    optimizers = len(read(whole.last)["optimizer_states"])
    stopped = traps(whole.epoch_batches, optimizers)
    wrong = []
    for k, (name, stop) in enumerate(stopped.items()):
        run, again = tiny(subject, f"trap{k}"), LAZY if name == "lazy step" else []
        one = run_one(run.fit(*stop.options, sabotage=stop.sabotage))
        two = run_one(run.resume(*stop.options, sabotage=again))
        changed = _changed(run, two, lazy if again else plain)
        if changed or one.code != stop.code:
            wrong.append((name, one.code, one.err, two.code, two.err, changed))
    tally("K4", len(stopped) - len(wrong), len(stopped))
    assert not wrong


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
    changed = _changed(run, ended, expected)
    passed = codes == [KILLED] * 3 and not changed
    tally("K5", passed, 1)
    assert passed, (codes, ended.err, changed)


def _changed(run: TinyRun, ended: Ended, expected: dict[str, str]) -> list[str]:
    """What is not as in the run that never stopped."""
    return differences(run.outcome(), expected) if ended.code == 0 else ["exit code"]
