"""Zoom, brightness and drift: what places and levels the frames of a video."""

import numpy as np
import pytest

from common.preprocess.intensity import (
    MOST_BLEACHING,
    bleach_correct,
    bleach_factors,
    drift,
    light_of,
    percentile_normalise,
    shifted,
)
from common.preprocess.zoom import busiest_box
from common.simulate.optics import vignetting
from made_cells import cell, photographed

TYPES = (np.uint8, np.uint16, np.float32)


def test_the_busiest_box_holds_the_centre_of_the_cell_and_stays_in_the_image() -> None:
    held = 0
    for k in range(200):
        rng = np.random.default_rng([31, k])
        height, width = rng.integers(160, 320, 2).tolist()
        made = cell(rng, (height, width), int(rng.integers(15, 90)))
        image = photographed(made.clean, float(np.exp(rng.uniform(np.log(10), np.log(300)))), rng)
        image[:, rng.random((height, width)) < 2e-4] = 60000  # Hot pixels.
        box = busiest_box(image, 0.6)
        assert box.top >= 0 and box.left >= 0 and box.bottom <= height and box.right <= width
        assert box.height == box.width == round(0.6 * min(height, width))
        row, column = made.centre
        held += box.top <= row < box.bottom and box.left <= column < box.right
    assert held >= 198


@pytest.mark.parametrize("dtype", TYPES)
def test_the_busiest_box_is_centred_on_what_is_smaller_than_it(dtype: type) -> None:
    # Noise moves the peak of a window that is flat.
    image = np.random.default_rng(0).integers(0, 20, (3, 100, 140)).astype(dtype)
    image[:, 60:71, 30:41] += 200
    box = busiest_box(image, 0.4)
    assert abs(box.top + 20 - 65.5) <= 3 and abs(box.left + 20 - 35.5) <= 3


def test_the_busiest_box_of_a_blank_image_or_of_all_of_it_is_in_the_middle() -> None:
    assert busiest_box(np.zeros((1, 50, 60), np.uint8), 0.5) == (13, 18, 25, 25)
    assert busiest_box(np.zeros((1, 50, 60), np.uint8), 1.0)[2:] == (50, 50)


@pytest.mark.parametrize("dtype", TYPES)
def test_percentiles_become_zero_and_one_in_each_channel(dtype: type) -> None:
    image = np.stack([np.arange(101), 2 * np.arange(101), np.full(101, 7)])[:, None].astype(dtype)
    image[2, 0, 50] = 90  # Beyond the percentiles.
    scaled = percentile_normalise(image, 10, 90)
    assert scaled.dtype == np.float32
    expected = np.clip((np.arange(101) - 10) / 80, 0, 1)
    np.testing.assert_allclose(scaled[0, 0], expected, atol=1e-6)
    np.testing.assert_allclose(scaled[1, 0], expected, atol=1e-6)
    assert not scaled[2].any()


def test_sixteen_bits_are_not_cut_to_eight() -> None:
    image = np.arange(4096, dtype=np.uint16).reshape(1, 64, 64)
    assert len(np.unique(percentile_normalise(image, 0, 100))) == 4096


def test_bleaching_is_undone_in_spite_of_the_offset_of_the_camera() -> None:
    rng = np.random.default_rng(5)
    clean = cell(rng).clean
    first = light_of(photographed(clean, 200, rng))
    for left in (0.8, 0.5, 0.25):
        frame = photographed(left * clean, 200, rng)
        light = light_of(frame)
        assert bleach_factors(light, first)[0] == pytest.approx(1 / left, rel=0.05)
        corrected = bleach_correct(frame, light, first)
        assert corrected.dtype == np.float32
        np.testing.assert_allclose(light_of(corrected), first, rtol=0.05)


def test_channels_bleach_on_their_own_and_hot_pixels_do_not_count() -> None:
    rng = np.random.default_rng(6)
    clean = cell(rng).clean
    first = photographed(np.concatenate([clean, clean]), 200, rng)
    later = photographed(np.concatenate([clean / 2, clean]), 200, rng)
    later[:, rng.random(later.shape[1:]) < 5e-4] = 65535
    np.testing.assert_allclose(bleach_factors(light_of(later), light_of(first)), [2, 1], rtol=0.05)


def test_a_dark_frame_is_not_multiplied_without_limit() -> None:
    rng = np.random.default_rng(7)
    first = light_of(photographed(cell(rng).clean, 200, rng))
    dark = light_of(np.full((1, 64, 64), 100, np.uint16))
    assert bleach_factors(dark, first).tolist() == [MOST_BLEACHING]
    assert bleach_factors(first, dark).tolist() == [1.0]


@pytest.mark.parametrize("quanta", [10, 100])
def test_drift_is_found_to_a_pixel_under_fixed_shading_and_hot_pixels(quanta: float) -> None:
    for k in range(10):
        rng = np.random.default_rng([8, k])
        clean = cell(rng, (240, 300)).clean
        shade = vignetting((200, 260), 0.3, 1.0)
        hot = rng.random((200, 260)) < 5e-4
        moved = tuple(rng.integers(-20, 21, 2).tolist())
        drifted = np.roll(clean, (-moved[0], -moved[1]), (1, 2))
        frames = [c[:, 20:220, 20:280] * shade for c in (clean, 0.7 * drifted)]
        first, later = (photographed(frame, quanta, rng) for frame in frames)
        first[:, hot] = later[:, hot] = 4000
        assert np.abs(np.subtract(drift(later, first), moved)).max() <= 1


@pytest.mark.parametrize("dtype", TYPES)
def test_a_shift_moves_down_and_right_and_mirrors_what_it_uncovers(dtype: type) -> None:
    image = np.arange(20, dtype=dtype).reshape(1, 4, 5) + (60000 if dtype is np.uint16 else 0)
    moved = shifted(image, (1, -2))
    assert moved.dtype == dtype and moved.shape == image.shape
    np.testing.assert_array_equal(moved[:, 1:, :-2], image[:, :-1, 2:])
    # Mirrored without repeating the edge.
    np.testing.assert_array_equal(moved[:, 0], moved[:, 2])
    np.testing.assert_array_equal(moved[:, :, 3:], moved[:, :, [1, 0]])
    np.testing.assert_array_equal(shifted(image, (0, 0)), image)
