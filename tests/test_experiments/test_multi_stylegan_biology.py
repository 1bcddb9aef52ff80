from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from experiments.multi_stylegan.biology import UNITS, change, matched, measure
from experiments.multi_stylegan.pillars import GRID, find_pillars, on_grid
from experiments.multi_stylegan.position import draw_position
from experiments.multi_stylegan.segmentation import brightfield_cells, flattened, gfp_cells
from experiments.multi_stylegan.simulator import TrapMovie, draw_trap


class Seen(NamedTuple):
    movie: TrapMovie
    sequence: np.ndarray
    found: dict[str, float]


def window(movie: TrapMovie, plane: int = 0) -> np.ndarray:
    """As a data module hands it over, [D, T, H, W] in [0, 1]."""
    brightfield, gfp = (x[:, plane].astype(np.float32) for x in (movie.bf, movie.gfp))
    low, high = np.percentile(brightfield, (0.1, 99.9))
    return np.stack(
        [np.clip((brightfield - low) / (high - low), 0, 1), np.clip((gfp - 150) / 2200, 0, 1)]
    )


def film(k: int, size: int, frames: int) -> Seen:
    position = draw_position(np.random.default_rng([28, k]))
    movie = draw_trap(np.random.default_rng([29, k]), frames, size, position)
    sequence = window(movie)
    return Seen(movie, sequence, measure(sequence))


@pytest.fixture(scope="module")
def traps() -> list[Seen]:
    return [film(k, 64, 4) for k in range(20)]


@pytest.fixture(scope="module")
def coarse() -> list[Seen]:
    return [film(k, 32, 3) for k in range(16)]


def whole(movie: TrapMovie) -> list[dict[str, int | float]]:
    """Rows of cells that no border cuts."""
    size = movie.bf.shape[-1]
    rows = [(row, 1.15 * row["radius_px"]) for row in movie.cells]
    return [
        row
        for row, reach in rows
        if all(reach < row[axis] < size - reach for axis in ("x_px", "y_px"))
    ]


def truth(movie: TrapMovie) -> dict[str, float]:
    rows, kept = movie.cells, whole(movie)
    levels = [row["gfp"] for row in rows if row["frame"] == 0]
    growth = [row["growth_per_frame"] for row in kept if row["frame"] > 0]
    return {
        "cells": np.mean([len(np.unique(labels)) - 1 for labels in movie.labels]),
        "cell_area": median([row["area_px"] for row in kept]),
        "covered_share": np.mean(movie.labels > 0),
        "growth_per_frame": median([g for g in growth if g]),
        "buds": sum(0 < a.born < len(movie.bf) for a in movie.lineage.values()),
        "gfp_level": median(levels) / 2200,
        "gfp_background": (movie.position.gfp_background - 150) / 2200,
        "gfp_spread": np.std(levels) / np.mean(levels) if len(levels) > 1 else np.nan,
        "trap_gap": np.mean([frame["gap_px"] for frame in movie.truths]),
        "pillar_width": movie.truths[0]["pillar_width_px"],
    }


def median(values: list[float]) -> float:
    return float(np.median(values)) if values else float("nan")


# Least correlation over traps with what is true, and range of the ratio of means, at 64 and 32 px.
AGREEMENT = {
    64: {
        "cells": (0.93, (0.8, 1.05)),
        "cell_area": (0.7, (1.0, 1.45)),
        "covered_share": (0.97, (1.0, 1.3)),
        "gfp_level": (0.9, (0.4, 0.6)),
        "gfp_background": (0.97, (0.9, 1.05)),
        "gfp_spread": (0.75, (0.8, 1.4)),
        "trap_gap": (0.9, (0.95, 1.06)),
        "pillar_width": (0.7, (0.97, 1.03)),
    },
    32: {
        "cells": (0.5, (0.7, 1.2)),
        "covered_share": (0.95, (0.85, 1.2)),
        "gfp_level": (0.85, (0.4, 0.6)),
        "trap_gap": (0.85, (0.93, 1.08)),
    },
}


@pytest.mark.parametrize("size", AGREEMENT)
def test_numbers_follow_the_truth(traps: list[Seen], coarse: list[Seen], size: int) -> None:
    seen = {64: traps, 32: coarse}[size]
    truths = [truth(trap.movie) for trap in seen]
    for name, (least, (low, high)) in AGREEMENT[size].items():
        pairs = np.array([(s.found[name], t[name]) for s, t in zip(seen, truths, strict=True)])
        pairs = pairs[np.isfinite(pairs).all(axis=1)]
        assert len(pairs) > 0.6 * len(seen), name
        assert np.corrcoef(pairs.T)[0, 1] > least, name
        assert low < pairs[:, 0].mean() / pairs[:, 1].mean() < high, name


def test_growth_and_buds_follow_the_truth_loosely(traps: list[Seen]) -> None:
    for name, least in (("growth_per_frame", 0.1), ("buds", 0.25)):
        pairs = np.array([(seen.found[name], truth(seen.movie)[name]) for seen in traps])
        pairs = pairs[np.isfinite(pairs).all(axis=1)]
        assert np.corrcoef(pairs.T)[0, 1] > least, name


def test_cells_in_brightfield_and_in_gfp_are_those_of_the_truth(traps: list[Seen]) -> None:
    scores = []
    for movie, sequence, _ in traps:
        pillars = find_pillars(sequence[0].mean(axis=0))
        true = movie.labels[0].astype(np.float32)
        true = cv2.resize(true, (GRID, GRID), interpolation=cv2.INTER_NEAREST) > 0
        masks = brightfield_cells(sequence[0, 0], pillars) > 0, gfp_cells(sequence[1, 0])
        if true.any():
            scores.append([np.sum(true & mask) / np.sum(true | mask) for mask in masks])
    first, second = np.median(scores, axis=0)
    assert first > 0.8 and second > 0.75


def test_masks_that_are_moved_apart_are_found_so(traps: list[Seen]) -> None:
    seen = next(s for s in traps if s.found["cells"] > 3 and s.found["mask_overlap"] > 0.7)
    moved = seen.sequence.copy()
    moved[1] = np.roll(moved[1], 5, axis=2)
    found = measure(moved)
    assert found["mask_overlap"] < seen.found["mask_overlap"] - 0.15
    assert np.isclose(found["mask_shift"], 5, atol=1.2) and seen.found["mask_shift"] < 1


def test_gfp_of_another_trap_does_not_lie_on_the_cells(traps: list[Seen]) -> None:
    full = [seen for seen in traps if seen.found["cells"] > 2]
    own = np.mean([seen.found["mask_overlap"] for seen in full])
    mixed = [measure(np.stack([a.sequence[0], b.sequence[1]])) for a, b in pairwise(full[:9])]
    assert np.mean([found["mask_overlap"] for found in mixed]) < own - 0.3


def test_loss_of_light_is_read_as_bleaching(traps: list[Seen]) -> None:
    seen = next(s for s in traps if s.found["cells"] > 3)
    still = np.repeat(seen.sequence[:, :1], 4, axis=1)
    fading = still.copy()
    background = measure(still)["gfp_background"]
    fade = 0.9 ** np.arange(4)[:, None, None]
    fading[1] = background + fade * (still[1] - background)
    assert np.isclose(measure(fading)["gfp_bleaching"], 0.1, atol=0.005)
    assert np.isclose(measure(fading)["gfp_consistency"], 0.9, atol=0.005)
    found = measure(still)
    assert found["gfp_bleaching"] == found["growth_per_frame"] == found["bf_change"] == 0
    assert found["gfp_consistency"] == 1 and found["buds"] == 0


def test_a_shuffled_sequence_changes_more(traps: list[Seen]) -> None:
    ordered = np.mean([seen.found["bf_change"] for seen in traps])
    mixed = np.mean([change(seen.sequence[0][[0, 3, 1, 2]]) for seen in traps])
    assert mixed > 1.02 * ordered


def test_lengths_grow_with_the_pixels_and_shares_do_not() -> None:
    small, large = film(1, 64, 2).found, film(1, 128, 2).found
    for name in ("trap_gap", "pillar_width"):
        assert np.isclose(large[name], 2 * small[name], rtol=0.06)
    assert np.isclose(large["cell_area"], 4 * small["cell_area"], rtol=0.2)
    assert np.isclose(large["cell_field_share"], small["cell_field_share"], rtol=0.2)
    assert np.isclose(large["gfp_level"], small["gfp_level"], rtol=0.1)


def test_brightness_and_contrast_of_brightfield_change_no_number(traps: list[Seen]) -> None:
    sequence, found = traps[2].sequence.astype(np.float64), traps[2].found
    again = measure(np.stack([0.5 * sequence[0] + 0.2, sequence[1]]))
    for name in UNITS:
        assert np.isclose(again[name], found[name], rtol=1e-3, equal_nan=True), name


def test_an_inverted_focal_plane_is_known_by_its_pillars() -> None:
    movie = draw_trap(np.random.default_rng(5), 1, 64, planes=3)
    signs = [find_pillars(window(movie, plane)[0, 0]).sign for plane in (0, 2)]
    assert signs == [1, -1]
    pillars = find_pillars(window(movie, 2)[0, 0])
    assert brightfield_cells(window(movie, 2)[0, 0], pillars).max() > 0


def test_pillars_are_found_upside_down_too(traps: list[Seen]) -> None:
    frame = traps[0].sequence[0, 0]
    upright, turned = find_pillars(frame), find_pillars(frame[::-1])
    assert upright[:4] == pytest.approx(turned[:4])
    assert np.allclose(upright.distance, turned.distance[::-1], atol=1e-4)


def test_a_frame_without_a_trap_has_no_pillars() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        assert find_pillars(rng.standard_normal((64, 64))) is None
    assert find_pillars(np.full((32, 32), 0.4)) is None


def test_cells_are_matched_by_their_overlap() -> None:
    first, second = np.zeros((2, 40, 40), int)
    first[2:12, 2:12], first[20:30, 20:30] = 1, 2
    second[21:31, 20:30], second[2:12, 3:13], second[35:38, 2:5] = 1, 2, 3
    assert matched(first, second).tolist() == [[1, 2], [2, 1]]
    assert matched(first, np.zeros_like(first)).shape == (0, 2)


def test_uneven_light_is_taken_out() -> None:
    y, x = np.mgrid[:50, :60] / 60
    frame = 3 + x - 2 * y + 0.5 * (x**2 + y**2)
    frame[10:20, 10:20] += 4
    flat = flattened(frame)
    assert np.abs(flat[30:]).max() < 1e-6 and np.allclose(flat[12:18, 12:18], 4)


def test_the_grid_averages_fine_frames_and_keeps_the_mean_of_coarse_ones() -> None:
    frame = np.random.default_rng(0).random((256, 256))
    np.testing.assert_allclose(
        on_grid(frame), frame.reshape(128, 2, 128, 2).mean((1, 3)), rtol=1e-5
    )
    assert on_grid(frame[:32, :32]).shape == (GRID, GRID)


@pytest.mark.filterwarnings("error")
def test_no_sequence_is_an_error() -> None:
    rng = np.random.default_rng(0)
    noise = rng.random((2, 3, 32, 32))
    walk = rng.standard_normal((2, 2, 48, 48)).cumsum(2).cumsum(3)
    one = np.zeros((2, 1, 32, 32))
    one[:, :, 9, 9] = 1
    for sequence in (noise, walk, one, np.zeros((2, 3, 32, 32)), np.ones((2, 1, 40, 40)), -walk):
        assert set(measure(sequence)) == set(UNITS)


def test_what_cannot_be_measured_is_nan() -> None:
    lacking = np.full((2, 3, 64, 64), np.nan)
    for sequence in (np.zeros((1, 3, 64, 64)), np.zeros((2, 3, 8, 8)), lacking):
        assert np.isnan(list(measure(sequence).values())).all()
    flat = measure(np.full((2, 1, 64, 64), 0.5))
    assert flat["cells"] == 0 and np.isnan(flat["trap_gap"]) and np.isnan(flat["buds"])
