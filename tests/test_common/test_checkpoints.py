import errno
import hashlib
import io
import math
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import Exit, UserError
from common.runs.checkpoints import (
    DurableCheckpointIO,
    keep_generation,
    load_checkpoint,
    load_weights,
    promote_previous,
    sha256_of,
)
from common.storage import sweep_partial_files

ALL = {f"{name}.ckpt{end}" for name in ("last", "previous") for end in ("", ".sha256")}


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


def value_of(path: Path) -> float | None:
    """What a checkpoint holds; None if there is none. A refused one fails the test."""
    return float(load_checkpoint(path)["state_dict"]["w"][0]) if path.exists() else None


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def last(tmp_path: Path) -> Path:
    """`last.ckpt` with 2.0 beside `previous.ckpt` with 1.0."""
    path = tmp_path / "last.ckpt"
    replace(path, 1.0)
    replace(path, 2.0)
    return path


def replace(path: Path, value: float) -> None:
    """What a run does when it saves."""
    save(path, checkpoint_of(value))


def test_a_saved_checkpoint_comes_back_and_leaves_its_digest_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save(path, checkpoint_of(1.0))
    save(path, checkpoint_of(2.0))
    assert torch.equal(load_checkpoint(path)["state_dict"]["w"], torch.full((10,), 2.0))
    kept = {"last.ckpt", "previous.ckpt"}
    assert names(tmp_path) == kept | {f"{name}.sha256" for name in kept}
    assert load_checkpoint(tmp_path / "previous.ckpt")["state_dict"]["w"][0] == 1.0
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (tmp_path / "last.ckpt.sha256").read_text() == f"{digest}  last.ckpt\n"
    assert sha256_of(path) == digest


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs coreutils")
def test_a_digest_is_understood_by_the_usual_tool(last: Path) -> None:
    check = ["sha256sum", "-c", "last.ckpt.sha256", "previous.ckpt.sha256"]
    assert subprocess.run(check, cwd=last.parent, capture_output=True, check=False).returncode == 0
    flip(last, 1000)
    assert subprocess.run(check, cwd=last.parent, capture_output=True, check=False).returncode == 1


class Killed(BaseException):
    """Stands for the end of the process: nothing is done after it, no `finally` either."""


class Machine:
    """Counts what is asked of the file system, and dies before the ``dies_at``-th."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.dies_at: int | None = None
        for name in ("replace", "link", "unlink"):
            monkeypatch.setattr(os, name, self._watched(getattr(os, name)))
        # What a lost machine would lose cannot be seen here.
        monkeypatch.setattr(os, "fsync", self._watched(lambda descriptor: None))
        monkeypatch.setattr(io, "open", self._watched(io.open))

    def run(self, work: Callable[[], object], dies_at: int | None = None) -> int:
        """Steps that ``work`` took, up to its death."""
        self.count, self.dies_at = 0, dies_at
        try:
            work()
        except Killed:
            assert self.count >= dies_at
        else:
            assert dies_at is None, "was not killed"
        finally:
            self.dies_at = None
        return self.count

    def _watched(self, original: Callable) -> Callable:
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if self.dies_at is not None and self.count >= self.dies_at:
                raise Killed
            return original(*args, **kwargs)

        return watched


@pytest.fixture(params=["links", "no links"])
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Also one whose file system has no hard links."""
    if request.param == "no links":
        monkeypatch.setattr(os, "link", refuse_links)
    return Machine(monkeypatch)


def refuse_links(*args: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def deaths(
    machine: Machine, folder: Path, before: Callable[[Path], None], work: Callable[[Path], None]
) -> Iterator[Path]:
    """A folder for every step of ``work`` at which a process may die."""
    (folder / "whole").mkdir(parents=True)
    before(folder / "whole")
    steps = machine.run(lambda: work(folder / "whole"))
    assert steps >= 8
    for step in range(1, steps + 1):
        case = folder / f"{step}"
        case.mkdir()
        before(case)
        machine.run(lambda case=case: work(case), dies_at=step)
        yield case


def test_a_first_save_that_is_killed_anywhere_leaves_a_whole_file_or_none(
    tmp_path: Path, machine: Machine
) -> None:
    found = set()
    for case in deaths(machine, tmp_path, names, lambda case: replace(case / "last.ckpt", 1.0)):
        found.add(value_of(case / "last.ckpt"))
        sweep_partial_files(case)
        replace(case / "last.ckpt", 2.0)
        assert value_of(case / "last.ckpt") == 2.0
        assert not any(case.glob(".*"))
    assert found == {None, 1.0}


def test_a_save_that_is_killed_anywhere_leaves_both_generations_whole(
    tmp_path: Path, machine: Machine
) -> None:
    def two(case: Path) -> None:
        replace(case / "last.ckpt", 1.0)
        replace(case / "last.ckpt", 2.0)

    found = set()
    for case in deaths(machine, tmp_path, two, lambda case: replace(case / "last.ckpt", 3.0)):
        last, previous = case / "last.ckpt", case / "previous.ckpt"
        found.add((value_of(previous), value_of(last)))
        sweep_partial_files(case)
        replace(last, 4.0)
        assert value_of(last) == 4.0 and value_of(previous) in (2.0, 3.0)
        assert names(case) == ALL
        assert len((case / "last.ckpt.sha256").read_text().splitlines()) == 1
    assert found == {(1.0, 2.0), (2.0, 2.0), (2.0, 3.0)}


def test_two_kills_in_a_row_cost_no_generation(tmp_path: Path, machine: Machine) -> None:
    def killed_once(case: Path) -> None:
        replace(case / "last.ckpt", 1.0)
        replace(case / "last.ckpt", 2.0)
        steps = machine.run(lambda: replace(case / "last.ckpt", 3.0), dies_at=12)
        assert steps >= 12

    for case in deaths(
        machine, tmp_path, killed_once, lambda case: replace(case / "last.ckpt", 4.0)
    ):
        assert value_of(case / "last.ckpt") in (2.0, 3.0, 4.0)
        assert value_of(case / "previous.ckpt") in (1.0, 2.0, 3.0)


def test_going_back_to_the_previous_generation_may_be_killed_anywhere(
    tmp_path: Path, machine: Machine
) -> None:
    def damaged(case: Path) -> None:
        replace(case / "last.ckpt", 1.0)
        replace(case / "last.ckpt", 2.0)
        flip(case / "last.ckpt", 900)

    for case in deaths(
        machine, tmp_path, damaged, lambda case: promote_previous(case / "last.ckpt")
    ):
        assert value_of(case / "previous.ckpt") == 1.0
        sweep_partial_files(case)
        promote_previous(case / "last.ckpt")
        assert value_of(case / "last.ckpt") == value_of(case / "previous.ckpt") == 1.0
        replace(case / "last.ckpt", 5.0)
        assert value_of(case / "last.ckpt") == 5.0 and value_of(case / "previous.ckpt") == 1.0
        assert names(case) == ALL


def test_rotating_twice_without_a_save_leaves_nothing_beside_the_generations(last: Path) -> None:
    keep_generation(last)
    keep_generation(last)
    assert value_of(last) == value_of(last.with_name("previous.ckpt")) == 2.0
    assert names(last.parent) == ALL


def test_without_hard_links_the_generation_is_a_copy(
    last: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refuse_links)
    keep_generation(last)
    previous = last.with_name("previous.ckpt")
    assert previous.read_bytes() == last.read_bytes() and not previous.samefile(last)
    assert value_of(previous) == 2.0 and names(last.parent) == ALL


def test_a_disk_too_full_to_keep_a_generation_is_an_error_of_storage(
    last: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refuse_links)
    with full_disk(100), pytest.raises(UserError, match=r"previous\.ckpt") as caught:
        keep_generation(last)
    assert caught.value.code == Exit.STORAGE
    assert (value_of(last), value_of(last.with_name("previous.ckpt"))) == (2.0, 1.0)
    assert names(last.parent) == ALL


def test_what_has_no_digest_becomes_no_generation(tmp_path: Path) -> None:
    keep_generation(tmp_path / "last.ckpt")
    (tmp_path / "last.ckpt").write_bytes(b"from somewhere")
    keep_generation(tmp_path / "last.ckpt")
    assert names(tmp_path) == {"last.ckpt"}


def test_a_full_disk_leaves_the_older_checkpoint(last: Path) -> None:
    before = last.read_bytes()
    with full_disk(100_000), pytest.raises(UserError, match=r"error\[5\]: .*last\.ckpt") as caught:
        save(last, checkpoint_of(3.0, size=1_000_000))
    assert caught.value.code == Exit.STORAGE
    assert "--resume true" in str(caught.value) and "untouched" in str(caught.value)
    assert names(last.parent) == ALL
    assert last.read_bytes() == before and value_of(last) == 2.0


def test_a_folder_that_is_gone_or_none_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file in the way")
    for folder in ("gone", "file"):
        with pytest.raises(UserError, match=r"last\.ckpt") as caught:
            save(tmp_path / folder / "last.ckpt", checkpoint_of(1.0))
        assert caught.value.code == Exit.STORAGE
    assert names(tmp_path) == {"file"}


def test_a_file_that_lost_bytes_after_it_was_written_is_noticed(
    last: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.replace

    def lossy(source: Path, target: Path) -> None:
        original(source, target)
        if str(target).endswith(".ckpt"):
            os.truncate(target, 100)

    monkeypatch.setattr(os, "replace", lossy)
    with pytest.raises(UserError, match=r"last\.ckpt: lost a part") as caught:
        save(last, checkpoint_of(3.0))
    assert caught.value.code == Exit.STORAGE


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, AttributeError])
def test_an_interrupted_save_leaves_the_older_checkpoint(
    last: Path, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
) -> None:
    def broken(_: object, stream: Any) -> None:
        stream.write(b"half of it")
        raise interruption

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(interruption):
        save(last, checkpoint_of(3.0))
    assert names(last.parent) == ALL and value_of(last) == 2.0


BAD = (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    ("part", "content", "name"),
    [
        ("state_dict", lambda bad: {"w": bad}, "state_dict.w"),
        ("current_model_state", lambda bad: {"a.b": bad}, "current_model_state.a.b"),
        ("averaging_state", lambda bad: {"x": (1, bad)}, "averaging_state.x.1"),
        ("optimizer_states", lambda bad: [{"state": {0: {"m": bad}}}], "optimizer_states.0.state"),
    ],
)
def test_what_is_not_finite_is_never_written(
    last: Path, bad: float, part: str, content: Callable, name: str
) -> None:
    checkpoint = checkpoint_of(3.0) | {part: content(torch.tensor([0.0, bad, 1e38]))}
    with pytest.raises(UserError, match=f"last.ckpt: was not written: {re.escape(name)}") as caught:
        save(last, checkpoint)
    assert caught.value.code == Exit.NON_FINITE
    assert names(last.parent) == ALL and value_of(last) == 2.0


def test_an_infinite_number_that_training_does_not_change_may_be_written(tmp_path: Path) -> None:
    best_so_far = {"callbacks": {"best": torch.tensor(math.inf)}}
    finite = {"state_dict": {"w": torch.tensor([3e38, -3e38]), "steps": torch.tensor(3)}}
    save(tmp_path / "last.ckpt", checkpoint_of(1.0) | finite | best_so_far)
    assert load_checkpoint(tmp_path / "last.ckpt")["callbacks"]["best"] == math.inf


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


def flip(path: Path, bit: int) -> None:
    """In a file of its own: another generation may share the old one."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.unlink()
    path.write_bytes(content)


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
