"""How tests run an experiment's command line."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import common

ROOT = Path(common.__file__).parent.parent
EXPERIMENTS = sorted(path.parent.name for path in ROOT.glob("experiments/*/cli.py"))


class Result(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Result]


def call_cli(experiment: str, *args: str | Path) -> int:
    script = str(ROOT / "experiments" / experiment / "cli.py")
    before, sys.argv = sys.argv, [script, *map(str, args)]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


def smoke(experiment: str) -> list[str]:
    return ["--config", str(ROOT / "experiments" / experiment / "configs/smoke.yaml")]


def at(workspace: Path, run: str) -> list[str]:
    return ["--workspace", str(workspace), "--run", run]
