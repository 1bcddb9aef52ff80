"""A run's folder before the first step and after the last: is it ours, and does it hold all?"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only

from common.errors import Exit, UserError, relative
from common.runs.checkpoints import verify
from common.runs.folder import RunFolder
from common.runs.lock import refuse_locked
from common.runs.saving import warn_of_small_disk
from common.storage import sweep_partial_files, whole_file


@rank_zero_only
def refuse_used(folder: RunFolder, resume: bool) -> None:
    """Looks before anything is made.

    Raises:
        UserError: another process writes the run, or it exists and shall not be resumed.
    """
    refuse_locked(folder.path)
    _refuse_existing(folder, resume)


def _refuse_existing(folder: RunFolder, resume: bool) -> None:
    # Empty folders are what a start leaves that was stopped before it had anything to keep.
    used = any(p.is_file() and not p.name.startswith(".") for p in folder.path.rglob("*"))
    if used and not resume:
        raise UserError(
            Exit.STORAGE,
            folder.shown(folder.path),
            "holds a run already",
            "choose another RUN= or go on with --resume true",
            "nothing was changed",
        )


def claim(folder: RunFolder, resume: bool, checkpoint_bytes: int) -> None:
    """Finds out now what would otherwise cost the first epoch, and sweeps what a kill has left.

    Args:
        folder: locked by this process.
        resume: whether it shall hold a run already; another one may have come and gone meanwhile.
        checkpoint_bytes: estimated size of one checkpoint.

    Raises:
        UserError: the folder holds a run, cannot be written to, or has no room.
    """
    _refuse_existing(folder, resume)
    try:
        folder.checkpoints.mkdir(exist_ok=True)
        folder.previews.mkdir(exist_ok=True)
        # Not the whole folder: verbs that work on samples may be writing into the rest of it.
        sweep_partial_files(folder.config, folder.metrics, folder.checkpoints, folder.previews)
        with whole_file(folder.checkpoints / "probe") as stream:
            stream.write(b"probe")
        (folder.checkpoints / "probe").unlink()
    except OSError as error:
        problem = f"cannot be written to ({error.strerror})"
        subject = folder.shown(folder.checkpoints)
        raise UserError(Exit.STORAGE, subject, problem, "choose another --workspace") from error
    _refuse_small_disk(folder.checkpoints, checkpoint_bytes)


def sweep_samples(folder: RunFolder) -> None:
    """Sweeps what was left where verbs that work on samples were killed.

    Args:
        folder: whose samples are locked by this process.
    """
    files = (folder.records, folder.confusion, folder.quiz)
    sweep_partial_files(*files, folder.samples, folder.evaluation)


@rank_zero_only
def refuse_vanished(folder: RunFolder, checkpoints: Sequence[str]) -> None:
    """A run that ends well has what it says.

    Args:
        folder: of the run.
        checkpoints: names of those it announces.

    Raises:
        UserError: a file is gone or is not what was written.
    """
    for path in (folder.config, folder.metrics, *map(folder.checkpoint, checkpoints)):
        try:
            path.stat()
            if path.suffix == ".ckpt":
                verify(path)
        except (OSError, UserError) as error:
            problem = "is not there any more, or is not what was written"
            remedy = "look what happened to the folder, then go on with --resume true"
            raise UserError(Exit.STORAGE, folder.shown(path), problem, remedy) from error


def _refuse_small_disk(folder: Path, checkpoint_bytes: int) -> None:
    """Looks whether the checkpoints of a run fit, before it spends any time.

    Raises:
        UserError: not even one does.
    """
    free = shutil.disk_usage(folder).free
    if free < checkpoint_bytes:
        raise UserError(
            Exit.STORAGE,
            relative(folder),
            f"has {free >> 20} MiB free, and a checkpoint takes about {checkpoint_bytes >> 20} MiB",
            "free some space or choose another --workspace",
            "nothing was trained",
        )
    warn_of_small_disk(folder, checkpoint_bytes)
