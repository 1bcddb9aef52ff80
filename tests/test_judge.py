"""The verb `judge`, for every experiment that names a task with classes."""

from pathlib import Path

import pytest

from common.metrics.protocol import read_records
from common.tables import from_csv, named_cells
from running import Cli, at, refuses, run_folder

QUICK = ("--judges", "2", "--images_seen", "32", "--width", "4")


@pytest.mark.one_experiment(real=True)
def test_judges_are_trained_once_for_a_data_set_and_say_what_they_see(
    experiment: str, workspace: Path, cli: Cli
) -> None:
    run, on = run_folder(workspace, experiment, "first"), at(workspace, "first")
    assert cli(experiment, "generate", *on, "--n", "40", "--labels", "balanced").code == 0
    assert cli(experiment, "evaluate", *on, "--extractor", "random-conv").code == 0
    measured = read_records(run / "records.jsonl")
    done = cli(experiment, "judge", *on, *QUICK)
    if "names no task" in done.err:
        refuses(done, 2, experiment)
        assert read_records(run / "records.jsonl") == measured
        return
    assert done.code == 0, done.err
    assert "2 of 32 images each, 0 of them from" in done.out
    records = read_records(run / "records.jsonl")
    assert records[: len(measured)] == measured
    judged = {record.metric: record for record in records[len(measured) :]}
    assert list(judged)[:2] == ["judge/balanced_accuracy", "judge/main_balanced_accuracy"]
    real = {"judge/real_balanced_accuracy", "judge/main_real_balanced_accuracy"}
    assert real | {"judge/real_accuracy"} <= judged.keys()
    (weights,) = {record.extractor_sha256 for record in judged.values()}
    assert len(weights) == 64
    assert judged["judge/balanced_accuracy"].n_fake == 40
    assert "validation images" in judged["judge/real_balanced_accuracy"].note
    rows = named_cells(from_csv((run / "judge/confusion.csv").read_bytes()))
    counted = [sum(float(row[name]) for name in row if name not in ("images", "class"))
               for row in rows if row["images"] == "generated"]  # fmt: skip
    assert sum(counted) == pytest.approx(40)
    # Once more, and beside other verbs.
    assert cli(experiment, "evaluate", *on, "--extractor", "random-conv").code == 0
    done = cli(experiment, "judge", *on, *QUICK)
    assert "2 of 32 images each, 2 of them from" in done.out
    assert read_records(run / "records.jsonl") == records
    assert cli(experiment, "generate", *on, "--n", "9").code == 0
    assert not (run / "judge").exists() and not (run / "records.jsonl").exists()


def test_without_generated_images_no_judge_is_trained(
    experiment: str, workspace: Path, cli: Cli
) -> None:
    refuses(cli(experiment, "judge", *at(workspace, "first"), *QUICK), 2, "make generate")
    assert not list(workspace.glob("data/processed/*/task"))
