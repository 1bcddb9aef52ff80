"""Small checkpoints, saved as a run saves them."""

from pathlib import Path
from typing import Any

import torch

from common.runs.checkpoints import DurableCheckpointIO, load_checkpoint


def checkpoint_of(value: float, size: int = 10) -> dict[str, Any]:
    return {"state_dict": {"w": torch.full((size,), value)}, "hyper_parameters": {"a": 1}}


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    DurableCheckpointIO().save_checkpoint(checkpoint, str(path))


def value_of(path: Path) -> float | None:
    """What a checkpoint holds; None if there is none. A refused one fails the test."""
    return float(load_checkpoint(path)["state_dict"]["w"][0]) if path.exists() else None


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def replace(path: Path, value: float) -> None:
    """What a run does when it saves."""
    save(path, checkpoint_of(value))


def flip(path: Path, bit: int) -> None:
    """In a file of its own: another generation may share the old one."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.unlink()
    path.write_bytes(content)
