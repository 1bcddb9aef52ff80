"""Memory layout of the weights."""

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback


class ChannelsLast(Callback):
    """Stores convolution weights, and through the data module images, as NHWC.

    Args:
        enabled: else the layout stays NCHW.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Converts before the optimizer and the average are made."""
        if self.enabled:
            trainer.memory_format = torch.channels_last
            pl_module.to(memory_format=torch.channels_last)
