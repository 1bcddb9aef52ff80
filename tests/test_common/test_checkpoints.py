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

import pytest
import torch
from saved_checkpoints import checkpoint_of, flip, names, replace, save, value_of

from common.errors import Exit, UserError
from common.runs.checkpoints import (
    keep_generation,
    load_checkpoint,
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
