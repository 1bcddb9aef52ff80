from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.packing import Scratch, Storage, percentiles, scalable, window
from common.errors import Exit, UserError

SHAPE = (2, 6, 5)


def drawn(seed: int, low: float, high: float, dtype: type) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.integer):
        return rng.integers(int(low), int(high) + 1, SHAPE).astype(dtype)
    return rng.uniform(low, high, SHAPE).astype(dtype)


def pack(
    folder: Path, splits: dict[str, list[np.ndarray]], bits: int | list[int], rule: Any = "dtype"
) -> tuple[Storage, dict[str, np.ndarray], tuple[float, float]]:
    folder.mkdir(exist_ok=True)
    order, canvases = {}, []
    for split, images in splits.items():
        order[split] = range(len(canvases), len(canvases) + len(images))
        canvases += images
    widths = [bits] * len(canvases) if isinstance(bits, int) else bits
    with Scratch(folder) as scratch:
        for canvas, width in zip(canvases, widths, strict=True):
            scratch.append(scalable(canvas), width)
        storage = scratch.pack(order, rule)
    packed = {split: np.load(folder / f"{split}.npy") for split in splits}
    return storage, packed, window(rule, storage, folder / "train.npy")


def grey(packed: np.ndarray, storage: Storage) -> np.ndarray:
    return packed * storage.scale + storage.offset


@pytest.mark.parametrize(
    ("dtype", "bits", "high"), [(np.uint8, 8, 255), (np.uint16, 16, 65535), (np.uint16, 12, 4095)]
)
def test_one_unsigned_type_is_kept_exactly(
    dtype: type, bits: int, high: int, tmp_path: Path
) -> None:
    splits = {
        "train": [drawn(k, 0, high, dtype) for k in range(3)],
        "test": [drawn(9, 0, 9, dtype)],
    }
    storage, packed, limits = pack(tmp_path, splits, bits)
    assert storage == Storage(
        np.dtype(dtype).name, "identity", 1.0, 0.0, bits, np.dtype(dtype).name
    )
    for split, images in splits.items():
        assert packed[split].dtype == dtype
        np.testing.assert_array_equal(packed[split], np.stack(images))
    assert limits == (0.0, float(high))


def test_the_order_asked_for_is_the_order_written(tmp_path: Path) -> None:
    images = [np.full(SHAPE, k, np.uint8) for k in range(6)]
    with Scratch(tmp_path) as scratch:
        for image in images:
            scratch.append(image, 8)
        scratch.pack({"train": [4, 0, 2], "val": [5], "test": [3, 1]}, "dtype")
    written = {s: np.load(tmp_path / f"{s}.npy")[:, 0, 0, 0] for s in ("train", "val", "test")}
    assert {s: w.tolist() for s, w in written.items()} == {
        "train": [4, 0, 2], "val": [5], "test": [3, 1],
    }  # fmt: skip
    assert {p.name for p in tmp_path.iterdir()} == {"train.npy", "val.npy", "test.npy"}


def test_few_bits_spread_over_eight_keep_the_window_of_eight(tmp_path: Path) -> None:
    black_and_white = drawn(0, 0, 1, np.uint8) * np.uint8(255)
    storage, packed, limits = pack(tmp_path, {"train": [black_and_white]}, 1)
    assert limits == (0.0, 255.0)
    assert set(np.unique(packed["train"])) == {0, 255}
    deep = drawn(1, 0, 65535, np.uint16)
    storage, packed, _ = pack(tmp_path, {"train": [black_and_white, deep]}, [1, 16])
    assert storage.mapping == "full_scale"
    assert set(np.unique(packed["train"][0])) == {0, 65535}


def test_eight_twelve_and_sixteen_bits_meet_at_their_full_scales(tmp_path: Path) -> None:
    images = [
        drawn(0, 0, 255, np.uint8),
        drawn(1, 0, 4095, np.uint16),
        drawn(2, 0, 65535, np.uint16),
    ]
    storage, packed, limits = pack(tmp_path, {"train": images}, [8, 12, 16])
    assert (storage.dtype, storage.mapping, storage.source) == ("uint16", "full_scale", "uint16")
    assert limits == (0.0, 65535.0)
    for stored, image, top in zip(packed["train"], images, (255, 4095, 65535), strict=True):
        assert np.abs(stored / 65535 - image / top).max() <= 0.5 / 65535 + 1e-9
    # 65535 / 255 is whole, so 8 bits survive exactly.
    np.testing.assert_array_equal(packed["train"][0], images[0] * np.uint16(257))


def test_types_are_not_mixed_where_the_window_is_in_grey_values(tmp_path: Path) -> None:
    images = [drawn(0, 0, 255, np.uint8), drawn(1, 0, 4095, np.uint16)]
    with pytest.raises(UserError, match="uint16, uint8") as caught:
        pack(tmp_path, {"train": images}, [8, 12], (0.0, 4095.0))
    assert caught.value.code == Exit.INPUT


def test_a_floating_and_an_unsigned_type_are_not_mixed(tmp_path: Path) -> None:
    images = [drawn(0, 0, 255, np.uint8), drawn(1, 0, 1, np.float32)]
    with pytest.raises(UserError, match="mixes the pixel types float32, uint8"):
        pack(tmp_path, {"train": images}, [8, 32])
    assert not list(tmp_path.glob("*"))


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [(np.int16, -900, 3000), (np.float32, -0.25, 7.5), (np.float64, 0, 1)]
)
def test_signed_and_floating_pixels_come_back_to_half_a_step(
    dtype: type, low: float, high: float, tmp_path: Path
) -> None:
    images = [drawn(k, low, high, dtype) for k in range(4)]
    storage, packed, limits = pack(tmp_path, {"train": images}, 16)
    assert storage.mapping == "linear" and packed["train"].dtype == np.uint16
    ends = float(np.min(images)), float(np.max(images))
    np.testing.assert_allclose(limits, ends, rtol=1e-6)
    np.testing.assert_allclose(storage.scale, (ends[1] - ends[0]) / 65535, rtol=1e-6)
    error = np.abs(grey(packed["train"], storage) - np.stack(images))
    assert error.max() <= storage.scale * 0.5001
    assert {packed["train"].min(), packed["train"].max()} == {0, 65535}


def test_a_floating_window_in_grey_values_uses_all_sixteen_bits(tmp_path: Path) -> None:
    splits = {"train": [drawn(0, 0.0, 0.5, np.float32)], "test": [drawn(1, 0.0, 1.5, np.float32)]}
    storage, packed, limits = pack(tmp_path, splits, 32, (0.0, 1.0))
    assert limits == (0.0, 1.0) and storage.scale == 1 / 65535
    back = grey(packed["test"], storage)
    assert np.abs(back - np.stack(splits["test"]).clip(0, 1)).max() <= storage.scale * 0.5001
    assert (packed["test"] == 65535).any()


@pytest.mark.parametrize("rule", ["dtype", {"percentiles": (1.0, 99.0)}])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_an_outlier_outside_training_changes_no_training_pixel_and_no_window(
    rule: Any, dtype: type, tmp_path: Path
) -> None:
    train = [drawn(k, 10, 100, dtype) for k in range(3)]
    plain = {"train": train, "val": [drawn(8, 10, 100, dtype)], "test": [drawn(9, 10, 100, dtype)]}
    wild = {split: [image.copy() for image in images] for split, images in plain.items()}
    for split in ("val", "test"):
        wild[split][0][0, 0, 0] = np.finfo(dtype).max / 4 if dtype is np.float32 else 255
    before = pack(tmp_path / "plain", plain, 8)[0], *pack(tmp_path / "plain", plain, 8, rule)[1:]
    after = pack(tmp_path / "wild", wild, 8)[0], *pack(tmp_path / "wild", wild, 8, rule)[1:]
    assert before[0] == after[0] and before[2] == after[2]
    np.testing.assert_array_equal(before[1]["train"], after[1]["train"])
    assert after[1]["test"][0, 0, 0, 0] == (65535 if dtype is np.float32 else 255)


def test_an_outlier_in_training_does_move_the_window(tmp_path: Path) -> None:
    train = [drawn(k, 10, 100, np.uint8) for k in range(3)]
    train[0][...] = 250
    assert pack(tmp_path, {"train": train}, 8, {"percentiles": (1.0, 99.0)})[2][1] == 250


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("levels", [(0, 100), (1, 99), (0.1, 99.9), (50, 75)])
def test_percentiles_are_numpys(dtype: type, levels: tuple[float, float]) -> None:
    packed = np.random.default_rng(0).normal(90, 25, (7, 1, 11, 13)).clip(3, 250).astype(dtype)
    expected = np.percentile(packed, levels, method="inverted_cdf")
    assert percentiles(packed, levels) == tuple(expected)


def test_percentile_windows_are_in_grey_values(tmp_path: Path) -> None:
    images = [drawn(k, -5, 20, np.float32) for k in range(3)]
    storage, _, limits = pack(tmp_path, {"train": images}, 32, {"percentiles": (10.0, 90.0)})
    expected = np.percentile(np.stack(images), (10, 90), method="inverted_cdf")
    np.testing.assert_allclose(limits, expected, atol=storage.scale)


def test_a_window_of_one_grey_value_is_refused(tmp_path: Path) -> None:
    mostly_black = np.zeros(SHAPE, np.uint8)
    mostly_black[0, 0, 0] = 200
    with pytest.raises(UserError, match="one grey value, 0; widen") as caught:
        pack(tmp_path, {"train": [mostly_black]}, 8, {"percentiles": (1.0, 90.0)})
    assert caught.value.code == Exit.INPUT


@pytest.mark.parametrize(
    ("given", "kept"),
    [(np.uint8, np.uint8), (np.uint16, np.uint16), (np.float32, np.float32), (bool, np.uint8),
     (np.int16, np.float32), (np.uint32, np.float32), (np.float16, np.float32),
     (np.float64, np.float32)],
)  # fmt: skip
def test_what_cannot_be_scaled_is_widened_without_a_change_of_value(
    given: type, kept: type
) -> None:
    pixels = np.array([[0, 1], [1, 0]]).astype(given)
    assert scalable(pixels).dtype == kept
    np.testing.assert_array_equal(scalable(pixels).astype(float), pixels.astype(float))
