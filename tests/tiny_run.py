"""Runs of 24 steps on one thread, whose whole outcome can be compared."""

import hashlib
import io
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from common.data.prepared import Prepared
from common.data.sampler import epoch_order
from common.data.sequences import windows_of
from faults import Call, Victim, call
from outcome import digest, history
from running import at, run_folder, smoke

BATCH = 8
EPOCHS = 4
# Of a window, unless --data.frames says otherwise.
FRAMES = 3
_FIT = (
    *("--budget.images_seen", "0", "--trainer.max_epochs", str(EPOCHS)),
    *("--trainer.log_every_n_steps", "1", "--data.batch_size", str(BATCH)),
    # The number of threads decides how sums are rounded.
    *("--hardware.threads", "1"),
)


@dataclass(frozen=True)
class TinyRun:
    """One run of an experiment on prepared data."""

    experiment: str
    data: Path
    workspace: Path
    name: str

    def fit(self, *more: str | Path, sabotage: list[Call] | None = None, **how: Any) -> Victim:
        args = ["fit", *smoke(self.experiment), *at(self.workspace, self.name)]
        generators = call("sabotage:record_generators", path=str(self._generators))
        calls = [generators, *(sabotage or [])]
        words = [*args, "--data.root", self.data, *_FIT, *more]
        return Victim(self.experiment, words, calls, **how)

    def below(self, folder: str) -> "TinyRun":
        """The same in a workspace within this one."""
        return replace(self, workspace=self.workspace / folder)

    def resume(self, *more: str | Path, source: str = "true", **how: Any) -> Victim:
        return self.fit("--resume", source, *more, **how)

    @property
    def folder(self) -> Path:
        return run_folder(self.workspace, self.experiment, self.name)

    @property
    def last(self) -> Path:
        return self.folder / "checkpoints/last.ckpt"

    @property
    def previous(self) -> Path:
        return self.folder / "checkpoints/previous.ckpt"

    def samples(self, split: str = "train") -> list[str]:
        """Names of the images of a split by index; of windows of sequences their first moments."""
        found = Prepared.open(self.data).samples(split)
        if any(sample.sequence for sample in found):
            found = [found[row] for row in windows_of(found, FRAMES)[:, 0]]
        return [sample.name for sample in found]

    @property
    def epoch_batches(self) -> int:
        return math.ceil(len(self.samples()) / BATCH)

    def image_of(self, epoch: int, batch: int) -> int:
        """Index of the first image of a batch; both count from 0."""
        return int(epoch_order(len(self.samples()), 0, epoch)[batch * BATCH])

    def outcome(self) -> dict[str, str]:
        """Digests of all that training has changed; paths and clocks are no part of it."""
        parts = {}
        for path in (self.last, self.folder / "checkpoints/best.ckpt"):
            parts |= {f"{path.stem}/{key}": digest(value) for key, value in read(path).items()}
        for key, value in json.loads(self._generators.read_text()).items():
            parts[f"random/{key}"] = value
        return parts | {"history": digest(history(self.folder))}

    def changes(self, expected: dict[str, str]) -> list[str]:
        """Parts of the outcome that are not as in another one; also where it cannot be read."""
        try:
            return differences(self.outcome(), expected)
        except Exception as error:
            return [f"cannot be read: {error!r}"]

    def images_logged(self) -> int:
        rows = history(self.folder)[1:] if (self.folder / "metrics.csv").exists() else []
        return max((int(row[0]) for row in rows), default=0)

    @property
    def _generators(self) -> Path:
        return self.workspace / f"{self.experiment}-{self.name}-generators.json"


def read(path: Path) -> dict[str, Any]:
    """A checkpoint, checked and read without the code that is under test."""
    content = path.read_bytes()
    assert hashlib.sha256(content).hexdigest() in path.with_name(f"{path.name}.sha256").read_text()
    return torch.load(io.BytesIO(content), weights_only=True)


def images_in(path: Path) -> int | None:
    """Images seen by what a checkpoint holds; None if it is missing or refused."""
    try:
        return read(path)["callbacks"]["ImagesSeen"]["count"]
    except Exception:  # whatever the damage makes of it
        return None


def newest(run: TinyRun) -> int | None:
    """Images seen by the better of the two generations; None without any."""
    found = [images for path in (run.last, run.previous) if (images := images_in(path)) is not None]
    return max(found, default=None)


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
