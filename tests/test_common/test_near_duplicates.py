"""Pictures that look the same are found, those that are merely alike are not."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from common.data.augment import orient
from common.data.manifest import Sample
from common.data.near_duplicates import THRESHOLD, across_splits, descriptor

NUMBER = 120


def look_alike(seed: int) -> np.ndarray:
    """One of many that share a bright ring and a gradient, with details of its own."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(60, 110, 2)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    ring = 90 * np.exp(-(((np.hypot(x, y) - 0.7) / 0.15) ** 2)) + 30 * x
    image = 110 + ring + rng.normal(0, 4, (height, width))
    for cells in (5, 9, 17, 33):
        grid = rng.normal(0, 100 / cells, (cells, cells))
        image += cv2.resize(grid, (int(width), int(height)))
    return image.clip(0, 255).astype(np.uint8)


def blob(seed: int) -> np.ndarray:
    """A round spot somewhere near the middle, and noise: there is little to tell two apart by."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    centre = rng.uniform(22, 42, 2)
    spot = 3000 * np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / 128)
    return (300 + spot + rng.normal(0, 60, (64, 64))).clip(0).astype(np.uint16)


def jpeg(image: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], 0)


def brighter(image: np.ndarray) -> np.ndarray:
    return (image * 1.1 + 12).clip(0, 255).astype(np.uint8)


def noisy(image: np.ndarray) -> np.ndarray:
    drawn = np.random.default_rng(1).normal(0, 10, image.shape)
    return (image + drawn).clip(0, 255).astype(np.uint8)


def cropped(image: np.ndarray) -> np.ndarray:
    return image[1:-1, 1:-1]


def smaller(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def deeper(image: np.ndarray) -> np.ndarray:
    return image.astype(np.uint16) * 200 + 77


def floating(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / 255 - 0.5


def turned_and_saved_again(image: np.ndarray) -> np.ndarray:
    return jpeg(np.ascontiguousarray(orient(noisy(image)[None], 5)[0]))


def samples(splits: list[str]) -> list[Sample]:
    return [Sample(f"{k}.png", f"{k}", split=s, pixels_sha256=f"{k}") for k, s in enumerate(splits)]


@pytest.fixture(scope="module")
def looks() -> np.ndarray:
    return np.stack([descriptor(look_alike(k)[None]) for k in range(NUMBER)])


@pytest.mark.parametrize(
    "change",
    [jpeg, brighter, noisy, cropped, smaller, deeper, floating, turned_and_saved_again],
    ids=lambda change: change.__name__,
)
def test_a_changed_copy_in_another_split_is_found_and_nothing_else(
    change: Callable[[np.ndarray], np.ndarray], looks: np.ndarray
) -> None:
    copied = range(0, NUMBER, 6)
    copies = np.stack([descriptor(change(look_alike(k))[None]) for k in copied])
    known = samples(["train"] * NUMBER + ["test"] * len(copied))
    count, pairs = across_splits(known, np.concatenate([looks, copies]))
    found = {(pair.first, pair.second) for pair in pairs}
    assert found == {(f"{k}.png", f"{NUMBER + n}.png") for n, k in enumerate(copied)}
    assert count == len(copied)
    assert {(pair.first_split, pair.second_split) for pair in pairs} == {("train", "test")}
    assert all(THRESHOLD <= pair.similarity <= 1 for pair in pairs)


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("picture", [look_alike, blob])
def test_images_that_are_merely_alike_raise_no_alarm(
    picture: Callable[[int], np.ndarray], share: float
) -> None:
    looks = np.stack([descriptor(picture(k)[None]) for k in range(NUMBER)])
    drawn = np.random.default_rng(0).random(NUMBER) < share
    splits = ["test" if held else ("train", "val")[k % 2] for k, held in enumerate(drawn)]
    assert across_splits(samples(splits), looks) == (0, [])


def test_only_pairs_across_splits_with_other_pixels_count() -> None:
    same = np.stack([descriptor(look_alike(k % 2)[None]) for k in range(4)])
    assert across_splits(samples(["train"] * 4), same) == (0, [])
    known = samples(["train", "train", "val", "test"])
    assert across_splits(known, same)[0] == 2
    known[2] = Sample("2.png", "2", split="val", pixels_sha256="0")
    (pair,) = across_splits(known, same)[1]
    assert (pair.first, pair.second, pair.similarity) == ("1.png", "3.png", 1.0)


def test_any_orientation_of_an_image_is_the_same_picture(looks: np.ndarray) -> None:
    image = look_alike(3)[None]
    for element in range(8):
        other = descriptor(np.ascontiguousarray(orient(image, element)))
        known = samples(["train"] * NUMBER + ["val"])
        count, pairs = across_splits(known, np.concatenate([looks, other[None]]))
        assert count == 1 and pairs[0].first == "3.png" and pairs[0].similarity == 1.0


def test_a_flood_is_counted_in_full_and_kept_in_part(looks: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    scatter = 0.02 * rng.normal(size=(700, 255))
    crowd = (looks[0] + scatter * np.abs(looks[0])).astype(np.float32)
    crowd /= np.linalg.norm(crowd, axis=1, keepdims=True)
    known = samples(["train"] * (NUMBER + 400) + ["test"] * 300)
    count, pairs = across_splits(known, np.concatenate([looks, crowd]), most=50)
    assert count == 401 * 300 and len(pairs) == 50
    similarity = [pair.similarity for pair in pairs]
    assert similarity == sorted(similarity, reverse=True)


@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 2, 1), (2, 5, 400), (1, 33, 31)])
def test_odd_shapes_and_channels_have_a_descriptor(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    made = descriptor(pixels)
    assert made.shape == (255,) and made.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(made), 1, rtol=1e-5)


def test_no_images_and_one_image_are_no_pairs() -> None:
    assert across_splits([], np.empty((0, 255), np.float32)) == (0, [])
    assert across_splits(samples(["train"]), descriptor(look_alike(0)[None])[None]) == (0, [])
