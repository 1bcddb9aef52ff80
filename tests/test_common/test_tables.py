"""CSV that a spreadsheet shows instead of computing it, and that reads back exactly."""

import csv
import io
import math
import os
from pathlib import Path

import numpy as np
import pytest

from common.data.datasets import SeedDataset
from common.data.manifest import Sample, read_manifest, write_manifest
from common.errors import Exit, UserError
from common.generation import (
    COLUMNS,
    SampleSet,
    clear_samples,
    drawing_folder,
    read_samples_manifest,
    sample_file,
    write_samples_manifest,
)
from common.metrics.protocol import Record, read_records, write_records
from common.runs.folder import RunFolder
from common.tables import finite_or_none, from_csv, named_cells, to_csv

FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", "\n=1", "＝1", "=", "-", "-1"]
TEXTS = [
    *FORMULAS, "'", "''", "'=1", "''=1", "1'", "a,b", 'a"b', '"', "a\nb", "a\r\nb", "\r", "\n", "",
    " =1", "a;b", "ä\u2028b\x85c\x0b", "\0", "\u202e", os.fsdecode(b"\xff\xfe.png"), "x" * 100_000,
]  # fmt: skip
each_text = pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))


@each_text
def test_a_text_reads_back_exactly(text: str) -> None:
    rows = [["a", "b"], [text, text], ["x", text]]
    assert from_csv(to_csv(rows)) == rows


@pytest.mark.parametrize("text", FORMULAS, ids=range(len(FORMULAS)))
def test_a_text_is_never_a_formula(text: str) -> None:
    (row,) = csv.reader(io.StringIO(to_csv([[text]]).decode(), newline=""))
    assert row == [f"'{text}"]


def test_numbers_are_left_alone() -> None:
    assert to_csv([[-1, -0.5, 1e-300, None, True]]) == b"-1,-0.5,1e-300,,True\r\n"


def test_names_that_are_not_utf8_keep_their_bytes() -> None:
    data = to_csv([[os.fsdecode(b"\xff=1"), os.fsdecode(b"=\xff")]])
    assert data == b"\xff=1,'=\xff\r\n"
    assert from_csv(data) == [["\udcff=1", "=\udcff"]]


def test_cells_have_the_names_of_the_first_row() -> None:
    assert named_cells([["a", "b"], ["1", "2"], ["3"]]) == [{"a": "1", "b": "2"}, {"a": "3"}]
    assert named_cells([]) == named_cells([["a"]]) == []


def test_what_is_no_table_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="line 1: field larger"):
        from_csv(b'"' + b"x" * 200_000)


@each_text
def test_the_table_of_samples_reads_back_exactly(tmp_path: Path, text: str) -> None:
    samples = [Sample(text, text, text, "train", sha256=text), Sample("a", "b", index=3)]
    write_manifest(tmp_path / "manifest.csv", samples)
    assert read_manifest(tmp_path / "manifest.csv") == samples


@pytest.fixture
def generated(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path, "exp", "first")
    folder.samples.mkdir(parents=True)
    return folder


@each_text
def test_the_table_of_generated_images_reads_back_exactly(generated: RunFolder, text: str) -> None:
    plan = SeedDataset([7, 8], [1, 0], [(4, 4)] * 2, 4)
    clear_samples(generated, True, "ab")
    for name in ("000000.png", "000001.png"):
        (drawing_folder(generated) / name).write_bytes(name.encode())
    write_samples_manifest(generated, SampleSet(plan, text, ["a", text], ".png"), "ab")
    first, second = read_samples_manifest(generated)
    assert (first["name"], first["seed"], first["label"]) == ("000000.png", "7", text)
    assert (second["seed"], second["label"], second["labels"]) == ("8", "a", text)
    assert sample_file(generated, first) == generated.samples / "000000.png"
    (generated.samples / "000001.png").write_bytes(b"another")
    with pytest.raises(UserError, match=r"000001\.png: is not the image that was generated"):
        sample_file(generated, second)
    names = {"manifest.csv", "000000.png", "000001.png"}
    assert {path.name for path in generated.samples.iterdir()} == names


def drawn(folder: RunFolder, pattern: str = "{number:06d}") -> None:
    clear_samples(folder, True, "ab")
    for name in ("000000.png", "000001.png"):
        (drawing_folder(folder) / name).write_bytes(name.encode())
    plan = SeedDataset([7, 8], [1, 0], [(4, 4)] * 2, 4)
    made = SampleSet(plan, "data", ["a", "b"], ".png", pattern=pattern)
    write_samples_manifest(folder, made, "ab")


def names_in(folder: RunFolder) -> set[str]:
    found = (path.relative_to(folder.samples) for path in folder.samples.rglob("*"))
    return {path.as_posix() for path in found}


def test_what_somebody_else_put_beside_generated_images_stays(generated: RunFolder) -> None:
    drawn(generated, "in {label}/{number}")
    mine = {"favourite.png", "20240131.png", ".notes.part", "empty"}
    (generated.samples / "empty").mkdir()
    for name in mine - {"empty"}:
        (generated.samples / name).write_bytes(b"mine")
    drawn(generated)
    assert names_in(generated) == mine | {"000000.png", "000001.png", "manifest.csv"}


def test_numbers_of_continued_recordings_stay_with_the_checkpoint_they_are_of(
    generated: RunFolder,
) -> None:
    continued = Record("continuation/mae/BF", 0.5, checkpoint_sha256="ab")
    write_records(generated.records, [Record("kernel_distance", 1, checkpoint_sha256="ab")])
    drawn(generated)
    assert not generated.records.exists()
    write_records(generated.records, [Record("judge/recall", 1, checkpoint_sha256="ab"), continued])
    generated.continuation.mkdir()
    drawn(generated)
    assert read_records(generated.records) == [continued] and generated.continuation.exists()
    clear_samples(generated, True, "cd")
    assert not generated.records.exists() and not generated.continuation.exists()
    generated.records.write_text("damaged")
    clear_samples(generated, True, "ab")
    assert not generated.records.exists()
    assert generated.records.with_name("records.damaged.jsonl").read_text() == "damaged"


def test_only_numbers_that_are_not_finite_become_empty_cells() -> None:
    cells = [1.5, -math.inf, math.nan, np.float64("nan"), 3, "nan", None]
    assert [finite_or_none(cell) for cell in cells] == [1.5, None, None, None, 3, "nan", None]


@pytest.mark.parametrize("moves", [0, 1])
def test_a_generate_that_was_killed_leaves_nothing_that_the_next_one_keeps(
    generated: RunFolder, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    left, rename = iter(range(moves)), Path.rename

    def rename_some(path: Path, target: Path) -> Path:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename_some)
        with pytest.raises(KeyboardInterrupt):
            drawn(generated, "in {label}/{number}")
    row = read_samples_manifest(generated)[1]
    with pytest.raises(UserError, match="cannot be read"):
        sample_file(generated, row)
    drawn(generated)
    names = names_in(generated) - {"in a", "in b"}
    assert names == {"000000.png", "000001.png", "manifest.csv"}


OF_TWO = to_csv([COLUMNS, *([*["a"] * (len(COLUMNS) - 2), digest, "b"] for digest in "cd")])


@pytest.mark.parametrize(
    "data", [b"", b"name,seed\r\na,1\r\n", b'"' + b"x" * 200_000, b"\0", OF_TWO], ids=range(5)
)
def test_a_damaged_table_of_generated_images_is_named(generated: RunFolder, data: bytes) -> None:
    (generated.samples / "manifest.csv").write_bytes(data)
    with pytest.raises(UserError, match=r"manifest\.csv: is not what make generate writes") as hit:
        read_samples_manifest(generated)
    assert hit.value.code == Exit.INPUT
