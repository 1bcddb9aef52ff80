"""A prepared set counts as current exactly as long as its raw files are what they were."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from common.data import freshness
from common.data.freshness import is_current, remember, state_of
from common.data.manifest import Sample, write_manifest


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    for name in "abc":
        (tmp_path / f"raw/{name}.png").write_bytes(name.encode() * 50)
    return tmp_path / "raw"


@pytest.fixture
def folder(raw: Path, tmp_path: Path) -> Path:
    """A prepared folder of all files but c, which was bad, with their states beside it."""
    made = tmp_path / "processed/x-1"
    made.mkdir(parents=True)
    rows = [Sample(f"{n}.png", n, sha256=freshness.digest_of(raw / f"{n}.png")) for n in "ab"]
    write_manifest(made / "manifest.csv", rows)
    (made / "dataset.json").write_text("{}")
    remember(made, {sample.name: state_of(raw / sample.name) for sample in samples()})
    return made


def samples() -> list[Sample]:
    return [Sample(f"{name}.png", name) for name in "abc"]


def replaced_by_one_of_equal_size_and_older_date(raw: Path) -> None:
    other = raw.parent / "other.png"
    other.write_bytes(b"x" * 50)
    os.utime(other, (1000, 1000))
    other.replace(raw / "a.png")


def rewritten_with_the_old_date(raw: Path) -> None:
    status = (raw / "a.png").stat()
    (raw / "a.png").write_bytes(b"x" * 50)
    os.utime(raw / "a.png", ns=(status.st_atime_ns, status.st_mtime_ns))


def rewritten(raw: Path) -> None:
    (raw / "b.png").write_bytes(b"x" * 50)


def mended(raw: Path) -> None:
    (raw / "c.png").write_bytes(b"x" * 50)


def removed(raw: Path) -> None:
    (raw / "a.png").unlink()


@pytest.mark.parametrize(
    "change",
    [replaced_by_one_of_equal_size_and_older_date, rewritten_with_the_old_date, rewritten, mended,
     removed],
    ids=lambda change: change.__name__,
)  # fmt: skip
def test_any_change_of_a_raw_file_is_seen(
    change: Callable[[Path], None], raw: Path, folder: Path
) -> None:
    assert is_current(folder, raw, samples())
    change(raw)
    assert not is_current(folder, raw, samples())


def test_without_a_change_nothing_is_read(
    raw: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = freshness.digest_of
    monkeypatch.setattr(
        freshness, "digest_of", lambda path: read(path) if path.parent == folder else 0
    )
    assert is_current(folder, raw, samples())


def test_new_dates_alone_are_compared_once_and_prepare_nothing(
    raw: Path, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in "ab":
        os.utime(raw / f"{name}.png", (1000, 1000))
    assert is_current(folder, raw, samples()) and "2 files" in capsys.readouterr().out
    assert is_current(folder, raw, samples()) and capsys.readouterr().out == ""


def test_a_copy_on_another_machine_is_current(raw: Path, folder: Path, tmp_path: Path) -> None:
    good = samples()[:2]
    shutil.copytree(folder.parent, tmp_path / "there/processed")
    shutil.copytree(raw, tmp_path / "there/raw")
    assert is_current(tmp_path / "there/processed/x-1", tmp_path / "there/raw", good)
    alone = shutil.copytree(folder, tmp_path / "alone/x-1")
    assert is_current(alone, raw, good)


def test_states_of_another_preparation_are_not_believed(raw: Path, folder: Path) -> None:
    (folder / "dataset.json").write_text('{"other": 1}')
    write_manifest(folder / "manifest.csv", [Sample(s.name, s.name, sha256="0") for s in samples()])
    assert not is_current(folder, raw, samples())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"prepared": 1, "files": 2}'])
def test_states_that_cannot_be_read_only_cost_time(text: str, raw: Path, folder: Path) -> None:
    (beside,) = folder.parent.glob(".x-1*")
    beside.write_text(text)
    assert is_current(folder, raw, samples()[:2])
    assert json.loads(beside.read_text())["files"].keys() == {"a.png", "b.png"}


def test_an_unfinished_folder_is_not_current(raw: Path, folder: Path) -> None:
    (folder / "dataset.json").unlink()
    assert not is_current(folder, raw, samples())


def test_names_in_any_bytes_are_remembered(raw: Path, folder: Path) -> None:
    name = os.fsdecode(b"latin\xe9.png")
    remember(folder, {name: [1, 2, 3]})
    assert freshness._remembered(folder) == {name: [1, 2, 3]}
