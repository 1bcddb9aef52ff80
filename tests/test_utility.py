"""The verb `utility`, for every experiment that names a task."""

from pathlib import Path

from common.metrics.protocol import read_records
from running import Cli, at, refuses, run_folder

QUICK = ("--seeds", "1", "--images_seen", "32", "--width", "4")


def test_the_ledger_stands_beside_the_evaluation(
    experiment: str, workspace: Path, cli: Cli
) -> None:
    on = at(workspace, "first")
    assert cli(experiment, "generate", *on, "--n", "40", "--labels", "balanced").code == 0
    assert cli(experiment, "evaluate", *on, "--extractor", "random-conv").code == 0
    path = run_folder(workspace, experiment, "first") / "records.jsonl"
    measured = read_records(path)
    done = cli(experiment, "utility", *on, *QUICK)
    if "names no task" in done.err:
        refuses(done, 2, experiment)
        assert read_records(path) == measured
        return
    assert done.code == 0, done.err
    assert "13 models of 32 images each" in done.out
    ledger = read_records(path)[len(measured) :]
    assert len(ledger) == 22 and all(r.metric.startswith("utility/") for r in ledger)
    assert {(r.split, r.unit) for r in ledger} == {("test", "balanced_accuracy")}
    assert all(r.n_fake == (40 if "synthetic" in r.metric else 0) for r in ledger)
    assert read_records(path)[: len(measured)] == measured
    # Either verb replaces its own records alone.
    assert cli(experiment, "evaluate", *on, "--extractor", "random-conv").code == 0
    assert read_records(path) == [*measured, *ledger]
    assert cli(experiment, "utility", *on, *QUICK).code == 0
    assert read_records(path) == [*measured, *ledger]


def test_a_class_without_a_generated_image_is_named(
    experiment: str, workspace: Path, cli: Cli
) -> None:
    on = at(workspace, "first")
    assert cli(experiment, "generate", *on, "--n", "3", "--labels", "balanced").code == 0
    done = cli(experiment, "utility", *on, *QUICK)
    if "names no task" not in done.err:
        refuses(done, 3, "hold no image of class", "make generate N=")
