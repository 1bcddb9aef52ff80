"""Sends to W&B what was recorded offline, from the folder where the paths in it begin.

`wandb sync` ends with 0 and often marks a segment as sent even where W&B refused it, so what it
says and logs is judged here. A segment that was refused half-way is sent again as a whole: rows
that had arrived come once more, with the same numbers at the same images seen.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

from common import PROJECT
from common.errors import Exit, UserError, exit_on_user_error
from common.runs.lock import SAMPLES, TRAINING, RunLock
from common.tracking.account import require_account

# On the terminal; tables and pictures that are refused are told in the log alone.
_REFUSED = re.compile(r"^wandb: +ERROR|^wandb: .*Not authenticated", re.MULTILINE)
_LEFT_OUT = re.compile(r'"level":"ERROR","msg":"(?:sender: failed|runfiles: |filestream: )')
# The process that wrote it was killed; nobody will write the rest.
_TORN = re.compile(
    r"^wandb: +ERROR .*: the file ends with an incomplete record\..*\n", re.MULTILINE
)


def unsent(workspace: Path, experiment: str, run: str = "*") -> list[str]:
    """Offline segments that were not sent yet, from the workspace on, oldest first in each run."""
    logs = workspace.glob(f"runs/{experiment}/{run}/wandb/offline-run-*/*.wandb")
    waiting = [log.parent for log in logs if not _mark(log).exists()]
    return [path.relative_to(workspace).as_posix() for path in sorted(waiting)]


def send(workspace: Path, segments: Sequence[str]) -> bool:
    """Sends segments; after one that W&B did not take, none of the same run.

    A run that another process is writing is left out, and named.

    Returns:
        whether W&B took all that was sent.
    """
    complete = True
    for run, of_run in groupby(segments, key=lambda segment: Path(segment).parents[1]):
        try:
            with _untouched(workspace / run):
                complete &= all(_taken(workspace, segment) for segment in of_run)
        except UserError as held:
            print(f"{'left out:':12}{held.subject} {held.problem}", flush=True)
    return complete


def _taken(workspace: Path, segment: str) -> bool:
    """Whether W&B has the whole segment now; else it will be sent again."""
    log = next((workspace / segment).glob("*.wandb"))
    with TemporaryDirectory() as scratch:
        code, said = _sync(workspace, segment, scratch)
        logs = Path(scratch).rglob("debug-sync*.log")
        logged = "".join(path.read_text(errors="replace") for path in logs)
    whole = _TORN.sub("", said)
    if whole != said:
        print(f"{'note:':12}its process was killed while it wrote; what stands before was sent")
        _mark(log).touch()
    refused = _REFUSED.search(whole) or _LEFT_OUT.search(logged)
    if code or refused or not _mark(log).exists():
        _mark(log).unlink(missing_ok=True)
        return False
    return True


def _sync(workspace: Path, segment: str, scratch: str) -> tuple[int, str]:
    """Exit code and words of `wandb sync`, shown while they come; its own log goes to a folder."""
    said = []
    with subprocess.Popen(
        [sys.executable, "-m", "wandb", "sync", "--yes", segment],
        cwd=workspace,
        env=os.environ | {"WANDB_DIR": scratch},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="backslashreplace",
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            said.append(line)
    return process.returncode, "".join(said)


@contextmanager
def _untouched(folder: Path) -> Iterator[None]:
    """Neither trained nor evaluated meanwhile: what is written later would be marked as sent.

    Raises:
        UserError: another process is at work in the folder.
    """
    locks = [RunLock(folder, name) for name in (TRAINING, SAMPLES)]
    try:
        for lock in locks:
            lock.acquire()
        yield
    finally:
        for lock in locks:
            lock.release()


def _mark(log: Path) -> Path:
    return log.with_name(f"{log.name}.synced")


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
        if not send(workspace, segments):
            kept = "what was not sent stays where it is"
            remedy = "mend what W&B says above, then run the same again"
            raise UserError(Exit.USAGE, "make sync", "W&B did not take it all", remedy, kept)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m common.tracking.sync", description=__doc__)
    parser.add_argument("experiment", help="whose runs are sent")
    parser.add_argument("--run", default="*", metavar="NAME", help="this run only")
    parser.add_argument("--workspace", type=Path, default=PROJECT, metavar="DIR")
    return parser


if __name__ == "__main__":
    main()
