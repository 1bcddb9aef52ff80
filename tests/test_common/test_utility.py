"""The augmentation ledger: what is drawn, what is scored, and that it tells help from harm."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_recall

from common.errors import UserError
from common.metrics.evaluation import EvaluationContext
from common.metrics.protocol import Record
from common.run_images import Seen
from common.utility import recognition
from common.utility.cache import Cache, digest
from common.utility.classification import Classification
from common.utility.intervals import over_models
from common.utility.ledger import Ledger, Line, ledger_records, lines
from common.utility.material import task_of
from common.utility.pools import Pool, batches, class_shares, gather, part
from common.utility.task import Balance, Score, Training

CONTEXT = EvaluationContext("test", "data", "as it is")
CLASSES = Classification(("dark", "bright"), torch.device("cpu"), Training(4, 32))


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

    rule: str = "nearest mean"
    code: tuple[ModuleType, ...] = ()

    def refuse(self, real: Pool, test: Pool, fake: Pool | None = None) -> None: ...

    def chance(self, real: Pool, test: Pool) -> Mapping[str, float]:
        return CLASSES.chance(real, test)

    def train(
        self, pools: Sequence[Pool], policy: str, seed: int, seen: Callable[[int], object]
    ) -> np.ndarray:
        seen(1)
        images = np.concatenate([one.images.mean((1, 2, 3)) for one in pools])
        labels = np.concatenate([one.labels for one in pools])
        return np.array([images[labels == k].mean() for k in (0, 1)])

    def predict(self, model: np.ndarray, images: np.ndarray) -> np.ndarray:
        return abs(images.mean((1, 2, 3))[:, None] - model).argmin(1)

    def scores(self, outcomes: np.ndarray, test: Pool, weights: np.ndarray) -> Mapping[str, Score]:
        return CLASSES.scores(outcomes, test, weights)


def ledger(real: Pool, fake: Pool, test: Pool, folder: Path, seeds: int = 3) -> dict[str, Record]:
    book = Ledger(NearestMean(), real, fake, test, Cache(folder))
    models = [(line, seed) for line in lines() for seed in range(seeds)]
    return by_name(ledger_records(book, book.train(models, ignore), CONTEXT))


def recorded(test: Pool, right: Mapping[Line, np.ndarray]) -> list[Record]:
    """Records of models of which it is known where they are right, [models, N] by line."""
    book = Ledger(NearestMean(), test, pool([0] * 9), test, Cache(Path("unused")))
    outcomes = {
        (line, seed): np.where(hit, test.labels, 1 - test.labels)
        for line, hits in right.items()
        for seed, hit in enumerate(hits)
    }
    return ledger_records(book, outcomes, CONTEXT)


def by_name(records: Sequence[Record]) -> dict[str, Record]:
    return {record.metric.removeprefix("utility/"): record for record in records}


def blank(labels: np.ndarray, groups: np.ndarray) -> Pool:
    return Pool(np.zeros((len(labels), 1, 1, 1), np.uint8), labels, groups)


def quick(images_seen: int) -> Classification:
    return Classification(("dark", "bright"), torch.device("cpu"), Training(4, images_seen))


def ignore(_: int) -> None: ...


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


@pytest.mark.parametrize("balance", ["classes", "effective", "none"])
def test_classes_are_drawn_by_their_shares_at_every_moment(balance: Balance) -> None:
    counts = np.array([6, 24, 90])
    labels = np.repeat(np.arange(3), counts)
    drawn = [b[1] for b in batches([pool(labels)], "none", 0, 240, 12, balance)]
    expected = class_shares(counts, balance)
    for upto in (5, 10, 20):
        found = torch.cat(drawn[:upto]).bincount(minlength=3).numpy()
        assert abs(found - 12 * upto * expected).max() < 2


def test_shares_of_classes_are_those_of_the_effective_numbers() -> None:
    counts = np.array([28, 601, 40_000])
    effective = np.array([sum(0.999**j for j in range(n)) for n in counts])
    expected = counts / effective
    assert class_shares(counts, "effective") == pytest.approx(expected / expected.sum())
    assert class_shares(counts, "classes") == pytest.approx([1 / 3] * 3)
    assert class_shares(counts, "none") == pytest.approx(counts / counts.sum())


def test_the_classifier_learns_what_can_be_learned_and_nothing_else() -> None:
    judge = quick(1600)
    real, test = pool([0, 1] * 40), pool([0, 1] * 50, seed=1)

    def right(trained_on: Pool) -> float:
        model = judge.train([trained_on], "none", 0, ignore)
        return float((judge.predict(model, test.images) == test.labels).mean())

    assert right(real) > 0.95
    shuffled = Pool(real.images, np.random.default_rng(0).permutation(real.labels), real.groups)
    assert right(shuffled) < 0.8


def test_a_trained_classifier_is_a_function_of_its_seed_and_leaves_the_generator_alone() -> None:
    judge, real, test = quick(32), pool([0, 1] * 20), pool([0, 1] * 20, seed=1)
    before = torch.get_rng_state()
    models = [judge.train([real], "d4", 5, ignore) for _ in range(2)]
    one, again = (judge.probabilities(model, test.images) for model in models)
    assert (one == again).all() and one.sum(1) == pytest.approx(np.ones(40))
    assert torch.get_rng_state().equal(before)


def test_macro_f1_and_recalls_are_those_computed_by_hand() -> None:
    asked = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    said = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    once, without_last = np.ones(8), np.array([1.0] * 6 + [0, 0])
    table = recognition.confusions(asked, said, np.stack([once, without_last]), 3)
    assert table[0].tolist() == [[3, 1, 0], [0, 1, 1], [0, 0, 2]]
    assert recognition.recalls(table)[0].tolist() == [3 / 4, 1 / 2, 1]
    # 2 TP / (2 TP + FP + FN).
    assert recognition.f1_scores(table)[0] == pytest.approx([6 / 7, 2 / 4, 4 / 5])
    assert recognition.macro_f1(table)[0] == pytest.approx((6 / 7 + 1 / 2 + 4 / 5) / 3)
    assert recognition.balanced_accuracy(table)[0] == pytest.approx(0.75)
    # A class that a draw does not hold has no recall there, and no part in a mean.
    assert np.isnan(recognition.recalls(table)[1, 2])
    assert recognition.balanced_accuracy(table)[1] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert recognition.macro_f1(table)[1] == pytest.approx((6 / 7 + 1 / 2) / 2)


def test_a_table_of_many_classes_needs_no_more_memory_than_itself() -> None:
    asked, said = np.array([0, 2499, 2499]), np.array([0, 1, 1])
    # Of one row for each pair of classes this would be 300 TB, which nothing can hold.
    table = recognition.confusions(asked, said, np.ones((1, 3)), 2500)
    assert table.shape == (1, 2500, 2500) and table.sum() == 3
    assert (table[0, 0, 0], table[0, 2499, 1]) == (1, 2)


def test_scores_agree_with_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    asked, said = rng.integers(0, 5, 200), rng.integers(0, 5, 200)
    table = recognition.confusions(asked, said, np.ones((1, 200)), 5)
    pair = torch.from_numpy(said), torch.from_numpy(asked)
    f1, recall = (
        measure(*pair, 5, average="macro") for measure in (multiclass_f1_score, multiclass_recall)
    )
    assert recognition.macro_f1(table)[0] == pytest.approx(float(f1), abs=1e-6)
    assert recognition.balanced_accuracy(table)[0] == pytest.approx(float(recall), abs=1e-6)


def test_scores_are_those_of_the_models_and_gains_their_differences() -> None:
    labels = np.array([0] * 30 + [1] * 10)
    rng = np.random.default_rng(0)
    right = {line: rng.random((3, 40)) < 0.7 for line in lines()}
    found = by_name(recorded(blank(labels, np.arange(40)), right))
    names = ("macro_f1", "balanced_accuracy", "recall/dark", "recall/bright")
    assert list(found)[:4] == [f"synthetic/{name}" for name in names]
    assert len(found) == (13 + 9) * 4
    for line, hits in right.items():
        expected = np.mean([(h[:30].mean() + h[30:].mean()) / 2 for h in hits])
        record = found[f"{line.name}/balanced_accuracy"]
        assert record.value == pytest.approx(expected, abs=1e-12)
        assert record.low < record.value < record.high
        rare = found[f"{line.name}/recall/bright"]
        assert rare.value == pytest.approx(hits[:, 30:].mean()) and rare.n_real == 10
        assert "10 groups" in rare.rule and "40 groups" in record.rule
    for line, base in (
        ("real_classical_50", "real_50"),
        ("real_synthetic_25", "real_25"),
        ("real_classical_synthetic_25", "real_classical_25"),
    ):
        for name in names:
            gain, pair = found[f"gain/{line}/{name}"], (f"{line}/{name}", f"{base}/{name}")
            assert gain.note.startswith(f"over {base}")
            difference = found[pair[0]].value - found[pair[1]].value
            assert gain.value == pytest.approx(difference, abs=1e-12)
            assert ("trained on all real images" in gain.note) == ("synthetic_25" in line)
    line = found["real_100/macro_f1"]
    assert (line.n_fake, found["synthetic/macro_f1"].n_fake) == (0, 9)
    assert "no augmentation" in line.rule


def test_chance_is_what_a_model_that_says_any_class_scores() -> None:
    test = blank(np.array([0] * 30 + [1] * 10), np.arange(40))
    chance = CLASSES.chance(test, test)
    assert chance["balanced_accuracy"] == chance["recall/bright"] == 0.5
    assert chance["macro_f1"] == pytest.approx((2 * 15 / (30 + 20) + 2 * 5 / (10 + 20)) / 2)


@pytest.mark.slow
def test_an_interval_over_models_and_images_covers_the_truth_as_often_as_it_says() -> None:
    """Two lines of the same expected score, each model with a luck of its own."""
    rng = np.random.default_rng(0)
    test = blank(np.arange(300) % 2, np.arange(300))
    missed = 0
    for _ in range(200):
        hard = rng.normal(0, 1, 300)
        right = {
            line: hard + rng.normal(0, 0.3, (3, 1)) + rng.normal(0, 1, (3, 300)) > -1
            for line in (Line(25), Line(25, synthetic=True))
        }
        found = by_name(recorded(test, right))["gain/real_synthetic_25/balanced_accuracy"]
        missed += not found.low <= 0 <= found.high
    # A bootstrap over three models missed in about a quarter.
    assert missed <= 16


def test_one_model_or_few_groups_or_no_spread_have_no_interval() -> None:
    half = np.random.default_rng(0).random(40) < 0.5

    def record(models: int, groups: int, right: np.ndarray = half) -> Record:
        hits = {Line(100): np.tile(right, (models, 1))}
        return recorded(blank(np.arange(40) % 2, np.arange(40) % groups), hits)[1]

    assert record(2, 5).low is not None
    always = record(3, 40, np.ones(40, bool))
    for found in (record(1, 40), record(3, 4), always):
        assert (found.low, found.high) == (None, None)
    assert "1 model;" in record(1, 40).rule
    assert "all models and draws agree" in always.note


def test_an_interval_ends_where_values_do() -> None:
    found = np.array([[0.98, *[0.9, 1.0] * 50]] * 2)
    assert over_models(found, 20).high == 1.0
    assert over_models(-found, 20, lowest=-1.0).low == -1.0


def test_a_task_of_one_class_or_without_a_class_among_the_generated_is_refused() -> None:
    judge = quick(32)
    both, dark = pool([0, 1] * 4), pool([0] * 8)
    judge.refuse(both, both, both)
    judge.refuse(both, both)
    for images in ((dark, both), (both, dark)):
        with pytest.raises(UserError, match="one class"):
            judge.refuse(*images)
    with pytest.raises(UserError, match="no image of class bright"):
        judge.refuse(both, both, dark)


def test_an_experiment_that_names_no_task_is_told_so() -> None:
    data = SimpleNamespace(task=lambda *_: None, experiment="any")
    with pytest.raises(UserError, match="any: names no task"):
        task_of(data, Training(4, 32), torch.device("cpu"))


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
    right = np.tile(np.repeat(rng.random(8) < 0.6, 10), (3, 1))
    better = right | (np.arange(80) == 3)

    def of(groups: np.ndarray) -> dict[str, Record]:
        both = {Line(50): right, Line(50, synthetic=True): better}
        return by_name(recorded(blank(labels, groups), both))

    def width(record: Record) -> float:
        return record.high - record.low

    score, gain = "real_50/balanced_accuracy", "gain/real_synthetic_50/balanced_accuracy"
    by_patient, by_image = of(patients), of(np.arange(80))
    assert width(by_patient[score]) > 1.5 * width(by_image[score])
    assert width(by_patient[gain]) < 0.3 * width(by_patient[score])


def test_good_synthetic_images_help_and_mislabelled_ones_harm(tmp_path: Path) -> None:
    # One bright and one dark image are a poor sample of their classes.
    real, test = pool([0, 1] * 2, seed=2), pool([0, 1] * 200, seed=1)
    spread = np.random.default_rng(5).normal(0, 60, len(real))[:, None, None, None]
    real = Pool((real.images + spread).clip(0, 255).astype(np.uint8), real.labels, real.groups)
    good = pool([0, 1] * 100, seed=3)
    wrong = Pool(good.images, 1 - good.labels, good.groups)
    helped, harmed = (ledger(real, fake, test, tmp_path) for fake in (good, wrong))
    for score in ("macro_f1", "balanced_accuracy"):
        assert helped[f"synthetic/{score}"].value > 0.95 > 0.05 > harmed[f"synthetic/{score}"].value
        gain = f"gain/real_synthetic_50/{score}"
        assert helped[gain].value > 0 > harmed[gain].value
        assert helped[f"gain/real_classical_50/{score}"].value == 0


def test_the_ledger_names_the_class_that_synthetic_images_help(tmp_path: Path) -> None:
    """Real images called dark are brighter than bright ones; those called bright are right."""
    real, test = pool([0] * 12 + [1] * 12), pool([0, 1] * 100, seed=1)
    real.images[:12] = 200
    shifts = np.random.default_rng(0).normal(0, 40, (200, 1, 1, 1))
    test = replace(test, images=(test.images + shifts).clip(0, 255).astype(np.uint8))
    found = ledger(real, pool([0, 1] * 100, seed=3), test, tmp_path)
    planted, other = (found[f"gain/real_synthetic_100/recall/{k}"] for k in ("dark", "bright"))
    assert planted.low > 0.5 > other.high


def test_what_no_synthetic_image_has_changed_is_trained_once(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    real, test = pool([0, 1] * 20), pool([0, 1] * 30, seed=1)
    models = [(line, seed) for line in lines([50]) for seed in range(2)]

    def run(fake: Pool) -> tuple[int, list[Record]]:
        book = Ledger(quick(32), real, fake, test, Cache(tmp_path / "task"))
        known = book.known(models)
        found = known | book.train([model for model in models if model not in known], ignore)
        ordered = {model: found[model] for model in models}
        return len(known), ledger_records(book, ordered, CONTEXT)

    fake, other = pool([0, 1] * 10, seed=2), pool([0, 1] * 10, seed=3)
    (first, before), (second, after) = run(fake), run(fake)
    assert (first, second) == (0, 4) and before == after
    assert run(other)[0] == 4
    damaged, *_ = sorted((tmp_path / "task").glob("*.npz"))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 255
    for damage in (bytes(content), content[:40], b""):
        damaged.write_bytes(damage)
        assert run(fake) == (3, before)
        assert f"{damaged.name} is damaged; its model is trained again" in capsys.readouterr().out
        assert run(fake) == (4, before)


def test_a_digest_tells_all_apart_that_changes_a_model() -> None:
    base = {"task": quick(32), "policy": "none", "seed": 0, "pools": [pool([0, 1] * 4)]}
    others = (
        {"task": quick(64)},
        {"task": replace(quick(32), training=Training(4, 32, "none"))},
        {"policy": "d4"},
        {"seed": 1},
        {"pools": [pool([0, 1] * 4, seed=1)]},
        {"pools": [pool([0, 1] * 3 + [1, 0])]},
        {"pools": [pool([0, 1] * 4, ["a"] * 8)]},
    )
    found = [digest(**base), *(digest(**base | other) for other in others)]
    assert len(set(found)) == len(found) and digest(**base) == found[0]


def test_a_folder_that_cannot_be_written_costs_no_measurement(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "task").write_text("a file")
    Cache(tmp_path / "task").keep("key", np.zeros(3))
    assert "cannot be written" in capsys.readouterr().out


def test_lines_have_names_of_their_own() -> None:
    names = [line.name for line in lines()]
    assert len(set(names)) == 13
    assert Line(25, classical=True, synthetic=True).name == "real_classical_synthetic_25"
    assert [line.name for line in lines([100, 100])][1:3] == ["real_100", "real_classical_100"]
