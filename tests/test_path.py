"""The path from raw images to records, walked with the real command line at smoke size."""

import csv
import hashlib
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from common.callbacks import ImageWriter
from common.data.image_io import read_image
from common.errors import Exit, UserError
from common.metrics.protocol import read_records
from common.report import __main__ as report
from common.runs.lock import SAMPLES, RunLock
from outcome import history, state
from running import ROOT, Cli, at, open_page, refuses, run_folder, smoke


def pictures(folder: Path) -> dict[str, bytes]:
    files = sorted((folder / "samples").iterdir())
    return {path.name: path.read_bytes() for path in files if path.suffix != ".csv"}


def test_training_leaves_config_checkpoints_history_and_preview(
    trained: Path, experiment: str
) -> None:
    folder = run_folder(trained, experiment, "first")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["seed_everything"] == 0
    names = [f"{name}.ckpt" for name in ("best", "last", "previous")]
    files = {path.name: path for path in (folder / "checkpoints").iterdir()}
    assert sorted(files) == sorted([*names, *(f"{name}.sha256" for name in names)])
    for name in names:
        digest = hashlib.sha256(files[name].read_bytes()).hexdigest()
        assert files[f"{name}.sha256"].read_text() == f"{digest}  {name}\n"
    assert not list(folder.rglob("*.part"))
    assert [p for p in (folder / "previews").iterdir() if p.suffix == ".png"]
    rows = history(folder)
    assert rows[0] == ["images_seen", "epoch", "step", "name", "value"]
    assert {row[3].split("/")[0] for row in rows[1:]} == {"train", "val"}
    assert max(int(row[0]) for row in rows[1:]) >= config["budget"]["images_seen"]


def test_generate_and_evaluate_follow_training(workspace: Path, experiment: str, cli: Cli) -> None:
    folder = run_folder(workspace, experiment, "first")
    assert cli(experiment, "generate", *at(workspace, "first"), "--n", "11").code == 0
    with (folder / "samples/manifest.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["seed"]) for row in rows] == list(range(11))
    digest = hashlib.sha256((folder / "checkpoints/best.ckpt").read_bytes()).hexdigest()
    assert {row["checkpoint_sha256"] for row in rows} == {digest}
    for row in rows:
        assert np.ptp(read_image(folder / "samples" / row["name"]).pixels) > 0
    result = cli(experiment, "evaluate", *at(workspace, "first"))
    assert result.code == 0, result.err
    records = read_records(folder / "records.jsonl")
    assert {record.split for record in records} == {"test"}
    assert {record.checkpoint_sha256 for record in records} == {digest}
    assert any(record.value is not None and record.extractor for record in records)


@pytest.mark.one_experiment
def test_the_config_of_a_run_repeats_it(workspace: Path, experiment: str, cli: Cli) -> None:
    first = run_folder(workspace, experiment, "first")
    config = ["--config", first / "config.yaml"]
    assert cli(experiment, "fit", *config, *at(workspace, "second")).code == 0
    second = run_folder(workspace, experiment, "second")
    assert history(second) == history(first)
    assert state(second) == state(first)
    assert (second / "config.yaml").read_bytes() == (first / "config.yaml").read_bytes()


@pytest.mark.parametrize("epochs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_stopped_after_an_epoch_and_resumed_equals_one_that_was_not(
    workspace: Path, experiment: str, epochs: int, cli: Cli
) -> None:
    budget = ["--budget.images_seen", "0", "--trainer.max_epochs"]
    whole, parts = (run_folder(workspace, experiment, run) for run in ("whole", "parts"))
    fit = [experiment, "fit", *smoke(experiment)]
    assert cli(*fit, *at(workspace, "whole"), *budget, "3").code == 0
    assert cli(*fit, *at(workspace, "parts"), *budget, str(epochs)).code == 0
    result = cli(*fit, *at(workspace, "parts"), *budget, "3", "--resume", "true")
    assert result.code == 0, result.err
    assert f"epoch {epochs}," in result.out
    assert state(parts) == state(whole)
    assert history(parts) == history(whole)


@pytest.mark.one_experiment
def test_resuming_needs_no_configuration_and_takes_what_was_typed_at_the_start(
    workspace: Path, experiment: str, cli: Cli
) -> None:
    folder = run_folder(workspace, experiment, "typed")
    typed = ["--ema.half_life_images", "77", "--trainer.max_epochs", "1"]
    assert cli(experiment, "fit", *smoke(experiment), *at(workspace, "typed"), *typed).code == 0
    more = ["--resume", "true", "--trainer.max_epochs", "2"]
    result = cli(experiment, "fit", *at(workspace, "typed"), *more)
    assert result.code == 0, result.err
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["ema"]["half_life_images"] == 77
    assert {row[1] for row in history(folder)[1:]} == {"0", "1"}


@pytest.mark.one_experiment(real=True)
def test_a_run_killed_in_the_middle_of_an_epoch_resumes_exactly(
    workspace: Path, experiment: str, cli: Cli
) -> None:
    budget = ["--budget.images_seen", "0", "--trainer.max_epochs", "4"]
    fit = ["fit", *smoke(experiment), *budget]
    whole, killed = (run_folder(workspace, experiment, run) for run in ("whole", "killed"))
    assert cli(experiment, *fit, *at(workspace, "whole")).code == 0
    script = str(ROOT / "experiments" / experiment / "cli.py")
    # Two threads, as in this process: sums are split by the number of threads.
    victim = subprocess.Popen([sys.executable, script, *fit, *at(workspace, "killed")])
    checkpoint, deadline = killed / "checkpoints/last.ckpt", time.monotonic() + 120
    while not checkpoint.exists() and victim.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    result = cli(experiment, *fit, *at(workspace, "killed"), "--resume", "true")
    assert result.code == 0, result.err
    assert state(killed) == state(whole)
    assert history(killed) == history(whole)


@pytest.mark.one_experiment
def test_a_run_with_a_damaged_checkpoint_goes_on_from_the_one_before(
    workspace: Path, experiment: str, cli: Cli
) -> None:
    first, whole = (run_folder(workspace, experiment, run) for run in ("first", "whole"))
    budget = ["--budget.images_seen", "160"]
    assert cli(experiment, "fit", *smoke(experiment), *at(workspace, "whole"), *budget).code == 0
    last = first / "checkpoints/last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.unlink()
    last.write_bytes(content)
    resume = [experiment, "fit", *at(workspace, "first"), *budget, "--resume"]
    result = cli(*resume, "true")
    assert result.code == 4 and "--resume previous" in result.err
    assert last.read_bytes() == content
    result = cli(*resume, "previous")
    assert result.code == 0, result.err
    assert re.search(r"resuming .*previous\.ckpt: .* [1-9]\d* images seen, checksum ok", result.out)
    assert state(first) == state(whole)
    assert history(first) == history(whole)


def test_image_k_depends_only_on_seed_k(workspace: Path, experiment: str, cli: Cli) -> None:
    folder = run_folder(workspace, experiment, "first")
    generate = [experiment, "generate", *at(workspace, "first")]
    made = {}
    for batch_size in ("1", "3", "16"):
        assert cli(*generate, "--n", "11", "--data.batch_size", batch_size).code == 0
        made[batch_size] = pictures(folder)
    assert made["1"] == made["3"] == made["16"]
    assert len(set(made["1"].values())) == 11
    assert cli(*generate, "--n", "1", "--seed", "7").code == 0
    (alone,) = pictures(folder).values()
    assert alone == list(made["3"].values())[7]


@pytest.mark.one_experiment
def test_seeds_that_would_draw_noise_again_are_refused_before_anything_is_touched(
    workspace: Path, experiment: str, cli: Cli
) -> None:
    folder, on = run_folder(workspace, experiment, "first"), at(workspace, "first")
    most = ["--seed", str(2**31 - 2)]
    assert cli(experiment, "generate", *on, *most, "--n", "2").code == 0
    assert cli(experiment, "evaluate", *on, "--extractor", "random-conv").code == 0
    assert cli(experiment, "card", *on).code == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    refused = cli(experiment, "generate", *on, *most, "--n", "3")
    problem = "leaves no room for 3 seeds below 2147483648"
    refuses(refused, 2, f"--seed 2147483646: {problem}", "choose a lower one")
    for seed in ("2147483648", "9223372036854775808"):
        for verb in ("generate", "figures"):
            refuses(cli(experiment, verb, *on, "--seed", seed), 2, f"--seed {seed}: leaves no room")
        again = ["--resume", "true", "--allow-change", "preview", "--preview.seed", seed]
        refuses(cli(experiment, "fit", *on, *again), 2, f"--preview.seed {seed}: leaves no room")
    assert {path: path.read_bytes() for path in before} == before
    new = ["fit", *smoke(experiment), *at(workspace, "new"), *again[4:]]
    refuses(cli(experiment, *new), 2, "--preview.seed")
    assert not run_folder(workspace, experiment, "new").exists()


def test_generate_goes_on_where_it_was_killed_and_leaves_the_same_files(
    workspace: Path, experiment: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_folder(workspace, experiment, "first")
    generate = [experiment, "generate", *at(workspace, "first"), "--n", "11"]
    assert cli(*generate).code == 0
    whole, table = pictures(folder), (folder / "samples/manifest.csv").read_bytes()
    written, write = [], ImageWriter._write

    def dies_after_seven(self: ImageWriter, path: Path, image: np.ndarray) -> None:
        if len(written) == 7:
            raise UserError(Exit.STORAGE, path, "has no room", "make some")
        written.append(path.name)
        write(self, path, image)

    monkeypatch.setattr(ImageWriter, "_write", dies_after_seven)
    assert cli(*generate).code == Exit.STORAGE
    assert not (folder / "samples/manifest.csv").exists()
    monkeypatch.setattr(
        ImageWriter, "_write", lambda *args: (written.append(args[1].name), write(*args))
    )
    assert cli(*generate).code == 0
    assert sorted(written) == sorted(whole)
    assert pictures(folder) == whole
    assert (folder / "samples/manifest.csv").read_bytes() == table


@pytest.mark.one_experiment(real=True)
def test_two_processes_generate_the_same_files_and_train(
    workspace: Path, experiment: str, cli: Cli
) -> None:
    folder = run_folder(workspace, experiment, "first")
    assert cli(experiment, "generate", *at(workspace, "first"), "--n", "9").code == 0
    alone, table = pictures(folder), (folder / "samples/manifest.csv").read_bytes()
    ddp = ["--trainer.devices", "2", "--trainer.strategy"]
    find_unused = "ddp_find_unused_parameters_true"
    _subprocess(experiment, "generate", *at(workspace, "first"), "--n", "9", *ddp, "ddp")
    assert pictures(folder) == alone
    assert (folder / "samples/manifest.csv").read_bytes() == table
    fit = ["fit", *smoke(experiment), *at(workspace, "ddp"), *ddp, find_unused]
    _subprocess(experiment, *fit)
    assert (run_folder(workspace, experiment, "ddp") / "checkpoints/best.ckpt").is_file()


@pytest.mark.one_experiment
def test_what_verbs_on_samples_are_writing_is_swept_under_their_lock_alone(
    workspace: Path, experiment: str, cli: Cli
) -> None:
    folder, on = run_folder(workspace, experiment, "first"), at(workspace, "first")
    (folder / "samples/.drawing").mkdir(parents=True)
    names = ("samples/.drawing/.000003.png", ".records.jsonl")
    unfinished = [folder / f"{name}.0a1b2c3d.part" for name in names]
    for path in unfinished:
        path.write_bytes(b"half")
    other = RunLock(folder, SAMPLES)
    other.acquire()
    resumed = cli(experiment, "fit", *on, "--resume", "true")
    assert resumed.code == 0, resumed.err
    refuses(cli(experiment, "quiz", *on), 5, "is being written by process")
    assert all(path.is_file() for path in unfinished)
    other.release()
    refuses(cli(experiment, "quiz", *on), 2, "holds no generated images")
    assert not any(path.is_file() for path in unfinished)


@pytest.mark.one_experiment
def test_the_held_out_split_is_first_read_by_evaluate(
    workspace: Path, experiment: str, cli: Cli
) -> None:
    for packed in workspace.glob("data/processed/*/test.npy"):
        packed.unlink()
    assert cli(experiment, "fit", *smoke(experiment), *at(workspace, "blind")).code == 0
    assert cli(experiment, "generate", *at(workspace, "blind"), "--n", "3").code == 0
    assert cli(experiment, "evaluate", *at(workspace, "blind")).code == 3


@pytest.mark.one_experiment
def test_a_run_neither_resumes_nor_is_evaluated_on_data_that_were_split_anew(
    workspace: Path, experiment: str, cli: Cli
) -> None:
    assert cli(experiment, "generate", *at(workspace, "first"), "--n", "3").code == 0
    changed = [*at(workspace, "first"), "--data.test_fraction", "0.4"]
    resume = ["--resume", "true", "--budget.images_seen", "200"]
    result = cli(experiment, "fit", *changed, *resume)
    assert result.code == 2 and "--allow-change data.test_fraction" in result.err
    split_anew = (["evaluate"], ["fit", *resume, "--allow-change", "data.test_fraction"])
    for verb, *more in split_anew:
        result = cli(experiment, verb, *changed, *more)
        assert result.code == 3 and "is not the data set" in result.err
    result = cli(experiment, "fit", *changed, *resume, "--allow-change", "data")
    assert result.code == 0 and "changed: data" in result.out, result.err
    # It was trained on two splits now: what either holds out may have been seen.
    drawn = cli(experiment, "generate", *at(workspace, "first"), "--n", "3", "--weights", "last")
    assert drawn.code == 0, drawn.err
    for fraction in ("0.2", "0.4"):
        typed = [*at(workspace, "first"), "--data.test_fraction", fraction]
        result = cli(experiment, "evaluate", *typed)
        assert result.code == 3 and "is not the data set" in result.err


@pytest.mark.one_experiment
def test_what_was_held_out_is_asked_of_the_checkpoint_that_drew_the_samples(
    workspace: Path, experiment: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    on = [*at(workspace, "first"), "--data.test_fraction"]
    checkpoints = run_folder(workspace, experiment, "first") / "checkpoints"
    clean = (checkpoints / "best.ckpt").read_bytes()
    changed = ["--resume", "true", "--budget.images_seen", "200", "--allow-change", "data"]
    assert cli(experiment, "fit", *on, "0.4", *changed).code == 0
    both = (checkpoints / "last.ckpt").read_bytes()

    def put(**contents: bytes) -> None:
        for name, content in contents.items():
            path = checkpoints / f"{name}.ckpt"
            path.unlink()
            path.write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")

    put(best=clean, last=both, previous=both)
    last = ["--weights", "last"]
    assert cli(experiment, "generate", *on, "0.2", "--n", "3", *last).code == 0
    module = importlib.import_module(f"experiments.{experiment}.module")
    monkeypatch.setattr(module.BlobGAN, "following", None, raising=False)
    guarded = (["evaluate"], ["utility"], ["judge"], ["quiz"])
    for verb, *more in (*guarded, ["continue", *last], ["figures", *last]):
        refuses(cli(experiment, verb, *on, "0.2", *more), 3, "is not the data set")
    refuses(cli(experiment, "figures", *on, "0.2"), 2, "has no classes to compare")
    put(best=both, last=clean)
    assert cli(experiment, "generate", *on, "0.2", "--n", "3", *last).code == 0
    quick = ["--extractor", "random-conv"]
    measured = cli(experiment, "evaluate", *on, "0.2", *quick)
    assert measured.code == 0, measured.err
    put(last=both)
    gone = cli(experiment, "evaluate", *on, "0.2", *quick)
    refuses(gone, 4, "checkpoints: no longer holds the checkpoint that drew", "make generate")


@pytest.mark.slow
@pytest.mark.parametrize("size", ["cpu", "default"])
def test_the_larger_sizes_take_a_step(experiment: str, size: str, tmp_path: Path, cli: Cli) -> None:
    config = ROOT / "experiments" / experiment / f"configs/{size}.yaml"
    few = ["--data.simulated_images", "90", "--data.batch_size", "2", "--data.num_workers", "0"]
    few += ["--trainer.check_val_every_n_epoch", "1"]
    budget = ["--budget.images_seen", "4", "--preview.count", "2", "--tracking.wandb", "disabled"]
    result = cli(experiment, "fit", "--config", config, *few, *budget, *at(tmp_path, "one"))
    assert result.code == 0, result.err
    assert cli(experiment, "generate", *at(tmp_path, "one"), "--n", "2").code == 0


@pytest.mark.one_experiment
def test_what_is_typed_beats_the_checkpoint(workspace: Path, experiment: str, cli: Cli) -> None:
    folder = run_folder(workspace, experiment, "first")
    rates = [k for k in _model_arguments(folder) if k == "lr" or k.endswith("_lr")]
    typed = [word for name in rates for word in (f"--model.{name}", "0.0123")]
    resume = [*at(workspace, "first"), "--resume", "true", "--budget.images_seen", "200", *typed]
    before = {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    result = cli(experiment, "fit", *resume)
    keys = [f"model.init_args.{name}" for name in rates]
    assert result.code == 2 and all(f"{key} (" in result.err for key in keys)
    after = {path: path.read_bytes() for path in before}
    assert after | {folder / ".lock": b""} == before | {folder / ".lock": b""}
    result = cli(experiment, "fit", *resume, "--allow-change", ",".join(keys))
    assert result.code == 0, result.err
    checkpoint = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    groups = [g for state in checkpoint["optimizer_states"] for g in state["param_groups"]]
    assert {group["lr"] for group in groups} == {0.0123}


def test_preparing_twice_gives_the_same_bytes(
    trained: Path, experiment: str, tmp_path: Path, cli: Cli
) -> None:
    (raw,) = trained.glob("data/raw/*")
    for name in ("one", "two"):
        args = ["--data.root", raw, "--workspace", tmp_path / name]
        assert cli(experiment, "prepare", *smoke(experiment), *args).code == 0
    first, second = (sorted((tmp_path / name).rglob("*.*")) for name in ("one", "two"))
    assert [p.name for p in first] == [p.name for p in second]
    for one, two in zip(first, second, strict=True):
        assert one.is_dir() or one.read_bytes() == two.read_bytes(), one.name


@pytest.mark.one_experiment
def test_a_prepared_folder_is_data_enough(
    trained: Path, experiment: str, tmp_path: Path, cli: Cli
) -> None:
    (prepared,) = trained.glob("data/processed/*/dataset.json")
    args = ["--data.root", prepared.parent, *at(tmp_path, "elsewhere")]
    assert cli(experiment, "fit", *smoke(experiment), *args).code == 0
    facts = json.loads(prepared.read_text())
    assert facts["experiment"] == experiment
    assert not (tmp_path / "data").exists()


def _subprocess(experiment: str, *args: str) -> None:
    script = str(ROOT / "experiments" / experiment / "cli.py")
    env = {k: v for k, v in os.environ.items() if k != "SYNTHETIC_MICROSCOPY_RUN"}
    done = subprocess.run(
        [sys.executable, script, *args], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr


def _model_arguments(folder: Path) -> dict[str, object]:
    return yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]


@pytest.mark.one_experiment
def test_the_report_shows_two_runs_side_by_side_in_a_browser(
    workspace: Path, experiment: str, chromium: str, tmp_path: Path, cli: Cli
) -> None:
    other = ["--ema.half_life_images", "77"]
    assert cli(experiment, "fit", *smoke(experiment), *at(workspace, "other"), *other).code == 0
    for run in ("first", "other"):
        assert cli(experiment, "generate", *at(workspace, run), "--n", "12").code == 0
        assert cli(experiment, "evaluate", *at(workspace, run)).code == 0
    report.main(["--workspace", str(workspace)])
    dom, complaints = open_page(chromium, workspace / "reports/index.html", tmp_path / "profile")
    assert complaints == []
    text = re.sub(r"<[^>]*>|\s", "", dom)
    assert "ema.half_life_images" in text and "77" in text
    for run in ("first", "other"):
        assert f"Samples on fixed seeds of run {run}" in dom
        for record in read_records(run_folder(workspace, experiment, run) / "records.jsonl"):
            assert record.protocol[:6] in dom
