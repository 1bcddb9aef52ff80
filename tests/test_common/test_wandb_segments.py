"""Segments that follow one another: evaluation, utility, a training that goes on."""

from pathlib import Path

import pytest
from wandb_server import end_runs

from common.metrics.protocol import read_records
from common.privacy import PRIVATE
from common.tracking.names import RECORDS, SAMPLES, evaluation_scalars, metric_name
from running import EXPERIMENTS, Cli, at, run_folder, smoke
from wandb_log import logs_of, summary_of, tables_of

EXPERIMENT = EXPERIMENTS[0]
OFFLINE = ("--tracking.wandb", "offline")
QUICK = ("--seeds", "1", "--images_seen", "32", "--width", "4")


@pytest.fixture(autouse=True)
def ended() -> None:
    end_runs()


def walk(cli: Cli, workspace: Path, *verbs: tuple[str, ...]) -> list[str]:
    """What each verb printed; a segment is on the disk when its run has ended."""
    printed = []
    for verb, *more in verbs:
        done = cli(EXPERIMENT, verb, *more, *at(workspace, "first"))
        assert done.code == 0, done.err
        printed.append(done.out)
        end_runs()
    return printed


def test_after_utility_all_that_was_measured_is_still_there(tmp_path: Path, cli: Cli) -> None:
    walk(
        cli,
        tmp_path,
        ("fit", *smoke(EXPERIMENT), *OFFLINE),
        ("generate", "--n", "40", "--labels", "balanced"),
        ("evaluate", "--extractor", "random-conv"),
        ("utility", *QUICK),
    )
    run = run_folder(tmp_path, EXPERIMENT, "first")
    records, (_, before, last) = read_records(run / "records.jsonl"), logs_of(run)
    assert summary_of(last).keys() >= summary_of(before).keys() - {"_wandb"} >= {RECORDS, SAMPLES}
    measured = {key for record in records for key in evaluation_scalars(record)}
    assert any("utility/gain" in key for key in measured) and measured <= summary_of(last).keys()
    tables = tables_of(last, tmp_path)
    assert len(tables[SAMPLES]["data"]) == 40
    table = tables[RECORDS]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["metric"] for row in rows] == [metric_name(record.metric) for record in records]
    assert PRIVATE not in {cell for row in rows for cell in row.values()}


def test_a_training_that_goes_on_says_what_wandb_cannot_take_back(tmp_path: Path, cli: Cli) -> None:
    further = ("--budget.images_seen", "64", "--resume", "true")
    first, resumed, disabled = walk(
        cli,
        tmp_path,
        ("fit", *smoke(EXPERIMENT), *OFFLINE),
        ("fit", *smoke(EXPERIMENT), *OFFLINE, *further),
        ("fit", *smoke(EXPERIMENT), "--tracking.wandb", "disabled", *further),
    )
    assert "W&B cannot take back" in resumed
    assert "cannot take back" not in first + disabled
