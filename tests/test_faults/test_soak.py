"""M1: ten minutes of training with workers and frequent saves leak neither memory nor files."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from faults import SUBJECTS, Alive, in_session, run_one
from tiny_run import BATCH, TinyRun

pytestmark = [pytest.mark.faults, pytest.mark.soak]

SECONDS = float(os.environ.get("SOAK_SECONDS", 600)) / len(SUBJECTS)
MAX_MIB_PER_1000_STEPS = 1.0


class Reading(NamedTuple):
    """Of a run and its loader processes together."""

    steps: int
    rss_mib: float
    descriptors: int
    threads: int


def read_process(pid: int) -> tuple[float, int, int]:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in status if ":" in line)
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return int(fields["VmRSS"].split()[0]) / 1024, descriptors, int(fields["Threads"])


def is_constant(counts: list[int]) -> bool:
    """Whether nothing is left open for good: a save opens files only as long as it lasts."""
    half = len(counts) // 2
    return min(counts[:half]) == min(counts[half:])


def watch(run: TinyRun, readings: list[Reading]) -> Callable[[Alive], None]:
    def steer(alive: Alive) -> None:
        assert alive.wait_for(run.last.exists)
        end = time.monotonic() + SECONDS
        while alive.is_there() and time.monotonic() < end:
            processes = [read_process(pid) for pid in in_session(alive.pid)]
            rss, descriptors, threads = map(sum, zip(*processes, strict=True))
            readings.append(Reading(run.images_logged() // BATCH, rss, descriptors, threads))
            time.sleep(2)
        alive.send(signal.SIGTERM)

    return steer


def test_a_long_run_neither_grows_nor_opens_more_and_more(
    subject: str, tiny: Callable[[str, str], TinyRun], tally: Callable[..., None]
) -> None:
    run, readings = tiny(subject, "soak"), list[Reading]()
    options = (
        *("--last.every_n_batches", "50", "--data.num_workers", "2"),
        *("--trainer.max_epochs", "-1", "--trainer.check_val_every_n_epoch", "16"),
        *("--trainer.log_every_n_steps", "10"),
    )
    victim = run.fit(*options, timeout_s=SECONDS + 120, steer=watch(run, readings))
    ended = run_one(victim)
    steady = readings[len(readings) // 4 :]
    slope = np.polyfit([r.steps for r in steady], [r.rss_mib for r in steady], 1)[0] * 1000
    steps = readings[-1].steps
    files = {p.name for p in run.last.parent.iterdir()}
    print(f"{subject}: {steps} steps, {slope:.3f} MiB per 1000 steps, {steady[-1]}")
    holds = {
        "it was stopped": ended.code == 128 + signal.SIGTERM,
        "memory": slope <= MAX_MIB_PER_1000_STEPS,
        "descriptors": is_constant([r.descriptors for r in steady]),
        "threads": is_constant([r.threads for r in steady]),
        "disk": {p for p in files if not p.endswith(".sha256")}
        == {"last.ckpt", "previous.ckpt", "best.ckpt"},
        "no temporary file": not list(run.folder.rglob("*.part")),
    }
    tally("M1", int(all(holds.values())), 1)
    assert all(holds.values()), (holds, ended.err[-500:], readings[-3:])
