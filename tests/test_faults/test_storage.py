"""D1: storage that is full, closed or gone ends a run with its name, and costs no checkpoint."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import pytest

from common.errors import Exit
from faults import SUBJECTS, Call, Ended, Victim, call, run_all, run_one
from sabotage import TRAINING_STEP
from tiny_run import BATCH, TinyRun, newest

pytestmark = pytest.mark.faults

Tiny = Callable[[str, str], TinyRun]
STORAGE = (Exit.STORAGE,)
# Files of the size of the configuration are written, a checkpoint is not.
LIMIT = 1 << 15


class Case(NamedTuple):
    """A run, what it may exit with, whether a checkpoint was written before the fault."""

    run: TinyRun
    victim: Victim
    codes: tuple[int, ...] = STORAGE
    saved: bool = False


def in_second_epoch(run: TinyRun, *do: Call) -> list[Call]:
    nth = run.epoch_batches + 3
    return [call("sabotage:on_call", function=TRAINING_STEP, nth=nth, do=list(do))]


def full_disk(tiny: Tiny, subject: str) -> Iterator[Case]:
    run, later = tiny(subject, "full"), tiny(subject, "filled")
    full = call("sabotage:limit_files", size=LIMIT)
    yield Case(run, run.fit(sabotage=[full]))
    yield Case(later, later.fit(sabotage=in_second_epoch(later, full)), saved=True)


def no_temporary_folder(tiny: Tiny, subject: str) -> Iterator[Case]:
    """A run needs none: checkpoints are written beside their target."""
    run, later = tiny(subject, "temporary"), tiny(subject, "temporarily")
    lost = call("sabotage:put_temporary_files_in", path=str(run.workspace / "nowhere"))
    yield Case(run, run.fit(sabotage=[lost]), (0,), saved=True)
    # Loader processes need one when they start: torch passes its tensors through a socket there.
    options = ["--data.num_workers", "2"]
    sabotage = in_second_epoch(later, lost)
    yield Case(later, later.fit(*options, sabotage=sabotage), (0,), saved=True)


def closed_folder(tiny: Tiny, subject: str) -> Iterator[Case]:
    ordinary = call("sabotage:become_ordinary")
    run, later = tiny(subject, "closed").below("closed"), tiny(subject, "closing")
    run.folder.parent.mkdir(parents=True)
    close = call("sabotage:change_mode", path=str(run.folder.parent), mode=0o555)
    yield Case(run, run.fit(sabotage=[close, ordinary]))
    close = call("sabotage:change_mode", path=str(later.last.parent), mode=0o555)
    yield Case(later, later.fit(sabotage=[ordinary, *in_second_epoch(later, close)]), saved=True)


def removed_folder(tiny: Tiny, subject: str) -> Iterator[Case]:
    for name in ("checkpoints", ""):
        run = tiny(subject, f"removed{name}")
        remove = call("sabotage:remove_tree", path=str(run.folder / name))
        yield Case(run, run.fit(sabotage=in_second_epoch(run, remove)))


def file_in_the_way(tiny: Tiny, subject: str) -> Iterator[Case]:
    run, later = tiny(subject, "file"), tiny(subject, "filing")
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    run.folder.write_text("in the way")
    yield Case(run, run.fit())
    put = call("sabotage:put_file_in_place_of", path=str(later.last.parent))
    yield Case(later, later.fit(sabotage=in_second_epoch(later, put)))


def long_name(tiny: Tiny, subject: str) -> Iterator[Case]:
    run = tiny(subject, "r" * 300)
    yield Case(run, run.fit(), (Exit.USAGE, Exit.STORAGE))
    run = tiny(subject, "deep").below("w" * 300)
    yield Case(run, run.fit(), (Exit.USAGE, Exit.STORAGE))


FAULTS = (
    full_disk,
    no_temporary_folder,
    closed_folder,
    removed_folder,
    file_in_the_way,
    long_name,
)


def problems(case: Case, ended: Ended) -> list[str]:
    run, found = case.run, []
    if ended.code not in case.codes or "Traceback" in ended.err:
        found.append(f"exit {ended.code}")
    if ended.code and not (ended.errors and _names(run, ended.errors[-1])):
        found.append("the folder is not named")
    if not ended.code and not {"best.ckpt", "last.ckpt"} <= _names_in(run.last.parent):
        found.append("what it announced is not there")
    if any(path.name.endswith(".part") for path in _files(run.workspace)):
        found.append("something partial is left")
    if case.saved and (newest(run) or 0) < run.epoch_batches * BATCH:
        found.append("the older checkpoint is lost")
    return found


def test_storage_that_fails_ends_a_run_with_its_name_and_keeps_the_older_checkpoint(
    tiny: Tiny, tally: Callable
) -> None:
    subjects = cycle(SUBJECTS)
    cases = [case for fault in FAULTS for case in fault(tiny, next(subjects))]
    wrong = [
        (case.run.name[:20], case.run.experiment, found, ended.err)
        for case, ended in zip(cases, run_all([case.victim for case in cases]), strict=True)
        if (found := problems(case, ended))
    ]
    tally("D1", len(cases) - len(wrong), len(cases))
    assert not wrong


def test_a_small_disk_is_refused_at_the_start_or_ends_the_run_with_a_checkpoint(
    tiny: Tiny, tally: Callable, tmp_path: Path
) -> None:
    run = tiny(SUBJECTS[0], "sizes")
    assert run_one(run.fit("--trainer.max_epochs", "1")).code == 0
    size = run.last.stat().st_size
    (tmp_path / "disk").mkdir()
    found = []
    for name, room in (("no room", size // 2), ("room for one", 2 * size + size // 2)):
        small = tiny(SUBJECTS[0], name.replace(" ", "-")).below("disk")
        with small_disk(small.workspace, room) as mounted:
            if not mounted:
                tally.skip("D1", 1, "mounting a small disk needs root")
                continue
            ended = run_one(small.fit())
            saved = name != "no room"
            wrong = problems(Case(small, small.fit(), saved=saved), ended)
            wrong += ["the room is not named"] * (" MiB" not in ended.errors[-1]) * (not saved)
        tally("D1", not wrong, 1)
        found += [(name, wrong, ended.err)] * bool(wrong)
    assert not found


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = shutil.which("mount") and not subprocess.run(command, capture_output=True).returncode
    try:
        yield bool(mounted)
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def _names(run: TinyRun, line: str) -> bool:
    """The part that is shown may be cut from the left."""
    return run.name[:50] in line or run.workspace.name[:50] in line


def _names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _files(folder: Path) -> list[Path]:
    return list(folder.rglob("*")) if len(folder.name) < 256 else []
