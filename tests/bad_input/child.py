"""Reads files in child processes: a crash, a hang or a glut of memory is one file's result.

As a script it is the child: a line of JSON in, a line of JSON out.
"""

import faulthandler
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bad_input.mutations import mutated, originals
from common.data.image_io import read_image
from common.errors import UserError

MEMORY = 2**30
# A busy machine may give a process a small part of its time.
_WALL = 8


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        kind: "read", "refused" (a `UserError`), "foreign" (any other exception), "killed".
        text: message, or what killed the process.
        code: exit code of the error.
        subject: what the error is about.
        axes: of the image, as all that follows.
        dtype: of its pixels.
        shape: of its pixels.
        bits: of a sample.
        first: the first few of its pixels.
        digest: SHA-256 of all of them.
    """

    kind: str
    text: str = ""
    code: int = 0
    subject: str = ""
    axes: str = ""
    dtype: str = ""
    shape: tuple[int, ...] = ()
    bits: int = 0
    first: tuple[float, ...] = ()
    digest: str = ""

    @property
    def is_ours(self) -> bool:
        """Read, or refused in words for users, within the memory allowed."""
        return self.kind == "read" or (self.kind == "refused" and "memory" not in self.text)


def read(path: str, root: str | None = None) -> Outcome:
    """Reads one file in this process."""
    try:
        image = read_image(path, root)
    except UserError as error:
        return Outcome("refused", str(error), int(error.code), error.subject)
    except BaseException as error:
        return Outcome("foreign", f"{type(error).__name__}: {error}")
    pixels = image.pixels
    return Outcome(
        kind="read",
        axes=image.axes,
        dtype=str(pixels.dtype),
        shape=pixels.shape,
        bits=image.bits,
        first=tuple(float(value) for value in pixels.flat[:8]),
        digest=hashlib.sha256(pixels).hexdigest(),
    )


def read_mutant(folder: str, name: str, number: int, seed: int) -> Outcome:
    """Damages an original and reads it."""
    path = Path(folder, f"{number} of {name}")
    path.write_bytes(mutated(_ORIGINALS[name], name, number, seed))
    outcome = read(str(path))
    path.unlink()
    return outcome


def misbehave(how: str) -> Outcome:
    """What no reader may do; shows that it would be noticed."""
    if how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    while how == "compute":
        pass
    if how == "sleep":
        time.sleep(60)
    try:
        _ = bytes(2 * MEMORY) if how == "memory" else 1 // (how != "raise")
    except MemoryError:
        return Outcome("refused", "needs more memory than there is", 3)
    except ZeroDivisionError as error:
        return Outcome("foreign", f"ZeroDivisionError: {error}")
    return Outcome("read")


def in_children(
    function: str, jobs: Sequence[dict[str, object]], seconds: float, children: int = 2
) -> tuple[list[Outcome], str]:
    """Calls ``function`` of this module for every job, in processes with 1 GiB above their start.

    Args:
        function: its name.
        jobs: its arguments.
        seconds: processor time a job may take; and eight times as much of the clock.
        children: how many processes work side by side.

    Returns:
        One outcome a job, and whatever the children wrote to their standard error.
    """
    with tempfile.TemporaryFile("w+") as noise, ThreadPoolExecutor(children) as pool:
        shares = [jobs[k::children] for k in range(children)]
        done = list(
            pool.map(lambda share: _serve(function, share, seconds, noise.fileno()), shares)
        )
        noise.seek(0)
        text = noise.read()
    return [done[k % children][k // children] for k in range(len(jobs))], text


def _serve(
    function: str, jobs: Sequence[dict[str, object]], seconds: float, noise: int
) -> list[Outcome]:
    outcomes, child = [], _start(noise)
    try:
        for job in jobs:
            if child.poll() is not None:
                child = _start(noise)
            child.stdin.write(json.dumps([function, job, seconds]) + "\n")
            child.stdin.flush()
            answer = child.stdout.readline()
            outcomes.append(_parsed(answer) if answer else _killed(child.wait()))
    finally:
        child.communicate()
    return outcomes


def _start(noise: int) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    command = [sys.executable, "-m", "bad_input.child"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": noise}
    return subprocess.Popen(command, **pipes, text=True, env={**os.environ, "PYTHONPATH": path})


def _parsed(answer: str) -> Outcome:
    fields = json.loads(answer)
    return Outcome(**fields | {name: tuple(fields[name]) for name in ("shape", "first")})


def _killed(code: int) -> Outcome:
    reason = {-signal.SIGPROF: "it computed for too long", -signal.SIGALRM: "it hung"}
    return Outcome("killed", reason.get(code, f"the process ended with {code}"))


def _main() -> None:
    faulthandler.enable()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        function, job, seconds = json.loads(line)
        # Both kill: a handler of Python's would wait for a decoder that never returns.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, seconds * _WALL)
        outcome = globals()[function](**job)
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
        print(json.dumps(vars(outcome)), file=answers, flush=True)


_ORIGINALS = originals()

if __name__ == "__main__":
    _main()
