"""The augmentation ledger: what is drawn, what is scored, and that it tells help from harm."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest
import torch

from common.metrics.evaluation import EvaluationContext
from common.utility.classification import Classification
from common.utility.ledger import Line, Outcome, ledger_records, lines, run_ledger
from common.utility.pools import Pool, batches, part

CONTEXT = EvaluationContext("test", "data", "as it is")
QUICK = ("--seeds", "1", "--images_seen", "32", "--width", "4")


def pool(labels: Sequence[int], groups: Sequence[str] | None = None, seed: int = 0) -> Pool:
    """Images whose brightness tells their class, under noise."""
    rng = np.random.default_rng(seed)
    labels = np.array(labels)
    images = rng.normal(60 + 100 * labels[:, None, None, None], 20, (len(labels), 1, 32, 32))
    names = [str(k) for k in range(len(labels))] if groups is None else groups
    return Pool(images.clip(0, 255).astype(np.uint8), labels, np.array(names))


@dataclass(frozen=True)
class NearestMean:
    """A judge that is trained at once: the class of the nearest mean brightness."""

    score: str = "balanced_accuracy"
    chance: float = 0.5
    rule: str = "nearest mean"

    def hits(
        self,
        pools: Sequence[Pool],
        test: Pool,
        policy: str,
        seed: int,
        seen: Callable[[int], object],
    ) -> np.ndarray:
        images = np.concatenate([one.images.mean((1, 2, 3)) for one in pools])
        labels = np.concatenate([one.labels for one in pools])
        means = np.array([images[labels == k].mean() for k in (0, 1)])
        found = abs(test.images.mean((1, 2, 3))[:, None] - means).argmin(1)
        return (found == test.labels).astype(float)


def ledger(real: Pool, fake: Pool, test: Pool, seeds: int = 3) -> dict[str, float]:
    outcome = run_ledger(NearestMean(), real, fake, test, seeds, lambda _: None)
    records = ledger_records(outcome, NearestMean(), len(fake), CONTEXT)
    return {record.metric.removeprefix("utility/"): record.value for record in records}


def test_a_part_holds_its_share_of_every_class_and_lies_in_the_larger_part() -> None:
    whole = pool([0] * 40 + [1] * 10)
    quarter, half = part(whole, 25, seed=3), part(whole, 50, seed=3)
    assert np.bincount(quarter.labels).tolist() == [10, 3]
    assert np.bincount(half.labels).tolist() == [20, 5]
    assert set(quarter.groups) < set(half.groups)
    assert set(part(whole, 25, seed=4).groups) != set(quarter.groups)


def test_a_part_takes_whole_groups_as_far_as_they_go() -> None:
    whole = pool([0] * 40, [f"patient{k % 8}" for k in range(40)])
    chosen = part(whole, 50, seed=0)
    names, counts = np.unique(chosen.groups, return_counts=True)
    assert len(names) == 4 and counts.tolist() == [5] * 4


def test_batches_take_pools_and_classes_in_turn_and_repeat_no_image_early() -> None:
    rare, common = pool([0] * 2 + [1] * 20), pool([1] * 30)
    drawn = list(batches([rare, common], "none", seed=0, count=80, batch_size=16))
    images, labels = torch.cat([b[0] for b in drawn]), torch.cat([b[1] for b in drawn])
    assert images.shape == (80, 1, 32, 32) and images.dtype == torch.uint8
    of_rare, of_common = labels[0::2], labels[1::2]
    assert of_common.unique().tolist() == [1]
    assert torch.bincount(of_rare).tolist() == [20, 20]
    ones = images[0::2][of_rare == 1]
    assert len({image.numpy().tobytes() for image in ones}) == 20


def test_batches_are_a_function_of_the_seed() -> None:
    def first(seed: int) -> torch.Tensor:
        drawn = batches([pool([0, 1] * 10)], "d4+photometric", seed, 16, 16)
        return next(islice(drawn, 1))[0]

    assert first(1).equal(first(1)) and not first(1).equal(first(2))


def test_the_classifier_learns_what_can_be_learned_and_nothing_else() -> None:
    judge = Classification(("dark", "bright"), torch.device("cpu"), 4, images_seen=1600)
    real, test = pool([0, 1] * 40), pool([0, 1] * 50, seed=1)
    assert judge.hits([real], test, "none", 0, lambda _: None).mean() > 0.95
    shuffled = Pool(real.images, np.random.default_rng(0).permutation(real.labels), real.groups)
    assert judge.hits([shuffled], test, "none", 0, lambda _: None).mean() < 0.8


def test_a_trained_classifier_is_a_function_of_its_seed_and_leaves_the_generator_alone() -> None:
    judge = Classification(("dark", "bright"), torch.device("cpu"), 4, images_seen=32)
    real, test = pool([0, 1] * 20), pool([0, 1] * 20, seed=1)
    before = torch.get_rng_state()
    one, again = (judge.hits([real], test, "d4", 5, lambda _: None) for _ in range(2))
    assert (one == again).all()
    assert torch.get_rng_state().equal(before)


def test_scores_are_balanced_accuracies_and_gains_their_differences() -> None:
    labels = np.array([0] * 30 + [1] * 10)
    rng = np.random.default_rng(0)
    hits = {line: (rng.random((3, 40)) < 0.7).astype(float) for line in lines()}
    test = Pool(np.zeros((40, 1, 1, 1), np.uint8), labels, np.arange(40))
    records = ledger_records(Outcome(hits, test), NearestMean(), 9, CONTEXT)
    by_name = {record.metric.removeprefix("utility/"): record for record in records}
    assert len(by_name) == 13 + 9
    for line, of_line in hits.items():
        expected = np.mean([(h[:30].mean() + h[30:].mean()) / 2 for h in of_line])
        record = by_name[line.name]
        assert record.value == pytest.approx(expected, abs=1e-12)
        assert record.low < record.value < record.high
    gain = by_name["gain/real_synthetic_25"]
    difference = by_name["real_synthetic_25"].value - by_name["real_25"].value
    assert gain.value == pytest.approx(difference, abs=1e-12)
    assert "trained on all real images" in gain.note
    assert by_name["gain/real_synthetic_100"].note == ""


def test_intervals_of_gains_are_paired_and_tell_of_new_groups() -> None:
    rng = np.random.default_rng(0)
    labels, patients = np.array([0, 1] * 40), np.repeat(np.arange(8), 10)
    right = np.repeat((rng.random((3, 8)) < 0.6).astype(float), 10, axis=1)
    hits = dict.fromkeys(lines(), right)

    def of(groups: np.ndarray) -> dict[str, object]:
        test = Pool(np.zeros((80, 1, 1, 1), np.uint8), labels, groups)
        records = ledger_records(Outcome(hits, test), NearestMean(), 9, CONTEXT)
        return {record.metric.removeprefix("utility/"): record for record in records}

    by_patient, by_image = of(patients), of(np.arange(80))
    gain = by_patient["gain/real_synthetic_50"]
    assert (gain.value, gain.low, gain.high) == (0, 0, 0)
    wide, narrow = by_patient["real_50"], by_image["real_50"]
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_good_synthetic_images_help_and_mislabelled_ones_harm() -> None:
    # One bright and one dark image are a poor sample of their classes.
    real, test = pool([0, 1] * 2, seed=2), pool([0, 1] * 200, seed=1)
    spread = np.random.default_rng(5).normal(0, 60, len(real))[:, None, None, None]
    real = Pool((real.images + spread).clip(0, 255).astype(np.uint8), real.labels, real.groups)
    good = pool([0, 1] * 100, seed=3)
    wrong = Pool(good.images, 1 - good.labels, good.groups)
    helped, harmed = ledger(real, good, test), ledger(real, wrong, test)
    assert helped["synthetic"] > 0.95 > 0.05 > harmed["synthetic"]
    assert helped["gain/real_synthetic_50"] > 0 > harmed["gain/real_synthetic_50"]
    assert helped["gain/real_classical_50"] == 0


def test_lines_have_names_of_their_own() -> None:
    names = [line.name for line in lines()]
    assert len(set(names)) == 13
    assert Line(25, classical=True, synthetic=True).name == "real_classical_synthetic_25"
