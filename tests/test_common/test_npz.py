"""NPZ files of images and labels: in as they are, out the way they came, and what is refused."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.cards import Card
from common.data.image_io import read_image, write_png
from common.data.manifest import Sample
from common.data.npz_input import npz_of, unpack_npz
from common.data.preparation import Recipe
from common.data.prepare import prepare
from common.data.prepared import Prepared
from common.errors import Exit, UserError
from common.npz_output import STATISTICS, write_npz
from common.tables import from_csv

CARD = Card(
    "blobs", "Blobs", "nowhere", "none", ("grey",), None, "dtype", ("a b", "c_d"), None, "image",
    (), True,
)  # fmt: skip
SIZE = 6


def arrays(**changes: Any) -> dict[str, np.ndarray]:
    """Five training and three test images of two classes."""
    draw = np.random.default_rng(0)
    made = {
        "x_train": draw.random((5, SIZE, SIZE, 1), np.float32),
        "y_train": np.array([0, 1, 1, 0, 1]),
        "x_test": draw.integers(0, 256, (3, SIZE, SIZE, 1)).astype(np.float32) / 255,
        "y_test": np.array([1, 0, 0]),
    } | changes
    return {name: values for name, values in made.items() if values is not None}


def saved(folder: Path, save: Callable[..., None] = np.savez, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / "set.npz", **arrays(**changes))
    return folder / "set.npz"


def unpack(path: Path) -> Path:
    return unpack_npz(path, path.parent / "raw", CARD)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("one_hot", [False, True])
def test_images_come_out_in_their_split_and_class_with_their_values(
    save: Callable[..., None], one_hot: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {}
    if one_hot:
        changes = {name: np.eye(2)[arrays()[name]] for name in ("y_train", "y_test")}
    path = saved(tmp_path, save, **changes)
    folder = unpack(path)
    assert "note: the split of set.npz is kept" in capsys.readouterr().out
    made, number = arrays(), 0
    for split in ("train", "test"):
        for x, y in zip(made[f"x_{split}"], made[f"y_{split}"], strict=True):
            label = CARD.classes[y]
            pixels = read_image(folder / split / label / f"{label}_{number:06d}.png").pixels
            assert pixels.dtype == np.uint16
            back = pixels / 65535
            assert np.abs(back - x[..., 0]).max() <= 0.5001 / 65535
            if split == "test":
                np.testing.assert_array_equal(back.astype(np.float32), x[..., 0])
            number += 1
    assert number == len(list(folder.rglob("*.png")))
    (folder / "train").rename(folder / "seen")
    assert unpack(path) == folder and capsys.readouterr().out == ""
    # Another list of classes gives the labels another meaning.
    other = replace(CARD, classes=CARD.classes[::-1])
    assert unpack_npz(path, tmp_path / "raw", other) != folder


class Trap:
    """What unpickling would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("sprung"),)


def nan(values: np.ndarray, bad: float) -> np.ndarray:
    values = values.copy()
    values[2, 0, 0] = bad
    return values


X, Y = arrays()["x_train"], arrays()["y_train"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_test": None}, "lacks y_test"),
        ({"x_train": X[..., 0]}, "x_train has the shape (5, 6, 6), not (N, height, width, 1)"),
        ({"x_train": X.repeat(3, 3)}, "not (N, height, width, 1)"),
        ({"x_train": X[:, :0]}, "not (N, height, width, 1)"),
        ({"x_train": np.zeros((0, 2**14, 2**14, 1), "f2")}, "has 268435456 pixels in an image"),
        ({"x_train": (X * 255).astype(np.uint8)}, "x_train is uint8, not a floating type"),
        ({"x_train": X[:, :4]}, "x_test has the shape (3, 6, 6, 1), and x_train has (5, 4, 6, 1)"),
        ({"x_train": np.asfortranarray(X)}, "x_train is in Fortran order"),
        ({"x_train": nan(X, np.nan)}, "x_train holds nan to nan in image 2"),
        ({"x_train": nan(X, np.inf)}, "to inf in image 2"),
        ({"x_train": X * 255}, "in image 0, not numbers from 0 to 1"),
        ({"y_train": Y[:4]}, "y_train has the shape (4,), not (5,) or (5, 2)"),
        ({"y_train": np.eye(3)[Y]}, "y_train has the shape (5, 3), not (5,) or (5, 2)"),
        ({"y_train": Y + 1}, "y_train has the label 2 in row 1; there are 2 classes, from 0 on"),
        ({"y_train": Y - 1}, "has the label -1 in row 0"),
        ({"y_train": Y.astype(float)}, "y_train is float64, which are no labels"),
        ({"y_train": np.array(list("ababa"))}, "which are no labels"),
        ({"y_train": np.eye(2)[Y] * 0.5}, "y_train is not one-hot in row 0"),
        ({"y_train": np.array([Trap()] * 5)}, "y_train holds Python objects"),
    ],
)
def test_what_is_something_else_is_named(changes: dict, words: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "in", **changes)
    refused(path, words, "save x_train, y_train, x_test and y_test")
    assert not Path("sprung").exists()


def refused(path: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        unpack(path)
    text = str(caught.value)
    assert caught.value.code == Exit.INPUT and text.count("\n") == 0
    for word in ("set.npz", "nothing was imported", *words):
        assert word in text
    assert not list(path.parent.glob("raw/*"))


@pytest.mark.parametrize("kept", [0, 40, 500, -30])
def test_a_file_that_was_cut_short_is_named(kept: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "in")
    path.write_bytes(path.read_bytes()[:kept])
    refused(path, "is damaged or cut short")


def repacked(path: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    """The file with one member changed, whose checksum is right again."""
    with zipfile.ZipFile(path) as opened:
        members = {info.filename: opened.read(info) for info in opened.infolist()}
    members[name] = change(members[name])
    with zipfile.ZipFile(path, "w") as opened:
        for member, data in members.items():
            opened.writestr(member, data)
    return path


@pytest.mark.parametrize("name", ["x_train", "y_test"])
def test_a_member_of_another_length_is_named(name: str, tmp_path: Path) -> None:
    long = repacked(saved(tmp_path / "a"), f"{name}.npy", lambda data: data + b"\0")
    refused(long, f"its member {name} is longer than its header says")
    short = repacked(saved(tmp_path / "b"), f"{name}.npy", lambda data: data[:-1])
    refused(short, f"its member {name} is damaged or cut short")


def test_a_damaged_pixel_is_found_by_its_checksum(tmp_path: Path) -> None:
    path = saved(tmp_path / "in")
    data = bytearray(path.read_bytes())
    place = bytes(data).index(arrays()["x_train"].tobytes())
    data[place] ^= 1
    path.write_bytes(data)
    refused(path, "its member x_train is damaged or cut short")


def test_a_header_of_a_later_version_is_named(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, Y, version=(3, 0))
    path = repacked(saved(tmp_path / "in"), "y_train.npy", lambda data: stream.getvalue())
    refused(path, "y_train is of the unknown version 3.0")


def test_a_folder_stands_for_the_only_file_in_it(tmp_path: Path) -> None:
    path = saved(tmp_path)
    assert npz_of(path) == npz_of(tmp_path) == path
    (tmp_path / "notes.txt").touch()
    assert npz_of(tmp_path / "notes.txt") is None and npz_of(tmp_path) == path
    other = path.rename(tmp_path / "448.npz")
    saved(tmp_path)
    with pytest.raises(UserError, match=r"holds 2 NPZ files, .* \(448.npz, set.npz\)") as caught:
        npz_of(tmp_path)
    assert caught.value.code == Exit.INPUT
    other.unlink()
    (tmp_path / "c_d").mkdir()
    write_png(tmp_path / "c_d/1.png", np.zeros((4, 4), np.uint8))
    assert npz_of(tmp_path) is None


def prepared(folder: Path, fit: str = "squash", dtype: str = "uint8") -> Prepared:
    """Twenty images of different shapes."""
    draw, top, samples = np.random.default_rng(1), np.iinfo(dtype).max, []
    for k in range(20):
        label = CARD.classes[k % 2]
        name = f"{label}/{k:02d}.png"
        (folder / "in" / label).mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, top + 1, (8 + k, 10)).astype(dtype)
        write_png(folder / "in" / name, pixels)
        samples.append(Sample(name, name, label))
    recipe = Recipe("blobs", CARD, SIZE, 0.2, 0.2, 0, fit)
    prepare(folder / "in", folder / "out", samples, recipe)
    return Prepared.open(folder / "out")


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_what_is_written_is_the_prepared_set_and_reads_back(dtype: str, tmp_path: Path) -> None:
    data = prepared(tmp_path, dtype=dtype)
    path = tmp_path / "new folder/set.npz"
    write_npz(data, path)
    with np.load(path, allow_pickle=False) as found:
        assert sorted(found) == ["x_test", "x_train", "y_test", "y_train"]
        for split, parts in (("train", ("train", "val")), ("test", ("test",))):
            x, y = found[f"x_{split}"], found[f"y_{split}"]
            stored = np.concatenate([data.dataset(part).pixels for part in parts])
            assert x.dtype == np.float32 and x.shape == (len(stored), SIZE, SIZE, 1)
            top = np.float32(np.iinfo(dtype).max)
            np.testing.assert_array_equal(x[..., 0], stored[:, 0].astype(np.float32) / top)
            labels = [s.label for part in parts for s in data.samples(part)]
            assert y.dtype == np.int32 and [CARD.classes[k] for k in y] == labels
    folder = unpack(path)
    for split, count in (("train", 16), ("test", 4)):
        assert len(list(folder.glob(f"{split}/*/*.png"))) == count
    again = tmp_path / "again/set.npz"
    write_npz(data, again)
    assert again.read_bytes() == path.read_bytes()


def test_the_statistics_have_six_columns_and_are_of_the_raw_images(tmp_path: Path) -> None:
    data = prepared(tmp_path)
    write_npz(data, tmp_path / "set.npz")
    names, values = from_csv((tmp_path / STATISTICS).read_bytes())
    assert names == [
        *("width_mean", "width_std", "height_mean", "height_std"),
        *("aspect_ratio_mean", "aspect_ratio_std"),
    ]
    heights = np.arange(8, 28)
    ratios = 10 / heights
    expected = [10, 0, heights.mean(), heights.std(), ratios.mean(), ratios.std()]
    np.testing.assert_allclose([float(value) for value in values], expected)


def test_images_that_keep_their_aspect_ratio_have_no_place_in_it(tmp_path: Path) -> None:
    data = prepared(tmp_path, fit="aspect")
    with pytest.raises(UserError, match=r"add --data\.fit squash") as caught:
        write_npz(data, tmp_path / "set.npz")
    assert caught.value.code == Exit.USAGE and not (tmp_path / "set.npz").exists()
