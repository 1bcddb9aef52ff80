import hashlib
import subprocess
import sys

import numpy as np
import pytest

from common.data import augment as augmentation
from common.data.augment import augment, orient
from common.errors import Exit, UserError

POLICIES = ["none", "d4", "affine", "photometric", "d4+affine+photometric"]


def noise(shape: tuple[int, ...], dtype: type[np.generic] = np.uint8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.floating):
        return rng.random(shape, dtype)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype)


def smooth(size: int, dtype: type[np.generic]) -> np.ndarray:
    """A bright disc off the centre, [1, size, size], from 10 % to 90 % of the type's range."""
    y, x = np.mgrid[:size, :size] / size
    disc = 0.1 + 0.8 / (1 + np.exp((np.hypot(y - 0.42, x - 0.55) - 0.25) * 60))
    return np.rint(disc * np.iinfo(dtype).max).astype(dtype)[None]


def all_orientations(array: np.ndarray) -> list[np.ndarray]:
    turned = [np.rot90(array, k, axes=(-2, -1)) for k in range(4)]
    return turned + [t[..., ::-1] for t in turned]


def everything() -> str:
    """Digest of all policies over several images, epochs and types."""
    digest = hashlib.sha256()
    for dtype in (np.uint8, np.uint16):
        arrays = {"image": smooth(32, dtype), "mask": noise((32, 32))}
        for policy in POLICIES:
            for index in range(4):
                moved = augment(arrays, policy, 7, 3, index)
                digest.update(moved["image"].tobytes() + moved["mask"].tobytes())
    return digest.hexdigest()


def test_orient_gives_the_eight_elements_once_each() -> None:
    square = noise((2, 5, 5))
    found = {orient(square, element).tobytes() for element in range(8)}
    assert found == {turned.tobytes() for turned in all_orientations(square)}
    assert len(found) == 8
    assert np.array_equal(orient(square, 0), square)


def test_d4_reaches_all_eight_equally_often_and_nothing_else() -> None:
    image = noise((1, 6, 6))
    elements = [turned.tobytes() for turned in all_orientations(image)]
    drawn = [augment({"image": image}, "d4", 1, 0, k)["image"].tobytes() for k in range(800)]
    # 100 expected; 5 standard deviations of a binomial are 47.
    assert all(53 < drawn.count(element) < 147 for element in elements)
    assert sum(drawn.count(element) for element in elements) == 800


def test_a_mirror_exchanges_left_and_right_half_of_the_time() -> None:
    image = noise((1, 6, 6))
    drawn = [augment({"image": image}, "mirror", 1, 0, k)["image"].tobytes() for k in range(400)]
    same, mirrored = (drawn.count(one.tobytes()) for one in (image, image[..., ::-1]))
    assert same + mirrored == 400 and 150 < same < 250


def test_d4_keeps_the_shape_where_the_sides_differ() -> None:
    image = noise((2, 4, 7))
    drawn = {augment({"image": image}, "d4", 1, 0, k)["image"].tobytes() for k in range(100)}
    kept = {t.tobytes() for t in all_orientations(image) if t.shape == image.shape}
    assert drawn == kept
    assert len(kept) == 4


def test_d4_moves_every_companion_with_the_image() -> None:
    pixels = noise((6, 9, 9), np.uint16)
    arrays = {"image": pixels, "labels": pixels[0].astype(np.int64), "mask": pixels[:1] > 9000}
    for index in range(30):
        moved = augment(arrays, "d4", 5, 2, index)
        assert np.array_equal(moved["labels"], moved["image"][0])
        assert np.array_equal(moved["mask"], moved["image"][:1] > 9000)


def test_frames_and_domains_are_moved_as_one() -> None:
    frames = np.broadcast_to(smooth(24, np.uint16), (2, 3, 24, 24)).copy()
    for policy in ("d4", "affine", "photometric"):
        moved = augment({"image": frames}, policy, 0, 0, 1)["image"]
        assert moved.shape == frames.shape
        assert (moved == moved[:1, :1]).all()
        assert (moved != frames).any()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("channels", [1, 2, 3, 6])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_shape_type_and_layout_survive(policy: str, channels: int, dtype: type[np.generic]) -> None:
    image = noise((channels, 20, 26), dtype)
    before = image.copy()
    moved = augment({"image": image}, policy, 0, 0, 3)["image"]
    assert (moved.shape, moved.dtype) == (image.shape, image.dtype)
    assert moved.flags.c_contiguous
    assert np.array_equal(image, before)


@pytest.mark.parametrize("policy", POLICIES[1:])
def test_seed_epoch_and_index_each_change_the_result(policy: str) -> None:
    image = noise((1, 16, 16))

    def drawn(seed: int, epoch: int, index: int) -> bytes:
        return augment({"image": image}, policy, seed, epoch, index)["image"].tobytes()

    assert len({drawn(k, 0, 0) for k in range(12)}) > 3
    assert len({drawn(0, k, 0) for k in range(12)}) > 3
    assert len({drawn(0, 0, k) for k in range(12)}) > 3


def test_earlier_calls_have_no_influence() -> None:
    before = everything()
    augment({"image": noise((3, 8, 8))}, "affine+photometric", 99, 99, 99)
    np.random.seed(1)
    assert everything() == before


def test_another_process_gives_the_same_images() -> None:
    code = f"import runpy; print(runpy.run_path({__file__!r})['everything']())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == everything()


def test_d4_and_none_import_neither_albumentations_nor_opencv() -> None:
    code = (
        "import sys, numpy as np; from common.data.augment import augment;"
        "[augment({'image': np.zeros((1, 4, 4), np.uint8)}, p, 0, 0, 0) for p in ('none', 'd4')];"
        "sys.exit(bool({'albumentations', 'cv2', 'torchvision'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_affine_mask_stays_on_its_object(dtype: type[np.generic]) -> None:
    image = smooth(96, dtype)
    half = np.iinfo(dtype).max / 2
    for index in range(10):
        moved = augment({"image": image, "mask": image > half}, "affine", 0, 0, index)
        assert moved["mask"].dtype == bool
        found, expected = moved["mask"], moved["image"] > half
        # Nearest and linear interpolation may disagree along the outline only.
        assert (found & expected).sum() / (found | expected).sum() > 0.97
        original = image > half
        assert (found & original).sum() / (found | original).sum() < 0.97


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64])
def test_affine_invents_no_label(dtype: type[np.generic]) -> None:
    labels = np.random.default_rng(0).choice(np.array([0, 3, 77, 120]), (40, 40)).astype(dtype)
    labels[:20] *= min(np.iinfo(dtype).max // 120, 2**31 // 120)
    moved = augment({"image": noise((1, 40, 40)), "labels": labels}, "affine", 0, 0, 5)["labels"]
    assert moved.dtype == dtype
    assert set(np.unique(moved)) <= set(np.unique(labels))
    assert not np.array_equal(moved, labels)


def test_floating_masks_keep_their_values() -> None:
    mask = np.where(noise((1, 30, 30)) > 99, 0.25, 0.75)
    moved = augment({"image": noise((1, 30, 30)), "mask": mask}, "affine", 0, 0, 5)["mask"]
    assert set(np.unique(moved)) == {0.25, 0.75}


def test_photometric_changes_grey_values_in_place_and_no_mask() -> None:
    image = smooth(48, np.uint16)
    mask = image > 30000
    order = np.argsort(image[0].ravel(), kind="stable")
    for index in range(5):
        moved = augment({"image": image, "mask": mask}, "photometric", 0, 0, index)
        assert np.array_equal(moved["mask"], mask)
        assert (moved["image"] != image).any()
        # Brightness, contrast and gamma are rising functions of the grey value.
        assert (np.diff(moved["image"][0].ravel()[order].astype(np.int64)) >= 0).all()


def test_photometric_does_the_same_to_eight_and_sixteen_bits() -> None:
    low = smooth(48, np.uint8)
    high = low.astype(np.uint16) * 257
    for index in range(5):
        eight = augment({"image": low}, "photometric", 0, 0, index)["image"] / 255
        sixteen = augment({"image": high}, "photometric", 0, 0, index)["image"] / 65535
        assert np.abs(eight - sixteen).max() <= 0.51 / 255


@pytest.mark.parametrize("policy", ["affine", "photometric", "d4+affine+photometric"])
def test_a_second_image_gets_the_same_change(policy: str) -> None:
    image = smooth(32, np.uint16)
    arrays = {"image": image, "mask": image[0] > 0, "target": np.repeat(image, 2, axis=0)}
    moved = augment(arrays, policy, 0, 0, 1, images=("image", "target"))
    assert list(moved) == list(arrays)
    assert np.array_equal(moved["target"], np.repeat(moved["image"], 2, axis=0))
    assert (moved["image"] != image).any()


def test_none_returns_the_arrays_themselves() -> None:
    image = noise((1, 4, 4))
    assert augment({"image": image}, "none", 0, 0, 0)["image"] is image


@pytest.mark.parametrize("policy", ["D4", "", "d4+blur", "none+d4"])
def test_an_unknown_policy_is_a_usage_error_that_lists_the_known_ones(policy: str) -> None:
    with pytest.raises(UserError, match="none, or one or more of mirror, d4, affine") as error:
        augment({"image": noise((1, 4, 4))}, policy, 0, 0, 0)
    assert error.value.code == Exit.USAGE


@pytest.mark.parametrize("policy", ["affine", "photometric"])
def test_without_albumentations_the_policy_and_the_remedy_are_named(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    augmentation._pipeline.cache_clear()
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(UserError, match=f"augmentation {policy}: .*requirements.txt.*d4") as error:
        augment({"image": noise((1, 4, 4))}, policy, 0, 0, 0)
    assert error.value.code == Exit.USAGE
    augment({"image": noise((1, 4, 4))}, "d4", 0, 0, 0)
