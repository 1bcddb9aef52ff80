"""How tests run an experiment's command line."""

import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import common
import experiments

ROOT = Path(common.__file__).parent.parent
EXPERIMENTS = sorted(path.parent.name for path in ROOT.glob("experiments/*/cli.py"))
SIXTH = ROOT / "tests/sixth_experiment"
# An experiment for tests alone: the quickest, with two optimizers in manual steps.
TOY = "toy_blobs"

if str(SIXTH) not in experiments.__path__:
    experiments.__path__.append(str(SIXTH))


class Result(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Result]


def folder(experiment: str) -> Path:
    """Of a real experiment or of the toy."""
    real = ROOT / "experiments" / experiment
    return real if real.is_dir() else SIXTH / experiment


def call_cli(experiment: str, *args: str | Path) -> int:
    script = str(folder(experiment) / "cli.py")
    before, sys.argv = sys.argv, [script, *map(str, args)]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


def smoke(experiment: str) -> list[str]:
    return ["--config", str(folder(experiment) / "configs/smoke.yaml")]


def at(workspace: Path, run: str) -> list[str]:
    return ["--workspace", str(workspace), "--run", run]


def run_folder(workspace: Path, experiment: str, run: str) -> Path:
    return workspace / "runs" / experiment / run


def open_page(chromium: str, page: Path, profile: Path) -> tuple[str, list[str]]:
    """The page as a browser understands it, and what the browser complained about."""
    switches = (
        "headless no-sandbox disable-gpu disable-quic no-first-run disable-sync "
        "disable-background-networking disable-component-update enable-logging=stderr v=0 dump-dom"
    )
    command = [chromium, *(f"--{s}" for s in switches.split()), f"--user-data-dir={profile}"]
    done = subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def refuses(result: Result, code: int, *words: str) -> None:
    """A command ended with ``code`` and one sentence that holds these words."""
    assert result.code == code, result.err
    assert "Traceback" not in result.err
    lines = [line for line in result.err.splitlines() if line.startswith("error[")]
    assert len(lines) == 1 and lines[0].startswith(f"error[{code}]: "), result.err
    for word in words:
        assert word in lines[0]
