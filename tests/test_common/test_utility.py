"""The augmentation ledger: what is drawn, what is scored, and that it tells help from harm."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.metrics.evaluation import EvaluationContext
from common.metrics.protocol import Record
from common.run_images import Seen
from common.runs.folder import RunFolder
from common.utility.classification import Classification
from common.utility.ledger import Line, Outcome, ledger_records, lines, run_ledger
from common.utility.measurement import measure_utility
from common.utility.pools import Pool, batches, gather, part

CONTEXT = EvaluationContext("test", "data", "as it is")


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
    rule: str = "nearest mean"

    def refuse(self, real: Pool, fake: Pool, test: Pool) -> None: ...

    def chance(self, real: Pool) -> float:
        return 0.5

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
    records = ledger_records(outcome, NearestMean(), CONTEXT)
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
    records = ledger_records(Outcome(hits, test, 9, 0.5), NearestMean(), CONTEXT)
    by_name = {record.metric.removeprefix("utility/"): record for record in records}
    assert len(by_name) == 13 + 9
    for line, of_line in hits.items():
        expected = np.mean([(h[:30].mean() + h[30:].mean()) / 2 for h in of_line])
        record = by_name[line.name]
        assert record.value == pytest.approx(expected, abs=1e-12)
        assert record.low < record.value < record.high
    for line, base in (
        ("real_classical_50", "real_50"),
        ("real_synthetic_25", "real_25"),
        ("real_classical_synthetic_25", "real_classical_25"),
    ):
        gain = by_name[f"gain/{line}"]
        assert gain.note.startswith(f"over {base}")
        assert gain.value == pytest.approx(by_name[line].value - by_name[base].value, abs=1e-12)
        assert ("trained on all real images" in gain.note) == ("synthetic_25" in line)
    assert (by_name["real_100"].n_fake, by_name["synthetic"].n_fake) == (0, 9)
    assert "no augmentation" in by_name["real_100"].rule


def test_an_interval_over_models_and_images_covers_the_truth_as_often_as_it_says() -> None:
    """Two lines of the same expected score, each model with a luck of its own."""
    rng = np.random.default_rng(0)
    test = Pool(np.zeros((300, 1, 1, 1), np.uint8), np.arange(300) % 2, np.arange(300))
    missed = 0
    for _ in range(200):
        hard = rng.normal(0, 1, 300)
        hits = {
            line: (hard + rng.normal(0, 0.3, (3, 1)) + rng.normal(0, 1, (3, 300)) > -1) * 1.0
            for line in (Line(25), Line(25, synthetic=True))
        }
        found = ledger_records(Outcome(hits, test, 9, 0.5), NearestMean(), CONTEXT)[-1]
        missed += not found.low <= 0 <= found.high
    # A bootstrap over three models missed in about a quarter.
    assert missed <= 16


def test_one_model_or_few_groups_have_no_interval() -> None:
    def record(models: int, groups: int) -> Record:
        hits = dict.fromkeys(lines(), np.tile([1.0, 0.0, 1.0, 1.0], (models, 10)))
        test = Pool(np.zeros((40, 1, 1, 1), np.uint8), np.arange(40) % 2, np.arange(40) % groups)
        return ledger_records(Outcome(hits, test, 9, 0.5), NearestMean(), CONTEXT)[0]

    assert record(2, 5).low is not None
    for models, groups in ((1, 40), (3, 4)):
        assert (record(models, groups).low, record(models, groups).high) == (None, None)
    assert "1 model;" in record(1, 40).rule


def test_a_task_of_one_class_or_without_a_class_among_the_generated_is_refused() -> None:
    judge = Classification(("dark", "bright"), torch.device("cpu"))
    both, dark = pool([0, 1] * 4), pool([0] * 8)
    judge.refuse(both, both, both)
    assert judge.chance(both) == 0.5
    for images in ((dark, both, both), (both, both, dark)):
        with pytest.raises(UserError, match="one class"):
            judge.refuse(*images)
    with pytest.raises(UserError, match="no image of class bright"):
        judge.refuse(both, dark, both)


def test_an_experiment_that_names_no_task_is_told_so(tmp_path: Path) -> None:
    folder, data = RunFolder(tmp_path, "any", "first"), SimpleNamespace(task=lambda *_: None)
    with pytest.raises(UserError, match="any: names no task"):
        measure_utility(folder, data, torch.device("cpu"), 3, 32, 4)


def test_images_without_classes_are_of_one_class() -> None:
    seen = [Seen("a", "", np.zeros((1, 4, 4), np.uint8), np.zeros((1, 4, 4))) for _ in range(3)]
    found = gather(iter(seen), 3, (), ["v", "v", "w"])
    assert found.labels.tolist() == [0, 0, 0] and found.groups.tolist() == ["v", "v", "w"]


def test_a_part_of_one_group_is_drawn_anew_by_every_seed() -> None:
    whole = pool([0] * 40, ["only"] * 40)
    first, second = (part(whole, 25, seed).images.tobytes() for seed in (0, 1))
    assert first != second


def test_intervals_of_gains_are_paired_and_tell_of_new_groups() -> None:
    rng = np.random.default_rng(0)
    labels, patients = np.array([0, 1] * 40), np.repeat(np.arange(8), 10)
    # Three models that agree: all of the error is that of the images.
    right = np.tile(np.repeat((rng.random(8) < 0.6).astype(float), 10), (3, 1))
    hits = dict.fromkeys(lines(), right)

    def of(groups: np.ndarray) -> dict[str, object]:
        test = Pool(np.zeros((80, 1, 1, 1), np.uint8), labels, groups)
        records = ledger_records(Outcome(hits, test, 9, 0.5), NearestMean(), CONTEXT)
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
