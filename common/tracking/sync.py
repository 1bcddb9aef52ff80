"""Sends to W&B what was recorded offline, from the folder where the paths in it begin."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import common
from common.errors import Exit, UserError, exit_on_user_error
from common.tracking.account import require_account

PROJECT = Path(common.__file__).parent.parent


def unsent(workspace: Path, experiment: str, run: str = "*") -> list[str]:
    """Offline segments that were not sent yet, from the workspace on, oldest first in each run."""
    logs = workspace.glob(f"runs/{experiment}/{run}/wandb/offline-run-*/*.wandb")
    waiting = [log.parent for log in logs if not log.with_name(f"{log.name}.synced").exists()]
    return [path.relative_to(workspace).as_posix() for path in sorted(waiting)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Sends the offline runs of one experiment, or one of them.

    Args:
        arguments: of the command line, the process's own by default.
    """
    options = _parser().parse_args(arguments)
    with exit_on_user_error():
        workspace = options.workspace.resolve()
        segments = unsent(workspace, options.experiment, options.run)
        if not segments:
            print(f"nothing of runs/{options.experiment} waits to be sent")
            return
        require_account("make sync")
        sync = [sys.executable, "-m", "wandb", "sync", "--yes", *segments]
        if subprocess.run(sync, cwd=workspace, check=False).returncode:
            kept = "what was not sent stays where it is"
            remedy = "mend that, then run the same again"
            raise UserError(Exit.USAGE, "make sync", "W&B did not take it all", remedy, kept)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m common.tracking.sync", description=__doc__)
    parser.add_argument("experiment", help="whose runs are sent")
    parser.add_argument("--run", default="*", metavar="NAME", help="this run only")
    parser.add_argument("--workspace", type=Path, default=PROJECT, metavar="DIR")
    return parser


if __name__ == "__main__":
    main()
