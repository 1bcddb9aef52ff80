import numpy as np
import pytest

from common.preprocess.boxes import Box, crop
from common.preprocess.panels import xy_panel
from made_cells import cell, photographed
from made_previews import LARGEST_STRIP, SMALLEST_STRIP, preview

# The limits of the detector were chosen on other seeds.
SEED, COUNT = 20261, 200


def content(rng: np.random.Generator) -> np.ndarray:
    """A frame [1, H, W] of any of three types, with ten to a thousand quanta of signal."""
    made = cell(rng, tuple(rng.integers(120, 320, 2).tolist()), int(rng.integers(5, 90)))
    image = photographed(made.clean, float(np.exp(rng.uniform(np.log(10), np.log(1000)))), rng)
    kind = rng.integers(3)
    if kind == 0:
        low, high = np.percentile(image, (rng.uniform(0, 2), 99.9))
        levels = (image - low) / (high - low) * 245 + rng.uniform(0, 10)
        return np.clip(levels, 0, 255).astype(np.uint8)
    return image if kind == 1 else (image / np.float32(65535)).astype(np.float32)


def ordinary(kind: int, rng: np.random.Generator) -> np.ndarray:
    """A frame with what resembles a preview: edges, fibres, tiles, bars, dead and drawn lines."""
    shape = tuple(rng.integers(120, 320, 2).tolist())
    clean = cell(rng, shape, int(rng.integers(5, 90))).clean.copy()
    row, column = (round(rng.uniform(0.06, 0.3) * length) for length in shape)
    if kind == 1:
        clean[:, :row] += 0.3 * rng.random()
        clean[:, :, -column:] += 0.3 * rng.random()
    if kind == 2:
        clean[:, row : row + 3] += 0.5
        clean[:, :, -column - 3 : -column] += 0.5
    if kind == 3:
        clean[:, :row] *= 1.3
        clean[:, :, -column:] *= 1.3
    image = photographed(clean, float(np.exp(rng.uniform(np.log(10), np.log(1000)))), rng)
    if kind == 4:
        image[:, :row] = 0
        image[:, :, -column:] = 0
    if kind in (5, 6, 7):
        image[:, row : row + 3] = image.max() if kind > 5 else 0
        image[:, :, -column - 3 : -column] = image.max() if kind > 5 else 0
    if kind == 6:
        image[:, :row] = 0
        image[:, :, -column:] = 0
    if kind == 7:
        # A rectangle drawn around the cell, and a legend.
        image[:, row : row + 3, : shape[1] // 5] = image[:, :3, : shape[1] // 5]
        image[:, :row, -column:] = 0
    return image


def off(found: Box | None, box: Box) -> float:
    """Distance of the worst side in pixels."""
    if found is None:
        return np.inf
    pairs = [(found.top, box.top), (found.left, box.left)]
    pairs += [(found.bottom, box.bottom), (found.right, box.right)]
    return max(abs(one - other) for one, other in pairs)


def test_the_xy_panel_of_previews_is_found_within_two_pixels() -> None:
    errors = []
    for k in range(COUNT):
        rng = np.random.default_rng([SEED, k])
        image, box = preview(content(rng), rng)
        errors.append(off(xy_panel(image), box))
    assert np.mean(np.array(errors) <= 2) >= 0.98


def test_no_ordinary_frame_is_taken_for_a_preview() -> None:
    for k in range(COUNT):
        assert xy_panel(ordinary(k % 8, np.random.default_rng([SEED, k, 1]))) is None


@pytest.mark.parametrize("image", [np.zeros((1, 200, 200), np.uint8), np.ones((2, 20, 20))])
def test_blank_and_tiny_images_are_no_previews(image: np.ndarray) -> None:
    assert xy_panel(image) is None


def test_what_the_panel_holds_does_not_depend_on_type_or_number_of_channels() -> None:
    rng = np.random.default_rng(3)
    frame = photographed(cell(rng).clean, 100, rng)
    image, box = preview(np.concatenate([frame, frame // 2]), rng)
    assert xy_panel(image) == xy_panel(image.astype(np.float32)) == box
    assert xy_panel((image[:1] // 2).astype(np.uint8)) == box


def test_a_preview_holds_the_frame_between_strips_of_every_order() -> None:
    corners = set()
    for k in range(40):
        rng = np.random.default_rng([4, k])
        frame = content(rng)
        image, box = preview(frame, rng)
        assert image.dtype == frame.dtype
        np.testing.assert_array_equal(crop(image, box), frame)
        corners.add((box.top == 0, box.left == 0))
        for strip, whole in zip(image.shape[1:], box[2:], strict=True):
            # Lines of at most five pixels beside the strip.
            assert SMALLEST_STRIP - 0.01 < 1 - whole / strip < LARGEST_STRIP + 5 / strip + 0.01
    assert len(corners) == 4
