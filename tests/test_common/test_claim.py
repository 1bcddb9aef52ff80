import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common.errors import Exit, UserError
from common.runs.checkpoints import DurableCheckpointIO, digest_file
from common.runs.claim import claim, refuse_used, refuse_vanished, sweep_samples
from common.runs.folder import RunFolder
from common.runs.lock import RunLock


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path, "exp", "first")
    made.path.mkdir(parents=True)
    return made


def half(*names: str) -> list[str]:
    return [f"{name}.0a1b2c3d.part" for name in names]


def contents(folder: RunFolder) -> set[str]:
    return {path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*")}


def test_claiming_makes_the_folders_and_sweeps_what_a_kill_has_left(folder: RunFolder) -> None:
    folder.checkpoints.mkdir()
    kept = [folder.config, folder.checkpoint("last"), folder.path / "notes.part"]
    left = [folder.path / name for name in half(".metrics.csv", "checkpoints/.last.ckpt")]
    for path in (*kept, *left):
        path.write_text("something")
    claim(folder, True, 1)
    assert contents(folder) == {
        *("checkpoints", "checkpoints/last.ckpt", "config.yaml", "notes.part", "previews")
    }


TRAINING = half(".config.yaml", "checkpoints/.last.ckpt", "previews/.0000000096.png")
SAMPLING = half(
    *(".records.jsonl", "samples/.manifest.csv", "samples/.drawing/.000003.png"),
    *("evaluation/.held_out.csv", "judge/.confusion.csv", "quiz/.index.html"),
)


def test_training_sweeps_what_training_writes_and_verbs_on_samples_sweep_the_rest(
    folder: RunFolder,
) -> None:
    for name in (*TRAINING, *SAMPLING):
        (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.path / name).write_text("half")
    folders = {"checkpoints", "previews", "samples", "samples/.drawing", "evaluation"}
    folders |= {"judge", "quiz"}
    # As if another process were generating.
    claim(folder, True, 1)
    assert contents(folder) == folders | {*SAMPLING}
    (folder.path / TRAINING[1]).write_text("half")
    sweep_samples(folder)
    assert contents(folder) == folders | {TRAINING[1]}


@pytest.mark.parametrize("name", ["checkpoints", "previews"])
def test_a_folder_that_cannot_be_made_is_an_error_of_storage(folder: RunFolder, name: str) -> None:
    (folder.path / name).write_text("a file in the way")
    with pytest.raises(UserError, match=r"exp/first/.* cannot be written") as caught:
        claim(folder, True, 1)
    assert caught.value.code == Exit.STORAGE


@pytest.mark.parametrize(
    ("free", "said"), [(99, "error"), (100, "warning"), (299, "warning"), (300, "")]
)
def test_room_for_three_checkpoints_is_asked_for_and_for_one_is_needed(
    folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
    free: int,
    said: str,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free << 20))
    if said == "error":
        with pytest.raises(UserError, match=r"99 MiB free, .* about 100 MiB") as caught:
            claim(folder, False, 100 << 20)
        assert caught.value.code == Exit.STORAGE and "nothing was trained" in str(caught.value)
        return
    claim(folder, False, 100 << 20)
    assert ("warning: " in "".join(capfd.readouterr())) == (said == "warning")


def test_a_folder_that_holds_a_run_is_for_resuming_alone(folder: RunFolder) -> None:
    refuse_used(RunFolder(folder.workspace, "exp", "absent"), resume=False)
    lock = RunLock(folder.path)
    lock.acquire()
    with pytest.raises(UserError, match="is being written"):
        refuse_used(folder, resume=True)
    lock.release()
    refuse_used(folder, resume=False)
    folder.config.write_text("")
    refuse_used(folder, resume=True)
    with pytest.raises(UserError, match=r"holds a run already; nothing was changed") as caught:
        refuse_used(folder, resume=False)
    assert caught.value.code == Exit.STORAGE


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def lose_digest(path: Path) -> None:
    digest_file(path).unlink()


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("config.yaml", Path.unlink),
        ("metrics.csv", Path.unlink),
        ("checkpoints/last.ckpt", Path.unlink),
        ("checkpoints/best.ckpt", flip),
        ("checkpoints/best.ckpt", lose_digest),
    ],
)
def test_a_run_that_lost_what_it_announces_does_not_end_well(
    folder: RunFolder, name: str, loss: Callable[[Path], None]
) -> None:
    folder.checkpoints.mkdir()
    for path in (folder.config, folder.metrics):
        path.write_text("")
    for path in map(folder.checkpoint, ("best", "last")):
        DurableCheckpointIO().save_checkpoint({"state_dict": {"w": torch.ones(9)}}, str(path))
    refuse_vanished(folder, ("best", "last"))
    loss(folder.path / name)
    with pytest.raises(UserError, match=f"exp/first/{name}: is not there") as caught:
        refuse_vanished(folder, ("best", "last"))
    assert caught.value.code == Exit.STORAGE
