"""A model and its data as a checkpoint left them."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from common.data.datamodule import ImageDataModule
from common.runs.checkpoints import load_checkpoint, load_weights


def restore(model: pl.LightningModule, data: ImageDataModule, path: Path) -> dict[str, Any]:
    """Reads a checkpoint, which is returned.

    Args:
        model: receives its averaged weights.
        data: receives what it knows of its training data.
        path: the file.

    Raises:
        UserError: it cannot be read, or is of another model or experiment.
    """
    checkpoint: dict[str, Any] = load_checkpoint(path)
    load_weights(model, checkpoint, path)
    data.load_facts(checkpoint, path)
    return checkpoint
