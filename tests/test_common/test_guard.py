import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.callbacks import ImagesSeen
from common.errors import TRACEBACK_IN, Exit, UserError
from common.runs.guard import FiniteGuard, RunLog, Watchdog, all_finite
from common.trainer import ExperimentTrainer

NAN, INF = math.nan, math.inf
BATCH, BAD_STEP = 4, 3


def bfloat16(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    "tensors",
    [
        [],
        [torch.empty(0)],
        [torch.empty(0, 3), torch.ones(2)],
        [torch.tensor(-1.5)],
        [torch.full((1000,), 1e38), torch.full((1000,), -3.4e38)],
        [torch.full((9,), 6e4, dtype=torch.float16), bfloat16(3e38, -3e38), torch.ones(2)],
        [torch.full((3,), 1e300, dtype=torch.float64)],
        [torch.ones(2, requires_grad=True), nn.Parameter(torch.ones(3))],
        [torch.rand(4, 3, 2).permute(2, 0, 1)[:, ::2]],
    ],
)
def test_finite_values_of_any_size_type_and_shape_are_finite(tensors: list[Tensor]) -> None:
    assert all_finite(tensors)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_bad_value_among_many_is_found(bad: float, dtype: torch.dtype, place: int) -> None:
    tensors = [torch.full((500,), 3e38), torch.zeros(7, dtype=dtype), bfloat16(1.0)]
    assert all_finite(tensors)
    tensors[place] = tensors[place].clone()
    tensors[place][-1] = bad
    assert not all_finite(tensors)
    assert not all_finite([torch.empty(0), *tensors])


class Line(pl.LightningModule):
    """Two weights, of which the second has no part in the loss, and a fault in step 3."""

    def __init__(self, fault: str, manual: bool) -> None:
        super().__init__()
        self.fault, self.automatic_optimization = fault, not manual
        self.weight = nn.Parameter(torch.ones(3))
        self.idle = nn.Parameter(torch.ones(2))
        self.before: dict[str, Tensor] = {}
        self.steps = 0

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor | None:
        self.steps += 1
        bad = self.steps == BAD_STEP
        if bad and self.fault == "weight":
            self.idle.data[0] = NAN
        self.before = {name: w.detach().clone() for name, w in self.named_parameters()}
        loss = (batch["image"].mean() * self.weight).sum()
        if bad and self.fault == "loss":
            loss = loss * NAN
        if bad and self.fault == "infinite loss":
            loss = loss + INF
        if bad and self.fault == "gradient":
            self.weight.register_hook(lambda gradient: gradient * torch.tensor([1.0, INF, 1.0]))
        self.log("train/loss", loss)
        self.log("other/x", 1.0)
        return self._step(loss) if not self.automatic_optimization else loss

    def _step(self, loss: Tensor) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.125)


def fit(module: pl.LightningModule, guard: FiniteGuard) -> None:
    trainer = ExperimentTrainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
        callbacks=[ImagesSeen(), guard],
    )
    images = [{"image": torch.ones(1), "name": f"{k}.png"} for k in range(5 * BATCH)]
    trainer.fit(module, DataLoader(images, BATCH))


@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("loss", "the loss"),
        ("infinite loss", "the loss"),
        ("gradient", "a gradient"),
        ("weight", "a weight"),
    ],
)
def test_the_run_ends_before_a_bad_step_changes_a_weight(
    fault: str, what: str, manual: bool
) -> None:
    module = Line(fault, manual)
    with pytest.raises(UserError, match=f"{what} is NaN or Inf") as caught:
        fit(module, FiniteGuard())
    assert caught.value.code == Exit.NON_FINITE
    assert module.steps == BAD_STEP
    for name, weight in module.named_parameters():
        assert torch.equal(weight.nan_to_num(7), module.before[name].nan_to_num(7)), name
    text = str(caught.value)
    assert "epoch 1, step 3, 12 images" in text
    assert "learning rate 0.125" in text and "other/x" not in text
    assert "batch: 8.png, 9.png, 10.png and 1 more" in text
    shown = {"loss": "nan", "infinite loss": "inf"}.get(fault, "")
    assert f"train/loss {shown}" in text and "checkpoint is kept" in text


@pytest.mark.parametrize("fault", ["loss", "gradient", "weight"])
def test_a_guard_that_is_switched_off_looks_at_nothing(fault: str) -> None:
    module = Line(fault, manual=True)
    fit(module, FiniteGuard(enabled=False))
    assert module.steps == 5


def test_a_good_run_passes_the_guard() -> None:
    module = Line("none", manual=False)
    fit(module, FiniteGuard())
    assert module.steps == 5 and not torch.equal(module.weight.data, torch.ones(3))


def trainer_of(**attributes: Any) -> SimpleNamespace:
    progress = SimpleNamespace(epoch_loop=SimpleNamespace(batch_idx=0))
    common = {"optimizers": [], "callback_metrics": {}, "images_seen": 0, "current_epoch": 0}
    return SimpleNamespace(**common | {"fit_loop": progress, "global_rank": 0} | attributes)


def test_a_gradient_scaler_may_meet_infinite_gradients_but_no_infinite_weights() -> None:
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([INF, 0.0])
    optimizer = torch.optim.SGD([weight], lr=0.1)
    module = nn.ParameterList([weight])
    scaled = trainer_of(precision_plugin=SimpleNamespace(scaler=object()))
    FiniteGuard().on_before_optimizer_step(scaled, module, optimizer)
    plain = trainer_of(precision_plugin=SimpleNamespace(scaler=None))
    with pytest.raises(UserError, match="a gradient"):
        FiniteGuard().on_before_optimizer_step(plain, module, optimizer)
    weight.data[0] = NAN
    with pytest.raises(UserError, match=r"a weight .*no terms logged"):
        FiniteGuard().on_before_optimizer_step(scaled, module, optimizer)


def test_the_log_holds_tracebacks_with_time_and_rank(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run.log")
    for rank, error in enumerate((ValueError("first"), UserError(Exit.LOST, "a", "b", "c"))):
        try:
            raise error
        except Exception as raised:
            log.on_exception(trainer_of(global_rank=rank), None, raised)
            assert [n for n in raised.__notes__ if n.startswith(TRACEBACK_IN)]
    text = (tmp_path / "run.log").read_text()
    assert text.count("Traceback") == 2 and text.index("first") < text.index("error[7]")
    assert " rank 0\n" in text and " rank 1\n" in text


def test_a_log_that_cannot_be_written_hides_no_error(tmp_path: Path) -> None:
    error = ValueError("the reason")
    RunLog(tmp_path / "gone/run.log").on_exception(trainer_of(), None, error)
    assert not getattr(error, "__notes__", ())


class Clock:
    """Seconds pass only where a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def pass_by(self, seconds: float) -> None:
        self.now += seconds
        # The watch looks several times.
        time.sleep(0.3)


def in_child(work: Callable[[], object], stderr: Path) -> int:
    """Exit code of a forked process that does ``work``; 99 if that comes to its end."""
    pid = os.fork()
    if pid == 0:
        try:
            sys.stderr = stderr.open("w")
            work()
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def watched(log: Path, processes: list[Any]) -> SimpleNamespace:
    launcher = SimpleNamespace(procs=processes)
    return trainer_of(
        folder=SimpleNamespace(log=log), strategy=SimpleNamespace(launcher=launcher), images_seen=40
    )


def test_a_run_that_does_nothing_any_more_ends_with_all_its_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, killed = Clock(monkeypatch), tmp_path / "killed"
    other_rank = SimpleNamespace(kill=killed.touch)
    trainer = watched(tmp_path / "run.log", [other_rank])

    def work() -> None:
        watchdog = Watchdog(0.2)
        watchdog.setup(trainer, None, "fit")
        watchdog.on_train_batch_end(trainer, None)
        clock.pass_by(0.4)
        time.sleep(30)

    assert in_child(work, tmp_path / "err") == Exit.LOST
    said = (tmp_path / "err").read_text()
    assert said.startswith("error[7]: rank 0: nothing has moved on for 0 s since the step after 40")
    assert "--guard.step_timeout_s" in said and "go on with --resume true" in said
    assert "in work" in (tmp_path / "run.log").read_text()
    assert killed.exists()


@pytest.mark.parametrize("alone", [True, False])
def test_a_run_that_moves_on_lives_and_one_that_has_ended_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    clock, trainer = Clock(monkeypatch), watched(tmp_path / "run.log", [])
    if alone:
        trainer.strategy.launcher = None

    def work() -> None:
        watchdog = Watchdog(0.2)
        watchdog.setup(trainer, None, "fit")
        for moved in (
            watchdog.on_train_batch_end,
            watchdog.on_validation_batch_end,
            watchdog.on_exception,
        ):
            clock.pass_by(0.15)
            moved(trainer, None)
        clock.pass_by(0.15)
        watchdog.teardown(trainer, None, "fit")
        clock.pass_by(100)

    assert in_child(work, tmp_path / "err") == 99
    assert not (tmp_path / "err").read_text() and not (tmp_path / "run.log").exists()


def test_a_run_that_cannot_end_after_an_error_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, trainer = Clock(monkeypatch), watched(tmp_path / "gone/run.log", [])

    def work() -> None:
        watchdog = Watchdog(0.2)
        watchdog.setup(trainer, None, "fit")
        watchdog.on_exception(trainer, None, ValueError())
        clock.pass_by(0.4)
        time.sleep(30)

    assert in_child(work, tmp_path / "err") == Exit.LOST
    assert "since end" in (tmp_path / "err").read_text()
