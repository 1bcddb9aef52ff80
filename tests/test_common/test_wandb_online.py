"""What is sent while an account is there, to a W&B server on this machine."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
import yaml
from wandb_server import ENTITY, WandbServer, end_runs, environment, wandb_server

from common.errors import UserError
from common.metrics.memorization import COARSELY, REPEATING
from common.metrics.protocol import Record, read_records
from common.report.configs import Setting
from common.report.runs import Run
from common.runs.folder import RunFolder, new_run_id
from common.runs.metrics_csv import CLOCK_METRICS
from common.tracking import dashboard, sweep
from common.tracking.account import PATIENCE_S, answered, require_account
from common.tracking.names import RECORDS, SAMPLES, evaluation_scalars
from common.tracking.run import Tracking, refuse_tracking
from outcome import history
from running import EXPERIMENTS, ROOT, call_cli, run_folder, smoke

EXPERIMENT = EXPERIMENTS[0]
CONFIG = f"experiments/{EXPERIMENT}/configs/smoke.yaml"
TRIAL = {"WANDB_SWEEP_ID": "sweep1", "WANDB_RUN_ID": "abc123xy", "WANDB_PROJECT": EXPERIMENT}


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with wandb_server() as started:
        yield started


@pytest.fixture
def account(server: WandbServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A server at which this process has an account."""
    for name in ("WANDB_BASE_URL", "WANDB_API_KEY"):
        monkeypatch.setenv(name, server.environment[name])
    # `wandb.sweep` sets it for good.
    monkeypatch.setenv("WANDB_ENTITY", "")
    end_runs()
    yield server
    end_runs()


def call(env: dict[str, str], *command: str | Path) -> subprocess.CompletedProcess:
    words = [sys.executable, *map(str, command)]
    return subprocess.run(words, env=env, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_trial_and_its_evaluation_are_the_one_run_that_the_agent_named(
    server: WandbServer, tmp_path: Path
) -> None:
    cli = f"experiments/{EXPERIMENT}/cli.py"
    online = ("--workspace", tmp_path, "--tracking.wandb", "online")
    trial = server.environment | TRIAL
    done = call(trial, cli, "fit", *smoke(EXPERIMENT), *online)
    assert done.returncode == 0, done.stderr
    assert call_cli(EXPERIMENT, "generate", "--n", "12", *online) == 0
    done = call(server.environment, cli, "evaluate", *online)
    assert done.returncode == 0, done.stderr
    run = run_folder(tmp_path, EXPERIMENT, "abc123xy")
    told = server.sent("UpsertBucket")
    assert {(t["name"], t["project"]) for t in told} == {("abc123xy", EXPERIMENT)}
    # W&B is told of the sweep when a run starts: once.
    assert [t["sweep"] for t in told if t.get("sweep")] == ["sweep1"]
    logged = {
        (key, row["images_seen"], value)
        for row in server.history["abc123xy"]
        for key, value in row.items()
        if key.startswith(("train/", "val/")) and key not in CLOCK_METRICS
    }
    assert logged == {(n, int(seen), float(v)) for seen, _, _, n, v in history(run)[1:]}
    measured = [evaluation_scalars(record) for record in read_records(run / "records.jsonl")]
    summary = server.summary["abc123xy"]
    for key, value in {k: v for of in measured for k, v in of.items()}.items():
        assert summary[key] == pytest.approx(value)
    assert summary.keys() >= {RECORDS, SAMPLES, "val/loss"}
    table = json.loads(server.uploads[f"{SAMPLES}.table.json"])
    assert {row[0]["path"] for row in table["data"]} <= server.uploads.keys()
    assert_private(server, tmp_path)


def test_a_trial_under_another_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = "SYNTHETIC_MICROSCOPY_RUN"
    for name, value in {**TRIAL, ours: ""}.items():
        monkeypatch.setenv(name, value)
    del os.environ[ours]
    refuse_tracking(RunFolder(tmp_path, EXPERIMENT, new_run_id()), Tracking())
    with pytest.raises(UserError, match="this is trial abc123xy of a W&B sweep") as caught:
        refuse_tracking(RunFolder(tmp_path, EXPERIMENT, "mine"), Tracking())
    assert caught.value.code == 2
    monkeypatch.delenv("WANDB_SWEEP_ID")
    del os.environ[ours]
    assert new_run_id() != "abc123xy"


def assert_private(server: WandbServer, workspace: Path) -> None:
    sent = [json.dumps(r.body, default=repr) for r in server.requests]
    sent += [content.decode("latin-1") for content in server.uploads.values()]
    # A short name is in any digest.
    host = [name for name in [os.uname().nodename] if len(name) > 5]
    for word in (str(ROOT), str(workspace), str(Path.home()) + "/", *host):
        assert not [body[:2000] for body in sent if word in body], word


def test_a_sweep_is_registered_as_it_is(account: WandbServer) -> None:
    search = {"method": "random", "metric": {"name": "val/loss"}, "parameters": {}}
    assert sweep.register(ENTITY, EXPERIMENT, search) == f"{ENTITY}/{EXPERIMENT}/sweep1"
    (told,) = account.sent("UpsertSweep")
    assert (told["entityName"], told["projectName"]) == (ENTITY, EXPERIMENT)
    assert yaml.safe_load(told["config"]) == search


@pytest.mark.slow
def test_a_sweep_is_registered_and_worked_off(server: WandbServer, tmp_path: Path) -> None:
    # One that is taken would train in the project's own folder.
    server.trials = [{"model.no_such_setting": 1}]
    words = ("-m", "common.tracking.sweep", EXPERIMENT, "--config", CONFIG)
    done = call(server.environment, *words, "--count", "1")
    assert f"{ENTITY}/{EXPERIMENT}/sweep1" in done.stdout, done.stderr
    registered = yaml.safe_load(server.sent("UpsertSweep")[0]["config"])
    assert registered == sweep.configuration(EXPERIMENT, ROOT / CONFIG)
    assert registered["command"][1:5] == [registered["program"], "fit", "--config", CONFIG]
    assert registered["command"][-1] == "${args}"
    assert [t["host"] for t in server.sent("CreateAgent")] == ["host"]
    assert "--model.no_such_setting=1" in done.stderr and "error[2]" in done.stderr
    assert_private(server, tmp_path)


def test_a_configuration_outside_of_the_project_is_no_matter_of_a_sweep(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lies outside of the project") as caught:
        sweep.configuration(EXPERIMENT, tmp_path / "mine.yaml")
    assert caught.value.code == 2


@pytest.mark.parametrize(
    "content",
    ["", "- a", "method: bayes", "method: bayes\nmetric: {}\nparameters: {model.lr: 1}",
     "a: &a [*a]", "method: [", "metric: {}\nparameters: {model.lr: {values: [1]}}"],
)  # fmt: skip
def test_a_file_that_is_no_sweep_is_refused(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "experiments" / EXPERIMENT / "configs/sweep.yaml"
    own.parent.mkdir(parents=True)
    own.write_text(content)
    monkeypatch.setattr(sweep, "PROJECT", tmp_path)
    with pytest.raises(UserError, match="is no configuration of a sweep") as caught:
        sweep.configuration(EXPERIMENT, own)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("parameter", "drawn"),
    [
        ({"values": [1, 2, 3]}, "3"),
        ({"value": "d4"}, "d4"),
        ({"min": 1, "max": 4}, "2"),
        ({"min": 0.0, "max": 1.0}, "0.5"),
        ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}, "0.001"),
    ],
)
def test_a_value_is_drawn_from_within_what_is_searched(parameter: dict, drawn: str) -> None:
    assert sweep.one_trial({"model.x": parameter}) == [f"--model.x={drawn}"]


def test_the_default_search_is_over_learning_rates_and_batch_size() -> None:
    arguments = {"g_lr": 1e-3, "d_lr": 4e-3, "width": 8, "lrs": 1.0}
    checkpoint = {"monitor": "val/auc", "mode": "max"}
    search = sweep.default_search(
        {"model": {"init_args": arguments}, "data": {"batch_size": 1}, "checkpoint": checkpoint}
    )
    assert search["parameters"].keys() == {"model.g_lr", "model.d_lr", "data.batch_size"}
    assert search["parameters"]["data.batch_size"] == {"values": [1, 2]}
    rate = search["parameters"]["model.d_lr"]
    assert (rate["min"], rate["max"]) == pytest.approx((4e-4, 4e-2))
    assert search["metric"] == {"name": "val/auc", "goal": "maximize"}


def test_the_dashboard_is_saved_once_and_then_replaced(
    account: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for _ in range(2):
        dashboard.main([EXPERIMENT, "--workspace", str(tmp_path)])
    assert f"{account.url}/{ENTITY}/{EXPERIMENT}?nw=comparison" in capsys.readouterr().out
    first, second = account.sent("UpsertView2")
    assert "id" not in first and second["id"] == "id-nw-comparison-v"
    assert first["spec"] == second["spec"] and len(account.views) == 1
    assert (first["entityName"], first["projectName"]) == (ENTITY, EXPERIMENT)
    spec = json.loads(first["spec"])
    names = [s["name"] for s in spec["section"]["panelBankConfig"]["sections"]]
    assert names[0] == "Training" and names[-1] == "Previews"
    assert_private(account, tmp_path)


def test_a_dashboard_of_a_project_that_is_not_there_says_how_to_make_it(
    account: WandbServer, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    account.projects = set()
    with pytest.raises(SystemExit) as stop:
        dashboard.main([EXPERIMENT, "--workspace", str(tmp_path)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert f"error[2]: {EXPERIMENT}: W&B has no project" in error and "make sync" in error
    assert not account.sent("UpsertView2")


def test_what_wandb_refuses_is_one_sentence_that_says_what_was_kept() -> None:
    refused = pytest.raises(UserError, match="W&B says: gone; records are written")
    with refused as caught, answered("--tracking.wandb online", "records are written"):
        raise wandb.errors.CommError("gone")
    assert caught.value.code == 2


def made_run(config: dict[str, Setting], *records: Record) -> Run:
    return Run("x", "a", config, {}, (), (), records, None, None, ())


def test_runs_are_grouped_by_a_setting_that_they_have() -> None:
    workspace = dashboard.build("", EXPERIMENT, [], ["model.init_args.width"])
    (shown,) = json.loads(dashboard.specification(workspace))["section"]["runSets"]
    assert shown["grouping"] == [{"section": "config", "name": "model.value.init_args.width"}]
    run = made_run({"model.lr": Setting("1", "1")})
    with pytest.raises(UserError, match="is no setting of these runs"):
        dashboard.build("", EXPERIMENT, [run], ["model.no_such"])


def test_the_columns_of_the_table_are_what_tells_runs_apart() -> None:
    settings = ({"model.lr": Setting(v, v), "seed": Setting("0", "0")} for v in ("1", "2"))
    record = Record("kernel_distance", 1.0, n_real=5, extractor="any")
    runs = [made_run(config, record) for config in settings]
    shown = json.loads(dashboard.specification(dashboard.build("", "x", runs)))
    (of_table,) = shown["section"]["runSets"]
    assert of_table["runFeed"]["columnOrder"] == [
        "run:displayName", "config:model.value.lr", "summary:images_seen", "summary:val/loss",
        f"summary:eval/kernel_distance/{record.protocol[:8]}",
    ]  # fmt: skip


def test_a_channel_whose_name_is_a_path_is_not_shown() -> None:
    record = Record("kernel_distance//home/ann/x (405 nm)", 1.0, n_real=5, extractor="any")
    shown = dashboard.specification(dashboard.build("", "x", [made_run({}, record)]))
    assert "kernel_distance/private_" in shown and "ann" not in shown


def test_every_record_is_shown_in_the_section_of_its_kind() -> None:
    sections = {
        "Fidelity": ("FID", "kernel_distance", "coverage"),
        "Biology": (
            *("measurable_share", "wasserstein/size", "kolmogorov_smirnov/size"),
            *("order_accuracy", "order_accuracy_real", "continuation/mae/GFP"),
        ),
        "Memorisation": (*REPEATING, *COARSELY),
        "Utility": ("utility/balanced_accuracy",),
    }
    for section, metrics in sections.items():
        assert {dashboard.section_of(Record(metric, 1.0)) for metric in metrics} == {section}


@pytest.mark.parametrize("how", ["refused", "dropped"])
@pytest.mark.parametrize("asked", ["GetDefaultEntity", "View", "UpsertView2"])
def test_a_question_that_fails_is_one_sentence(
    how: str,
    asked: str,
    account: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "2")
    # What W&B's own functions ask has the limit that stood there when it was imported.
    monkeypatch.setattr(wandb.Api, "_HTTP_TIMEOUT", 2)
    getattr(account, how).add(asked)
    with pytest.raises(SystemExit) as stop:
        dashboard.main([EXPERIMENT, "--workspace", str(tmp_path)])
    assert stop.value.code == 2
    assert "error[2]: make dashboard: W&B says: " in capsys.readouterr().err
    assert not account.views


def test_a_sweep_that_is_refused_is_one_sentence(account: WandbServer) -> None:
    account.refused = {"UpsertSweep"}
    search = {"method": "random", "metric": {"name": "val/loss"}, "parameters": {}}
    with pytest.raises(UserError, match="W&B says: permission denied"), answered("make sweep"):
        sweep.register(ENTITY, EXPERIMENT, search)


def test_a_run_that_is_refused_is_one_sentence(server: WandbServer, tmp_path: Path) -> None:
    server.refused = {"UpsertBucket"}
    fit = ("fit", *smoke(EXPERIMENT), "--workspace", tmp_path, "--tracking.wandb", "online")
    done = call(server.environment, f"experiments/{EXPERIMENT}/cli.py", *fit)
    assert done.returncode == 2, done.stderr
    assert "error[2]: --tracking.wandb online: W&B says: permission denied" in done.stderr


def test_a_server_that_takes_the_question_and_is_silent_is_given_up_soon(
    account: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_HTTP_TIMEOUT", raising=False)
    account.silent = {"Viewer"}
    begun = time.monotonic()
    with pytest.raises(UserError, match="does not answer"):
        require_account("make sync")
    # Left to itself, W&B needs 12 s.
    assert PATIENCE_S <= time.monotonic() - begun < PATIENCE_S + 6
    assert "WANDB_HTTP_TIMEOUT" not in os.environ


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["dashboard", "sweep"])
def test_a_server_that_is_not_there_is_given_up_soon(verb: str) -> None:
    # Reserved for documentation: nobody is there.
    unreachable = {"WANDB_BASE_URL": "http://192.0.2.1", "WANDB_API_KEY": "0" * 40}
    more = ("--config", CONFIG) if verb == "sweep" else ()
    words = ("-m", f"common.tracking.{verb}", EXPERIMENT, *more)
    begun = time.monotonic()
    done = call(environment() | unreachable, *words)
    # Five for the question; the rest is Python's imports on a busy machine.
    assert time.monotonic() - begun < 25
    assert done.returncode == 2 and "W&B does not answer" in done.stderr
