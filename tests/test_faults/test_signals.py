"""S1: a signal ends a run with its number, a checkpoint that is current, and no process left."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import pytest

from faults import SUBJECTS, Call, Ended, call, run_all
from running import ROOT
from sabotage import TRAINING_STEP, VALIDATION_STEP
from tiny_run import BATCH, TinyRun, images_in, newest

pytestmark = pytest.mark.faults

Tiny = Callable[[str, str], TinyRun]
WORKERS = ("0", "2")
PLACES = ("sanity validation", "training", "validation", "saving", "wait for data")
# From the signal to the end; what comes before it is included.
LIMIT_S = 15


class Kind(NamedTuple):
    """A signal, whom it goes to and how often, and what the run has to exit with."""

    number: int
    to: str = "self"
    times: int = 1

    @property
    def code(self) -> int:
        return 128 + self.number


KINDS = {
    "SIGINT": Kind(signal.SIGINT),
    "SIGTERM": Kind(signal.SIGTERM),
    "SIGTERM to the group": Kind(signal.SIGTERM, "group"),
    "SIGINT twice": Kind(signal.SIGINT, times=2),
}


class Case(NamedTuple):
    kind: str
    place: str
    workers: str
    run: TinyRun


def sabotage(case: Case) -> list[Call]:
    """The signal at its place; the moments are those of the second epoch."""
    kind, epoch = KINDS[case.kind], case.run.epoch_batches
    reads_elsewhere = case.place == "wait for data" and case.workers != "0"
    to = "parent" if reads_elsewhere and kind.to == "self" else kind.to
    sent = call("sabotage:send", number=int(kind.number), to=to, times=kind.times)
    if case.place == "wait for data":
        do = [sent, call("sabotage:sleep", seconds=0.3)]
        return [call("sabotage:on_reading", index=case.run.image_of(1, 0), epoch=1, do=do)]
    function, nth = {
        "sanity validation": (VALIDATION_STEP, 1),
        "training": (TRAINING_STEP, epoch + 3),
        "validation": (VALIDATION_STEP, 2),
        # Each epoch writes the best and the last one.
        "saving": ("torch:save", 4),
    }[case.place]
    return [call("sabotage:on_call", function=function, nth=nth, do=[sent])]


def images_done(case: Case) -> int | None:
    """Images of the steps that were complete, or begun, when the signal came."""
    epoch = case.run.epoch_batches
    batches = {
        "sanity validation": 0,
        "training": epoch + 3,
        "validation": 2 * epoch,
        "saving": 2 * epoch,
        "wait for data": epoch,
    }
    return BATCH * batches[case.place] or None


def problems(case: Case, ended: Ended) -> list[str]:
    found = []
    if ended.code != KINDS[case.kind].code:
        found.append(f"exit {ended.code}")
    if ended.left:
        found.append(f"left: {ended.left}")
    if ended.elapsed > LIMIT_S:
        found.append(f"took {ended.elapsed:.0f} s")
    if "Traceback" in ended.err:
        found.append("traceback")
    if "twice" not in case.kind and images_in(case.run.last) != images_done(case):
        found.append(f"last.ckpt has {images_in(case.run.last)}, not {images_done(case)} images")
    # The second signal waits for nothing: what was there before must still be there.
    before = case.run.epoch_batches * BATCH * (case.place != "sanity validation")
    if (newest(case.run) or 0) < before:
        found.append(f"the checkpoint of {before} images is gone")
    return found


def test_a_signal_ends_a_run_with_a_current_checkpoint(tiny: Tiny, tally: Callable) -> None:
    subjects = cycle(SUBJECTS)
    cases = [
        Case(kind, place, workers, tiny(next(subjects), f"signal{i}{j}{workers}"))
        for i, kind in enumerate(KINDS)
        for j, place in enumerate(PLACES)
        for workers in WORKERS
    ]
    victims = []
    for case in cases:
        sanity = ["--trainer.num_sanity_val_steps", "2"] * (case.place == PLACES[0])
        options = ["--data.num_workers", case.workers, *sanity]
        victims.append(case.run.fit(*options, sabotage=sabotage(case)))
    ended = run_all(victims)
    wrong = [
        (case[:3], case.run.experiment, found, one.err)
        for case, one in zip(cases, ended, strict=True)
        if (found := problems(case, one))
    ]
    tally("S1", len(cases) - len(wrong), len(cases))
    assert not wrong


def test_a_signal_to_make_and_all_below_it_is_one_signal(
    prepared: Callable[[str], Path], tmp_path: Path, tally: Callable
) -> None:
    """make passes on what its child has received already; together that must not count as two."""
    options = "--budget.images_seen 0 --trainer.max_epochs -1 --trainer.log_every_n_steps 1"
    found = []
    for name in ("one", "two"):
        run = TinyRun(SUBJECTS[0], prepared(SUBJECTS[0]), tmp_path, name)
        words = f"{options} --workspace {tmp_path} --data.root {run.data}"
        command = ["make", "train", f"EXP={run.experiment}", "CONFIG=smoke", f"RUN={name}"]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        # `make test-faults` would pass its own options on.
        env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        victim = subprocess.Popen(
            [*command, f"ARGS={words}"], cwd=ROOT, env=env, start_new_session=True, **pipes
        )
        deadline = time.monotonic() + 120
        while not run.last.exists() and victim.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(victim.pid, signal.SIGTERM)
        said = victim.communicate(timeout=60)[1]
        if "is current" not in said or images_in(run.last) != run.images_logged():
            found.append((name, images_in(run.last), run.images_logged(), said))
    tally("S1", 2 - len(found), 2)
    assert not found
