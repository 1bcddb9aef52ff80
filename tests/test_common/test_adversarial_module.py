import common  # noqa: F401  isort: skip  (repairs the torchvision import before Lightning's)

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.adversarial_module import AdversarialModule
from common.runs.hardware import Hardware


class Slope(AdversarialModule):
    """Goes down a constant slope, one unit of it a step."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(4))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.place], lr=1.0)

    def training_step(self, slope: Tensor, batch_idx: int) -> None:
        def height(slope: Tensor) -> dict[str, Tensor]:
            return {"height": (self.place * slope).sum()}

        self.learn(self.optimizers(), None, height, slope, loss="height", clip_norm=1.5)


@pytest.mark.parametrize("scale", [None, 1.0, 1024.0])
def test_a_gradient_is_cut_to_the_same_norm_however_the_loss_is_scaled(
    scale: float | None,
) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=scale) if scale else None
    plugins = [MixedPrecision("16-mixed", "cpu", scaler)] if scaler else []
    switches = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=1, plugins=plugins, **dict.fromkeys(switches, False)
    )
    trainer.hardware, model = Hardware(), Slope()
    trainer.fit(model, DataLoader(torch.tensor([[8.0, 0.0, -6.0, 0.0]]), batch_size=None))
    torch.testing.assert_close(model.place.detach(), torch.tensor([-1.2, 0.0, 0.9, 0.0]))
