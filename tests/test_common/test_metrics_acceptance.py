"""What the numbers must see, on images like those of a microscope: worse has to be measured worse.

Measured values stand beside the claims. Cilia and EfficientNet-Lite0 where what is seen matters,
procedural spots and random filters where the claim is about the number itself.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from common.metrics.clip_features import clip_extractor
from common.metrics.conditional import estimates, mean_distance
from common.metrics.evaluation import (
    EvaluationContext,
    Side,
    evaluate,
    evaluate_clips,
    look,
    look_at_clips,
)
from common.metrics.features import Extractor, extractor
from common.metrics.fidelity import frechet_distance
from common.metrics.protocol import Record
from experiments.cilia_cvae.simulator import render, sample_truth

CLASSES = ("Normal", "No CP", "Disarranged")
EACH = 24
CONTEXT = EvaluationContext(split="test", data="simulated", preprocessing="none")


pytestmark = pytest.mark.usefixtures("one_thread")


def cilia(label: str, seed: int) -> np.ndarray:
    """uint8 [EACH, 64, 64]."""
    draws = [np.random.default_rng([seed, k]) for k in range(EACH)]
    return np.stack([render(sample_truth(label, draw, (64, 64)), draw) for draw in draws])


def to_uint8(grey: np.ndarray) -> np.ndarray:
    return np.clip(grey, 0, 255).round().astype(np.uint8)


def features(network: Extractor, images: np.ndarray) -> Tensor:
    return network(torch.from_numpy(images)[:, None])


def side(network: Extractor, images: np.ndarray, labels: Sequence[str] = ()) -> Side:
    return look(((image[None], {}) for image in images), network, labels)


def by_name(records: list[Record]) -> dict[str, Record]:
    return {record.metric: record for record in records}


def grows(values: Sequence[float]) -> bool:
    return all(a < b for a, b in pairwise(values))


# Damage and classes, on cilia --------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> Extractor:
    return extractor("efficientnet-lite0")


@pytest.fixture(scope="module")
def real(network: Extractor) -> dict[str, Tensor]:
    return {label: features(network, cilia(label, 0)) for label in CLASSES}


@pytest.fixture(scope="module")
def fake(network: Extractor) -> dict[str, Tensor]:
    """Drawn anew from the same source: a perfect model."""
    return {label: features(network, cilia(label, 1)) for label in CLASSES}


def damaged(kind: str) -> Iterator[np.ndarray]:
    clean = cilia("Normal", 1).astype(np.float64)
    noise = np.random.default_rng(0).normal(size=clean.shape)
    for strength in {"blur": (0.5, 1, 2), "noise": (8, 16, 32), "contrast": (0.8, 0.6, 0.4)}[kind]:
        if kind == "blur":
            yield to_uint8(ndimage.gaussian_filter(clean, (0, strength, strength)))
        elif kind == "noise":
            yield to_uint8(clean + strength * noise)
        else:
            yield to_uint8(128 + strength * (clean - 128))


# Kernel distance 0 | 1 | 2 | 3, and in brackets the Fréchet distance, which starts at 44.0:
# blur of 0.5, 1 and 2 pixels   -0.004 | 0.008 (50.5) | 0.168 (112) | 0.480 (223)
# noise of 8, 16 and 32 levels  -0.004 | 0.016 (49.3) | 0.080 (74.8) | 0.277 (147)
# contrast of 80, 60 and 40 %   -0.004 | 0.002 (45.7) | 0.029 (54.7) | 0.074 (72.0)
@pytest.mark.parametrize(("kind", "least"), [("blur", 0.3), ("noise", 0.2), ("contrast", 0.05)])
def test_the_more_images_are_damaged_the_greater_the_distances(
    kind: str,
    least: float,
    network: Extractor,
    real: dict[str, Tensor],
    fake: dict[str, Tensor],
) -> None:
    levels = [fake["Normal"], *(features(network, images) for images in damaged(kind))]
    sides = [Side(EACH, (1, 64, 64), level, {}) for level in levels]
    truth = Side(EACH, (1, 64, 64), real["Normal"], {})
    found = [by_name(evaluate(truth, each, network, CONTEXT).records) for each in sides]
    kernel = [records["kernel_distance"] for records in found]
    assert grows([record.value for record in kernel])
    assert grows([records["frechet_distance"].value for records in found])
    assert kernel[0].low < 0 < kernel[0].high
    assert kernel[-1].low > 0 and kernel[-1].value > least


def test_images_are_at_no_distance_from_themselves(real: dict[str, Tensor]) -> None:
    assert abs(frechet_distance(real["Normal"], real["Normal"].flip(0))) < 1e-3


# All classes right -0.002 [-0.008, 0.004]; half of two exchanged 0.001; both exchanged 0.010
# [0.002, 0.018], largest for Normal. Of all images together it is 0.0001 throughout.
def test_swapped_classes_are_seen_though_all_images_together_are_the_same(
    real: dict[str, Tensor], fake: dict[str, Tensor]
) -> None:
    right = [label for label in CLASSES for _ in range(EACH)]
    sides = [torch.cat([of[label] for label in CLASSES]) for of in (real, fake)]

    def swapped(count: int) -> list[str]:
        order = list(range(len(right)))
        for k in range(count):
            order[k], order[EACH + k] = order[EACH + k], order[k]
        return [right[k] for k in order]

    found = [mean_distance(estimates(*sides, right, swapped(k))) for k in (0, EACH // 2, EACH)]
    assert grows([measured.value for measured in found])
    assert found[0].low < 0 < found[0].high
    assert found[-1].low > 0
    assert found[-1].note.startswith("largest for N")


# Modes and copies, on spots ----------------------------------------------------------------------

KINDS = ((8, 1.0), (8, 2.5), (60, 1.0), (60, 2.5))


def spots(count: int, seed: int, kinds: Sequence[tuple[int, float]] = KINDS) -> np.ndarray:
    """Each kind of image has its own number and size of spots: uint8 [count, 32, 32]."""
    draw, images = np.random.default_rng(seed), np.zeros((count, 32, 32))
    for k, image in enumerate(images):
        number, size = kinds[k % len(kinds)]
        image[tuple(draw.integers(0, 32, (2, number)))] = draw.uniform(0.5, 1.0, number)
        peak = 2 * np.pi * size**2
        image[:] = ndimage.gaussian_filter(image, size, mode="wrap") * 120 * peak + 20
    return to_uint8(images + draw.normal(0, 2, images.shape))


def spotted(fake: np.ndarray, train: np.ndarray | None = None) -> dict[str, Record]:
    network = extractor("random-conv")
    known = None if train is None else side(network, train)
    return by_name(
        evaluate(side(network, spots(120, 0)), side(network, fake), network, CONTEXT, known).records
    )


# Kinds kept 4 | 3 | 2 | 1: kernel distance -0.01 | 0.05 | 0.43 | 2.12, recall 0.97 | 0.71 | 0.46 |
# 0.23, coverage 0.98 | 0.75 | 0.49 | 0.25; precision stays above 0.9.
def test_dropped_modes_are_seen_by_distance_recall_and_coverage() -> None:
    found = [spotted(spots(120, 1, KINDS[4 - kept :])) for kept in (4, 3, 2, 1)]
    assert grows([records["kernel_distance"].value for records in found])
    assert grows([records["frechet_distance"].value for records in found])
    for name in ("recall", "coverage"):
        values = [records[name].value for records in found]
        assert grows([-value for value in values]), name
        assert values[0] > 0.9 and values[-1] < 0.4


# Coverage 0.98 -> 0.34, effective number 2.55 -> 2.15. The kernel distance sees nothing: -0.015 ->
# -0.008.
def test_coverage_and_diversity_fall_when_few_images_come_again_and_again() -> None:
    wide = spotted(spots(120, 1))
    noise = np.random.default_rng(2).normal(0, 1, (120, 32, 32))
    collapsed = spotted(to_uint8(np.tile(spots(8, 1), (15, 1, 1)) + noise))
    assert wide["coverage"].low > 0.9
    assert collapsed["coverage"].high < 0.5
    assert collapsed["effective_number"].value < 0.9 * wide["effective_number"].value


def test_a_model_that_copies_a_fifth_is_flagged_and_held_out_images_are_cleared() -> None:
    train, noise = spots(120, 5), np.random.default_rng(3).normal(0, 1, (24, 32, 32))
    copies = to_uint8(train[::5] + noise)
    flagged = spotted(np.concatenate([copies, spots(96, 6)]), train)["copied_share"]
    cleared = spotted(spots(120, 7), train)["copied_share"]
    assert flagged.value == pytest.approx(0.2, abs=0.04)
    assert flagged.low > 0.1
    assert cleared.low <= 0.01 <= cleared.high


# Clips -------------------------------------------------------------------------------------------


def clip(seed: int, number: int, frames: int) -> np.ndarray:
    """Four cells that drift, grow and bounce off the edges: uint8 [T, 1, 48, 48]."""
    draw, size = np.random.default_rng([seed, number]), 48
    place, speed = draw.uniform(8, size - 8, (4, 2)), draw.normal(0, 1.5, (4, 2))
    radius, bright = draw.uniform(2.5, 4, 4), draw.uniform(90, 170, 4)
    row, column = np.mgrid[:size, :size]
    images = np.full((frames, size, size), 30.0)
    for t, image in enumerate(images):
        folded = np.abs(place + speed * t) % (2 * size)
        for (y, x), r, b in zip(np.minimum(folded, 2 * size - folded), radius, bright, strict=True):
            square = (row - y) ** 2 + (column - x) ** 2
            image += b * np.exp(-square / (2 * (r * (1 + 0.02 * t)) ** 2))
    return to_uint8(images + draw.normal(0, 4, images.shape))[:, None]


def out_of_order(frames: int, draw: np.random.Generator) -> np.ndarray:
    """Neither forwards nor backwards."""
    while True:
        order = draw.permutation(frames)
        if np.ptp(np.diff(order)):
            return order


# Kernel distance as drawn | shuffled | frozen:
# random-conv-triplets, 3 frames   -0.002 | 0.025 | 0.054
# efficientnet-lite0-triplets      -0.002 | 0.140 | 0.282
# transnetv2, 12 frames             0.005 | 0.115 | 1.349; of 3 frames it sees no order
@pytest.mark.parametrize(
    ("name", "frames", "clips"), [("random-conv-triplets", 3, 32), ("transnetv2", 12, 12)]
)
def test_clips_out_of_order_and_clips_that_stand_still_are_worse(
    name: str, frames: int, clips: int
) -> None:
    network, draw = clip_extractor(name), np.random.default_rng(5)
    drawn = [clip(1, k, frames) for k in range(clips)]
    sides = {
        "as drawn": drawn,
        "shuffled": [c[out_of_order(frames, draw)] for c in drawn],
        "frozen": [c[:1].repeat(frames, 0) for c in drawn],
    }
    real = look_at_clips((clip(0, k, frames) for k in range(clips)), network)
    found = {
        how: by_name(evaluate_clips(real, look_at_clips(each, network), network, CONTEXT))
        for how, each in sides.items()
    }
    good = found.pop("as drawn")
    assert list(good) == ["video_kernel_distance", "video_frechet_distance"]
    for bad in found.values():
        for metric in good:
            assert bad[metric].value > good[metric].value
        assert bad["video_kernel_distance"].value > good["video_kernel_distance"].high
