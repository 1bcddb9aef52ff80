"""Judges recognise what is there, guess what is not, and come back from their files unchanged."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.metrics.evaluation import EvaluationContext
from common.metrics.protocol import Record
from common.tensors_file import digest_of, pack, seal, unpack, unseal
from common.utility import judge
from common.utility.classification import Classification
from common.utility.judge import Judges, judges_of, trained_judges
from common.utility.judgement import Judged, judgement_records, main_classes
from common.utility.pools import Pool
from common.utility.task import Training

NAMES = ("dark", "grey", "bright")
CPU, QUICK = torch.device("cpu"), Training(4, 1600)
CONTEXT = EvaluationContext("test", "data", "as it is")


def pool(count: int, seed: int) -> Pool:
    """Images whose brightness tells their class, under noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(NAMES)
    images = rng.normal(50 + 75 * labels[:, None, None, None], 15, (count, 1, 32, 32))
    return Pool(images.clip(0, 255).astype(np.uint8), labels, np.arange(count).astype(str))


def relabelled(one: Pool, labels: np.ndarray) -> Pool:
    return replace(one, labels=labels)


def records(judges: Judges, fake: Pool, real: Pool) -> dict[str, Record]:
    sides = (Judged(side, judges.labels(side.images)) for side in (fake, real, real))
    found = judgement_records(judges, *sides, CONTEXT)
    return {record.metric.removeprefix("judge/"): record for record in found}


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> Judges:
    task = Classification(NAMES, CPU, QUICK)
    return trained_judges(task, pool(120, 0), tmp_path_factory.mktemp("task"), QUICK, 2)


def test_planted_classes_are_recognised_and_exchanged_ones_are_not(judges: Judges) -> None:
    real, fake = pool(90, 1), pool(90, 2)
    found = records(judges, fake, real)
    for name in ("balanced_accuracy", "real_balanced_accuracy", "real_accuracy"):
        assert found[name].value > 0.95
    # What was asked to be dark is grey, and so on; dark ones alone are what they were to be.
    exchanged = np.where(fake.labels == 0, 0, 3 - fake.labels)
    found = records(judges, relabelled(fake, exchanged), real)
    assert found["recall/dark"].value > 0.95
    assert found["recall/grey"].value < 0.05 and found["recall/bright"].value < 0.05
    assert found["balanced_accuracy"].value == pytest.approx(1 / 3, abs=0.05)
    assert "of real held-out images" in found["balanced_accuracy"].note


def test_labels_that_say_nothing_are_recognised_by_chance(judges: Judges) -> None:
    fake = pool(900, 3)
    shuffled = relabelled(fake, np.random.default_rng(1).permutation(fake.labels))
    score = records(judges, shuffled, pool(90, 1))["balanced_accuracy"]
    assert score.low < 1 / 3 < score.high and score.high - score.low < 0.1


def test_a_judge_of_shuffled_labels_is_at_chance_and_says_that_it_errs(tmp_path: Path) -> None:
    real = pool(120, 0)
    shuffled = relabelled(real, np.random.default_rng(0).permutation(real.labels))
    task = Classification(NAMES, CPU, Training(4, 400))
    blind = trained_judges(task, shuffled, tmp_path, task.training, 2)
    found = records(blind, pool(90, 2), pool(90, 1))
    assert found["real_balanced_accuracy"].value < 0.7
    assert "below 0.99" in found["real_balanced_accuracy"].note


def test_numbers_say_of_how_many_images_and_judges_they_are(judges: Judges) -> None:
    real, fake = pool(90, 1), pool(60, 2)
    found = records(judges, fake, real)
    assert (found["recall/dark"].n_real, found["recall/dark"].n_fake) == (0, 20)
    assert (found["real_recall/dark"].n_real, found["real_recall/dark"].n_fake) == (30, 0)
    for record in found.values():
        assert record.extractor == "judge" and record.extractor_sha256 == judges.sha256
        assert "2 judges" in record.rule
    assert "30 groups" in found["real_recall/dark"].rule


def test_the_main_classes_are_those_with_most_training_images(judges: Judges) -> None:
    labels = np.repeat(np.arange(8), [3, 40, 5, 60, 7, 40, 1, 9])
    assert main_classes(labels) == [3, 1, 5, 7, 4]
    few = replace(judges, trained_on=np.repeat([0, 1], 9))
    fake = pool(60, 2)
    exchanged = relabelled(fake, np.where(fake.labels == 2, 2, 1 - fake.labels))
    found = records(few, exchanged, pool(90, 1))
    assert found["balanced_accuracy"].value == pytest.approx(1 / 3, abs=0.05)
    assert found["main_balanced_accuracy"].value < 0.05
    assert found["main_balanced_accuracy"].n_fake == 40
    assert "of dark, grey" in found["main_balanced_accuracy"].rule
    bright = np.flatnonzero(fake.labels == 2)
    refused = records(few, fake.take(bright), pool(90, 1))["main_balanced_accuracy"]
    assert refused.value is None and "no image of these classes" in refused.note


def test_a_table_counts_every_image_once_as_the_mean_of_the_judges() -> None:
    two = Pool(np.zeros((2, 1, 1, 1), np.uint8), np.array([0, 1]), np.array(["a", "b"]))
    table = Judged(two, np.array([[0, 1], [1, 1]])).table(2)
    assert table.tolist() == [[0.5, 0.5], [0, 1]]


def test_judges_come_back_from_their_files_and_more_join_them(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    task, real = Classification(NAMES, CPU, Training(4, 64)), pool(30, 0)

    def ask(count: int, images: Pool = real) -> tuple[str, Judges]:
        found = trained_judges(task, images, tmp_path / "task", task.training, count)
        return capsys.readouterr().out, found

    (first, two), (second, again) = ask(2), ask(2)
    assert "0 of them" in first and "2 of them" in second
    assert two.sha256 == again.sha256
    seen = pool(9, 1).images
    assert (two.probabilities(seen) == again.probabilities(seen)).all()
    assert two.labels(seen).shape == (2, 9)
    third, three = ask(3)
    assert "3 of 64 images each, 2 of them" in third and three.sha256 != two.sha256
    assert "0 of them" in ask(2, pool(30, 5))[0]
    one, *_ = sorted((tmp_path / "task").glob("judge-*.safetensors"))
    content = bytearray(one.read_bytes())
    content[-9] ^= 1
    for damage in (bytes(content), content[:60], b"", b"\xff" * 99):
        one.write_bytes(damage)
        assert "is damaged; its judge is trained again" in ask(3)[0] + ask(2, pool(30, 5))[0]
        assert "damaged" not in ask(3)[0]


def test_sealed_tensors_tell_of_damage() -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor(3)}
    for found in (unpack(pack(tensors)), unseal(seal(tensors))):
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert digest_of(tensors) != digest_of(tensors | {"b": torch.tensor(4)})
    content = bytearray(seal(tensors))
    content[-1] ^= 1
    with pytest.raises(ValueError, match="damaged"):
        unseal(bytes(content))
    with pytest.raises(ValueError, match="damaged"):
        unseal(pack(tensors))
    with pytest.raises(ValueError, match="no tensors"):
        unpack(b"none")


def test_a_task_without_classes_has_no_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "task_of", lambda *_: object())
    with pytest.raises(UserError, match="any: names a task without classes"):
        judges_of(SimpleNamespace(experiment="any"), CPU)
