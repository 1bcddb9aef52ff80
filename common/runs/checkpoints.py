"""Checkpoints: written whole or not at all, read only as data."""

import hashlib
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint

from common.errors import Exit, UserError, relative
from common.storage import whole_file


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to the disk, then renames.

    Lightning writes through the system's temporary folder; when that is another device, the last
    step is a copy that a kill can cut short.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str, storage_options: Any | None = None
    ) -> None:
        """Saves ``checkpoint`` at ``path``; an older file there stays until the new one is safe.

        Raises:
            UserError: the folder cannot be written to or is full.
        """
        remedy = "free space or make the folder writable, then go on with --resume true"
        kept = "the previous checkpoint is untouched"
        with whole_file(Path(path), remedy, kept, parents=True) as stream:
            try:
                torch.save(checkpoint, stream)
            except RuntimeError as error:  # what torch makes of a full disk
                raise OSError(str(error)) from error


class LastCheckpoint(Checkpoint):
    """Saves `last.ckpt` at the end of epochs, and always at the end of the run.

    Args:
        folder: of the checkpoints.
        every_n_epochs: how often.
    """

    def __init__(self, folder: Path, every_n_epochs: int = 1) -> None:
        self.path = folder / "last.ckpt"
        self.every_n_epochs = every_n_epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves after validation and after all other callbacks of the epoch."""
        epochs = trainer.current_epoch + 1
        last = trainer.should_stop or epochs == trainer.max_epochs
        if last or epochs % self.every_n_epochs == 0:
            trainer.save_checkpoint(self.path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint on the CPU with the safe loader; nothing in it is executed.

    Raises:
        UserError: it is not there, damaged, or holds more than data.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint["state_dict"], checkpoint["hyper_parameters"]
    except FileNotFoundError as error:
        raise _unusable(path, "does not exist", "name another run") from error
    except Exception as error:  # damaged bytes make the unpickler raise whatever they spell
        remedy = "use another checkpoint of the run"
        raise _unusable(path, "is damaged or no checkpoint of ours", remedy) from error
    return checkpoint


def load_weights(model: pl.LightningModule, checkpoint: dict[str, Any], path: Path) -> None:
    """Puts the checkpoint's averaged weights into ``model``.

    Raises:
        UserError: the model is built with other arguments than the one in ``path``.
    """
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        problem = "holds the weights of another model than the options ask for"
        raise _unusable(path, problem, "leave out --model options") from error


def sha256_of(path: Path) -> str:
    """Digest of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _unusable(path: Path, problem: str, remedy: str) -> UserError:
    return UserError(Exit.CHECKPOINT, relative(path), problem, remedy)
