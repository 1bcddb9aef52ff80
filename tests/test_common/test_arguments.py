"""What is read of a command line before the parser reads it."""

from pathlib import Path

import pytest

from common.arguments import with_published, with_run_config


@pytest.mark.parametrize(
    "typed", [["--run", "a", "--run", "b"], ["--run=a", "--run=b"], ["--run", "a", "--run=b"]]
)
def test_of_an_option_given_twice_the_last_one_counts(tmp_path: Path, typed: list[str]) -> None:
    for run in ("a", "b"):
        config = tmp_path / "runs/any" / run / "config.yaml"
        config.parent.mkdir(parents=True)
        config.touch()
    where = ["--workspace", "elsewhere", f"--workspace={tmp_path}"]
    found = with_run_config(["generate", *typed, *where], "any")
    assert found[2] == str(config) and found[-2:] == ["--run", "b"]


def test_the_weights_whose_options_are_taken_are_those_that_are_imported() -> None:
    class Reads:
        published_options = staticmethod(lambda path: {"model.width": path.name})

    typed = ["--weights", "a", "--weights=b", "--weights", "c"]
    found = with_published(["import-published", *typed], Reads)
    assert found == ["import_published", *typed, "--model.width=c"]
