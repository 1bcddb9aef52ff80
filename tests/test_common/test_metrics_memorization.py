import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

import common.metrics.memorization as memorized
from common.data.near_duplicates import descriptor
from common.metrics.memorization import (
    AS_STORED,
    COARSELY,
    REPEATING,
    REPEATING_OF_CLASS,
    THRESHOLD,
    area,
    membership,
    memorization,
    repeating,
    repeating_coarsely,
    repeating_of_class,
)
from common.metrics.protocol import MetricRefused


def points(count: int, seed: int, dim: int = 6) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


TRAIN, HELD_OUT = points(600, 0), points(300, 1)


def copies(share: float, count: int = 300) -> Tensor:
    """Synthetic points, the first of which are training points with a little noise."""
    fake = points(count, 2)
    copied = round(share * count)
    fake[:copied] = TRAIN[:copied] + 1e-3 * points(copied, 3)
    return fake


def test_a_model_that_copies_a_fifth_of_its_training_images_is_found_out() -> None:
    found = repeating(HELD_OUT, copies(0.2), TRAIN)
    share = found["copied_share"]
    assert share.value == pytest.approx(0.2, abs=0.03)
    assert share.low > 0.1
    assert memorization(TRAIN, HELD_OUT, copies(0.2)).copied[:60].all()
    assert found["membership_auc"].low > 0.5
    assert (
        found["authentic_share"].value
        < repeating(HELD_OUT, copies(0), TRAIN)["authentic_share"].value
    )


def test_held_out_images_are_cleared() -> None:
    """As if they were synthetic: other images of the same source, which no model has copied."""
    found = repeating(HELD_OUT, points(300, 9), TRAIN)
    assert found["copied_share"].low <= 0.01 <= found["copied_share"].high
    assert found["membership_auc"].low < 0.5 < found["membership_auc"].high
    assert found["nearest_ratio"].value == pytest.approx(1, abs=0.05)


def test_a_hundred_held_out_images_accuse_hardly_any_model_that_copies_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One in forty, instead of one in three."""
    monkeypatch.setattr(memorized, "bootstrap_interval", lambda *arrays: (0.0, 1.0))
    shares = []
    for seed in range(100, 220, 2):
        known, others = points(150, 0), points(400, seed, 6)
        found = repeating(others[:100], others[100:], known)
        shares.append(found["copied_share"])
    assert sum(share.low > 0.01 for share in shares) <= 4
    assert np.mean([share.value for share in shares]) == pytest.approx(0.01, abs=0.004)


def test_the_more_is_copied_the_worse_every_number() -> None:
    found = [repeating(HELD_OUT, copies(share), TRAIN) for share in (0, 0.1, 0.3, 0.6)]
    for name, sign in (("copied_share", 1), ("authentic_share", -1), ("membership_auc", 1)):
        values = [sign * measured[name].value for measured in found]
        assert values == sorted(values) and values[0] < values[-1], name
    assert found[-1]["nearest_ratio"].high < 1


def test_authenticity_is_that_of_its_definition() -> None:
    """Alaa et al. 2022, pair by pair."""
    fake = copies(0.3, 40)
    found = memorization(TRAIN, HELD_OUT, fake).authentic
    for k, point in enumerate(fake):
        distances = (TRAIN - point).double().norm(dim=1)
        nearest = int(distances.argmin())
        others = (TRAIN - TRAIN[nearest]).double().norm(dim=1)
        others[nearest] = torch.inf
        assert found[k] == (distances[nearest] > others.min())


def test_more_training_than_held_out_images_are_no_advantage() -> None:
    many = points(3000, 4)
    members, others = membership(many, HELD_OUT, points(200, 5))
    assert len(members) == len(others) == 300
    ratio = memorization(many, HELD_OUT, points(200, 5)).ratio
    assert float(ratio.median()) == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize("seed", range(4))
def test_the_area_is_the_share_of_pairs(seed: int) -> None:
    draw = np.random.default_rng(seed)
    members, others = draw.integers(0, 9, 23) * 1.0, draw.integers(0, 9, 31) * 1.0
    pairs = [(m < o) + 0.5 * (m == o) for m in members for o in others]
    assert area(members, others) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_numbers_come_with_interval_and_rule() -> None:
    found = repeating(HELD_OUT, copies(0.1), TRAIN)
    assert tuple(found) == REPEATING
    for name, measured in found.items():
        assert measured.low <= measured.value <= measured.high
        clause = f"; {THRESHOLD}" if name == "copied_share" else ""
        assert measured.rule == f"600 training images{clause}"
        assert measured.note.endswith(AS_STORED)
    assert repeating(HELD_OUT, copies(0.1), TRAIN) == found


def test_frames_that_are_all_alike_tell_no_more_than_their_sequences() -> None:
    sides = HELD_OUT, copies(0.1), TRAIN
    single = repeating(*sides)
    many = repeating(*(side.repeat_interleave(3, 0) for side in sides), frames=3)
    for name in ("copied_share", "authentic_share", "nearest_ratio", "membership_auc"):
        assert many[name][:3] == pytest.approx(single[name][:3], abs=1e-6), name
        assert many[name].rule.startswith("1800 training images; whole sequences")
    narrow = repeating(*(side.repeat_interleave(3, 0) for side in sides))
    for name in ("copied_share", "nearest_ratio", "membership_auc"):
        widths = [found[name].high - found[name].low for found in (many, narrow)]
        assert widths[0] > 1.3 * widths[1], name


def test_whole_sequences_are_drawn() -> None:
    """Frames of as many sequences as there are would come nearer, as if they had been copied."""
    train, held_out, fake = (points(count, seed) for count, seed in ((900, 0), (50, 1), (200, 2)))
    train, held_out = (side.repeat_interleave(4, 0) for side in (train, held_out))
    ratio = memorization(train, held_out, fake, frames=4).ratio
    assert float(ratio.median()) == pytest.approx(1, abs=0.1)
    assert float(memorization(train, held_out, fake).ratio.median()) < 0.9


def test_of_one_class_fewer_images_are_enough_and_the_note_says_so() -> None:
    few = repeating_of_class(HELD_OUT[:30], copies(0.5, 60), TRAIN[:90])
    assert tuple(few) == REPEATING_OF_CLASS
    assert few["membership_auc"].low > 0.5 and few["nearest_ratio"].high < 1
    for measured in few.values():
        assert measured.note.endswith("; orientations as stored; few images: 30 are held out")
        assert measured.rule == "90 training images of the class"
    # Where there are many, these are the numbers of `repeating`.
    many, whole = (f(HELD_OUT, copies(0.1), TRAIN) for f in (repeating_of_class, repeating))
    for name, measured in many.items():
        assert measured[:3] == whole[name][:3] and "few images" not in measured.note
    with pytest.raises(MetricRefused, match="At least 20 images"):
        repeating_of_class(HELD_OUT[:19], copies(0.5, 60), TRAIN)


def test_too_few_held_out_images_are_refused() -> None:
    with pytest.raises(MetricRefused, match="At least 100 images"):
        repeating(HELD_OUT[:99], copies(0), TRAIN)


def faces(images: np.ndarray) -> np.ndarray:
    return np.stack([descriptor(image[None]) for image in images])


def test_smooth_turned_copies_are_found_by_what_they_show_on_the_whole() -> None:
    rng = np.random.default_rng(0)
    images = np.stack([cv2.GaussianBlur(x, (0, 0), 1.5) for x in rng.normal(size=(700, 48, 48))])
    train, held_out, others = images[:300], images[300:500], images[500:]
    smooth = np.stack([cv2.GaussianBlur(image, (0, 0), 2) for image in train[:200]])
    turned = np.ascontiguousarray(smooth[:, ::-1].transpose(0, 2, 1))
    found = repeating_coarsely(faces(held_out), faces(turned), faces(train))
    assert tuple(found) == COARSELY
    assert not any(AS_STORED in measured.note for measured in found.values())
    assert found["coarse_copied_share"].value == 1
    assert found["coarse_membership_auc"].low > 0.5
    cleared = repeating_coarsely(faces(held_out), faces(others), faces(train))
    assert cleared["coarse_copied_share"].value < 0.05
    auc = cleared["coarse_membership_auc"]
    assert auc.low < 0.5 < auc.high


def test_few_images_tell_nothing_about_smooth_copies() -> None:
    with pytest.raises(MetricRefused, match="At least 100"):
        repeating_coarsely(*(np.ones((count, 255), np.float32) for count in (99, 5, 200)))
