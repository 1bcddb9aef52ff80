import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from saved_checkpoints import checkpoint_of, flip, names, save, value_of
from torch import nn

from common.errors import Exit, UserError
from common.runs.checkpoints import (
    DurableCheckpointIO,
    load_checkpoint,
    load_weights,
    promote_previous,
)


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.marker,)


def with_digest(path: Path) -> Path:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")
    return path


@pytest.mark.parametrize("environment", ["", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
def test_a_hostile_checkpoint_is_refused_and_not_executed(
    tmp_path: Path, environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, marker = tmp_path / "best.ckpt", tmp_path / "marker"
    if environment:
        monkeypatch.setenv(environment, "1")
    torch.save(checkpoint_of(1.0) | {"callbacks": _Bomb(marker)}, path)
    with_digest(path)
    for load in (
        lambda: load_checkpoint(path),
        lambda: DurableCheckpointIO().load_checkpoint(str(path), weights_only=False),
    ):
        with pytest.raises(UserError, match=r"best\.ckpt") as caught:
            load()
        assert caught.value.code == Exit.CHECKPOINT
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the checkpoint was not hostile"


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], None, torch.ones(3)])
def test_a_file_of_torch_that_is_no_checkpoint_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "best.ckpt")
    with pytest.raises(UserError, match=r"error\[4\].* no checkpoint of"):
        load_checkpoint(with_digest(tmp_path / "best.ckpt"))


def test_going_on_needs_more_than_the_weights(last: Path) -> None:
    assert load_checkpoint(last)
    with pytest.raises(UserError, match=r"last\.ckpt: is no checkpoint of a run: callbacks is"):
        load_checkpoint(last, to_resume=True)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "best.ckpt"
    save(path, checkpoint_of(1.0))
    for bit in np.random.default_rng(0).integers(0, 8 * path.stat().st_size, 300).tolist():
        flip(path, bit)
        with pytest.raises(UserError, match=r"best\.ckpt: is damaged: .* best\.ckpt\.sha256"):
            load_checkpoint(path)
        flip(path, bit)
    assert value_of(path) == 1.0


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def lose_digest(path: Path) -> None:
    path.with_name(f"{path.name}.sha256").unlink()


def swap_digest(path: Path) -> None:
    path.with_name(f"{path.name}.sha256").write_text(f"{'0' * 64}  {path.name}\n")


def spoil_digest(path: Path) -> None:
    path.with_name(f"{path.name}.sha256").write_bytes(b"\xff\0 no digest")


@pytest.mark.parametrize("damage", [cut, Path.unlink, lose_digest, swap_digest, spoil_digest])
def test_a_damaged_checkpoint_is_refused_and_the_previous_one_is_offered_if_whole(
    last: Path, damage: Callable[[Path], None]
) -> None:
    damage(last)
    with pytest.raises(UserError, match=r"last\.ckpt: .*previous\.ckpt is whole") as caught:
        load_checkpoint(last)
    assert caught.value.code == Exit.CHECKPOINT and "--resume previous" in str(caught.value)
    previous = last.with_name("previous.ckpt")
    content = previous.read_bytes()
    promote_previous(last)
    assert value_of(last) == value_of(previous) == 1.0 and last.read_bytes() == content
    damage(last)
    flip(previous, 3000)
    with pytest.raises(UserError, match=r"last\.ckpt: .*another checkpoint") as caught:
        load_checkpoint(last)
    assert "previous" not in str(caught.value)
    with pytest.raises(UserError, match=r"previous\.ckpt: is damaged"):
        load_checkpoint(previous)


def test_a_missing_checkpoint_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(UserError, match=r"error\[4\]"):
        load_checkpoint(tmp_path)


def test_a_removed_checkpoint_takes_its_digest_along(last: Path) -> None:
    DurableCheckpointIO().remove_checkpoint(str(last))
    assert names(last.parent) == {"previous.ckpt", "previous.ckpt.sha256"}
    DurableCheckpointIO().remove_checkpoint(str(last))


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    checkpoint = {"state_dict": {name: value + 1 for name, value in model.state_dict().items()}}
    load_weights(model, checkpoint, tmp_path / "best.ckpt")
    assert torch.equal(model.weight, checkpoint["state_dict"]["weight"])
    with pytest.raises(UserError, match=r"error\[4\]: .*best\.ckpt.* another model"):
        load_weights(nn.Linear(3, 4), checkpoint, tmp_path / "best.ckpt")
