"""Checkpoints: written whole or not at all, checked on reading, read only as data.

Beside each `<name>.ckpt` lies `<name>.ckpt.sha256`, which ``sha256sum -c`` understands. While a
checkpoint is being replaced it lists the old and the new digest, so that no kill leaves a good file
without its digest.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from torch import Tensor

from common.errors import Exit, UserError, relative
from common.storage import partial_file, sync_folder, whole_file

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
_REMEDY = "free space or make the folder writable, then go on with --resume true"
_KEPT = "the previous checkpoint is untouched"
_WEIGHTS = {"state_dict", "hyper_parameters"}
_STATE = _WEIGHTS | {"loops", "callbacks", "optimizer_states"}
# What training changes; a callback may well hold an infinite "best so far".
_TRAINED = ("state_dict", "current_model_state", "averaging_state", "optimizer_states")
_LINE = re.compile(r"[0-9a-f]{64}")


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to the disk, then renames.

    Lightning writes through the system's temporary folder; when that is another device, the last
    step is a copy that a kill can cut short.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str, storage_options: Any | None = None
    ) -> None:
        """Saves ``checkpoint`` at ``path``; an older file there stays until the new one is safe.

        Then what was `last.ckpt` becomes `previous.ckpt`.

        Raises:
            UserError: the folder cannot be written to, is full or gone, or the checkpoint holds
                NaN or Inf.
        """
        target, hashing = Path(path), _HashingStream()
        _refuse_non_finite(checkpoint, target)

        def make_room() -> None:
            if target.name == LAST:
                keep_generation(target)
            _write_digests(target, [*read_digests(target), hashing.digest.hexdigest()])

        with whole_file(target, _REMEDY, _KEPT, before_replacing=make_room) as stream:
            hashing.stream = stream
            try:
                torch.save(checkpoint, hashing)
            except RuntimeError as error:  # what torch makes of a full disk
                raise hashing.error or OSError(str(error)) from error
        _write_digests(target, [hashing.digest.hexdigest()])
        if target.stat().st_size != hashing.size:
            raise UserError(Exit.STORAGE, relative(target), "lost a part of itself", _REMEDY)

    def load_checkpoint(
        self, path: str, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """As `load_checkpoint`, whatever is asked for: never code, never unchecked."""
        return load_checkpoint(Path(path))

    def remove_checkpoint(self, path: str) -> None:
        """Removes it with its digest."""
        for file in (Path(path), digest_file(Path(path))):
            file.unlink(missing_ok=True)


def load_checkpoint(path: Path, to_resume: bool = False) -> dict[str, Any]:
    """What `read_checkpoint` reads, for those who need not say which checkpoint it was."""
    return read_checkpoint(path, to_resume)[0]


def read_checkpoint(path: Path, to_resume: bool = False) -> tuple[dict[str, Any], str]:
    """Reads a checkpoint on the CPU with the safe loader; nothing in it is executed.

    Args:
        path: the file.
        to_resume: whether more than the weights is needed.

    Returns:
        Its content, and the SHA-256 of the bytes that hold it, even if others take their place now.

    Raises:
        UserError: it is not there, damaged, or holds more than data or less than is needed.
    """
    with _verified(path) as (stream, digest):
        try:
            checkpoint = torch.load(stream, map_location="cpu", weights_only=True)
            missing = (_STATE if to_resume else _WEIGHTS) - set(checkpoint)
            if to_resume and not missing:
                images_in(checkpoint), batches_in(checkpoint), checkpoint["epoch"] + 1
        except Exception as error:  # damaged bytes make the unpickler raise whatever they spell
            raise _unusable(path, "is damaged or no checkpoint of ours") from error
    if missing:
        raise _unusable(path, f"is no checkpoint of a run: {min(missing)} is missing")
    return checkpoint, digest


def images_in(checkpoint: dict[str, Any]) -> int:
    """Training images that a checkpoint has seen."""
    return checkpoint["callbacks"]["ImagesSeen"]["count"]


def batches_in(checkpoint: dict[str, Any]) -> int:
    """Batches of its epoch that a checkpoint has seen."""
    return checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["processed"]


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


def verify(path: Path) -> None:
    """Compares a checkpoint with the digest beside it.

    Raises:
        UserError: either is missing, or they differ.
    """
    with _verified(path):
        pass


def keep_generation(path: Path) -> None:
    """Makes what ``path`` holds available as `previous.ckpt`, before ``path`` is replaced.

    At every moment at least one of the two is whole.

    Raises:
        UserError: the folder cannot be written to.
    """
    digests = read_digests(path)
    if not path.is_file() or not digests:
        return
    previous = path.with_name(PREVIOUS)
    try:
        _replace_by_link(path, previous, digests)
    except OSError as error:
        problem = f"cannot be written ({error.strerror})"
        raise UserError(Exit.STORAGE, relative(previous), problem, _REMEDY, _KEPT) from error


def promote_previous(path: Path) -> None:
    """Puts `previous.ckpt` in the place of ``path``, which is damaged or not wanted."""
    previous = path.with_name(PREVIOUS)
    _replace_by_link(previous, path, read_digests(previous))


def digest_file(path: Path) -> Path:
    """Where the digest of a checkpoint lies."""
    return path.with_name(f"{path.name}.sha256")


def read_digests(path: Path) -> list[str]:
    """Digests that a checkpoint may have; none where its digest file is missing."""
    with suppress(OSError, UnicodeDecodeError):
        return _LINE.findall(digest_file(path).read_text(encoding="ascii"))
    return []


def sha256_of(path: Path) -> str:
    """Digest of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def nbytes(model: pl.LightningModule) -> int:
    """Estimated size of a checkpoint: the weights, their average and two moments of Adam."""
    return 4 * sum(t.numel() * t.element_size() for t in model.state_dict().values())


@contextmanager
def _verified(path: Path) -> Iterator[tuple[BinaryIO, str]]:
    """The open file and its digest; a save that replaces the file leaves the open one as it is."""
    if not path.is_file():
        raise _unusable(path, "does not exist")
    with path.open("rb") as stream:
        # Before the file is hashed, which takes longer than a save keeps the digest of an old one.
        digests = read_digests(path)
        if not digests:
            raise _unusable(path, f"comes without its digest ({digest_file(path).name})")
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest not in digests:
            problem = f"is damaged: its SHA-256 is not the one in {digest_file(path).name}"
            raise _unusable(path, problem)
        stream.seek(0)
        yield stream, digest


class _HashingStream:
    """Hashes what is written, and keeps the error that torch would hide."""

    stream: BinaryIO

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.size = 0
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        try:
            return self.stream.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.stream.flush()


def _write_digests(path: Path, digests: list[str]) -> None:
    with whole_file(digest_file(path), _REMEDY, _KEPT) as stream:
        stream.write("".join(f"{digest}  {path.name}\n" for digest in digests).encode())


def _replace_by_link(source: Path, target: Path, digests: list[str]) -> None:
    partial = partial_file(target)
    try:
        _link_or_copy(source, partial)
        _write_digests(target, [*read_digests(target), *digests])
        partial.replace(target)
        sync_folder(target.parent)
        _write_digests(target, digests)
    finally:
        # Replacing a name by another one of the same file leaves both.
        with suppress(OSError):
            partial.unlink()


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        with source.open("rb") as old, target.open("wb") as new:
            shutil.copyfileobj(old, new)
            new.flush()
            os.fsync(new.fileno())


def _refuse_non_finite(checkpoint: dict[str, Any], path: Path) -> None:
    trained = {name: checkpoint[name] for name in _TRAINED if name in checkpoint}
    for name, tensor in _tensors(trained, ""):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(
                Exit.NON_FINITE,
                relative(path),
                f"was not written: {name} holds NaN or Inf",
                "lower the learning rate and go on with --resume true",
                _KEPT,
            )


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _tensors(item, f"{name}.{key}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for position, item in enumerate(value):
            yield from _tensors(item, f"{name}.{position}")


def _unusable(
    path: Path, problem: str, remedy: str = "use another checkpoint of the run, or another run"
) -> UserError:
    """Offers the other generation, where there is one that is whole."""
    previous = path.with_name(PREVIOUS)
    if path.name != PREVIOUS and previous.is_file():
        with suppress(OSError):
            if sha256_of(previous) in read_digests(previous):
                other = relative(previous)
                remedy += f"; {other} is whole (--resume previous, --weights previous)"
    return UserError(Exit.CHECKPOINT, relative(path), problem, remedy)
