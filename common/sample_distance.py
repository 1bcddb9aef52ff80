"""How far samples are from validation images, while a model without a likelihood trains."""

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from common.callbacks import frames_of, to_uint8
from common.data.canvas import black_outside
from common.data.datamodule import ImageDataModule
from common.data.datasets import Batch
from common.errors import Exit, UserError, relative
from common.metrics.bootstrap import kernel_estimate
from common.metrics.features import Extractor, embed, extractor
from common.metrics.fidelity import MIN_KERNEL_IMAGES


class SampleDistance(Callback):
    """Logs ``val/kernel_distance`` of fixed seeds, drawn with the averaged weights.

    It is ``val/loss`` too, by which the best checkpoint is chosen: a loss of two networks that
    play against each other says nothing of the samples.

    Args:
        network: name of the feature extractor.
        samples: drawn at each validation, ten or more; as many validation images are compared,
            spread over all of them.
    """

    def __init__(self, network: str, samples: int) -> None:
        self.name = network
        self.samples = samples
        self._network: Extractor | None = None
        self._real: torch.Tensor | None = None

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Comes after `EMA` in the list, which has put the average in place here.

        Raises:
            UserError: too few validation images to be compared with.
        """
        if trainer.sanity_checking:
            return
        real = self._validation_features(trainer.datamodule, pl_module.device)
        batch = trainer.datamodule.example_batch(self.samples, 0, pl_module.device)
        images = _shown(pl_module.predict_step(batch, 0))
        fake = embed(images, self._network, pl_module.device).features
        found = kernel_estimate(real, fake)[0]
        values = dict.fromkeys(("val/kernel_distance", "val/loss"), found)
        pl_module.log_dict(values, sync_dist=True)

    def _validation_features(self, data: ImageDataModule, device: torch.device) -> torch.Tensor:
        if self._real is None:
            count = len(data.samples("val"))
            if count < MIN_KERNEL_IMAGES:
                raise UserError(
                    Exit.INPUT,
                    relative(data.prepared.folder),
                    f"holds {count} validation images, fewer than the {MIN_KERNEL_IMAGES} that "
                    "samples are compared with",
                    "raise --data.val_fraction, or add data",
                )
            self._network = extractor(self.name)
            images = _shown(data.spread("val", self.samples))
            self._real = embed(images, self._network, device).features
        return self._real


def _shown(batch: Batch) -> np.ndarray:
    """Images uint8 [N, C, H, W], black on the canvas around them: nobody keeps that of samples."""
    return to_uint8(frames_of(black_outside(batch["image"], batch["mask"]).cpu()))
