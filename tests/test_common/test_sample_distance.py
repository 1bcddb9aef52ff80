from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from common.sample_distance import SampleDistance

SIDE, ROWS = 32, 20


class Painter:
    """Stands for module and data module: of either side it only matters what is inside."""

    device = torch.device("cpu")

    def __init__(self, real: Tensor, fake: Tensor) -> None:
        self.real, self.fake = real, fake
        self.mask = torch.ones(len(real), 1, SIDE, SIDE)
        self.mask[:, :, ROWS:] = 0
        self.logged: dict[str, float] = {}

    def samples(self, split: str) -> list[int]:
        return list(range(len(self.real)))

    def spread(self, split: str, count: int) -> dict[str, Tensor]:
        return {"image": self.real, "mask": self.mask}

    def example_batch(self, count: int, seed: int, device: torch.device) -> dict[str, Tensor]:
        return {"mask": self.mask}

    def predict_step(self, batch: dict[str, Tensor], index: int) -> dict[str, Any]:
        return {**batch, "image": self.fake}

    def log_dict(self, values: dict[str, float], sync_dist: bool) -> None:
        self.logged |= values


def distance(real: Tensor, fake: Tensor) -> float:
    painter = Painter(real, fake)
    trainer = SimpleNamespace(sanity_checking=False, datamodule=painter)
    SampleDistance("random-conv", len(real)).on_validation_epoch_start(trainer, painter)
    assert painter.logged["val/loss"] == painter.logged["val/kernel_distance"]
    return painter.logged["val/loss"]


def test_what_the_canvas_holds_around_images_does_not_count() -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.rand(2, 12, 1, SIDE, SIDE, generator=generator).mul(2).sub(1)
    expected = distance(real, fake)
    continued, around, inside = real.clone(), fake.clone(), fake.clone()
    continued[:, :, ROWS:] = real[:, :, ROWS - 1 : ROWS]
    around[:, :, ROWS:] = 1
    assert distance(continued, around) == expected
    inside[:, :, :ROWS] = 1
    assert distance(continued, inside) != pytest.approx(expected, rel=0.01)
