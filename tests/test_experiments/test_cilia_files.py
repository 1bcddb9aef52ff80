"""Files and sizes of the system that this experiment follows, by the real command line."""

import csv
import hashlib
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from read_cards import Shown, mlcroissant

from common.data.image_io import find_images, read_image, write_ome_tiff, write_png
from common.data.manifest import read_manifest
from common.data.prepared import Prepared
from common.report import __main__ as report
from experiments.cilia_cvae.datamodule import CiliaDataModule
from running import Cli, at, call_cli, refuses, run_folder, smoke

EXPERIMENT = "cilia_cvae"
CLASSES = CiliaDataModule().classes
SMOKE = smoke(EXPERIMENT)
FEW = ("--budget.images_seen", "16", "--preview.count", "0")


def arrays(size: int = 32) -> dict[str, np.ndarray]:
    """48 training and 12 test images; every class is there."""
    draw = np.random.default_rng(0)
    x = draw.random((60, size, size, 1), np.float32)
    y = np.arange(60) % len(CLASSES)
    return {"x_train": x[:48], "y_train": y[:48], "x_test": x[48:], "y_test": y[48:]}


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Workspace with a run called `first`; tests copy it."""
    workspace = tmp_path_factory.mktemp("learnt") / "w"
    assert call_cli(EXPERIMENT, "fit", *SMOKE, *at(workspace, "first"), *FEW) == 0
    return workspace


@pytest.fixture
def workspace(learnt: Path, tmp_path: Path) -> Path:
    return shutil.copytree(learnt, tmp_path / "w", symlinks=True)


def facts_of(workspace: Path) -> dict:
    (path,) = workspace.glob("data/processed/*/dataset.json")
    return json.loads(path.read_text())


def samples(workspace: Path, run: str = "first") -> tuple[Path, list[dict[str, str]]]:
    folder = run_folder(workspace, EXPERIMENT, run) / "samples"
    with (folder / "manifest.csv").open(newline="") as stream:
        return folder, list(csv.DictReader(stream))


def test_arrays_are_checked_prepared_and_trained_on_in_their_own_split(
    tmp_path: Path, cli: Cli
) -> None:
    folder = tmp_path / "Processed Input Images"
    folder.mkdir()
    (folder / "raw_image_statistics.csv").touch()
    np.savez(folder / "preprocessed_32x32.npz", **arrays())
    given = ["--data.root", folder]
    where = ["--workspace", tmp_path / "w"]
    checked = cli(EXPERIMENT, "check", *SMOKE, *given, *where)
    assert checked.code == 0, checked.err
    assert "the split of preprocessed_32x32.npz is kept" in checked.out
    assert "(came with the data)" in checked.out
    done = cli(EXPERIMENT, "fit", *SMOKE, *given, *at(tmp_path / "w", "first"), *FEW)
    assert done.code == 0, done.err
    data = Prepared.open(next(tmp_path.glob("w/data/processed/*/")))
    assert data.facts["window"] == [0, 65535] and data.facts["storage"]["mapping"] == "identity"
    counts = Counter(sample.split for sample in data.manifest)
    assert counts["test"] == 12 and counts["train"] + counts["val"] == 48
    made = arrays()
    for split, first in (("train", 0), ("val", 0), ("test", 48)):
        for sample, pixels in zip(data.samples(split), data.dataset(split).pixels, strict=True):
            number = int(re.search(r"_(\d{6})\.png$", sample.name)[1])
            of = "test" if split == "test" else "train"
            assert CLASSES[made[f"y_{of}"][number - first]] == sample.label
            x = made[f"x_{of}"][number - first, :, :, 0]
            assert np.abs(pixels[0] / 65535 - x).max() <= 0.5001 / 65535
    assert cli(EXPERIMENT, "generate", *at(tmp_path / "w", "first"), "--n", "2").code == 0
    folder, rows = samples(tmp_path / "w")
    assert read_image(folder / rows[0]["name"]).pixels.dtype == np.uint16


def test_mirrored_copies_that_a_random_split_parted_are_found(tmp_path: Path, cli: Cli) -> None:
    made = arrays()
    made["x_test"][0] = made["x_train"][8][:, ::-1] * 0.97 + 0.01
    np.savez(tmp_path / "set.npz", **made)
    given = ["--data.root", tmp_path / "set.npz", "--workspace", tmp_path / "w"]
    checked = cli(EXPERIMENT, "check", *SMOKE, *given)
    assert checked.code == 0, checked.err
    assert "note: 1 pair of images looks the same in different splits" in checked.out
    made["x_test"][0] = made["x_train"][8][:, ::-1]
    np.savez(tmp_path / "set.npz", **made)
    refuses(cli(EXPERIMENT, "check", *SMOKE, *given), 3, "same pixels", "test/ODA_IDA/")
    # The two folders moved together leave the split to us.
    newest = max(tmp_path.glob("w/data/raw/set-*"), key=lambda folder: folder.stat().st_mtime)
    for path in find_images(newest):
        target = tmp_path / "together" / path.parent.name
        target.mkdir(parents=True, exist_ok=True)
        path.rename(target / path.name)
    given = ["--data.root", tmp_path / "together", "--workspace", tmp_path / "w"]
    joined = cli(EXPERIMENT, "check", *SMOKE, *given)
    assert joined.code == 0 and "kept in one split" in joined.out, joined.err


def test_the_prepared_set_is_written_as_arrays_and_statistics(tmp_path: Path, cli: Cli) -> None:
    where = ["--workspace", tmp_path / "w"]
    path = tmp_path / "out/preprocessed_data_cvae_train_32x32.npz"
    npz = [*SMOKE, *where, "--npz", path]
    refuses(cli(EXPERIMENT, "prepare", *npz), 2, "--npz", "add --data.fit squash")
    assert not path.parent.exists()
    done = cli(EXPERIMENT, "prepare", *npz, "--data.fit", "squash")
    assert done.code == 0, done.err
    with np.load(path) as found:
        assert found["x_train"].shape == (48, 32, 32, 1) and found["x_test"].shape == (
            12,
            32,
            32,
            1,
        )
        assert 0 <= found["x_train"].min() < found["x_train"].max() <= 1
    header = (path.parent / "raw_image_statistics.csv").read_text().splitlines()[0]
    assert len(header.split(",")) == 6
    again = cli(EXPERIMENT, "check", *SMOKE, *where, "--data.root", path)
    assert again.code == 0 and "12 test (came with the data)" in again.out, again.err


NAME = re.compile(r"Generated Images ([\dx]+|native)/Synthetic_(.+)_(\d{8}_\d{6})_(\d+)\.png")


def test_names_of_the_followed_system_work_in_every_verb(
    workspace: Path, tmp_path: Path, cli: Cli
) -> None:
    on = at(workspace, "first")
    assert cli(EXPERIMENT, "generate", *on, "--n", "20", "--labels", "balanced").code == 0
    folder, plain = samples(workspace)
    before = [(folder / row["name"]).read_bytes() for row in plain]
    named = [*on, "--n", "20", "--labels", "balanced", "--naming", "upstream"]
    assert cli(EXPERIMENT, "generate", *named).code == 0
    folder, rows = samples(workspace)
    assert {path.name for path in folder.iterdir()} == {"manifest.csv", "Generated Images 32x32"}
    digest = hashlib.sha256(
        (run_folder(workspace, EXPERIMENT, "first") / "checkpoints/best.ckpt").read_bytes()
    ).hexdigest()
    for number, (row, other) in enumerate(zip(rows, plain, strict=True)):
        size, label, _, counter = NAME.fullmatch(row["name"]).groups()
        assert (size, label, int(counter)) == ("32x32", row["label"], number)
        assert row["seed"] == str(number) and row["checkpoint_sha256"] == digest
        assert {**row, "name": ""} == {**other, "name": ""}
        assert (folder / row["name"]).read_bytes() == before[number]
    assert {row["label"] for row in rows} == set(CLASSES)
    verbs = {
        "evaluate": ["--extractor", "random-conv"],
        "utility": ["--seeds", "1", "--images_seen", "8", "--width", "4"],
        "quiz": ["--n", "2"],
        "card": ["--creator", "A", "--published", "2026-01-31"],
    }
    for verb, more in verbs.items():
        done = cli(EXPERIMENT, verb, *on, *more)
        assert done.code == 0, done.err
    card = run_folder(workspace, EXPERIMENT, "first") / "card"
    read = mlcroissant(tmp_path / "cache").Dataset(card / "croissant.json")
    assert not read.metadata.ctx.issues.errors
    records = list(read.records("images"))
    told = {record["images/name"].decode(): record["images/seed"] for record in records}
    assert told == {row["name"]: int(row["seed"]) for row in rows} and len(records) == 20
    report.main(["--workspace", str(workspace)])
    page = (workspace / "reports/index.html").read_text()
    assert "12 of 20, checkpoint" in page and "no samples yet" not in page
    (folder / rows[3]["name"]).with_name("another.png").write_bytes(before[0])
    (folder / "notes.txt").write_text("mine")
    told = ("another.png, which its manifest.csv does not name", "move it elsewhere")
    refuses(cli(EXPERIMENT, "card", *on), 3, *told)
    assert cli(EXPERIMENT, "generate", *on, "--n", "2").code == 0
    # What somebody else put there stays.
    (inner,) = (path for path in folder.iterdir() if path.is_dir())
    assert [path.name for path in inner.iterdir()] == ["another.png"]
    shutil.rmtree(inner)
    (folder / "notes.txt").unlink()
    assert sorted(p.name for p in folder.iterdir()) == ["000000.png", "000001.png", "manifest.csv"]
    refuses(cli(EXPERIMENT, "generate", *on, "--naming", "odd"), 2, "choose from number, upstream")


def test_native_sizes_follow_the_training_set_and_say_that_they_are_resampled(
    workspace: Path, cli: Cli
) -> None:
    on = at(workspace, "first")
    facts = facts_of(workspace)
    (table,) = workspace.glob("data/processed/*/manifest.csv")
    train = [sample for sample in read_manifest(table) if sample.split == "train"]
    sizes = [np.log(sample.width * sample.height) / 2 for sample in train]
    np.testing.assert_allclose(facts["log_size"], [np.mean(sizes), np.std(sizes)])
    assert cli(EXPERIMENT, "generate", *on, "--n", "60").code == 0
    folder, rows = samples(workspace)
    assert {row["size"] for row in rows} == {"canvas"}
    canvas = [read_image(folder / row["name"]).pixels.shape for row in rows]
    assert {max(shape) for shape in canvas} == {32}
    assert cli(EXPERIMENT, "generate", *on, "--n", "60", "--size", "native").code == 0
    folder, rows = samples(workspace)
    assert {row["size"] for row in rows} == {"native"}
    native = [read_image(folder / row["name"]).pixels.shape for row in rows]
    drawn = np.log(np.prod(native, 1)) / 2
    mean, deviation = facts["log_size"]
    assert abs(drawn.mean() - mean) < 0.5 * deviation + 0.02 and len(set(native)) > 10
    for (height, width), (rows_, columns) in zip(native, canvas, strict=True):
        # Each side is rounded to half a pixel.
        rounding = 0.6 / min(rows_, columns) + 0.6 / min(height, width)
        assert abs(np.log(width / height) - np.log(columns / rows_)) < rounding
    assert cli(EXPERIMENT, "card", *on).code == 0
    card = run_folder(workspace, EXPERIMENT, "first") / "card/data_card.md"
    text = Shown(card.read_text()).text
    assert "resampled to sizes of the training images; that adds no detail" in text
    assert "--size native" in text
    assert cli(EXPERIMENT, "evaluate", *on, "--extractor", "random-conv").code == 0


def test_a_run_that_knows_no_sizes_cannot_draw_them(workspace: Path, cli: Cli) -> None:
    import torch

    path = run_folder(workspace, EXPERIMENT, "first") / "checkpoints/best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    for key in ("log_size", "fit", "canvas_pixel_size_um"):
        del checkpoint["CiliaDataModule"]["facts"][key]
    torch.save(checkpoint, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name("best.ckpt.sha256").write_text(f"{digest}  best.ckpt\n")
    on = at(workspace, "first")
    assert cli(EXPERIMENT, "generate", *on, "--n", "2").code == 0
    refuses(cli(EXPERIMENT, "generate", *on, "--size", "native"), 2, "does not know")


def test_a_squashed_set_gives_squares_and_is_not_taken_for_another(
    tmp_path: Path, cli: Cli
) -> None:
    squash = ["--data.fit", "squash"]
    done = cli(EXPERIMENT, "fit", *SMOKE, *squash, *at(tmp_path, "first"), *FEW)
    assert done.code == 0, done.err
    assert facts_of(tmp_path)["fit"] == "squash"
    on = at(tmp_path, "first")
    assert cli(EXPERIMENT, "generate", *on, "--n", "20", "--labels", "balanced").code == 0
    folder, rows = samples(tmp_path)
    shapes = {read_image(folder / row["name"]).pixels.shape for row in rows}
    assert shapes == {(32, 32)}
    done = cli(EXPERIMENT, "evaluate", *on, "--extractor", "random-conv")
    assert done.code == 0, done.err
    records = (run_folder(tmp_path, EXPERIMENT, "first") / "records.jsonl").read_text()
    assert "stretched to 32 x 32 px, bilinear" in records
    assert cli(EXPERIMENT, "generate", *on, "--n", "20", "--size", "native").code == 0
    folder, rows = samples(tmp_path)
    assert len({read_image(folder / row["name"]).pixels.shape for row in rows}) > 5
    (made,) = tmp_path.glob("data/processed/*/")
    other = ["--data.root", made, *at(tmp_path, "other")]
    refuses(cli(EXPERIMENT, "fit", *SMOKE, *other), 3, "was prepared with fit squash, not aspect")


@pytest.mark.parametrize("fit", ["aspect", "squash"])
@pytest.mark.parametrize("size", [224, pytest.param(448, marks=pytest.mark.slow)])
def test_the_sizes_of_the_followed_system_are_prepared_and_generated(
    size: int, fit: str, tmp_path: Path, cli: Cli
) -> None:
    of_size = ["--data.image_size", str(size), "--data.fit", fit, "--data.simulated_images", "30"]
    few = ["--budget.images_seen", "2", "--data.batch_size", "2", "--preview.count", "0"]
    done = cli(EXPERIMENT, "fit", *SMOKE, *of_size, *few, *at(tmp_path, "first"))
    assert done.code == 0, done.err
    named = ["--n", "3", "--naming", "upstream"]
    assert cli(EXPERIMENT, "generate", *at(tmp_path, "first"), *named).code == 0
    folder, rows = samples(tmp_path)
    for row in rows:
        assert row["name"].startswith(f"Generated Images {size}x{size}/")
        shape = read_image(folder / row["name"]).pixels.shape
        assert max(shape) == size and (fit == "aspect" or shape == (size, size))


def test_labels_come_from_the_checkpoint_whatever_lies_in_the_folders(
    workspace: Path, cli: Cli
) -> None:
    on = at(workspace, "first")
    generate = [*on, "--n", "4", "--labels", "Normal"]
    assert cli(EXPERIMENT, "generate", *generate).code == 0
    _, before = samples(workspace)
    (raw,) = workspace.glob("data/raw/*/")
    (raw / "Another class").mkdir()
    (raw / "AAA.txt").write_text("a stray file")
    shutil.rmtree(raw / CLASSES[0])
    assert cli(EXPERIMENT, "generate", *generate).code == 0
    shutil.rmtree(workspace / "data")
    assert cli(EXPERIMENT, "generate", *generate).code == 0
    _, after = samples(workspace)
    assert after == before and {row["label"] for row in after} == {"Normal"}


def test_mixed_files_of_grey_content_in_odd_folders_are_prepared(tmp_path: Path, cli: Cli) -> None:
    from PIL import Image

    draw = np.random.default_rng(0)
    for number, label in enumerate(label for label in CLASSES for _ in range(6)):
        folder = tmp_path / "raw" / label
        folder.mkdir(parents=True, exist_ok=True)
        grey = draw.integers(0, 256, (20 + number % 7, 24), np.uint8)
        stem = folder / f"{label}_{number:04d}"
        kind = number % 6
        if kind == 0:
            write_png(stem.with_suffix(".png"), grey)
        elif kind == 1:
            write_png(stem.with_suffix(".png"), grey.astype(np.uint16) * 257)
        elif kind == 2:
            write_ome_tiff(stem.with_suffix(".tiff"), grey, "YX")
        elif kind == 3:
            Image.fromarray(np.stack([grey] * 3, -1)).save(stem.with_suffix(".jpg"))
        else:
            Image.fromarray(grey).save(stem.with_suffix((".bmp", ".gif")[kind - 4]))
        mirrored = stem.with_name(f"{stem.name}_mirrored.jpg")
        Image.fromarray(grey[:, ::-1]).save(mirrored)
    done = cli(
        EXPERIMENT, "prepare", *SMOKE, "--data.root", tmp_path / "raw", "--workspace", tmp_path
    )
    assert done.code == 0, done.err
    (table,) = tmp_path.glob("data/processed/*/manifest.csv")
    rows = read_manifest(table)
    assert len(rows) == 120 and {row.label for row in rows} == set(CLASSES)
    split_of = {row.name.rsplit(".", 1)[0]: row.split for row in rows}
    for name, split in split_of.items():
        assert split_of[name.removesuffix("_mirrored")] == split
    assert set(split_of.values()) == {"train", "val", "test"}
