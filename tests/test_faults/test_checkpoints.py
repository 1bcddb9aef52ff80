"""K1 kills within a save, K2 kills at random, C1 damage, C2 flipped bits, C4 first save read."""

import hashlib
import json
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import Exit, UserError
from common.runs.checkpoints import load_checkpoint
from faults import SUBJECTS, Alive, Victim, call, run_all, run_one
from tiny_run import BATCH, TinyRun, images_in, newest, read
from watched_saves import Event

pytestmark = pytest.mark.faults

GENERATIONS = ("last.ckpt", "previous.ckpt")
KILLED_SAVES = 6
SHARES = (0.01, 0.25, 0.5, 0.75, 0.99)
RANDOM_KILLS = 100
BIT_FLIPS = 300

Tiny = Callable[[str, str], TinyRun]
# Number of the event before which a save is killed, and the share of its bytes that is written.
Point = tuple[int, float]


@pytest.fixture(scope="module")
def temporary_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """TMPDIR on the device of the output and, where there is one, on another."""
    here = tmp_path_factory.mktemp("temporary")
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == here.stat().st_dev:
        yield [str(here)]
        return
    with tempfile.TemporaryDirectory(dir=shared) as elsewhere:
        yield [str(here), elsewhere]


def points_of(events: list[Event], start: int) -> list[Point]:
    """Every step of a save, and shares of the bytes of its checkpoint; ``start`` events before."""
    numbered = [(start + k, event) for k, event in enumerate(events, 1)]
    content = [(n, e) for n, e in numbered if e.what == "write" and e.on_unfinished]
    points = [(n, 0.0) for n, e in numbered if (n, e) not in content]
    for share in SHARES:
        wanted = share * sum(event.size for _, event in content)
        for number, event in content:
            if wanted <= event.size:
                points.append((number, max(wanted / event.size, 1e-9)))
                break
            wanted -= event.size
    return sorted(points)


def events_of(log: Path) -> list[Event]:
    return [Event(*json.loads(line)) for line in log.read_text().splitlines()]


def saves(folder: Path, count: int, first: int = 1, **watch: object) -> Victim:
    calls = [
        call("watched_saves:watch_saves", folder=str(folder), **watch),
        call("watched_saves:save_epochs", folder=str(folder), count=count, first=first),
    ]
    return Victim(sabotage=calls)


@pytest.mark.parametrize("before", [0, 2], ids=["first save", "overwrite"])
def test_a_kill_at_any_point_of_a_save_costs_that_save_at_most(
    before: int, tmp_path: Path, temporary_folders: list[str], tally: Callable
) -> None:
    logs = []
    for count in (before, before + 1):
        folder, log = tmp_path / f"whole{count}", tmp_path / f"log{count}"
        folder.mkdir()
        log.touch()
        assert run_one(saves(folder, count, log=str(log))).code == 0
        logs.append(events_of(log))
    points = points_of(logs[1][len(logs[0]) :], len(logs[0]))
    assert len(points) >= 14
    cases = [(point, place) for point in points for place in temporary_folders]
    folders = [tmp_path / f"case{k}" for k in range(len(cases))]
    victims = []
    for ((event, share), place), folder in zip(cases, folders, strict=True):
        folder.mkdir()
        victim = saves(folder, before + 1, kill_at=event, share=share)
        victims.append(Victim(sabotage=victim.sabotage, env={"TMPDIR": place}))
    killed = run_all(victims)
    found = [[images_in(folder / name) for name in GENERATIONS] for folder in folders]
    broken = [_broken(folder) for folder in folders]
    again = run_all([saves(folder, 2, first=before + 2) for folder in folders])
    lost = [
        (case, generations)
        for case, folder, was, generations, damage, now in zip(
            cases, folders, killed, found, broken, again, strict=True
        )
        if (was.code, now.code) != (-signal.SIGKILL, 0)
        or max(images or 0 for images in generations) not in (100 * before, 100 * (before + 1))
        or damage
        # The next start cleans up.
        or _names(folder) != {f"{name}{end}" for name in GENERATIONS for end in ("", ".sha256")}
    ]
    tally("K1", len(cases) - len(lost), len(cases))
    assert not lost


def _broken(folder: Path) -> list[str]:
    """Files that look like checkpoints and are none."""
    paths = [folder / name for name in GENERATIONS]
    return [path.name for path in paths if path.exists() and images_in(path) is None]


def test_a_run_killed_within_a_save_goes_on_and_ends_as_if_nothing_had_been(
    subject: str, tiny: Tiny, temporary_folders: list[str], tally: Callable
) -> None:
    whole = tiny(subject, "whole")
    log = whole.workspace / "log"
    watch = partial(call, "watched_saves:watch_saves")
    watched = watch(folder=str(whole.last.parent), log=str(log))
    assert run_one(whole.fit(sabotage=[watched])).code == 0
    events = events_of(log)
    opened = [k for k, e in enumerate(events) if e.what == "open" and e.on_unfinished]
    points = points_of(events[opened[2] : opened[3]], opened[2])
    chosen = points[:: max(1, len(points) // KILLED_SAVES)][:KILLED_SAVES]
    runs = [tiny(subject, f"killed{k}") for k in range(len(chosen))]
    first, second = [], []
    for k, (run, (event, share)) in enumerate(zip(runs, chosen, strict=True)):
        env = {"TMPDIR": temporary_folders[k % len(temporary_folders)]}
        kill = watch(folder=str(run.last.parent), kill_at=event, share=share)
        first.append(run.fit(sabotage=[kill], env=env))
        second.append(run.resume(env=env))
    killed = run_all(first)
    interval = whole.epoch_batches * BATCH
    kept = [(newest(run) or 0) >= 2 * interval for run in runs]
    resumed = run_all(second)
    expected = whole.outcome()
    wrong = [
        (point, was.code, safe, now.code, now.err, changes)
        for run, point, was, now, safe in zip(runs, chosen, killed, resumed, kept, strict=True)
        if (changes := run.changes(expected))
        or (was.code, now.code) != (-signal.SIGKILL, 0)
        or not safe
        or any(run.folder.rglob("*.part"))
    ]
    tally("K1", len(runs) - len(wrong), len(runs))
    assert not wrong


def test_kills_at_random_times_leave_a_run_that_goes_on(
    tiny: Tiny, temporary_folders: list[str], tally: Callable
) -> None:
    chains = [(subject, place) for subject in SUBJECTS for place in temporary_folders]
    kills = -(-RANDOM_KILLS // len(chains))
    for subject in SUBJECTS:
        tiny(subject, "prepare")
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda k: _chain(tiny, k, *chains[k], kills), range(len(chains)))
    problems = [problem for chain in found for problem in chain]
    total = kills * len(chains)
    tally("K2", total - len(problems), total)
    assert not problems


def _chain(tiny: Tiny, seed: int, subject: str, place: str, kills: int) -> list[str]:
    """Kills one run again and again, each time soon after it has gone on."""
    run = tiny(subject, f"chain{seed}")
    chance, problems, reached = random.Random(seed), [], 0
    more = ("--last.every_n_batches", "1", "--trainer.max_epochs", "-1")
    for k in range(kills):
        kill = partial(_kill_after_a_save, run.last, chance.uniform(0, 0.15))
        how = {"steer": kill, "env": {"TMPDIR": place}}
        ended = run_one(run.fit(*more, **how) if k == 0 else run.resume(*more, **how))
        images, logged = newest(run), run.images_logged()
        if ended.code != -signal.SIGKILL:
            problems.append(f"kill {k}: exit {ended.code} {ended.err}")
        elif images is None or images <= reached or images < logged - BATCH:
            problems.append(f"kill {k}: {images} images saved, {logged} logged, {reached} before")
        reached = images or 0
    return problems


def _kill_after_a_save(path: Path, seconds: float, victim: Alive) -> None:
    def saved() -> int:
        return path.stat().st_ino if path.exists() else 0

    before = saved()
    victim.wait_for(lambda: saved() != before)
    time.sleep(seconds)
    victim.send(signal.SIGKILL)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _cut(share: float) -> Callable[[bytes], bytes]:
    return lambda content: content[: int(share * len(content))]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "1 %": _cut(0.01),
    "10 %": _cut(0.1),
    "50 %": _cut(0.5),
    "90 %": _cut(0.9),
    "99.9 %": _cut(0.999),
    "minus a byte": lambda content: content[:-1],
    "zeros": lambda content: bytes(len(content)),
    "first page zero": lambda content: bytes(4096) + content[4096:],
    "second half zero": lambda content: _cut(0.5)(content).ljust(len(content), b"\0"),
    "text": lambda content: b"not a checkpoint\n",
    "HTML": lambda content: b"<!doctype html><title>404</title><p>Not found</p>",
    "JSON": lambda content: b'{"state_dict": {}, "hyper_parameters": {}}',
}


def test_a_damaged_last_checkpoint_is_refused_by_name_and_the_previous_one_goes_on(
    tiny: Tiny, tally: Callable
) -> None:
    subject, other = SUBJECTS[0], SUBJECTS[-1]
    whole, foreign, wide = tiny(subject, "whole"), tiny(other, "foreign"), tiny(subject, "wide")
    width = ["--model.width", "16"]
    ended = run_all([whole.fit(), foreign.fit(), wide.fit(*width)])
    assert [one.code for one in ended] == [0, 0, 0], [one.err for one in ended]
    runs = {}
    for name in (*DAMAGES, "of another experiment", "weights only", "of another width"):
        runs[name] = tiny(subject, f"damaged-{len(runs)}")
        shutil.copytree(whole.folder, runs[name].folder)
        # The other generation shares the file: it is written anew, not in place.
        runs[name].last.unlink()
    for name, damage in DAMAGES.items():
        runs[name].last.write_bytes(damage(whole.last.read_bytes()))
    _with_digest(runs["of another experiment"].last, foreign.last.read_bytes())
    weights = runs["weights only"].last
    torch.save(read(whole.last)["state_dict"], weights)
    _with_digest(weights, weights.read_bytes())
    _with_digest(runs["of another width"].last, wide.last.read_bytes())
    expected, history = whole.outcome(), (whole.folder / "metrics.csv").read_bytes()
    refused = run_all([run.resume() for run in runs.values()])
    untouched = [(r.folder / "metrics.csv").read_bytes() == history for r in runs.values()]
    resumed = run_all([run.resume(source="previous") for run in runs.values()])
    wrong = [
        (name, no.code, no.err, yes.code, yes.err)
        for (name, run), no, yes, kept in zip(
            runs.items(), refused, resumed, untouched, strict=True
        )
        if no.code != Exit.CHECKPOINT
        or not all(word in "".join(no.errors) for word in ("last.ckpt", "--resume previous"))
        or "Traceback" in no.err
        or not kept
        or yes.code != 0
        or run.changes(expected)
    ]
    tally("C1", len(runs) - len(wrong), len(runs))
    assert not wrong


def _with_digest(path: Path, content: bytes) -> None:
    """A file that is whole, but not what this run needs."""
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")


def test_no_flipped_bit_is_loaded(tiny: Tiny, tally: Callable) -> None:
    run = tiny(SUBJECTS[0], "flipped")
    assert run_one(run.fit("--trainer.max_epochs", "1")).code == 0
    content = np.fromfile(run.last, np.uint8)
    assert load_checkpoint(run.last)
    places = np.random.default_rng(0).integers(0, 8 * len(content), BIT_FLIPS)
    refused = 0
    for place in places:
        content[place // 8] ^= 1 << (place % 8)
        content.tofile(run.last)
        content[place // 8] ^= 1 << (place % 8)
        try:
            load_checkpoint(run.last)
        except UserError as error:
            refused += error.code == Exit.CHECKPOINT and "last.ckpt" in str(error)
    tally("C2", refused, BIT_FLIPS)
    assert refused == BIT_FLIPS


def test_a_run_whose_first_checkpoint_cannot_be_read_back_ends_in_its_first_epoch(
    subject: str, tiny: Tiny, tally: Callable
) -> None:
    good, bad = tiny(subject, "good"), tiny(subject, "bad")
    spoil = call("sabotage:spoil_checkpoints")
    victims = [good.fit("--trainer.max_epochs", "1"), bad.fit(sabotage=[spoil])]
    fine, ended = run_all(victims)
    first = bad.images_logged() <= bad.epoch_batches * BATCH
    passed = fine.code == 0 and ended.code == Exit.CHECKPOINT and first
    tally("C4", passed, 1)
    assert passed, (fine.err, ended.err, bad.images_logged())
    assert "last.ckpt" in ended.errors[-1]
