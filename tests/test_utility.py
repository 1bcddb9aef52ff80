"""The verb `utility`, for every experiment that names a task."""

from pathlib import Path

import pytest

from common.metrics.kinds import class_of
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
    assert all(r.metric.startswith("utility/") and r.split == "test" for r in ledger)
    assert all(r.n_fake == (40 if "synthetic" in r.metric else 0) for r in ledger)
    of_classes = [record for record in ledger if class_of(record.metric)[1]]
    assert len(ledger) - len(of_classes) == 22 * 2 and len(of_classes) % 22 == 0
    assert {"utility/synthetic/macro_f1", "utility/gain/real_synthetic_25/balanced_accuracy"} <= {
        record.metric for record in ledger
    }
    assert read_records(path)[: len(measured)] == measured
    # Either verb replaces its own records alone.
    assert cli(experiment, "evaluate", *on, "--extractor", "random-conv").code == 0
    assert read_records(path) == [*measured, *ledger]
    done = cli(experiment, "utility", *on, *QUICK)
    assert "13 models of 32 images each, 6 of them known" in done.out
    assert "known:      real_25, real_classical_25, real_50, " in done.out
    assert read_records(path) == [*measured, *ledger]
    done = cli(experiment, "utility", *on, *QUICK, "--percents", "[100]", "--balance", "none")
    assert "5 models of 32 images each\n" in done.out
    (rule,) = {r.rule.split(", ")[3] for r in read_records(path)[len(measured) :]}
    assert rule == "balance none"


@pytest.mark.parametrize(
    ("option", "value"), [("--percents", "[0]"), ("--percents", "[101]"), ("--balance", "odd")]
)
def test_a_setting_of_the_ledger_that_means_nothing_is_named(
    experiment: str, workspace: Path, cli: Cli, option: str, value: str
) -> None:
    refuses(cli(experiment, "utility", *at(workspace, "first"), option, value), 2, option[2:])


def test_a_class_without_a_generated_image_is_named(
    experiment: str, workspace: Path, cli: Cli
) -> None:
    on = at(workspace, "first")
    assert cli(experiment, "generate", *on, "--n", "3", "--labels", "balanced").code == 0
    done = cli(experiment, "utility", *on, *QUICK)
    if "names no task" not in done.err:
        refuses(done, 3, "hold no image of class", "make generate N=")
