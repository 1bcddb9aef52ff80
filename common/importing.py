"""A run of weights that were trained elsewhere, by another program."""

import shutil
from pathlib import Path

import pytorch_lightning as pl

from common.callbacks import RunConfig
from common.data.datamodule import ImageDataModule
from common.errors import relative
from common.runs.checkpoints import load_checkpoint, nbytes, sha256_of
from common.runs.claim import claim
from common.runs.folder import RunFolder
from common.runs.lock import RunLock


class Imports:
    """Part of the trainer; it has the run's folder.

    Attributes:
        folder: of the run.
    """

    folder: RunFolder

    def import_published(
        self, model: pl.LightningModule, datamodule: ImageDataModule, weights: str
    ) -> None:
        """Makes a run of released weights, without training.

        Args:
            model: built as the file asks for; receives its weights.
            datamodule: gives samples their grey levels, and `evaluate` what is held out.
            weights: the file; which kinds there are, the experiment's README says.
        """
        path = Path(weights)
        networks, digest = model.load_published(path), sha256_of(path)
        print(f"weights:    {relative(path)}, SHA-256 {digest}")
        print(f"networks:   {networks}", flush=True)
        datamodule.prepare_data()
        datamodule.setup("test")
        datamodule.imported = f"{path.name}, SHA-256 {digest}"
        # Not before: what fails until here leaves no trace.
        lock = RunLock(self.folder.path)
        lock.acquire()
        try:
            claim(self.folder, False, nbytes(model))
            self._save(model, datamodule)
        finally:
            lock.release()

    def _save(self, model: pl.LightningModule, datamodule: ImageDataModule) -> None:
        """The checkpoints that training leaves, and the configuration."""
        self.strategy.connect(model)
        self.datamodule = datamodule
        try:
            for path in (self.folder.checkpoint(name) for name in ("last", "best")):
                self.save_checkpoint(path)
                load_checkpoint(path, to_resume=True)
            # Last: what has a configuration is a run.
            RunConfig.of(self).write()
        except BaseException:
            # They would keep the name from the next import.
            shutil.rmtree(self.folder.checkpoints, ignore_errors=True)
            raise
