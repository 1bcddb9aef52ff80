import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.morphology import disk, white_tophat

from common.preprocess.filters import (
    denoise,
    laplacian_sharpen,
    noise_gain,
    noise_sigma,
    top_hat,
    without_hot_pixels,
)
from common.preprocess.threshold import mask_of, minimum_of_both, otsu, skeleton, triangle
from kernels import non_local_means
from made_cells import cell


def noisy_cell(seed: int = 0, sigma: float = 0.03) -> tuple[np.ndarray, np.ndarray]:
    """Clean and noisy frame [1, H, W]."""
    rng = np.random.default_rng(seed)
    clean = cell(rng).clean
    return clean, clean + rng.normal(0, sigma, clean.shape).astype(np.float32)


@pytest.mark.parametrize("turned", [False, True])
def test_a_sharpened_step_is_steeper_and_overshoots_on_its_bright_side(turned: bool) -> None:
    step = np.zeros((1, 40, 40), np.float32)
    step[:, :, 20:] = 100
    blurred = ndimage.gaussian_filter(step, (0, 0, 2))
    blurred = blurred[:, :, ::-1] if turned else blurred
    profile, before = (x[0, 20, :: -1 if turned else 1] for x in (_sharp(blurred), blurred[...]))
    assert np.diff(profile).max() > 1.1 * np.diff(before).max()
    assert profile[20:].max() > 100.5 and profile[:20].min() < -0.5
    assert np.argmax(profile) > 20 > np.argmin(profile)
    # Far from the step nothing changes.
    np.testing.assert_allclose(profile[[0, -1]], [0, 100], atol=1e-3)


def test_ramps_stay_and_ridges_rise() -> None:
    y, x = np.mgrid[:40, :40].astype(np.float32)
    ramp = (3 * x + 2 * y)[None]
    np.testing.assert_allclose(_sharp(ramp)[:, 8:-8, 8:-8], ramp[:, 8:-8, 8:-8], atol=1e-3)
    ridge = np.exp(-((x - 20) ** 2) / 8)[None]
    assert _sharp(ridge)[0, 20, 20] > 1.1
    assert laplacian_sharpen(ridge, 0) is ridge


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_the_gain_of_noise_is_that_of_white_noise(weight: float) -> None:
    noise = np.random.default_rng(0).standard_normal((1, 400, 400), dtype=np.float32)
    assert laplacian_sharpen(noise, weight).std() == pytest.approx(noise_gain(weight), rel=0.01)


@pytest.mark.parametrize(
    ("dtype", "scale", "offset"), [(np.uint8, 200, 10), (np.uint16, 5e4, 100), (np.float32, 1, 0)]
)
def test_noise_is_estimated_beside_structures(dtype: type, scale: float, offset: float) -> None:
    for sigma in (0.01, 0.02):
        _, noisy = noisy_cell(1, sigma)
        image = noisy * scale + offset
        image = image.astype(dtype) if dtype is np.float32 else np.rint(image.clip(0)).astype(dtype)
        estimate = noise_sigma(np.concatenate([image, image // 2 if scale > 1 else image / 2]))
        np.testing.assert_allclose(estimate, [sigma * scale, sigma * scale / 2], rtol=0.06)


def test_edges_and_ramps_are_no_noise() -> None:
    image = np.add.outer(np.arange(60), 2 * np.arange(60))[None].astype(np.float32)
    image[:, :, 30:] += 500
    assert noise_sigma(image).tolist() == [0]


def test_the_strength_of_denoising_is_in_units_of_the_noise() -> None:
    _, noisy = noisy_cell(2)
    sigma = float(noise_sigma(noisy)[0])
    expected = non_local_means(torch.from_numpy(noisy), 5, 10, 0.9 * sigma, sigma)
    np.testing.assert_allclose(denoise(noisy, 0.9), expected, atol=1e-5)
    told = denoise(noisy, 0.9, np.array([2 * sigma]))
    expected = non_local_means(torch.from_numpy(noisy), 5, 10, 1.8 * sigma, 2 * sigma)
    np.testing.assert_allclose(told, expected, atol=1e-5)


def test_denoising_brings_a_frame_nearer_to_the_truth() -> None:
    for dtype, scale in ((np.uint8, 200), (np.uint16, 4e4), (np.float32, 1)):
        clean, noisy = noisy_cell(3)
        image = np.clip(noisy * scale, 0, None).astype(dtype)
        restored = denoise(image, 1.0) / scale
        assert restored.dtype == np.float32
        assert (restored - clean).std() < 0.6 * (image / scale - clean).std()


def test_sixteen_bits_and_any_number_of_channels_are_denoised_alike() -> None:
    _, noisy = noisy_cell(4)
    levels = np.clip(noisy * 6e4, 0, 65535).astype(np.uint16)
    assert len(np.unique(denoise(levels, 1.0))) > 10000
    for channels in (1, 2, 6):
        scales = 10.0 ** np.arange(channels, dtype=np.float32)[:, None, None]
        many = denoise(noisy * scales, 1.0)
        np.testing.assert_allclose(many / scales, np.repeat(denoise(noisy, 1.0), channels, 0), 1e-3)


def test_a_channel_without_noise_stays_as_it_is() -> None:
    clean, noisy = noisy_cell(5)
    flat = np.full_like(clean, 3)
    restored = denoise(np.concatenate([flat, noisy]), 1.0)
    np.testing.assert_array_equal(restored[:1], flat)
    np.testing.assert_array_equal(restored[1:], denoise(noisy, 1.0))
    np.testing.assert_array_equal(denoise(flat.astype(np.uint8), 1.0), flat)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_top_hat_is_that_of_scikit_image(dtype: type) -> None:
    image = (noisy_cell(6)[1].clip(0) * 250).astype(dtype)
    both = np.concatenate([image, image[:, ::-1]])
    for radius in (1.0, 4.0, 9.0):
        found = top_hat(both, radius)
        assert found.dtype == np.float32
        for plane, one in zip(found, both, strict=True):
            np.testing.assert_allclose(plane, white_tophat(one, disk(int(radius))), atol=1e-4)


def test_the_top_hat_removes_haze_and_keeps_lines() -> None:
    y, x = np.mgrid[:80, :80].astype(np.float32)
    haze = 50 * np.exp(-((x - 40) ** 2 + (y - 40) ** 2) / 2000)
    line = np.zeros_like(haze)
    line[38:41] = 20
    found = top_hat((haze + line)[None], 5)[0]
    assert np.abs(found - line).max() < 3


def test_hot_pixels_are_replaced_by_the_median_around_them() -> None:
    image = (noisy_cell(7)[1] * 1000).clip(0).astype(np.uint16)
    image[:, 20, 30] = 65535
    expected = ndimage.median_filter(image[0], 3, mode="nearest")
    np.testing.assert_array_equal(without_hot_pixels(image)[0], expected)


def test_otsu_is_the_split_of_least_variance_within_classes() -> None:
    plane = (noisy_cell(8)[1][0].clip(0, 1) * 255).astype(np.uint8)
    within = {}
    for level in range(int(plane.min()), int(plane.max())):
        dark, light = plane[plane <= level], plane[plane > level]
        within[level] = dark.size * dark.var() + light.size * light.var()
    # The bins of a histogram of 256 are as wide as a grey level here.
    assert otsu(plane) == pytest.approx(min(within, key=within.get), abs=1)


def test_the_triangle_is_where_the_histogram_bends_off_its_peak() -> None:
    # Counts fall from 1000 at level 0 to 20 at level 5, then stay until level 30: fewer levels than
    # bins.
    counts = np.concatenate([np.linspace(1000, 20, 6), np.full(25, 20)]).astype(int)
    plane = np.repeat(np.arange(31), counts)[None]
    assert triangle(plane) == pytest.approx(5, abs=1)
    assert otsu(plane) > 8
    assert minimum_of_both(plane) == triangle(plane)


def test_zeros_that_clipping_has_piled_up_do_not_end_the_triangle() -> None:
    rng = np.random.default_rng(0)
    ground = rng.normal(0.1, 0.03, 9000)
    plane = np.concatenate([np.zeros(1500), ground.clip(0.005), rng.uniform(0.4, 1, 600)])[None]
    assert triangle(plane.astype(np.float32)) == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize("rule", ["otsu", "triangle", "minimum"])
def test_a_mask_has_no_area_smaller_than_is_asked(rule: str) -> None:
    plane = np.zeros((40, 40), np.uint16)
    plane[2:4, 2:4] = 40000  # Four pixels.
    plane[10, 10] = plane[11, 11] = plane[12, 12] = 40000  # Three that touch by corners.
    plane[20:30, 20:30] = 40000
    for least, areas in ((1, 107), (3, 107), (4, 104), (5, 100), (101, 0)):
        mask, level = mask_of(plane, rule, least)
        assert mask.dtype == bool and mask.sum() == areas
        assert 0 <= level < 40000


@pytest.mark.parametrize("rule", ["otsu", "triangle", "minimum"])
@pytest.mark.parametrize("value", [0, 7])
def test_a_blank_image_has_an_empty_mask(rule: str, value: int) -> None:
    assert not mask_of(np.full((9, 9), value, np.float32), rule, 1)[0].any()


def test_a_skeleton_is_one_pixel_wide_and_as_long_as_its_bar() -> None:
    mask = np.zeros((30, 60), bool)
    mask[12:17, 5:55] = True
    line = skeleton(mask)
    assert line.dtype == bool and not (line & ~mask).any()
    assert line.sum(0).max() == 1
    assert 44 <= line.sum() <= 50


def _sharp(image: np.ndarray) -> np.ndarray:
    return laplacian_sharpen(image, 1.0)
