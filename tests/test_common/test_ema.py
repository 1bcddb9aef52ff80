from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.callbacks import ImagesSeen
from common.runs.checkpoints import DurableCheckpointIO, load_checkpoint
from common.runs.ema import EMA
from common.runs.saving import LastCheckpoint
from common.trainer import ExperimentTrainer

IMAGES = 32


class Falling(pl.LightningModule):
    """A weight that falls by 1 a step, a buffer that doubles and a counter."""

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.weight = nn.Parameter(torch.zeros(size))
        self.register_buffer("level", torch.ones(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.level.mul_(2)
        self.steps.add_(1)
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def train(
    folder: Path, batch: int, ema: EMA, epochs: int = 1, resume: Path | None = None, **options: Any
) -> dict[str, Any]:
    """The checkpoint after ``epochs`` of 32 images."""
    folder.mkdir(exist_ok=True)
    last = LastCheckpoint()
    last.path = folder / "last.ckpt"
    trainer = ExperimentTrainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=epochs,
        callbacks=[ImagesSeen(), ema, last],
        plugins=[DurableCheckpointIO()],
        **options,
    )
    loader = DataLoader([{"image": torch.zeros(1)}] * IMAGES, batch)
    trainer.fit(Falling(), loader, ckpt_path=resume, weights_only=True)
    return load_checkpoint(last.path)


def ramped_average(values: list[float], batch: int, half_life: float, ramp: float) -> float:
    """Written from Karras et al. 2020, Appendix B: the first value starts the average."""
    average = values[0]
    for step, value in enumerate(values[1:], start=2):
        beta = 0.5 ** (batch / min(half_life, ramp * step * batch))
        average = beta * average + (1 - beta) * value
    return average


@pytest.mark.parametrize(("batch", "half_life", "ramp"), [(4, 10, 0.5), (2, 1000, 0.4), (8, 5, 9)])
def test_the_average_after_k_steps_is_the_ramped_recursion(
    tmp_path: Path, batch: int, half_life: int, ramp: float
) -> None:
    saved = train(tmp_path, batch, EMA(half_life, ramp))
    steps = range(1, IMAGES // batch + 1)
    expected = ramped_average([-float(k) for k in steps], batch, half_life, ramp)
    torch.testing.assert_close(saved["state_dict"]["weight"], torch.full((3,), expected))
    assert saved["state_dict"]["weight"][0] != saved["current_model_state"]["weight"][0]


def test_floating_buffers_are_averaged_and_counters_copied(tmp_path: Path) -> None:
    state = train(tmp_path, 4, EMA(10, 0.5))["state_dict"]
    expected = ramped_average([2.0**k for k in range(1, 9)], 4, 10, 0.5)
    torch.testing.assert_close(state["level"], torch.tensor(expected))
    assert state["steps"] == 8


@pytest.mark.parametrize("batch", [4, 16, 64])
def test_what_is_left_after_64_images_does_not_depend_on_the_batch_size(batch: int) -> None:
    ema, module = EMA(half_life_images=48, ramp=1e9), Falling()
    trainer = SimpleNamespace(global_step=1, images_seen=100)
    ema.setup(trainer, module, "fit")
    ema.on_train_batch_end(trainer, module, None, None, 0)
    module.weight.data.fill_(1.0)
    for _ in range(64 // batch):
        trainer.global_step += 1
        trainer.images_seen += batch
        ema.on_train_batch_end(trainer, module, None, None, 0)
    expected = torch.full((3,), 1 - 0.5 ** (64 / 48))
    torch.testing.assert_close(ema._average_model.module.weight.data, expected)


def test_accumulated_gradients_weigh_as_the_large_batch_they_stand_for(tmp_path: Path) -> None:
    whole = train(tmp_path / "a", 8, EMA(10, 0.5))
    parts = train(tmp_path / "b", 4, EMA(10, 0.5), accumulate_grad_batches=2)
    one, two = whole["current_model_state"], parts["current_model_state"]
    assert torch.equal(one["weight"], two["weight"])
    torch.testing.assert_close(whole["state_dict"]["weight"], parts["state_dict"]["weight"])


def test_the_average_survives_a_checkpoint(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", 4, EMA(50, 0.5), epochs=3)
    train(tmp_path / "parts", 4, EMA(50, 0.5), epochs=1)
    last = tmp_path / "parts/last.ckpt"
    parts = train(tmp_path / "parts", 4, EMA(50, 0.5), epochs=3, resume=last)
    assert parts["callbacks"]["ImagesSeen"]["count"] == 3 * IMAGES
    for name, value in whole["state_dict"].items():
        assert torch.equal(parts["state_dict"][name], value), name


def test_a_validation_that_is_left_early_gives_the_weights_in_training_back() -> None:
    ema, module = EMA(half_life_images=1, ramp=1e9), Falling()
    trainer = SimpleNamespace(global_step=1, images_seen=100)
    ema.setup(trainer, module, "fit")
    ema.on_train_batch_end(trainer, module, None, None, 0)
    module.weight.data.fill_(1.0)
    ema.restore_training_weights(module)
    assert module.weight[0] == 1.0
    ema.on_validation_epoch_start(trainer, module)
    assert module.weight[0] == 0.0
    for _ in range(2):
        ema.restore_training_weights(module)
        assert module.weight[0] == 1.0
    ema.on_validation_epoch_start(trainer, module)
    ema.on_validation_epoch_end(trainer, module)
    assert module.weight[0] == 1.0
    trainer.callbacks = [ImagesSeen(), ema]
    assert EMA.of(trainer) is ema
