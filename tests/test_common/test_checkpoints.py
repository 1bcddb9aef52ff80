import hashlib
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import Exit, UserError
from common.runs.checkpoints import (
    DurableCheckpointIO,
    LastCheckpoint,
    load_checkpoint,
    load_weights,
    sha256_of,
)


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """The kernel refuses files above ``size`` bytes, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def checkpoint_of(value: float, size: int = 10) -> dict[str, Any]:
    return {"state_dict": {"w": torch.full((size,), value)}, "hyper_parameters": {"a": 1}}


def save(path: Path, checkpoint: dict[str, Any]) -> None:
    DurableCheckpointIO().save_checkpoint(checkpoint, str(path))


def test_a_saved_checkpoint_comes_back_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints/last.ckpt"
    save(path, checkpoint_of(1.0))
    save(path, checkpoint_of(2.0))
    assert torch.equal(load_checkpoint(path)["state_dict"]["w"], torch.full((10,), 2.0))
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


def test_a_full_disk_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save(path, checkpoint_of(1.0))
    before = path.read_bytes()
    with full_disk(100_000), pytest.raises(UserError, match=r"error\[5\]: .*last\.ckpt") as caught:
        save(path, checkpoint_of(2.0, size=1_000_000))
    assert caught.value.code == Exit.STORAGE
    assert "--resume true" in str(caught.value) and "untouched" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file in the way")
    with pytest.raises(UserError) as caught:
        save(tmp_path / "checkpoints/last.ckpt", checkpoint_of(1.0))
    assert caught.value.code == Exit.STORAGE


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, AttributeError])
def test_an_interrupted_save_leaves_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
) -> None:
    path = tmp_path / "last.ckpt"
    save(path, checkpoint_of(1.0))

    def broken(_: object, stream: Any) -> None:
        stream.write(b"half of it")
        raise interruption

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(interruption):
        save(path, checkpoint_of(2.0))
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
    assert load_checkpoint(path)["state_dict"]["w"][0] == 1.0


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.marker,)


def test_a_hostile_checkpoint_is_refused_and_not_executed(tmp_path: Path) -> None:
    path, marker = tmp_path / "best.ckpt", tmp_path / "marker"
    torch.save(checkpoint_of(1.0) | {"callbacks": _Bomb(marker)}, path)
    with pytest.raises(UserError) as caught:
        load_checkpoint(path)
    assert caught.value.code == Exit.CHECKPOINT and "best.ckpt" in str(caught.value)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the checkpoint was not hostile"


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], None])
def test_a_file_of_torch_that_is_no_checkpoint_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "best.ckpt")
    with pytest.raises(UserError, match=r"error\[4\]"):
        load_checkpoint(tmp_path / "best.ckpt")


def test_damaged_bytes_end_in_a_user_error_or_in_a_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "good.ckpt", checkpoint_of(1.0))
    good = np.frombuffer((tmp_path / "good.ckpt").read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        bad = good.copy()
        bad[rng.integers(0, len(bad), 4)] ^= rng.integers(1, 256, 4).astype(np.uint8)
        (tmp_path / "bad.ckpt").write_bytes(bad.tobytes())
        try:
            assert load_checkpoint(tmp_path / "bad.ckpt").keys() >= {"state_dict"}
        except UserError as error:
            assert error.code == Exit.CHECKPOINT
            refused += 1
    assert refused > 50


def test_a_missing_checkpoint_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(UserError, match=r"error\[4\]"):
        load_checkpoint(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    checkpoint = {"state_dict": {name: value + 1 for name, value in model.state_dict().items()}}
    load_weights(model, checkpoint, tmp_path / "best.ckpt")
    assert torch.equal(model.weight, checkpoint["state_dict"]["weight"])
    with pytest.raises(UserError, match=r"error\[4\]: .*best\.ckpt.* another model"):
        load_weights(nn.Linear(3, 4), checkpoint, tmp_path / "best.ckpt")


def test_the_digest_is_sha256_of_the_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(data)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("max_epochs", "stops_after", "saved"),
    [(7, None, [1, 3, 5, 6]), (-1, 4, [1, 3, 4]), (4, None, [1, 3])],
)
def test_last_is_saved_every_n_epochs_and_at_the_end(
    tmp_path: Path, max_epochs: int, stops_after: int | None, saved: list[int]
) -> None:
    callback, epochs = LastCheckpoint(tmp_path, every_n_epochs=2), []
    for epoch in range(max_epochs if stops_after is None else stops_after + 1):
        trainer = SimpleNamespace(
            current_epoch=epoch,
            max_epochs=max_epochs,
            should_stop=epoch == stops_after,
            save_checkpoint=lambda path, epoch=epoch: epochs.append((epoch, path.name)),
        )
        callback.on_train_epoch_end(trainer, None)
    assert epochs == [(epoch, "last.ckpt") for epoch in saved]
