"""Lightning's Trainer with the verbs that come before and after training."""

from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt
from pytorch_lightning.trainer.connectors.signal_connector import _SignalConnector
from pytorch_lightning.trainer.states import TrainerFn

from common.callbacks import ImageWriter
from common.data.datamodule import ImageDataModule
from common.data.preparation import check_data
from common.interrupts import interrupts
from common.runs.checkpoints import load_checkpoint, load_weights
from common.runs.folder import RunFolder
from common.tracking.run import Tracking, refuse_tracking


class ExperimentTrainer(pl.Trainer):
    """Adds `check`, `prepare`, `generate` and `evaluate`; the command line sets the attributes.

    Attributes:
        folder: of the run; `check` and `prepare` have none.
        tracking: where its numbers go besides the folder.
        images_seen: training images over all ranks so far.
        image_budget: images after which training stops, 0 for no limit.
        fused_optimizers: whether modules shall ask for fused optimizers.
        memory_format: layout of image tensors.
    """

    folder: RunFolder
    tracking: Tracking
    images_seen: int = 0
    image_budget: int = 0
    fused_optimizers: bool = True
    memory_format: torch.memory_format = torch.contiguous_format

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._signal_connector = Signals(self)

    def prepare(self, model: pl.LightningModule, datamodule: ImageDataModule) -> None:
        """Checks, preprocesses, splits, audits and packs the data.

        Args:
            model: not used; the configuration is the same for all verbs.
            datamodule: whose data.
        """
        datamodule.prepare_data()

    def check(self, model: pl.LightningModule, datamodule: ImageDataModule) -> None:
        """Looks at every file, audits the split, and packs nothing.

        Args:
            model: not used; the configuration is the same for all verbs.
            datamodule: whose data.
        """
        check_data(datamodule)

    def generate(
        self,
        model: pl.LightningModule,
        datamodule: ImageDataModule,
        n: PositiveInt = 20,
        seed: NonNegativeInt = 0,
        labels: str = "data",
        weights: Literal["best", "last", "previous"] = "best",
        file_format: Literal["auto", "png", "tiff"] = "auto",
    ) -> None:
        """Writes images into the run's `samples`, with a manifest.

        Args:
            model: receives the weights of the checkpoint.
            datamodule: says what is generated; its data need not be there.
            n: number of images.
            seed: of the first image; image k is made from ``seed + k`` and is always the same.
            labels: "data" (class frequencies of the training split), "balanced", or a class.
            weights: which of the run's checkpoints.
            file_format: "auto" is PNG for one channel of 8 or 16 bits, else OME-TIFF.
        """
        from common.generation import SampleSet, clear_samples, write_samples_manifest

        path = self.folder.checkpoint(weights)
        _restore(model, datamodule, path)
        plan = datamodule.plan = datamodule.plan_generation(n, seed, labels)
        writer = ImageWriter(self.folder.samples, datamodule.facts, file_format)
        clear_samples(self.folder, self.is_global_zero)
        self.callbacks.append(writer)
        self.predict(model, datamodule=datamodule, return_predictions=False)
        if self.is_global_zero:
            made = SampleSet(plan, labels, datamodule.facts["classes"], writer.suffix)
            write_samples_manifest(self.folder, made, path)

    def evaluate(
        self,
        model: pl.LightningModule,
        datamodule: ImageDataModule,
        extractor: str = "efficientnet-lite0",
        extractor_weights: str | None = None,
    ) -> None:
        """Compares the run's `samples` with the held-out split and writes `records.jsonl`.

        Args:
            model: not used; the samples on disk are what is judged.
            datamodule: whose test split is read, here for the first time.
            extractor: of features, by name.
            extractor_weights: file with the extractor's weights, where it needs one.
        """
        from common.evaluate import evaluate_run
        from common.tracking.evaluation import log_evaluation, sample_rows

        refuse_tracking(self.folder, self.tracking)
        datamodule.prepare_data()
        datamodule.setup("test")
        best = self.folder.checkpoint("best")
        datamodule.refuse_other_data(load_checkpoint(best), best)
        path = Path(extractor_weights) if extractor_weights else None
        records = evaluate_run(self.folder, datamodule, extractor, path)
        log_evaluation(self.folder, self.tracking, records, sample_rows(self.folder, datamodule))


class Signals(_SignalConnector):
    """Our handlers instead of Lightning's, which save in the middle of a step, or not at all."""

    def register_signal_handlers(self) -> None:
        """Called when a verb begins; only training has something to save."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            interrupts.defer()

    def teardown(self) -> None:
        """Called when it has ended, in whatever way."""
        interrupts.release()


def _restore(model: pl.LightningModule, datamodule: ImageDataModule, path: Path) -> None:
    checkpoint: dict[str, Any] = load_checkpoint(path)
    load_weights(model, checkpoint, path)
    datamodule.load_facts(checkpoint, path)
