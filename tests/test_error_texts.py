"""Errors that no other test provokes: whole text, exit code, and no traceback."""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.strategies import Strategy

from common import bench
from common.data.datamodule import ImageDataModule
from common.data.manifest import Sample, write_manifest
from common.data.prepared import Prepared
from common.errors import Exit, UserError
from common.runs.checkpoints import DurableCheckpointIO
from error_sites import ELSEWHERE, faults_of, places, untried
from running import ROOT, Cli, Result, at, run_folder, smoke

pytestmark = pytest.mark.one_experiment


def says(result: Result, code: int, sentence: str) -> None:
    """One line on stderr, which matches as a whole."""
    assert result.code == code, result.err
    assert "Traceback" not in result.err and "Traceback" not in result.out
    lines = [line for line in result.err.splitlines() if line.startswith("error[")]
    assert len(lines) == 1, result.err
    assert re.fullmatch(rf"error\[{code}\]: {sentence}", lines[0]), lines[0]


@pytest.fixture
def prepared(trained: Path, tmp_path: Path) -> Path:
    """A copy of the prepared folder, to be changed."""
    (made,) = trained.glob("data/processed/*/")
    return shutil.copytree(made, tmp_path / "prepared")


def rewrite(folder: Path, change: Callable[[Sample], Sample]) -> None:
    """Another table of samples that passes for the one which the pixels were packed by."""
    write_manifest(folder / "manifest.csv", map(change, Prepared.open(folder).manifest))
    facts = json.loads((folder / "dataset.json").read_text())
    facts["manifest_sha256"] = hashlib.sha256((folder / "manifest.csv").read_bytes()).hexdigest()
    (folder / "dataset.json").write_text(json.dumps(facts))


@pytest.mark.parametrize("split", ["train", "val"])
def test_training_on_an_empty_split_is_refused(
    prepared: Path, experiment: str, split: str, tmp_path: Path, cli: Cli
) -> None:
    rewrite(prepared, lambda row: replace(row, split="test") if row.split == split else row)
    fit = ["fit", *smoke(experiment), *at(tmp_path, "x"), "--data.root", prepared]
    says(
        cli(experiment, *fit),
        3,
        rf"\S*prepared: the {split} split is empty; prepare the raw images again",
    )


@pytest.mark.one_experiment(real=True)
def test_a_class_without_test_images_is_not_evaluated(
    prepared: Path, experiment: str, tmp_path: Path, cli: Cli
) -> None:
    classes = Prepared.open(prepared).facts["classes"]
    if len(classes) < 2:
        pytest.skip(f"{experiment} has no two classes")
    gone, other = classes[:2]
    moved = ("test", gone)
    rewrite(prepared, lambda r: replace(r, label=other) if (r.split, r.label) == moved else r)
    there = at(tmp_path, "x")
    assert cli(experiment, "fit", *smoke(experiment), *there, "--data.root", prepared).code == 0
    assert cli(experiment, "generate", *there, "--labels", gone, "--n", "2").code == 0
    says(
        cli(experiment, "evaluate", *there),
        3,
        rf"\S*prepared: holds no test image of class {gone}; "
        "generate another class, or --labels data",
    )
    assert not (run_folder(tmp_path, experiment, "x") / "records.jsonl").exists()


def test_a_class_that_the_model_does_not_know_is_not_generated(
    trained: Path, experiment: str, cli: Cli
) -> None:
    result = cli(experiment, "generate", *at(trained, "first"), "--labels", "unicorn")
    problem = "is neither data, balanced nor a class that the model was trained on"
    says(result, 2, f"--labels unicorn: {problem}; choose from data, balanced.*")


def test_a_checkpoint_of_another_experiment_is_refused(
    workspace: Path, experiment: str, cli: Cli
) -> None:
    path = run_folder(workspace, experiment, "first") / "checkpoints/best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    (own,) = (key for key in checkpoint if key.endswith("DataModule"))
    checkpoint["OtherDataModule"] = checkpoint.pop(own)
    DurableCheckpointIO().save_checkpoint(checkpoint, str(path))
    says(
        cli(experiment, "generate", *at(workspace, "first")),
        4,
        rf"\S*best\.ckpt: belongs to another experiment than {experiment}; name a run of this one",
    )


def test_pixels_that_do_not_go_into_png_are_not_written_as_png(
    workspace: Path, experiment: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = ImageDataModule.load_state_dict

    def trained_on_floats(self: ImageDataModule, state: dict[str, Any]) -> None:
        load(self, state)
        self.facts["storage"]["source"] = "float32"

    monkeypatch.setattr(ImageDataModule, "load_state_dict", trained_on_floats)
    generate = [experiment, "generate", *at(workspace, "first"), "--n", "2", "--file_format"]
    assert cli(*generate, "tiff").code == 0
    samples = run_folder(workspace, experiment, "first") / "samples"
    kept = {path: path.read_bytes() for path in samples.iterdir()}
    image = (
        r"cannot hold \d+ channels of float32, the type of the data; leave it out or choose tiff"
    )
    sequence = "cannot hold sequences; choose tiff or strip"
    says(cli(*generate, "png"), 2, f"--file_format png: (?:{image}|{sequence})")
    assert len(kept) == 3
    assert {path: path.read_bytes() for path in samples.iterdir()} == kept


def test_what_lightning_refuses_only_when_it_trains_is_a_usage_error(
    experiment: str, tmp_path: Path, cli: Cli
) -> None:
    fit = ["fit", *smoke(experiment), *at(tmp_path, "x"), "--trainer.limit_val_batches", "0.001"]
    sentence = "configuration: .*limit_val_batches.*; options: add --help"
    says(cli(experiment, *fit), 2, sentence)


def test_a_defect_of_ours_is_one_sentence_and_its_traceback_is_in_the_log(
    workspace: Path, experiment: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_folder(workspace, experiment, "first")
    before = (folder / "checkpoints/last.ckpt").read_bytes()

    def training_step(*args: Any, **kwargs: Any) -> None:
        raise ValueError("shapes differ\nand more of it")

    monkeypatch.setattr(Strategy, "training_step", training_step)
    resume = ["--resume", "true", "--budget.images_seen", "300"]
    log = rf"\S*{experiment}/first/run\.log"
    sentence = f"ValueError: shapes differ; checkpoints are kept; please report it with {log}"
    says(cli(experiment, "fit", *at(workspace, "first"), *resume), 1, sentence)
    text = (folder / "run.log").read_text()
    assert "Traceback" in text and "ValueError: shapes differ\nand more of it" in text
    assert (folder / "checkpoints/last.ckpt").read_bytes() == before


@pytest.mark.one_experiment(real=True)
def test_a_benchmark_whose_training_fails_says_why(
    experiment: str, capfd: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stop:
        bench.main([experiment, "--config", "absent", "--rounds", "1"])
    result = Result(int(stop.value.code), *capfd.readouterr())
    says(result, 2, r"\S*: .*absent\.yaml.*; \S.*")


def test_a_benchmark_whose_training_crashes_repeats_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed = subprocess.CompletedProcess([], 1, "", "Traceback\nValueError: odd\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: crashed)
    with pytest.raises(
        UserError, match=r"error\[1\]: bench any: .*ValueError: odd.*; train it first"
    ):
        bench.training_rate("any", "smoke.yaml", tmp_path, {}, 1)


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("a.png", "is blank", "remove it"), ""),
        (("a.png", "is blank\n", "remove it", "the rest\x1b is kept"), ""),
        (("", "is blank", "remove it"), "has no subject"),
        (("a.png", " ", "remove it"), "has no problem"),
        (("a.png", "is blank", ""), "has no remedy"),
        (("a.png", "is blank", "remove it\nor not"), "has more than one line"),
        ((str(Path(bench.__file__)), "is blank", "remove it"), "names the folder"),
    ],
)
def test_an_error_without_its_form_is_found(words: tuple[str, ...], fault: str) -> None:
    found = faults_of(UserError(Exit.INPUT, *words))
    assert len(found) == bool(fault) and all(fault in text for text in found)


def test_a_place_is_untried_until_one_of_its_lines_was_reached() -> None:
    rest = untried({})
    assert len(rest) > 60
    place = max(places(), key=lambda place: len(place.lines))
    reached = untried({ROOT / place.file: {max(place.lines)}})
    assert set(rest) - set(reached) == {f"{place.file}:{min(place.lines)} ({place.function})"}


def test_every_place_that_is_tried_elsewhere_names_its_test() -> None:
    assert set(ELSEWHERE) <= {place.name for place in places()}
    for reason in ELSEWHERE.values():
        file, test = reason.split("; ")[-1].split(": ")
        assert f"def {test}(" in (ROOT / file).read_text()
