import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from common.metrics.manifold import (
    COVERING,
    NEIGHBOURS,
    covering,
    effective_number,
    nearest,
    reach,
    share,
)
from common.metrics.protocol import MetricRefused


def points(count: int, seed: int, dim: int = 8, shift: float = 0.0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + shift


def by_loops(real: Tensor, fake: Tensor, k: int) -> dict[str, float]:
    """The definitions of Kynkäänniemi et al. 2019 and Naeem et al. 2020, pair by pair."""
    real, fake = real.double().tolist(), fake.double().tolist()

    def radius(own: list[list[float]], at: int) -> float:
        return sorted(math.dist(own[at], p) for i, p in enumerate(own) if i != at)[k - 1]

    reach_real = [radius(real, i) for i in range(len(real))]
    reach_fake = [radius(fake, i) for i in range(len(fake))]
    held = [[math.dist(r, f) < reach_real[i] for f in fake] for i, r in enumerate(real)]
    known = [any(math.dist(r, f) < reach_fake[j] for j, f in enumerate(fake)) for r in real]
    return {
        "precision": np.mean([any(row[j] for row in held) for j in range(len(fake))]),
        "recall": np.mean(known),
        "density": sum(map(sum, held)) / (k * len(fake)),
        "coverage": np.mean([any(row) for row in held]),
    }


@pytest.mark.parametrize(("sizes", "shift"), [((60, 40), 0.0), ((40, 70), 0.7), ((25, 30), 9.0)])
def test_the_four_numbers_are_those_of_their_definitions(
    sizes: tuple[int, int], shift: float
) -> None:
    real, fake = points(sizes[0], 0), points(sizes[1], 1, shift=shift)
    found = covering(real, fake)
    for name, expected in by_loops(real, fake, NEIGHBOURS).items():
        assert found[name].value == pytest.approx(expected, abs=1e-12), name


def test_rows_are_taken_in_parts_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = points(50, 0), points(40, 1)
    whole = covering(real, fake)
    monkeypatch.setattr("common.metrics.manifold._ROWS", 7)
    assert covering(real, fake) == whole


def test_equal_sets_cover_each_other_and_far_ones_do_not() -> None:
    real = points(80, 0)
    alike, far = covering(real, points(80, 1)), covering(real, points(80, 1, shift=50.0))
    assert min(alike[name].value for name in ("precision", "recall", "coverage")) > 0.8
    assert alike["density"].value == pytest.approx(1, abs=0.2)
    assert [far[name].value for name in COVERING[:-1]] == [0, 0, 0, 0]


def test_dropped_modes_lower_recall_and_coverage_but_not_precision() -> None:
    centres = 20 * torch.eye(8)[:5]

    def modes(count: int, seed: int) -> Tensor:
        return torch.cat([c + points(30, seed + i) for i, c in enumerate(centres[:count])])

    found = [covering(modes(5, 0), modes(kept, 100)) for kept in (5, 3, 1)]
    assert all(m["precision"].value > 0.8 for m in found)
    for name in ("recall", "coverage"):
        assert all(a > b + 0.1 for a, b in pairwise(m[name].value for m in found))


def test_the_effective_number_of_equal_unlike_and_half_equal_images() -> None:
    assert effective_number(torch.ones(9, 4)) == pytest.approx(1)
    assert effective_number(3 * torch.eye(6)) == pytest.approx(6)
    assert effective_number(torch.eye(5).repeat(4, 1)) == pytest.approx(5)
    # Eigenvalues 0.75 and 0.25.
    expected = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    rows = torch.tensor([[1.0, 0, 0]] * 3 + [[0.0, 1, 0]])
    assert effective_number(rows) == pytest.approx(expected)


def test_more_images_than_features_and_fewer_agree() -> None:
    x = points(12, 0, 12)
    wide, tall = torch.cat([x, torch.zeros(12, 30)], 1), x
    assert effective_number(wide) == pytest.approx(effective_number(tall))


def test_every_number_has_an_interval_around_it() -> None:
    found = covering(points(60, 0), points(50, 1))
    assert tuple(found) == COVERING
    for name in COVERING[:-1]:
        assert found[name].low <= found[name].value <= found[name].high
        assert found[name].rule == "k=5"
    assert found["effective_number"].rule == "of 50"


def test_frames_count_by_their_sequences() -> None:
    points_of = torch.rand(60, generator=torch.Generator().manual_seed(0)) < 0.2
    alike = share(points_of.repeat_interleave(5), "", 5)
    assert alike == pytest.approx((*share(points_of, "")[:3], "", ""), abs=1e-9)


def test_the_intervals_of_alike_frames_are_wide() -> None:
    """Five frames each of 30 sequences, seen as such and as 150 images."""
    draw = torch.Generator().manual_seed(0)
    real, fake = (points(30, seed).repeat_interleave(5, 0) for seed in (0, 1))
    real, fake = (x + 0.05 * torch.randn(x.shape, generator=draw) for x in (real, 1.5 * fake))
    wide, narrow = covering(real, fake, frames=5), covering(real, fake)
    for name in ("precision", "recall", "density", "coverage"):
        assert wide[name].value == narrow[name].value
        widths = [found[name].high - found[name].low for found in (wide, narrow)]
        assert widths[0] > 1.3 * widths[1], name


@pytest.mark.parametrize("sizes", [(5, 50), (50, 5)])
def test_too_few_points_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(MetricRefused, match="At least 6 images are needed in each set"):
        covering(*(points(size, 0) for size in sizes))


def test_features_that_are_no_numbers_or_no_direction_are_refused() -> None:
    with pytest.raises(MetricRefused, match="not finite"):
        covering(points(20, 0), points(20, 1) / 0)
    with pytest.raises(MetricRefused, match="no direction"):
        effective_number(torch.zeros(3, 2))


def test_neighbours_are_the_nearest_and_never_oneself() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert reach(line, 1).tolist() == [1, 1, 2, 4]
    assert reach(line, 2).tolist() == [3, 2, 3, 6]
    distances, index = nearest(torch.tensor([[2.2], [6.0]]), line)
    assert distances.tolist() == pytest.approx([0.8, 1.0])
    assert index.tolist() == [2, 3]
