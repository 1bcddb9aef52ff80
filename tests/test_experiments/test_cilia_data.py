import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.data.image_io import find_images, write_ome_tiff
from common.data.prepared import Prepared
from common.errors import Exit, UserError
from experiments.cilia_cvae.datamodule import CiliaDataModule
from running import ROOT, Cli, smoke

CLASSES = CiliaDataModule().classes
# Ten classes that add up to the published 5,210 and are as unequal as the published batch counts.
SIZES = dict(zip(CLASSES, (100, 220, 300, 260, 140, 220, 2140, 820, 790, 220), strict=True))
REAL = ROOT.parent / "shared/data/real/cilia_cvae"


def picture(seed: int, height: int = 16, width: int = 13) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)


def draw(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def module(root: Path, workspace: Path, **arguments: Any) -> CiliaDataModule:
    return CiliaDataModule(root=str(root), workspace=str(workspace), image_size=16, **arguments)


def prepared(root: Path, workspace: Path, **arguments: Any) -> Prepared:
    data = module(root, workspace, **arguments)
    data.prepare_data()
    data.setup("fit")
    return data.prepared


def counts(data: Prepared) -> Counter[str]:
    return Counter(sample.split for sample in data.manifest)


def refused(root: Path, tmp_path: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        prepared(root, tmp_path / "w")
    assert caught.value.code == Exit.INPUT
    for word in words:
        assert word in str(caught.value)
    assert not list(tmp_path.glob("w/data/processed/*/"))


@pytest.fixture(scope="module")
def clinical(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5,210 small images in the official layout."""
    root = tmp_path_factory.mktemp("clinical") / "raw"
    for seed, (label, size) in enumerate(SIZES.items()):
        pixels = np.random.default_rng(seed).integers(0, 256, (size, 16, 13), np.uint8)
        for k in range(size):
            draw(root / label / f"{label}_{k:04d}.png", pixels[k])
    return root


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Six images in each of three classes."""
    for seed, label in enumerate(("CP 2", "Normal", "ODA")):
        for k in range(6):
            draw(tmp_path / f"raw/{label}/{label}_{k:04d}.png", picture(10 * seed + k))
    return tmp_path / "raw"


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A clean data set that came split."""
    for k in range(24):
        split = ("train", "train", "val", "test")[k % 4]
        label = ("Normal", "No CP")[k // 4 % 2]
        draw(tmp_path / f"shipped/{split}/{label}/{label}_{k:04d}.png", picture(k))
    return tmp_path / "shipped"


def test_the_official_set_gives_4168_images_to_train_on_and_1042_to_judge_by(
    clinical: Path, tmp_path: Path
) -> None:
    data = prepared(clinical, tmp_path)
    found = counts(data)
    assert len(data.manifest) == sum(SIZES.values()) == 5210
    assert found["train"] + found["val"] == 4168 and found["test"] == 1042
    for split in ("train", "val", "test"):
        assert len(np.load(data.folder / f"{split}.npy", mmap_mode="r")) == found[split]
    tests = Counter(sample.label for sample in data.samples("test"))
    assert all(abs(tests[label] - size / 5) < 1 for label, size in SIZES.items())


def copy_of(path: Path, k: int) -> Path:
    """A mirrored copy: under a telling name or another, in one of four formats."""
    kind = (".png", ".tif", ".bmp", ".jpg")[k % 4]
    pixels = np.asarray(Image.open(path))
    flipped = (pixels[:, ::-1], pixels[::-1], np.rot90(pixels))[k % 3]
    # Only lossless copies can be known by their pixels alone.
    telling = kind == ".jpg" or k % 5
    name = f"{path.stem}_mirrored{kind}" if telling else f"copy {k}{kind}"
    return draw(path.with_name(name), np.ascontiguousarray(flipped))


def test_no_mirrored_copy_is_parted_from_its_original(clinical: Path, tmp_path: Path) -> None:
    root = shutil.copytree(clinical, tmp_path / "raw", copy_function=os.link)
    originals = find_images(root)[3::10][:500]
    pairs = {original: copy_of(original, k) for k, original in enumerate(originals)}
    assert len(set(pairs.values())) == 500
    data = prepared(root, tmp_path)
    split = {root / sample.name: sample.split for sample in data.manifest}
    assert len(split) == 5710
    assert [pair for pair in pairs.items() if split[pair[0]] != split[pair[1]]] == []
    assert {split[original] for original in pairs} == {"train", "val", "test"}
    assert counts(data)["test"] == round(0.2 * 5710)


@pytest.mark.parametrize(
    ("copy", "change"),
    [
        ("test/Normal/other.png", lambda pixels: pixels),
        ("val/Normal/other.tif", lambda pixels: pixels),
        ("test/Normal/other.bmp", lambda pixels: pixels[::-1].T),
        ("test/Normal/Normal_0000_mirrored.jpg", lambda pixels: pixels[:, ::-1]),
        ("train/No CP/other.png", lambda pixels: pixels),
    ],
)
def test_a_planted_leak_stops_the_command_with_both_names(
    copy: str, change: Callable[[np.ndarray], np.ndarray], shipped: Path, tmp_path: Path, cli: Cli
) -> None:
    draw(shipped / copy, np.ascontiguousarray(change(picture(0))))
    words = ["--data.root", shipped, "--workspace", tmp_path / "w"]
    result = cli("cilia_cvae", "prepare", *smoke("cilia_cvae"), *words)
    assert result.code == 3 and "Traceback" not in result.err
    assert "train/Normal/Normal_0000.png" in result.err and copy in result.err
    assert "cilia_cvae-report.json" in result.err
    assert (tmp_path / "w/data/processed/cilia_cvae-report.json").is_file()


def test_a_clean_shipped_split_is_kept(shipped: Path, tmp_path: Path) -> None:
    (shipped / "val").rename(shipped / "Validation")
    data = prepared(shipped, tmp_path)
    assert counts(data) == {"train": 12, "val": 6, "test": 6}
    expected = {"train": "train", "Validation": "val", "test": "test"}
    assert all(s.split == expected[s.name.split("/")[0]] for s in data.manifest)


def test_class_folders_beside_a_shipped_split_are_not_lost(shipped: Path, tmp_path: Path) -> None:
    draw(shipped / "ODA/ODA_0001.png", picture(50))
    refused(shipped, tmp_path, "ODA/ODA_0001.png", "name train, val or test for every image")


@pytest.mark.parametrize(
    "stray",
    ["stray.png", "train/stray.png", "Unknown class/x.png", "train/ODA2/x.png", "normal/x.png",
     "backup/Normal/x.png", "Normal/train/x.png", "train/Normal/ODA/x.png"],
)  # fmt: skip
def test_an_image_outside_the_layout_is_named(stray: str, small: Path, tmp_path: Path) -> None:
    draw(small / stray, picture(90))
    refused(small, tmp_path, stray, "lies in no folder <class>", "Microtub Abnorm")


def test_strangers_are_counted(small: Path, tmp_path: Path) -> None:
    for k in range(5):
        draw(small / f"Fig/{k}.png", picture(90 + k))
    refused(small, tmp_path, "Fig/0.png", "nor do 4 more images")


@pytest.mark.parametrize("empty", ["IDA", "train/ODA"])
def test_a_class_folder_without_images_is_named(
    empty: str, small: Path, shipped: Path, tmp_path: Path
) -> None:
    root = shipped if "/" in empty else small
    (root / empty).mkdir(parents=True)
    (root / empty / "notes.txt").write_text("no image")
    refused(root, tmp_path, empty, "class folder without images")


def test_folders_without_images_and_hidden_files_are_passed_over(
    small: Path, tmp_path: Path
) -> None:
    before = prepared(small, tmp_path / "before").manifest
    for name in ("tables/labels.csv", "docs/a/b/readme.txt", "Normal/.DS_Store",
                 "Normal/._Normal_0001.png", "Normal/Thumbs.db", "__MACOSX/Normal/x.png",
                 ".cache/x.png"):  # fmt: skip
        path = small / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not an image")
    assert prepared(small, tmp_path / "after").manifest == before


def test_a_missing_class_is_a_warning(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = prepared(small, tmp_path)
    missing = [label for label in CLASSES if label not in ("CP 2", "Normal", "ODA")]
    assert f"warning: no images of class {', '.join(missing)}\n" in capsys.readouterr().out
    batch = data.dataset("train")[0, 0]
    assert CLASSES[batch["label"].item()] == data.samples("train")[0].label


def test_names_with_spaces_and_subfolders_are_kept(small: Path, tmp_path: Path) -> None:
    draw(small / "CP 2/case 7/cell (1) é.png", picture(70))
    data = prepared(small, tmp_path)
    (sample,) = [s for s in data.manifest if "case 7" in s.name]
    assert (sample.name, sample.label) == ("CP 2/case 7/cell (1) é.png", "CP 2")


def test_formats_and_bit_depths_may_differ(small: Path, tmp_path: Path) -> None:
    eight = picture(80)
    for seed, suffix in enumerate(("jpg", "bmp", "gif", "tif")):
        draw(small / f"ODA/eight_{suffix}.{suffix}", picture(83 + seed))
    draw(small / "ODA/sixteen.png", eight.astype(np.uint16) * 257)
    draw(small / "ODA/colour of grey.png", np.stack([picture(81)] * 3, -1))
    draw(small / "ODA/opaque.png", np.dstack([picture(82)] * 3 + [np.full_like(eight, 255)]))
    data = prepared(small, tmp_path)
    assert data.facts["storage"]["mapping"] == "full_scale"
    assert data.facts["window"] == [0.0, 65535.0]
    rows = {s.name.split("/")[1]: s for s in data.manifest}
    for name, pixels in (("sixteen.png", eight), ("colour of grey.png", picture(81)),
                         ("opaque.png", picture(82))):  # fmt: skip
        stored = data.dataset(rows[name].split).pixels[rows[name].index]
        np.testing.assert_array_equal(stored[0, :, 1:14], pixels * np.uint16(257))


@pytest.mark.parametrize("name", ["Normal/coloured.png", "Normal/coloured.tif"])
def test_colour_is_refused_by_name(name: str, small: Path, tmp_path: Path) -> None:
    draw(small / name, np.stack([picture(1), picture(2), picture(3)], -1))
    refused(small, tmp_path, name, "has 3 channels", "names 1 (tem)")


@pytest.mark.parametrize(
    "copy", ["_mirrored", "_MIRRORED", "_flipped", "_rot90", "_aug", "_aug12", "_rot180_mirrored"]
)
def test_an_altered_copy_belongs_to_its_original(copy: str, small: Path, tmp_path: Path) -> None:
    for k in range(6):
        draw(small / f"ODA/ODA_{k:04d}{copy}.jpg", picture(200 + k))
    groups = Counter(s.group for s in prepared(small, tmp_path).manifest if s.label == "ODA")
    assert groups == {f"ODA/ODA_{k:04d}": 2 for k in range(6)}


def test_a_link_out_of_the_folder_brings_nothing_in(small: Path, tmp_path: Path) -> None:
    outside = draw(tmp_path / "outside/x.png", picture(300)).parent
    (small / "Normal/link.png").symlink_to(outside / "x.png")
    assert len(prepared(small, tmp_path).manifest) == 18
    (small / "IDA").symlink_to(outside)
    refused(small, tmp_path / "again", "IDA", "what a link leads to does not count")


def test_a_changed_file_of_the_same_size_is_prepared_anew(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bmp = draw(small / "Normal/changing.bmp", picture(400))
    first = prepared(small, tmp_path)
    assert "preparing 19 images" in capsys.readouterr().out
    assert prepared(small, tmp_path).manifest == first.manifest
    assert "preparing" not in capsys.readouterr().out
    size = bmp.stat().st_size
    draw(bmp, picture(401))
    assert bmp.stat().st_size == size
    second = prepared(small, tmp_path)
    assert "preparing 19 images" in capsys.readouterr().out
    assert second.folder == first.folder and second.manifest != first.manifest


def test_another_recipe_or_listing_has_another_folder(small: Path, tmp_path: Path) -> None:
    folders = [prepared(small, tmp_path).folder]
    for change in ({"val_fraction": 0.3}, {"test_fraction": 0.3}, {"split_seed": 4}):
        folders.append(prepared(small, tmp_path, **change).folder)
    draw(small / "ODA/one more.png", picture(500))
    folders.append(prepared(small, tmp_path).folder)
    assert len(set(folders)) == 5 and all(folder.is_dir() for folder in folders)


@pytest.mark.skipif(not REAL.is_dir(), reason="the public cross-sections are not here")
def test_the_public_cross_sections_are_prepared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = prepared(REAL, tmp_path)
    assert counts(data) == {"train": 2, "val": 1, "test": 1}
    assert {sample.label for sample in data.manifest} == {"Normal"}
    assert "warning: no images of class CP 2, Disarranged" in capsys.readouterr().out
    mirrored = [s for s in data.manifest if s.name.endswith("_mirrored.jpg")]
    assert [s.group for s in mirrored] == ["Normal/Normal_0030"]
    assert data.facts["channels"] == ["tem"] and data.facts["storage"]["dtype"] == "uint8"


def test_published_data_that_nobody_named_are_not_passed_over_silently(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"workspace": str(tmp_path), "image_size": 8}
    name = CiliaDataModule(**settings).simulated_name
    shutil.copytree(small, tmp_path / "data/raw" / name)
    CiliaDataModule(**settings).prepare_data()
    assert "not read" not in capsys.readouterr().out
    (tmp_path / "data/raw/cilia_tem").mkdir()
    CiliaDataModule(**settings).prepare_data()
    told = capsys.readouterr().out
    assert "data/raw/cilia_tem is not read" in told and "DATA=" in told


def test_splits_do_not_depend_on_the_size_of_the_canvas(small: Path, tmp_path: Path) -> None:
    splits = []
    for size in (8, 24):
        data = CiliaDataModule(root=str(small), workspace=str(tmp_path), image_size=size)
        data.prepare_data()
        splits.append([replace(sample, index=0) for sample in data.prepared.manifest])
    assert splits[0] == splits[1]


def test_a_file_of_a_type_without_a_common_scale_is_named(small: Path, tmp_path: Path) -> None:
    floating = np.random.default_rng(0).random((20, 20), np.float32)
    write_ome_tiff(small / "Normal/Normal_9999.tif", floating, "YX")
    refused(small, tmp_path, "Normal/Normal_9999.tif", "1 of ", "float32, uint8")
