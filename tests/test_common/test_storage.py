"""What a killed process leaves is removed; what a living one writes is not."""

import errno
import os
import signal
import time
from pathlib import Path

import pytest

from common.errors import UserError
from common.storage import sweep_partial_files, whole_file, whole_folder


def killed_while_writing(folder: Path) -> None:
    child = os.fork()
    if not child:
        with whole_folder(folder) as unfinished:
            (unfinished / "half").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def killed_while_replacing(folder: Path) -> None:
    child = os.fork()
    if not child:
        rename = Path.rename

        def and_dies(path: Path, target: Path) -> None:
            rename(path, target)
            os.kill(os.getpid(), signal.SIGKILL)

        Path.rename = and_dies
        with whole_folder(folder):
            pass
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("killed", ["x-0a1b", "x-77ff"])
def test_what_a_killed_process_left_is_swept_at_the_next_start(killed: str, tmp_path: Path) -> None:
    killed_while_writing(tmp_path / killed)
    assert len(names(tmp_path)) == 1 and names(tmp_path)[0].startswith(f".{killed}.")
    with whole_folder(tmp_path / "x-0a1b") as unfinished:
        assert names(tmp_path) == [unfinished.name]
        (unfinished / "whole").write_bytes(b"whole")
    assert names(tmp_path) == ["x-0a1b"] and names(tmp_path / "x-0a1b") == ["whole"]


def test_an_old_folder_that_was_being_replaced_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".x-0a1b.abcd1234.old").mkdir()
    with whole_folder(tmp_path / "x-0a1b"):
        pass
    assert names(tmp_path) == ["x-0a1b"]


@pytest.mark.parametrize("started", ["x-0a1b", "x-77ff"])
def test_what_a_kill_has_half_replaced_is_back_at_the_next_start(
    started: str, tmp_path: Path
) -> None:
    folder = tmp_path / "x-0a1b"
    (folder / "kept").mkdir(parents=True)
    killed_while_replacing(folder)
    assert not folder.exists()
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / started):
        raise KeyboardInterrupt
    assert names(tmp_path) == ["x-0a1b"] and names(folder) == ["kept"]


def test_a_replacement_that_fails_halfway_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename = tmp_path / "x-0a1b", Path.rename
    (folder / "kept").mkdir(parents=True)

    def refuse_the_new(path: Path, target: Path) -> None:
        if target == folder and path.suffix != ".old":
            raise OSError(errno.EIO, "Input/output error")
        rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse_the_new)
    with pytest.raises(UserError, match="what was there before was kept"), whole_folder(folder):
        pass
    assert names(tmp_path) == ["x-0a1b"] and names(folder) == ["kept"]


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        with whole_folder(tmp_path / "x-0a1b") as unfinished:
            (unfinished / "half").write_bytes(b"half")
            os.write(writing, b"!")
            time.sleep(60)
        os._exit(0)
    try:
        os.read(reading, 1)
        with whole_folder(tmp_path / "x-0a1b") as unfinished:
            others = [name for name in names(tmp_path) if name != unfinished.name]
            assert len(others) == 1 and (tmp_path / others[0] / "half").is_file()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with whole_folder(tmp_path / "x-0a1b"):
        pass
    assert names(tmp_path) == ["x-0a1b"]


def test_nothing_but_its_own_kind_is_swept(tmp_path: Path) -> None:
    kept = [".x-0a1b.files.json", ".x-other.abcd1234", ".y-0a1b.abcd1234", ".cache.abcd1234"]
    kept += [".x-0a1b.abcd12345", ".x-0a1b.ABCD1234", "x-0a1b.abcd1234", ".git"]
    for name in kept:
        (tmp_path / name).mkdir()
    (tmp_path / ".x-77ff.abcd1234").write_text("a file")
    with whole_folder(tmp_path / "x-0a1b"):
        pass
    assert names(tmp_path) == sorted([*kept, ".x-77ff.abcd1234", "x-0a1b"])


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "deep/er/x-0a1b") as unfinished:
        (unfinished / "half").write_bytes(b"half")
        raise KeyboardInterrupt
    assert names(tmp_path / "deep/er") == []


def test_two_that_write_the_same_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    with whole_file(path) as first:
        first.write(b"half of ")
        with whole_file(path) as second:
            second.write(b"second")
        assert path.read_bytes() == b"second"
        first.write(b"the first")
    assert path.read_bytes() == b"half of the first" and names(tmp_path) == ["x.csv"]


def test_a_file_is_swept_without_those_of_like_names(tmp_path: Path) -> None:
    kept = [".x.csv.part", ".x.csv.sha256.0a1b2c3d.part", ".xxcsv.0a1b2c3d.part", "x.csv"]
    for name in (*kept, ".x.csv.0a1b2c3d.part"):
        (tmp_path / name).write_bytes(b"half")
    sweep_partial_files(tmp_path / "x.csv")
    assert names(tmp_path) == sorted(kept)
