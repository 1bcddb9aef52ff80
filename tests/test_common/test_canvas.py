import math

import numpy as np
import pytest
import torch

from common.data.canvas import (
    black_outside,
    crop_to_mask,
    extent,
    extent_of_aspect,
    log_aspect,
    rectangle,
    rectangle_mask,
)
from common.preprocess.geometry import fit_to_canvas, resize

SHAPES = [(64, 64), (50, 71), (71, 50), (33, 400), (999, 40), (7, 5), (1, 300), (480, 640)]
TYPES = [np.uint8, np.uint16, np.int16, np.float32]


def noise(channels: int, height: int, width: int, dtype: type = np.uint8) -> np.ndarray:
    rng = np.random.default_rng(channels * height + width)
    if dtype is np.float32:
        return rng.normal(0, 3, (channels, height, width)).astype(dtype)
    low, high = (-3000, 3000) if dtype is np.int16 else (0, 1 + np.iinfo(dtype).max)
    return rng.integers(low, high, (channels, height, width)).astype(dtype)


@pytest.mark.parametrize(("height", "width"), SHAPES)
@pytest.mark.parametrize("size", [16, 64, 127])
def test_the_longer_side_fills_the_canvas_and_the_aspect_stays(
    height: int, width: int, size: int
) -> None:
    rows, columns = extent(height, width, size)
    assert max(rows, columns) == size
    longer = max(height, width)
    assert abs(rows - max(1, size * height / longer)) <= 0.5
    assert abs(columns - max(1, size * width / longer)) <= 0.5


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (64, 21), (40, 64), (1, 64), (64, 63)])
def test_aspect_extent_and_mask_say_the_same(rows: int, columns: int) -> None:
    mask = torch.from_numpy(rectangle_mask(rows, columns, 64))[None]
    measured = log_aspect(mask)
    torch.testing.assert_close(measured, torch.tensor([math.log(columns / rows)]))
    assert extent_of_aspect(float(measured), 64) == (rows, columns)
    turned = log_aspect(mask.transpose(-1, -2))
    torch.testing.assert_close(turned, -measured)


def test_an_extreme_aspect_keeps_one_row() -> None:
    assert extent_of_aspect(50.0, 32) == (1, 32)
    assert extent_of_aspect(-50.0, 32) == (32, 1)


def test_aspects_of_a_batch_are_its_images_own() -> None:
    masks = np.stack([rectangle_mask(8, 4, 8), rectangle_mask(2, 8, 8)])
    expected = torch.tensor([math.log(0.5), math.log(4)])
    torch.testing.assert_close(log_aspect(torch.from_numpy(masks)), expected)


@pytest.mark.parametrize(("rows", "columns"), [(9, 3), (4, 9), (9, 9), (1, 8)])
def test_the_mask_is_the_centred_rectangle(rows: int, columns: int) -> None:
    mask = rectangle_mask(rows, columns, 9)
    assert mask.shape == (1, 9, 9) and mask.dtype == np.uint8
    assert mask.sum() == rows * columns
    assert mask[(0, *rectangle(rows, columns, 9))].all()
    for axis, length in ((1, rows), (2, columns)):
        occupied = np.nonzero(mask.any((0, 3 - axis)))[0]
        before, after = occupied[0], 8 - occupied[-1]
        assert before + after == 9 - length and after - before in (0, 1)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("dtype", TYPES)
def test_shrinking_by_a_whole_factor_is_the_mean_of_blocks(channels: int, dtype: type) -> None:
    image = noise(channels, 24, 36, dtype)
    small = resize(image, 8, 12)
    blocks = image.reshape(channels, 8, 3, 12, 3).astype(np.float64).mean((2, 4))
    assert small.dtype == dtype and small.shape == (channels, 8, 12)
    tolerance = 1e-5 if dtype is np.float32 else 0.5 + 1e-3
    assert np.abs(small - blocks).max() <= tolerance


@pytest.mark.parametrize(("height", "width"), [(7, 11), (23, 5), (30, 13)])
def test_shrinking_by_any_factor_keeps_the_mean(height: int, width: int) -> None:
    image = noise(2, 30, 37, np.float32)
    small = resize(image, height, width)
    np.testing.assert_allclose(small.mean((1, 2)), image.mean((1, 2)), atol=1e-5)


def cubic(image: np.ndarray, length: int) -> np.ndarray:
    """Keys' cubic convolution along the last axis, a = -0.75, borders repeated."""
    held = image.shape[-1]
    at = (np.arange(length) + 0.5) * held / length - 0.5
    result = np.zeros((*image.shape[:-1], length))
    for tap in range(-1, 3):
        index = np.floor(at).astype(int) + tap
        x, a = np.abs(at - index), -0.75
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * (x**3 - 5 * x**2 + 8 * x - 4)
        weight = np.where(x <= 1, near, far)
        result += weight * image[..., index.clip(0, held - 1)].astype(np.float64)
    return result


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", [(30, 44), (17, 12)])
def test_enlarging_is_cubic_convolution(dtype: type, size: tuple[int, int]) -> None:
    image = noise(2, 16, 11, dtype)
    expected = cubic(cubic(image, size[1]).swapaxes(1, 2), size[0]).swapaxes(1, 2)
    if dtype is not np.float32:
        expected = expected.clip(np.iinfo(dtype).min, np.iinfo(dtype).max)
    # OpenCV weighs 8 bits in fixed point.
    tolerance = {np.float32: 1e-4, np.uint8: 1.5}.get(dtype, 0.6)
    large = resize(image, *size)
    assert large.dtype == dtype
    assert np.abs(large - expected).max() <= tolerance


def test_enlarged_integers_stay_in_the_range_of_their_type() -> None:
    stripes = np.tile(np.array([0, 0, 255, 255], np.uint8), (1, 16, 4))
    large = resize(stripes, 33, 33)
    # An overflow of the cubic's overshoot would put dark pixels into bright stripes.
    columns = (np.arange(33) + 0.5) * 16 / 33 - 0.5
    bright = np.isclose(columns % 4, 2.5, atol=0.4)
    assert (large[..., bright] > 250).all()


@pytest.mark.parametrize("size", [(9, 7), (40, 33)])
def test_channels_do_not_mix(size: tuple[int, int]) -> None:
    image = noise(6, 20, 15, np.uint16)
    alone = [resize(plane[None], *size)[0] for plane in image]
    np.testing.assert_array_equal(resize(image, *size), np.stack(alone))


def test_an_image_of_the_wanted_size_is_not_touched() -> None:
    image = noise(1, 12, 9, np.float32)
    assert resize(image, 12, 9) is image


@pytest.mark.parametrize(("height", "width"), SHAPES)
@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_beyond_the_image_continues_its_edge(height: int, width: int, dtype: type) -> None:
    canvas = fit_to_canvas(noise(2, height, width, dtype), 32)
    assert canvas.shape == (2, 32, 32) and canvas.dtype == dtype
    rows, columns = rectangle(*extent(height, width, 32), 32)
    nearest_row = np.arange(32).clip(rows.start, rows.stop - 1)
    nearest_column = np.arange(32).clip(columns.start, columns.stop - 1)
    np.testing.assert_array_equal(canvas, canvas[:, nearest_row][..., nearest_column])


@pytest.mark.parametrize(("height", "width"), SHAPES)
@pytest.mark.parametrize("size", [31, 32, 128])
def test_an_image_cut_from_its_canvas_comes_back_to_the_same_canvas(
    height: int, width: int, size: int
) -> None:
    canvas = fit_to_canvas(noise(2, height, width, np.uint16), size)
    mask = rectangle_mask(*extent(height, width, size), size)
    cut = crop_to_mask(canvas, mask)
    assert cut.shape[1:] == extent(height, width, size)
    np.testing.assert_array_equal(fit_to_canvas(cut, size), canvas)


@pytest.mark.parametrize(("rows", "columns"), [(32, 20), (9, 32), (32, 32), (32, 1)])
def test_an_image_of_canvas_scale_is_placed_without_a_change(rows: int, columns: int) -> None:
    image = noise(1, rows, columns, np.float32)
    canvas = fit_to_canvas(image, 32)
    np.testing.assert_array_equal(crop_to_mask(canvas, rectangle_mask(rows, columns, 32)), image)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 3, 4, 8, 8)])
def test_a_canvas_is_black_around_its_image_and_nothing_else_changes(shape: tuple) -> None:
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    masks = torch.from_numpy(np.stack([rectangle_mask(5, 8, 8), rectangle_mask(8, 8, 8)]))
    found, inside = black_outside(images, masks), rectangle(5, 8, 8)
    assert torch.equal(found[1], images[1])
    assert torch.equal(found[0][..., *inside], images[0][..., *inside])
    assert (found == -1).sum() == images[0, ..., 0, 0].numel() * 3 * 8
    assert black_outside(images.half(), masks.float()).dtype == torch.half


@pytest.mark.parametrize(("height", "width"), [(40, 20), (7, 50), (32, 32), (1, 9)])
def test_a_squashed_image_fills_the_canvas_by_interpolation_between_neighbours(
    height: int, width: int
) -> None:
    image = noise(2, height, width, np.uint8)
    canvas = fit_to_canvas(image, 32, "squash")
    assert canvas.shape == (2, 32, 32) and extent(height, width, 32, "squash") == (32, 32)
    # Centres of pixels lie at halves, and nothing is averaged.
    rows, columns = (
        ((np.arange(32) + 0.5) * side / 32 - 0.5).clip(0, side - 1) for side in (height, width)
    )
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    v, h = (rows - top)[:, None], columns - left
    grey = image.astype(float)
    above = grey[:, top][:, :, left] * (1 - h) + grey[:, top][:, :, right] * h
    below = grey[:, down][:, :, left] * (1 - h) + grey[:, down][:, :, right] * h
    assert np.abs(canvas - (above * (1 - v) + below * v)).max() <= 1
