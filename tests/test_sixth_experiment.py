"""One folder is a new experiment: every verb, test and report finds it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from running import ROOT

TOY = Path(__file__).parent / "sixth_experiment/toy_blobs"
BY_DISCOVERY = (
    *("path", "cli", "configs", "offline", "check_data", "error_texts", "evaluation", "utility"),
    *("judge", "quiz", "run_cards", "export", "wandb"),
)
PARTS = ("common", "kernels", "experiments", "data_cards", "tests", "pyproject.toml", "Makefile")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the repository with the toy among its experiments and nothing else changed."""
    for part in PARTS:
        source = ROOT / part
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / part)
    shutil.copytree(TOY, tmp_path / "experiments/toy_blobs")
    return tmp_path


def run(clone: Path, *command: str) -> subprocess.CompletedProcess:
    env = {k: v for k, v in os.environ.items() if k != "SYNTHETIC_MICROSCOPY_RUN"}
    env["PYTHONPATH"] = str(clone)
    return subprocess.run(
        [sys.executable, *command], cwd=clone, env=env, capture_output=True, text=True, check=False
    )


def test_the_folder_is_small() -> None:
    lines = [len(p.read_text().splitlines()) for p in TOY.rglob("*.*") if p.suffix != ".pyc"]
    assert sum(lines) < 500


@pytest.mark.parametrize(
    "tests",
    [
        # What is marked `one_experiment` runs on the toy already.
        ("architecture or toy_blobs", "architecture", "configs"),
        pytest.param(("toy_blobs", *BY_DISCOVERY), marks=pytest.mark.slow),
    ],
    ids=["quick", "all"],
)
def test_tests_by_discovery_pass_on_it(clone: Path, tests: tuple[str, ...]) -> None:
    which, *names = tests
    files = [f"tests/test_{name}.py" for name in names]
    done = run(clone, "-m", "pytest", "-q", *files, "-k", which)
    assert done.returncode == 0, done.stdout[-6000:]


@pytest.mark.slow
def test_the_path_and_the_report_find_it(clone: Path) -> None:
    cli = "experiments/toy_blobs/cli.py"
    config = "experiments/toy_blobs/configs/smoke.yaml"
    for command in (
        ("fit", "--config", config, "--run", "one"),
        ("fit", "--config", config, "--run", "two", "--model.width", "4"),
        ("generate", "--run", "one", "--n", "20"),
        ("evaluate", "--run", "one"),
    ):
        done = run(clone, cli, *command)
        assert done.returncode == 0, done.stderr
    assert list((clone / "runs/toy_blobs/one/samples").glob("*.ome.tiff"))
    assert run(clone, "-m", "common.report").returncode == 0
    text = re.sub(r"<[^>]*>|\s", "", (clone / "reports/index.html").read_text())
    assert "toy_blobs" in text and "model.init_args.width" in text
