"""What stands in a run folder stands in W&B, under names that all experiments share."""

import csv
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args
from wandb_server import end_runs, wandb_server

from common.callbacks import image_grid
from common.data.image_io import read_image
from common.metrics.kinds import class_of
from common.metrics.protocol import Record, read_records
from common.runs.metrics_csv import CLOCK_METRICS
from common.tracking import dashboard, sweep
from common.tracking.names import PREVIEW, RECORDS, SAMPLES, evaluation_scalars, metric_name, obeys
from outcome import history
from running import ROOT, Cli, at, call_cli, folder, run_folder, smoke
from wandb_log import history_of, logs_of, summary_of, tables_of

pytestmark = pytest.mark.one_experiment

SAMPLED = 12


@pytest.fixture(scope="module")
def walked(experiment: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Workspace of a run that was trained, drawn from and evaluated with W&B offline."""
    workspace = tmp_path_factory.mktemp(f"{experiment}-offline")
    where = at(workspace, "first")
    offline = ["--tracking.wandb", "offline"]
    for verb, *more in (
        ("fit", *smoke(experiment), *offline),
        ("generate", "--n", str(SAMPLED)),
        ("evaluate",),
    ):
        assert call_cli(experiment, verb, *more, *where) == 0
        end_runs()
    return workspace


@pytest.fixture
def run(walked: Path, experiment: str) -> Path:
    return run_folder(walked, experiment, "first")


def scalars(rows: list[dict[str, Any]]) -> set[tuple[str, int, float]]:
    return {
        (key, row["images_seen"], value)
        for row in rows
        for key, value in row.items()
        # As `outcome.history` leaves out what a clock says.
        if key.startswith(("train/", "val/")) and key not in CLOCK_METRICS
    }


def test_the_log_holds_every_number_of_the_run(run: Path) -> None:
    training, evaluation = logs_of(run)
    written = {(name, int(seen), float(value)) for seen, _, _, name, value in history(run)[1:]}
    assert scalars(history_of(training)) == written
    assert written
    measured: dict[str, float] = {}
    for record in read_records(run / "records.jsonl"):
        measured |= evaluation_scalars(record)
    summary = summary_of(evaluation)
    assert {key: summary[key] for key in measured} == measured
    assert any(key.split("/")[-2].endswith("_low") for key in measured)


def test_the_evaluation_is_a_segment_of_the_same_run_that_replaces_nothing(run: Path) -> None:
    training, evaluation = logs_of(run)
    assert training.name == evaluation.name == "run-first.wandb"
    assert history_of(evaluation) == []
    before, after = summary_of(training), summary_of(evaluation)
    kept = {k: v for k, v in before.items() if obeys(k) and k not in (PREVIEW, "epoch")}
    assert kept.items() <= after.items()


def test_every_grid_is_in_the_log_and_none_is_black(run: Path) -> None:
    (training, _) = logs_of(run)
    logged = {r["images_seen"]: r[PREVIEW] for r in history_of(training) if PREVIEW in r}
    grids = sorted((run / "previews").glob("*.png"))
    assert grids and sorted(logged) == [int(path.stem) for path in grids]
    for path in grids:
        stored = read_image(training.parent / "files" / logged[int(path.stem)]["path"]).pixels
        assert stored.max() > 0
        assert (stored == read_image(path).pixels).all()


def test_the_tables_hold_every_record_and_every_sample(run: Path, walked: Path) -> None:
    tables = tables_of(logs_of(run)[1], walked)
    assert tables.keys() == {RECORDS, SAMPLES}
    records = read_records(run / "records.jsonl")
    table = tables[RECORDS]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert rows == [
        asdict(r) | {"metric": metric_name(r.metric), "protocol": r.protocol} for r in records
    ]
    with (run / "samples/manifest.csv").open(newline="") as stream:
        manifest = list(csv.DictReader(stream))
    table = tables[SAMPLES]
    assert table["columns"][:3] == ["image", "seed", "label"]
    assert [row[1:3] for row in table["data"]] == [[int(m["seed"]), m["label"]] for m in manifest]
    measured = [r for r in records if r.value is not None]
    biology = {r.metric.split("/")[1] for r in measured if r.metric.startswith("wasserstein/")}
    assert biology <= set(table["columns"][3:])
    for row in table["data"]:
        assert all(cell is None or isinstance(cell, int | float) for cell in row[3:])


def test_no_picture_of_a_sample_is_black(run: Path, walked: Path) -> None:
    table = tables_of(logs_of(run)[1], walked)[SAMPLES]
    assert len(table["data"]) == SAMPLED
    for row, path in zip(table["data"], sorted((run / "samples").glob("0*")), strict=True):
        stored = read_image(table["files"][row[0]["path"]]).pixels
        sample = read_image(path)
        assert stored.dtype == "uint8" and stored.max() > 0
        planes = sample.pixels.reshape(-1, *sample.pixels.shape[-2:])
        assert stored.shape == image_grid(planes[None]).shape


def test_every_key_that_is_logged_obeys_the_scheme(run: Path) -> None:
    logs = logs_of(run)
    rows = [row for log in logs for row in history_of(log)]
    keys = {key for row in [*rows, *map(summary_of, logs)] for key in row}
    of_wandb = {key for key in keys if key.startswith("_")}
    assert [key for key in keys - of_wandb if not obeys(key)] == []
    assert {"images_seen", "train/images_per_s", PREVIEW, RECORDS, SAMPLES} <= keys
    assert all(obeys(row[3]) for row in history(run)[1:])


@pytest.mark.parametrize(
    "key",
    ["loss", "train", "train/", "train//x", "test/loss", "eval/FID", "eval/FID/0123456",
     "eval/FID/0123456G", "preview/x", "train/a b", "val/x\n", "Train/x"],
)  # fmt: skip
def test_other_names_do_not_obey(key: str) -> None:
    assert not obeys(key)


def test_numbers_measured_differently_have_different_keys() -> None:
    few, many = (Record("FID", 1.0, 0.5, 1.5, n_real=10, n_fake=n) for n in (10, 1000))
    assert not evaluation_scalars(few).keys() & evaluation_scalars(many).keys()
    again = Record("FID", 2.0, 1.5, 2.5, n_real=10, n_fake=10, seed=7)
    assert evaluation_scalars(few).keys() == evaluation_scalars(again).keys()
    assert evaluation_scalars(Record("FID", None, note="refused")) == {}
    assert evaluation_scalars(Record("FID", float("nan"))) == {}


def test_what_was_recorded_offline_is_sent_as_one_run(
    walked: Path, run: Path, experiment: str
) -> None:
    sync = [sys.executable, "-m", "common.tracking.sync", experiment, "--workspace", str(walked)]
    with wandb_server() as server:
        env = server.environment
        first, again = (
            subprocess.run(sync, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
            for _ in range(2)
        )
    assert first.returncode == 0, first.stderr
    assert "nothing" in again.stdout
    written = {(name, int(seen), float(value)) for seen, _, _, name, value in history(run)[1:]}
    assert scalars(server.history["first"]) == written
    assert summary_of(logs_of(run)[1]).keys() >= {RECORDS, SAMPLES}
    assert server.summary["first"].keys() >= {RECORDS, SAMPLES, "val/loss", "images_seen"}
    assert {RECORDS, SAMPLES} <= {name.removesuffix(".table.json") for name in server.uploads}
    assert sum(name.startswith("media/images/") for name in server.uploads) >= SAMPLED
    assert {told["name"] for told in server.sent("UpsertBucket")} == {"first"}


def test_the_dashboard_shows_what_the_runs_logged_and_is_the_same_each_time(
    walked: Path, run: Path, experiment: str, capsys: pytest.CaptureFixture
) -> None:
    printed = []
    for _ in range(2):
        dashboard.main([experiment, "--print", "--workspace", str(walked)])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    sections = json.loads(printed[0])["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == [
        "Training", "Fidelity", "Biology", "Memorisation", "Utility", "Previews",
    ]  # fmt: skip
    drawn = {
        key
        for section in sections
        for panel in section["panels"]
        for name in ("metrics", "mediaKeys")
        for key in panel["config"].get(name, [])
    }
    measured: dict[str, float] = {}
    for record in read_records(run / "records.jsonl"):
        if not class_of(record.metric)[1]:  # those stand in the table of records alone
            measured |= evaluation_scalars(record)
    trained = {row[3] for row in history(run)[1:]} | set(CLOCK_METRICS)
    assert drawn == trained | measured.keys() | {PREVIEW}
    curves = [panel["config"] for panel in sections[0]["panels"]]
    assert {curve["xAxis"] for curve in curves} == {"images_seen"}
    assert {"train/loss", "val/loss"} & set(curves[0]["metrics"])


def test_every_setting_of_the_sweep_is_taken_by_the_command_line(experiment: str, cli: Cli) -> None:
    own = folder(experiment) / "configs/sweep.yaml"
    shown = cli(experiment, "fit", *smoke(experiment), "--print_config")
    settings = yaml.safe_load(shown.out)
    searches = [
        sweep.default_search(settings),
        *([yaml.safe_load(own.read_text())] if own.is_file() else []),
    ]
    for search in searches:
        assert search["metric"]["name"] == settings["checkpoint"]["monitor"]
        words = sweep.one_trial(search["parameters"])
        values = dict(word.removeprefix("--").split("=") for word in words)
        args = {name: {"value": yaml.safe_load(value)} for name, value in values.items()}
        # What W&B's agent puts in the place of ${args}.
        assert create_sweep_command_args({"args": args})["args"] == words
        result = cli(experiment, "fit", *smoke(experiment), *words, "--print_config")
        assert result.code == 0, result.err
        printed = yaml.safe_load(result.out)
        for name, value in values.items():
            group, _, key = name.partition(".")
            taken = printed["model"]["init_args"] if group == "model" else printed[group]
            assert str(taken[key]) == value
