"""Victims: real command lines in processes that may be killed, forked from one warm server.

Importing torch takes seconds, a fork 20 ms. The server computes nothing, so it has no thread whose
lock a fork could copy.
"""

import atexit
import faulthandler
import importlib
import os
import runpy
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection, current_process, forkserver, get_context, set_start_method
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from running import EXPERIMENTS, ROOT, SIXTH, TOY, folder

SUBJECTS = sorted({*EXPERIMENTS, TOY})
_CONTEXT = get_context("forkserver")
# Reading an exit code empties a pipe, and starting a process reads those of all others.
_STARTING = threading.Lock()


class Call(NamedTuple):
    """An importable function and its arguments, as they cross to another process."""

    target: str
    arguments: dict[str, Any]

    def __call__(self) -> Any:
        module, name = self.target.split(":")
        return getattr(importlib.import_module(module), name)(**self.arguments)


def call(target: str, **arguments: Any) -> Call:
    return Call(target, arguments)


class Alive:
    """A running victim, as the test that steers it sees it."""

    def __init__(self, pid: int, deadline: float) -> None:
        self.pid = pid
        self.deadline = deadline

    def wait_for(self, happened: Callable[[], object]) -> bool:
        """Whether it happened before the victim ended."""
        while self.is_there() and time.monotonic() < self.deadline:
            if happened():
                return True
            time.sleep(0.002)
        return bool(happened())

    def is_there(self) -> bool:
        return bool(_stat(self.pid))

    def send(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def send_all(self, number: int) -> None:
        """To the whole process group, as a scheduler or a terminal does."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


@dataclass(frozen=True)
class Victim:
    """What is run: an experiment's command line, something done before it, or both."""

    experiment: str = ""
    args: Sequence[str | Path] = ()
    sabotage: Sequence[Call] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float = 60.0
    # How long its own children may outlive it.
    grace_s: float = 2.0
    steer: Callable[[Alive], object] | None = None


class Ended(NamedTuple):
    """How it ended, and at what time; a negative code is a signal, `left` outlived it."""

    code: int
    out: str
    err: str
    elapsed: float
    hung: bool
    left: list[str]
    at: float

    @property
    def errors(self) -> list[str]:
        """Lines that tell a user what went wrong."""
        return [line for line in self.err.splitlines() if line.startswith("error[")]


def run_all(victims: Sequence[Victim], jobs: int = 2) -> list[Ended]:
    """Runs victims side by side; the order of the results is that of the victims."""
    _ensure_server()
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(_run, victims))


def run_one(victim: Victim) -> Ended:
    return run_all([victim], 1)[0]


def in_session(leader: int) -> dict[int, str]:
    """Living processes of the session that ``leader`` opened, with their command lines."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]
    mine = [pid for pid in pids if _stat(pid)[3:4] == [str(leader)]]
    return {pid: _command(pid) for pid in mine}


def apply_in_rank(calls: Sequence[Call]) -> None:
    """Sabotages the other ranks of a run as well: Lightning starts them as fresh processes."""
    from pytorch_lightning.strategies.launchers import subprocess_script

    start = f"import faults; faults.run_script({sys.argv[0]!r}, {sys.argv[1:]!r}, {calls!r})"
    command = [sys.executable, "-c", f"from faults import Call; {start}"]
    subprocess_script._basic_subprocess_cmd = lambda: command


def run_script(script: str, args: Sequence[str], calls: Sequence[Call]) -> None:
    """A command line as Python would run it, after the sabotage; returns as the script does."""
    sys.argv = [script, *args]
    for sabotage in calls:
        sabotage()
    if script:
        runpy.run_path(script, run_name="__main__")


def _run(victim: Victim) -> Ended:
    with tempfile.TemporaryDirectory(prefix="victim-") as name:
        out, err = Path(name, "out"), Path(name, "err")
        script = str(folder(victim.experiment) / "cli.py") if victim.experiment else ""
        arguments = (script, [*map(str, victim.args)], list(victim.sabotage), dict(victim.env))
        process = _CONTEXT.Process(target=_victim, args=(*arguments, str(out), str(err)))
        started = time.monotonic()
        with _STARTING:
            process.start()
        hung = _steer(process, victim, started + victim.timeout_s)
        elapsed, at = time.monotonic() - started, time.time()
        left = _kill_rest(process.pid, 0 if hung else victim.grace_s)
        with _STARTING:
            code = process.exitcode
        texts = [p.read_text(errors="replace") if p.exists() else "" for p in (out, err)]
        return Ended(code, *texts, elapsed, hung, [] if hung else left, at)


def _steer(process: BaseProcess, victim: Victim, deadline: float) -> bool:
    """Waits for the end; whether it never came, and the victim was killed."""
    if victim.steer is not None:
        victim.steer(Alive(process.pid, deadline))
    hung = not connection.wait([process.sentinel], max(0, deadline - time.monotonic()))
    if hung:
        # Says in its error file where each thread stands.
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGUSR1)
            time.sleep(0.5)
            os.kill(process.pid, signal.SIGKILL)
        connection.wait([process.sentinel])
    return hung


def _kill_rest(leader: int, grace_s: float) -> list[str]:
    deadline = time.monotonic() + grace_s
    while (left := in_session(leader)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return list(left.values())


def _victim(
    script: str, args: list[str], calls: list[Call], env: dict[str, str], out: str, err: str
) -> None:
    os.setsid()
    _redirect(out, err)
    os.chdir(ROOT)
    os.environ.update(env)
    os.environ.pop("SYNTHETIC_MICROSCOPY_RUN", None)
    tempfile.tempdir = None  # TMPDIR may be another one now
    current_process()._config.pop("tempdir", None)
    set_start_method(None, force=True)  # of loader processes: what a script has
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    faulthandler.register(signal.SIGUSR1, file=sys.stderr, all_threads=True)
    try:
        run_script(script, args, calls)
    except KeyboardInterrupt:
        # What Python does at the end of a script, and multiprocessing does not.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        atexit._run_exitfuncs()


def _redirect(out: str, err: str) -> None:
    for number, path in ((1, out), (2, err)):
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(target, number)
        os.close(target)


def _ensure_server() -> None:
    rooms = [ROOT / "common", *map(folder, SUBJECTS)]
    names = [_module(path) for room in rooms for path in sorted(room.rglob("*.py"))]
    warm = [name for name in names if not name.endswith(("__main__", ".cli", "preset", "bench"))]
    # `faults` first: it makes the toy importable. pytest is what victims take for their main.
    forkserver.set_forkserver_preload(["faults", "common.cli", "pytest", "torch._dynamo", *warm])
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    with _environment(OMP_NUM_THREADS="1", PYTHONPATH=path):
        forkserver.ensure_running()


def _module(path: Path) -> str:
    base = SIXTH.parent if path.is_relative_to(SIXTH) else ROOT
    parts = path.relative_to(base).with_suffix("").parts
    names = ("experiments", *parts[1:]) if base != ROOT else parts
    return ".".join(names).removesuffix(".__init__")


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _stat(pid: int) -> list[str]:
    """State, parent, group, session, ... of a living process; nothing of a dead one."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    fields = text[text.rindex(")") + 2 :].split()
    return [] if fields[0] in "ZX" else fields


def _command(pid: int) -> str:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    return ""
