from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from scipy import ndimage
from skimage.morphology import skeletonize

from experiments.mitogan import motion
from experiments.mitogan.biology import (
    UNITS,
    components,
    loops,
    measure,
    noise,
    segment,
    skeleton_length,
    tortuosity,
    tubule_width,
    units,
)
from experiments.mitogan.pearls import brightness_along, pearl_spacing, period
from experiments.mitogan.simulator import NOISES, PIXEL_SIZE_UM, draw_video
from experiments.mitogan.skeletons import branch_points, branches, end_points, pruned

COUNTS = ("branch_points", "end_points", "components", "loops")
Lines = list[list[tuple[float, float]]]


def drawing(lines: Lines, size: int = 64, thickness: int = 1) -> np.ndarray:
    """Lines through points x, y on black."""
    canvas = np.zeros((size, size), np.uint8)
    for line in lines:
        cv2.polylines(canvas, [np.rint(line).astype(np.int32)], False, 1, thickness)
    return canvas > 0


def tubules(lines: Lines, width: float = 4.0, size: int = 64) -> np.ndarray:
    """Smooth bright tubules of some full width at half their height on a dark ground."""
    fine = drawing([[(8 * x + 4, 8 * y + 4) for x, y in line] for line in lines], 8 * size)
    away = ndimage.distance_transform_edt(~fine) / 8
    profile = np.exp(-4 * np.log(2) * (away / width) ** 2)
    image = cv2.resize(profile, (size, size), interpolation=cv2.INTER_AREA)
    return (0.1 + 0.7 * image).astype(np.float32)


def arc(x: float, y: float, radius: float, turn: float = 2 * np.pi) -> list[tuple[float, float]]:
    angles = np.linspace(0, turn, 90)
    return [(x + radius * np.cos(a), y + radius * np.sin(a)) for a in angles]


FIGURES: dict[str, tuple[Lines, tuple[int, int, int, int], float]] = {
    "line": ([[(10, 20), (50, 20)]], (0, 2, 1, 0), 40),
    "diagonal": ([[(10, 10), (50, 40)]], (0, 2, 1, 0), 50),
    "Y": ([[(32, 32), (32, 56)], [(32, 32), (14, 12)], [(32, 32), (50, 12)]], (1, 3, 1, 0), 77.8),
    "ring": ([arc(32, 32, 12)], (0, 0, 1, 1), 75.4),
    "cross": ([[(8, 12), (56, 52)], [(8, 52), (56, 12)]], (1, 4, 1, 0), 125),
    "two lines": ([[(8, 12), (56, 12)], [(8, 40), (56, 40)]], (0, 4, 2, 0), 96),
    "ring on a stalk": ([arc(24, 32, 11), [(35, 32), (58, 32)]], (1, 1, 1, 1), 92.1),
}


class Cell(NamedTuple):
    image: np.ndarray
    mask: np.ndarray
    truth: dict[str, float]
    found: dict[str, float]


@pytest.fixture(scope="module")
def cells() -> dict[str, list[Cell]]:
    """The same 30 cells at each level of noise, as a data module hands them over."""
    return {level: [cell(k, level) for k in range(30)] for level in NOISES}


def cell(k: int, level: str, size: int = 128) -> Cell:
    video = draw_video(np.random.default_rng([31, k]), 1, size, level)
    grey = video.frames[0].astype(np.float32)
    low, high = np.percentile(grey, (0.5, 99.5))
    image = np.clip((grey - low) / (high - low), 0, 1)[None]
    truth = {name: float(values[0]) for name, values in video.truth.items()}
    return Cell(image, video.mask[0], truth, measure(image, PIXEL_SIZE_UM))


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return 2 * np.sum(first & second) / (first.sum() + second.sum())


@pytest.mark.parametrize("figure", FIGURES)
def test_a_drawn_skeleton_is_counted_and_as_long_as_drawn(figure: str) -> None:
    lines, (branch, end, _, _), length = FIGURES[figure]
    skeleton = skeletonize(drawing(lines))
    assert (len(branch_points(skeleton)), len(end_points(skeleton))) == (branch, end)
    assert np.isclose(skeleton_length(branches(skeleton)), length, rtol=0.03)


@pytest.mark.parametrize("figure", FIGURES)
def test_drawn_tubules_are_measured(figure: str) -> None:
    lines, counts, length = FIGURES[figure]
    found = measure(tubules(lines)[None])
    assert tuple(found[name] for name in COUNTS) == (*counts[:2], *counts[2:])
    # The skeleton of a mask ends where its tips are round.
    assert length - 2 * counts[1] - 2 < found["skeleton_length"] < length + 2 * counts[1] + 2
    assert np.isnan(found["pearl_spacing"])


@pytest.mark.parametrize("turned", [np.rot90, np.fliplr, np.transpose])
def test_turning_a_figure_changes_no_number(turned: Callable[[np.ndarray], np.ndarray]) -> None:
    image = tubules(FIGURES["Y"][0])
    first, second = measure(image), measure(turned(image))
    for name in UNITS:
        assert np.isclose(first[name], second[name], rtol=0.05, equal_nan=True), name


def test_brightness_and_contrast_change_no_number(cells: dict[str, list[Cell]]) -> None:
    image = cells["middle"][0].image.astype(np.float64)
    first, second = measure(image), measure(0.5 * image + 0.25)
    assert first.keys() == second.keys() == UNITS.keys()
    np.testing.assert_allclose(list(first.values()), list(second.values()), rtol=1e-6)


@pytest.mark.parametrize("width", [3, 5, 7])
def test_the_width_of_a_bar_is_its_rows(width: int) -> None:
    mask = np.zeros((40, 60), bool)
    mask[10 : 10 + width, :] = True
    skeleton = np.zeros_like(mask)
    skeleton[10 + width // 2] = True
    assert tubule_width(mask, skeleton) == width
    assert np.isnan(tubule_width(mask, np.zeros_like(mask)))


def test_wider_tubules_are_measured_as_wider_by_as_much() -> None:
    widths = np.array([3.0, 4.0, 5.0, 6.0])
    lines = [[(8, 20), (56, y)] for y in (24, 31, 38, 45, 52)]
    found = [
        np.mean([measure(tubules([line], width))["tubule_width"] for line in lines])
        for width in widths
    ]
    slope, _ = np.polyfit(widths, found, 1)
    assert 0.8 < slope < 1.2
    assert np.abs(np.array(found) - widths).max() < 1.5


def test_a_pixel_size_turns_lengths_into_micrometres_and_nothing_else() -> None:
    image = tubules(FIGURES["ring on a stalk"][0])
    pixels, micrometres = measure(image), measure(image, 0.1)
    for name, unit in UNITS.items():
        factor = 0.1 if unit == "px" else 1
        assert np.isclose(micrometres[name], factor * pixels[name], equal_nan=True)
    assert units() == UNITS and units(0.1)["tubule_width"] == "µm"
    assert units(0.1)["loops"] == "count"


def test_tortuosity_is_length_over_chord() -> None:
    straight = branches(drawing([[(5, 5), (50, 38)]]))
    assert np.isclose(tortuosity(straight, 5), 1, atol=0.01)
    half_circle = branches(skeletonize(drawing([arc(32, 32, 20, np.pi)])))
    assert np.isclose(tortuosity(half_circle, 5), np.pi / 2, rtol=0.03)
    assert np.isnan(tortuosity(branches(skeletonize(drawing([arc(32, 32, 12)]))), 5))
    assert np.isnan(tortuosity(straight, 100))


def test_components_touch_at_corners_and_loops_are_holes() -> None:
    mask = np.zeros((12, 12), bool)
    mask[1:4, 1:4] = mask[4:7, 4:7] = mask[9:11, 1:11] = True
    assert (components(mask), loops(mask)) == (2, 0)
    mask[2, 2] = mask[5, 5] = False
    assert (components(mask), loops(mask)) == (2, 2)


def test_spurs_are_pruned_and_tips_are_not() -> None:
    long = [(5, 30), (58, 30)]
    skeleton = skeletonize(drawing([long, [(30, 30), (30, 26)], [(45, 30), (45, 50)]]))
    kept = pruned(skeleton, 7)
    assert (len(branch_points(kept)), len(end_points(kept))) == (1, 3)
    assert not kept[26:28, 30].any() and kept[48, 45]
    assert pruned(drawing([[(5, 30), (8, 30)]]), 7).sum() == 4


@pytest.mark.parametrize("spacing", [9.2, 11.8, 14.3])
def test_beads_of_a_known_distance_are_found(spacing: float) -> None:
    along = np.arange(0, 100) / 2
    beads = 1 + 0.5 * np.cos(2 * np.pi * along / spacing)
    assert np.isclose(period(beads, 4.0), spacing, atol=0.5)
    noisy = beads + np.random.default_rng(0).normal(0, 0.1, 100)
    assert np.isclose(period(noisy, 4.0), spacing, atol=1)
    image = tubules([[(4, 20), (60, 20)], [(4, 44), (60, 44)]])
    columns = np.arange(64)
    pearled = 0.1 + (image - 0.1) * (1 + 0.4 * np.cos(2 * np.pi * columns / spacing))
    assert np.isclose(measure(pearled)["pearl_spacing"], spacing, atol=0.6)
    assert np.isclose(measure(pearled, 0.1)["pearl_spacing"], 0.1 * spacing, atol=0.06)


def test_even_and_random_brightness_have_no_period() -> None:
    rng = np.random.default_rng(0)
    assert np.isnan(period(np.ones(100), 4.0))
    smooth = [ndimage.gaussian_filter1d(rng.standard_normal(100), 3) for _ in range(40)]
    found = [period(np.exp(0.5 * s), 4.0) for s in smooth]
    assert np.mean(np.isnan(found)) > 0.6
    assert np.isnan(period(np.ones(6), 4.0))


def test_few_pearls_in_a_long_network_are_no_finding() -> None:
    row = 1 + 0.5 * np.cos(2 * np.pi * np.arange(400) / 11)
    light = np.ones((40, 400))
    light[5] = row
    found = branches(drawing([[(2, 5), (60, 5)]], 400)[:40])
    assert np.isclose(pearl_spacing(light, found, 4.0), 11, atol=0.6)
    rest = branches(drawing([[(2, 10 * k), (395, 10 * k)] for k in (1, 2, 3)], 400)[:40])
    assert np.isnan(pearl_spacing(light, [*found, *rest], 4.0))


def test_brightness_is_read_along_a_path() -> None:
    light = np.add.outer(10.0 * np.arange(20), np.arange(20))
    path = np.array([(3.0, 2.0), (3.0, 8.0), (7.0, 8.0)])
    expected = [*np.arange(32, 38, 0.5), *np.arange(38, 78, 5)]
    np.testing.assert_allclose(brightness_along(light, path), expected)


@pytest.mark.parametrize("sigma", [0.02, 0.2])
def test_the_estimated_noise_is_that_of_the_image(sigma: float) -> None:
    image = tubules(FIGURES["Y"][0], size=128)
    noisy = image + np.random.default_rng(0).normal(0, sigma, image.shape)
    assert np.isclose(noise(noisy), sigma, rtol=0.1)


@pytest.mark.parametrize(
    "image", [np.zeros((64, 64)), np.full((3, 64, 64), 0.5), np.ones((1, 1)), np.eye(12)]
)
def test_where_nothing_can_be_measured_counts_are_nought(image: np.ndarray) -> None:
    found = measure(image.astype(np.float32))
    for name, unit in UNITS.items():
        nought = unit == "count" or name in ("foreground_fraction", "skeleton_length")
        assert found[name] == 0 if nought else np.isnan(found[name])


@pytest.mark.filterwarnings("error")
def test_no_finite_image_is_an_error() -> None:
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 64)[None] * np.ones((64, 1))
    one = np.zeros((64, 64))
    one[30, 30] = 1
    walks = [rng.standard_normal((20 + 9 * k, 60)).cumsum(0).cumsum(1) for k in range(6)]
    noises = [rng.random((64, 64)), rng.random((16, 300)), 1e30 * rng.random((40, 40))]
    for image in (ramp, -ramp, one, 1 - one, np.eye(64), *walks, *noises):
        assert set(measure(image)) == set(UNITS)


@pytest.mark.parametrize(("level", "least"), [("low", 0.84), ("middle", 0.82), ("high", 0.78)])
def test_the_mask_agrees_with_the_truth(
    cells: dict[str, list[Cell]], level: str, least: float
) -> None:
    found = [dice(segment(c.image[0].astype(float)), c.mask) for c in cells[level]]
    assert np.mean(found) > least and np.min(found) > least - 0.1


# Least correlation over cells with what is true, and least and largest ratio of the means. Lengths
# are too short where tubules lie over one another.
AGREEMENT = {
    "foreground_fraction": ("foreground_fraction", 0.85, (0.9, 1.3)),
    "tubule_width": ("apparent_width_um", 0.5, (0.8, 1.15)),
    "skeleton_length": ("skeleton_length_um", 0.75, (0.6, 1.0)),
}


@pytest.mark.parametrize("level", NOISES)
def test_area_width_and_length_follow_the_truth(cells: dict[str, list[Cell]], level: str) -> None:
    for name, (true_name, least, (low, high)) in AGREEMENT.items():
        measured = np.array([c.found[name] for c in cells[level]])
        truth = np.array([c.truth[true_name] for c in cells[level]])
        assert np.corrcoef(measured, truth)[0, 1] > least, name
        assert low < measured.mean() / truth.mean() < high, name


@pytest.mark.parametrize(("level", "least"), [("low", 0.5), ("middle", 0.45), ("high", 0.25)])
def test_counts_follow_those_of_the_true_mask(
    cells: dict[str, list[Cell]], level: str, least: float
) -> None:
    for name in COUNTS:
        measured = np.array([c.found[name] for c in cells[level]])
        truth = np.array([counts_of(c.mask)[name] for c in cells[level]])
        assert np.corrcoef(measured, truth)[0, 1] > least, name


def counts_of(mask: np.ndarray) -> dict[str, int]:
    skeleton = pruned(skeletonize(mask), 3)
    numbers = (
        len(branch_points(skeleton)),
        len(end_points(skeleton)),
        components(mask),
        loops(mask),
    )
    return dict(zip(COUNTS, numbers, strict=True))


def test_pearled_cells_are_told_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = {}
    for induced in (0.0, 1.0):
        monkeypatch.setattr(motion, "_INDUCED", induced)
        seen = [cell(k, "low", 112) for k in range(24)]
        sure = [c for c in seen if (c.truth["pearled_share"] > 0.4) == bool(induced)]
        shares[induced] = np.mean([np.isfinite(c.found["pearl_spacing"]) for c in sure])
    assert shares[1.0] > shares[0.0] + 0.25
