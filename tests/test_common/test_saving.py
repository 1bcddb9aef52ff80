import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import Dataset

from common.callbacks import ImagesSeen
from common.data.loader import BatchLoader
from common.data.sampler import EpochSampler
from common.errors import Exit, UserError
from common.interrupts import Stopped, interrupts
from common.runs.checkpoints import DurableCheckpointIO, load_checkpoint
from common.runs.ema import EMA
from common.runs.metrics_csv import MetricsCSV
from common.runs.resume import CarriedNumbers
from common.runs.saving import BestCheckpoint, LastCheckpoint
from common.trainer import ExperimentTrainer
from outcome import digest, history

# Lightning cannot know that the loader goes on by itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
]

BATCH, BATCHES = 4, 6
EPOCH = BATCH * BATCHES


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Loaders of other tests would take a signal of this one for theirs."""
    yield
    interrupts.pending = None


class Numbers(Dataset):
    """Image k is the number k."""

    def __init__(self, unreadable: int = -1) -> None:
        self.samples = [SimpleNamespace(name=f"{k}.png") for k in range(EPOCH)]
        self.reading = None
        self.unreadable = unreadable

    def __len__(self) -> int:
        return EPOCH

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        if key[1] == self.unreadable:
            raise UserError(Exit.INPUT, f"{key[1]}.png", "is damaged", "delete it")
        return {"image": torch.full((1,), float(key[1]))}


class Data(pl.LightningDataModule):
    def __init__(self, unreadable: int = -1) -> None:
        super().__init__()
        self.unreadable = unreadable
        self.stopped = 0

    def train_dataloader(self) -> BatchLoader:
        sampler = EpochSampler(EPOCH, seed=1, shuffle=True)
        loop = self.trainer.fit_loop
        done = loop.epoch_loop.batch_progress.current.processed % BATCHES * BATCH
        sampler.resume(loop.epoch_progress.current.processed, done)
        return BatchLoader(Numbers(self.unreadable), BATCH, sampler=sampler)

    def val_dataloader(self) -> BatchLoader:
        return BatchLoader(Numbers(), BATCH * 3, sampler=EpochSampler(EPOCH))

    def stop_workers(self) -> None:
        self.stopped += 1


class Walk(pl.LightningModule):
    """A weight that depends on every batch and its order."""

    def __init__(self, do: Callable[["Walk", str], None] = lambda walk, where: None) -> None:
        super().__init__()
        self.save_hyperparameters({"a": 1})
        self.do = do
        self.weight = nn.Parameter(torch.zeros(1))
        self.validated: list[tuple[int, float]] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.do(self, "step")
        return ((self.weight - batch["image"].mean()) ** 2).sum()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.do(self, "validation")
        self.validated.append((self.trainer.images_seen, float(self.weight.detach())))
        self.log("val/loss", self.weight.detach().sum(), batch_size=1)

    def on_validation_epoch_end(self) -> None:
        self.do(self, "measured")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.5)


class Recording(DurableCheckpointIO):
    """Remembers how many images each saved checkpoint has seen."""

    def __init__(self) -> None:
        self.saved: list[tuple[str, int]] = []

    def save_checkpoint(self, checkpoint: dict, path: str, storage_options: Any = None) -> None:
        super().save_checkpoint(checkpoint, path, storage_options)
        count = checkpoint["callbacks"]["ImagesSeen"]["count"]
        self.saved.append((Path(path).stem, count))


class Fit(NamedTuple):
    """Saved checkpoints, values of the weight in validation, and how it ended."""

    saved: list[tuple[str, int]]
    validated: list[tuple[int, float]]
    stopped: int
    error: BaseException | None


def fit(
    folder: Path,
    do: Callable[[Walk, str], None] = lambda walk, where: None,
    resume: bool = False,
    every_n_batches: int = 0,
    every_n_epochs: int = 1,
    best: BestCheckpoint | None = None,
    io: Recording | None = None,
    data: Data | None = None,
    **options: Any,
) -> Fit:
    """Trains three epochs as the command line does; ``do`` is called in every step."""
    folder.mkdir(exist_ok=True)
    last = LastCheckpoint(every_n_batches)
    last.path, last.every_n_epochs = folder / "last.ckpt", every_n_epochs
    io, data, error = io or Recording(), data or Data(), None
    trainer = ExperimentTrainer(
        **{
            "accelerator": "cpu",
            "max_epochs": 3,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            "default_root_dir": folder,
            "plugins": [io],
            "callbacks": [
                *(ImagesSeen(), EMA(20, 0.5), *([best] if best else []), last, CarriedNumbers())
            ],
        }
        | options
    )
    walk = Walk(do)
    with interrupts.listening():
        try:
            path = last.path if resume else None
            trainer.fit(walk, datamodule=data, ckpt_path=path, weights_only=True)
        except (Stopped, Exception) as raised:
            error = raised
    return Fit(io.saved, walk.validated, data.stopped, error)


def at(where: str, images: int, action: Callable[[], object]) -> Callable[[Walk, str], None]:
    def do(walk: Walk, place: str) -> None:
        if (place, walk.trainer.images_seen) == (where, images):
            action()

    return do


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


def last_saves(found: Fit) -> list[int]:
    return [images for name, images in found.saved if name == "last"]


@pytest.mark.parametrize(
    ("max_epochs", "stops_after", "saved"),
    [(7, None, [2, 4, 6, 7]), (-1, 5, [2, 4, 5]), (4, None, [2, 4])],
)
def test_last_is_saved_every_n_epochs_and_at_the_end(
    tmp_path: Path, max_epochs: int, stops_after: int | None, saved: list[int]
) -> None:
    def stop(walk: Walk, where: str) -> None:
        if stops_after and walk.trainer.images_seen == stops_after * EPOCH:
            walk.trainer.should_stop = True

    found = fit(tmp_path, stop, every_n_epochs=2, max_epochs=max_epochs)
    assert found.error is None and last_saves(found) == [epochs * EPOCH for epochs in saved]
    counts = [_count(tmp_path / f"{name}.ckpt") for name in ("previous", "last")]
    assert counts == [epochs * EPOCH for epochs in saved[-2:]]


def _count(path: Path) -> int:
    return load_checkpoint(path, to_resume=True)["callbacks"]["ImagesSeen"]["count"]


@pytest.mark.parametrize(
    ("every", "accumulate", "batches"),
    [
        (4, 1, [4, 6, 8, 12]),
        (3, 1, [3, 6, 9, 12]),
        (6, 1, [6, 12]),
        (1, 1, list(range(1, 13))),
        (3, 2, [6, 12]),
        (1, 3, [3, 6, 9, 12]),
    ],
)
def test_saves_within_epochs_leave_the_last_batch_and_half_steps_out(
    tmp_path: Path, every: int, accumulate: int, batches: list[int]
) -> None:
    found = fit(tmp_path, every_n_batches=every, max_epochs=2, accumulate_grad_batches=accumulate)
    assert last_saves(found) == [count * BATCH for count in batches]


PLACES = {
    "first step": ("step", BATCH),
    "middle": ("step", EPOCH + 3 * BATCH),
    "last batch of an epoch": ("step", EPOCH),
    "last but one": ("step", 2 * EPOCH - BATCH),
    "validation": ("validation", 2 * EPOCH),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_signal_leaves_a_checkpoint_from_which_the_run_ends_as_if_nothing_had_been(
    tmp_path: Path, place: str
) -> None:
    whole = fit(tmp_path / "whole")
    where, images = PLACES[place]
    stopped = fit(tmp_path / "stopped", at(where, images, terminate))
    assert isinstance(stopped.error, Stopped) and stopped.stopped == 1
    last = tmp_path / "stopped/last.ckpt"
    assert _count(last) == images
    assert stopped.error.kept.endswith(f"last.ckpt is current: {images} images")
    resumed = fit(tmp_path / "stopped", resume=True)
    assert resumed.error is None
    # A validation that was left early is repeated whole.
    kept = [row for row in stopped.validated if row[0] < images or images % EPOCH]
    assert kept + resumed.validated == whole.validated
    assert state(tmp_path / "stopped") == state(tmp_path / "whole")


def state(folder: Path) -> dict[str, str]:
    return {part: digest(value) for part, value in load_checkpoint(folder / "last.ckpt").items()}


def test_a_number_that_few_steps_compute_is_carried_over_a_stop_but_into_no_new_epoch(
    tmp_path: Path,
) -> None:
    def lazy(walk: Walk, where: str) -> None:
        if where == "step" and walk.trainer.images_seen % (5 * BATCH) == 0:
            walk.log("train/lazy", float(walk.trainer.images_seen))

    def stopping(images: int) -> Callable[[Walk, str], None]:
        return lambda walk, where: (lazy(walk, where), at("step", images, terminate)(walk, where))

    def rows(name: str, *do: Callable[[Walk, str], None]) -> list[tuple[str, str]]:
        folder = tmp_path / name
        for k, one in enumerate(do):
            logger = MetricsCSV(folder / "metrics.csv")
            fit(folder, one, resume=k > 0, logger=logger, log_every_n_steps=1)
        return [(row[0], row[4]) for row in history(folder) if row[3] == "train/lazy"]

    seen = {20.0: (20, 24), 40.0: (40, 44, 48), 60.0: (60, 64, 68, 72)}
    expected = [(str(k), str(value)) for value, shown in seen.items() for k in shown]
    assert rows("whole", lazy) == expected
    assert rows("middle", stopping(40), lazy) == expected
    assert rows("end of an epoch", stopping(2 * EPOCH), lazy) == expected


def test_a_signal_between_gradients_that_are_added_up_waits_for_the_step(tmp_path: Path) -> None:
    whole = fit(tmp_path / "whole", accumulate_grad_batches=3)
    signalled = at("step", EPOCH + BATCH, terminate)
    stopped = fit(tmp_path / "stopped", signalled, accumulate_grad_batches=3)
    assert isinstance(stopped.error, Stopped)
    assert _count(tmp_path / "stopped/last.ckpt") == EPOCH + 3 * BATCH
    resumed = fit(tmp_path / "stopped", resume=True, accumulate_grad_batches=3)
    assert stopped.validated + resumed.validated == whole.validated
    assert state(tmp_path / "stopped") == state(tmp_path / "whole")


def test_what_is_saved_in_a_validation_are_the_weights_in_training_and_their_average(
    tmp_path: Path,
) -> None:
    fit(tmp_path / "whole", max_epochs=1)
    fit(tmp_path / "stopped", at("validation", EPOCH, terminate))
    whole, stopped = state(tmp_path / "whole"), state(tmp_path / "stopped")
    for part in ("state_dict", "current_model_state", "optimizer_states", "averaging_state"):
        assert stopped[part] == whole[part], part
    assert stopped["state_dict"] != stopped["current_model_state"]


def test_a_signal_before_the_first_step_saves_nothing(tmp_path: Path) -> None:
    class Early(Data):
        def setup(self, stage: str) -> None:
            interrupts.defer()
            terminate()

    found = fit(tmp_path, data=Early())
    assert isinstance(found.error, Stopped) and found.error.kept == ""
    assert not found.saved


def test_a_signal_right_after_a_save_does_not_save_again(tmp_path: Path) -> None:
    found = fit(tmp_path, at("step", EPOCH + BATCH, terminate), every_n_batches=1)
    assert isinstance(found.error, Stopped)
    assert last_saves(found)[-2:] == [EPOCH, EPOCH + BATCH]
    assert f"current: {EPOCH + BATCH} images" in found.error.kept


def test_what_fails_in_a_step_saves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        raise UserError(Exit.NON_FINITE, "step 3", "is NaN", "look")

    found = fit(tmp_path, at("step", EPOCH + 2 * BATCH, fail))
    assert found.error.code == Exit.NON_FINITE and found.error.kept == ""
    assert last_saves(found) == [EPOCH]


def test_a_file_that_cannot_be_read_costs_no_step(tmp_path: Path) -> None:
    order = list(EpochSampler(EPOCH, seed=1, shuffle=True))
    found = fit(tmp_path, data=Data(unreadable=order[3 * BATCH + 1][1]))
    assert found.error.code == Exit.INPUT
    assert last_saves(found) == [3 * BATCH] and f"{3 * BATCH} images" in str(found.error)


def test_other_ranks_stop_their_loaders_and_save_nothing(tmp_path: Path) -> None:
    last, data = LastCheckpoint(), Data()
    last.path = tmp_path / "last.ckpt"
    trainer = SimpleNamespace(
        is_global_zero=False, datamodule=data, images_seen=8, strategy=DDPStrategy()
    )
    interrupts.clean = RuntimeError("a loader process died")
    last.on_exception(trainer, None, interrupts.clean)
    assert data.stopped == 1 and not list(tmp_path.iterdir())
    last.on_exception(trainer, None, RuntimeError("within a step"))
    assert data.stopped == 2 and not list(tmp_path.iterdir())
    interrupts.clean = None


class Lossy(Recording):
    """What it writes cannot be used to go on."""

    def save_checkpoint(self, checkpoint: dict, path: str, storage_options: Any = None) -> None:
        incomplete = {k: v for k, v in checkpoint.items() if k != "optimizer_states"}
        super().save_checkpoint(incomplete, path)


def test_the_first_checkpoint_of_a_run_is_read_back_at_once(tmp_path: Path) -> None:
    found = fit(tmp_path, io=Lossy())
    assert isinstance(found.error, UserError) and found.error.code == Exit.CHECKPOINT
    assert "optimizer_states is missing" in str(found.error)
    assert last_saves(found) == [EPOCH]


@pytest.mark.parametrize("enough", [True, False])
def test_a_disk_that_fills_up_is_warned_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, enough: bool
) -> None:
    def free(folder: Path) -> SimpleNamespace:
        size = (tmp_path / "last.ckpt").stat().st_size
        return SimpleNamespace(free=3 * size - (not enough))

    monkeypatch.setattr(shutil, "disk_usage", free)
    assert fit(tmp_path).error is None
    out, err = capfd.readouterr()
    assert (out + err).count("warning: ") == (not enough)


def best_of(folder: Path, mode: str = "min") -> BestCheckpoint:
    """As the base configuration sets it."""
    folder.mkdir(exist_ok=True)
    return BestCheckpoint(
        dirpath=folder,
        filename="best",
        monitor="val/loss",
        mode=mode,
        save_top_k=1,
        enable_version_counter=False,
        save_on_train_epoch_end=False,
    )


def scored(*scores: float) -> Callable[[Walk, str], None]:
    """The score of each epoch, instead of the measured one."""

    def do(walk: Walk, where: str) -> None:
        if where == "measured":
            walk.log("val/score", scores[walk.current_epoch])

    return do


def best_epochs(folder: Path, *scores: float, mode: str = "min", **options: Any) -> list[int]:
    """Epochs (from 1) after which the best checkpoint was saved."""
    best = best_of(folder, mode)
    best.monitor = "val/score"
    found = fit(folder, scored(*scores), best=best, max_epochs=len(scores), **options)
    assert found.error is None
    return [images // EPOCH for name, images in found.saved if name == "best"]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_never_the_best(tmp_path: Path, bad: float) -> None:
    assert best_epochs(tmp_path / "min", bad, 3, bad, 4, 2, bad) == [2, 5]
    assert best_epochs(tmp_path / "max", bad, 3, bad, 2, 4, bad, mode="max") == [2, 5]
    assert best_epochs(tmp_path / "none", bad, bad) == []
    assert not (tmp_path / "none/best.ckpt").exists()
    assert _count(tmp_path / "min/best.ckpt") == 5 * EPOCH


def test_the_best_score_survives_the_move_of_a_run(tmp_path: Path) -> None:
    assert best_epochs(tmp_path / "here", 5, 3) == [1, 2]
    assert str(tmp_path).encode() not in (tmp_path / "here/last.ckpt").read_bytes()
    (tmp_path / "here").rename(tmp_path / "there")
    assert best_epochs(tmp_path / "there", 5, 3, 4, 3.5, 2, resume=True) == [5]
    assert {path.name for path in (tmp_path / "there").glob("*.ckpt")} == {
        *("best.ckpt", "last.ckpt", "previous.ckpt")
    }
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize(("mode", "better", "worse"), [("min", 1.0, 2.0), ("max", 2.0, 1.0)])
def test_the_state_of_the_best_holds_names_and_numbers_only(
    tmp_path: Path, mode: str, better: float, worse: float
) -> None:
    one = best_of(tmp_path / "one", mode)
    one.best_k_models = {str(tmp_path / "one/best.ckpt"): torch.tensor(1.5)}
    one.best_model_path = str(tmp_path / "one/best.ckpt")
    state = one.state_dict()
    assert os.sep not in json.dumps(state)
    other = best_of(tmp_path / "other", mode)
    other.load_state_dict(state)
    assert other.best_model_path == str(tmp_path / "other/best.ckpt")
    assert other.best_model_score == 1.5
    trainer = SimpleNamespace(strategy=SimpleNamespace(reduce_boolean_decision=bool))
    assert other.check_monitor_top_k(trainer, torch.tensor(better))
    assert not other.check_monitor_top_k(trainer, torch.tensor(worse))
    other.load_state_dict(best_of(tmp_path / "empty", mode).state_dict())
    assert other.best_model_path == "" and not other.best_k_models


def test_an_interrupted_run_does_not_save_a_best_that_was_not_measured(tmp_path: Path) -> None:
    best = best_of(tmp_path)
    found = fit(tmp_path, at("step", EPOCH + BATCH, terminate), best=best)
    assert isinstance(found.error, Stopped)
    assert found.saved == [("best", EPOCH), ("last", EPOCH), ("last", EPOCH + BATCH)]
