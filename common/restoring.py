"""A model and its data as a checkpoint left them, and which checkpoint that is."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from common.data.datamodule import ImageDataModule
from common.errors import Exit, UserError, relative, visible
from common.generation import read_samples_manifest
from common.runs.checkpoints import load_weights, read_checkpoint, sha256_of
from common.runs.folder import RunFolder

# The one to describe where nothing else decides comes first.
_CHECKPOINTS = ("best", "last", "previous")


def restore(
    model: pl.LightningModule, data: ImageDataModule, path: Path
) -> tuple[dict[str, Any], str]:
    """Reads a checkpoint, which is returned with the SHA-256 that names it.

    Args:
        model: receives its averaged weights.
        data: receives what it knows of its training data.
        path: the file.

    Raises:
        UserError: it cannot be read, or is of another model or experiment.
    """
    checkpoint, digest = read_checkpoint(path)
    load_weights(model, checkpoint, path)
    data.load_facts(checkpoint, path)
    return checkpoint, digest


def held_checkpoints(folder: RunFolder) -> dict[str, str]:
    """SHA-256 of each checkpoint that a run has, by name."""
    paths = {name: folder.checkpoint(name) for name in _CHECKPOINTS}
    return {name: sha256_of(path) for name, path in paths.items() if path.is_file()}


def checkpoint_of_samples(folder: RunFolder) -> Path:
    """The checkpoint that drew the samples, which alone says what they may have seen.

    Raises:
        UserError: nothing was generated, or the run no longer has that checkpoint.
    """
    digest = read_samples_manifest(folder)[0]["checkpoint_sha256"]
    return folder.checkpoint(name_of_checkpoint(folder, digest, held_checkpoints(folder)))


def name_of_checkpoint(folder: RunFolder, digest: str, held: dict[str, str]) -> str:
    """Name of the checkpoint with this digest.

    Args:
        folder: of the run.
        digest: as the table of samples, or records, name it.
        held: of `held_checkpoints`.

    Raises:
        UserError: the run no longer has it.
    """
    for name, found in held.items():
        if digest == found:
            return name
    raise UserError(
        Exit.CHECKPOINT,
        relative(folder.checkpoints),
        f"no longer holds the checkpoint that drew the samples ({visible(digest[:12])})",
        f"run make generate EXP={folder.experiment} RUN={folder.run_id} N=1000 again",
    )
