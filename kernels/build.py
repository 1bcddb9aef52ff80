"""Compiles operators into one library, once, and loads it; says why where that cannot be."""

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO

import torch

SWITCH = "KERNELS"
CACHE = "KERNELS_CACHE"
COMPILE_S = 300.0
# Longer than a build may take: after it, who holds the lock does not get on.
WAIT_S = 600.0

# The oldest torch whose stable ABI is relied on, 2.11: an operator cannot ask for anything newer.
_FLAGS = ("-O3", "-std=c++17", "-DTORCH_TARGET_VERSION=0x020b000000000000")
_HOST_FLAGS = ("-fPIC", "-fvisibility=hidden")
# Machine code for Turing, Ampere and Hopper; what is newer translates the PTX.
_GPUS = "7.5 8.0 9.0+PTX"
# A compiler starts processes of its own, and a killed builder can end none of them. A watcher in
# their process group can: the pipe that it reads closes with the builder, however that ends.
_WATCHED = """exec 3<&0 </dev/null
{ read -r _ <&3; kill -KILL 0; } &
"$@" 3<&-
code=$?
exec 2>/dev/null
kill $!
wait
exit $code"""


class BuildFailed(Exception):
    """There is no compiled library; callers take the torch reference. The text tells why."""


class BuildStalled(RuntimeError):
    """Another living process has held the build for longer than any build takes.

    The text is one line in the form of every error of the project, with exit code 7.
    """


def load(name: str, folder: Path, flags: tuple[str, ...] = ()) -> bool:
    """Puts the operators of ``folder`` into ``torch.ops``; compiles them if no build is cached.

    A failure is said once per process, on stderr, and not tried again.

    Args:
        name: of the library; part of its file name and of messages.
        folder: its C++ (``*.cpp``), CUDA (``*.cu``) and headers; CUDA is left out where torch or
            the machine has none, and ``USE_CUDA`` is defined where it is not.
        flags: further ones for the C++ compiler.

    Returns:
        Whether they are there. If not, the caller takes its torch reference.

    Raises:
        BuildStalled: waited `WAIT_S` for another process.
        RuntimeError: the environment variable ``KERNELS`` is neither ``auto`` nor ``ref``.
    """
    choice = os.environ.get(SWITCH) or "auto"
    if choice not in ("auto", "ref"):
        raise RuntimeError(f"error[2]: {SWITCH}={choice}: is not known; give auto or ref")
    return choice == "auto" and _load(name, folder, flags)


def build(name: str, folder: Path, flags: tuple[str, ...] = ()) -> Path:
    """The compiled library of ``folder``: the cached one, or a new one; arguments as in `load`.

    Raises:
        BuildFailed: there is no compiler, it fails, or the cache is not writable.
        BuildStalled: waited `WAIT_S` for another process.
    """
    folder = folder.absolute()
    stored = _cache_folder()
    try:
        library = stored / f"{name}-{_key(folder, flags)}.so"
        # Asked before anything is written: a finished cache may be read-only.
        if not library.exists():
            stored.mkdir(parents=True, exist_ok=True)
            _build_in_turn(library, folder, flags)
    except OSError as error:
        where = f"{_shown(stored)} cannot be used ({error.strerror or error})"
        raise BuildFailed(f"{where}; set {CACHE} to a local folder you may write to") from error
    return library


@cache
def _load(name: str, folder: Path, flags: tuple[str, ...]) -> bool:
    try:
        library = build(name, folder, flags)
        torch.ops.load_library(library)
    except BuildFailed as error:
        _say(name, str(error))
    except OSError as error:
        _say(name, f"{_shown(library)} cannot be loaded ({error}); delete it to compile it anew")
    else:
        return True
    return False


def _say(name: str, reason: str) -> None:
    text = f"kernels: {name} runs on its torch reference, which is slower: {reason}"
    shown = "".join(sign if sign.isprintable() else " " for sign in text)
    print(f"{shown}; {SWITCH}=ref stops trying", file=sys.stderr, flush=True)


def _cache_folder() -> Path:
    if chosen := os.environ.get(CACHE):
        return Path(chosen).absolute()
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise BuildFailed(f"there is no home folder for the cache; set {CACHE}") from error
    return home.absolute() / "synthetic-microscopy" / "kernels"


def _key(folder: Path, flags: tuple[str, ...]) -> str:
    """Digest of all that decides what the library holds: two equal keys are one library."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    contents = {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()) for p in files}
    command = _command(folder, flags, Path())
    parts = {
        "files": {name: digest.hexdigest() for name, digest in contents.items()},
        "command": command,
        "compilers": {path: _version(path) for path in {command[0], _cxx()}},
        "torch": [torch.__version__, torch.version.cuda],
        "machine": [platform.system(), platform.machine()],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _command(folder: Path, flags: tuple[str, ...], out: Path) -> list[str]:
    """One command for everything; nvcc hands C++ files on to the C++ compiler."""
    sources, device = (sorted(p.name for p in folder.glob(f"*.{end}")) for end in ("cpp", "cu"))
    home = Path(torch.__file__).parent
    paths = ["-isystem", f"{home}/include", "-o", str(out), f"-L{home}/lib", "-ltorch_cpu"]
    host = [*_HOST_FLAGS, *flags]
    nvcc = _nvcc(torch.version.cuda) if device and torch.version.cuda else None
    if nvcc is None:
        return [_cxx(), "-shared", *_FLAGS, *host, *sources, *paths]
    front = [nvcc, "-ccbin", _cxx(), "-shared", "-DUSE_CUDA", *_FLAGS, *_gpu_flags()]
    passed = [f"-Xcompiler={flag}" for flag in host]
    return [*front, *passed, *sources, *device, *paths, "-ltorch_cuda"]


def _cxx() -> str:
    chosen = os.environ.get("CXX")
    names = [chosen] if chosen else ["g++", "c++", "clang++"]
    for found in filter(None, map(shutil.which, names)):
        # Not resolved: a link named g++ may lead to a program that looks at its own name.
        return str(Path(found).absolute())
    raise BuildFailed(f"no C++ compiler is found ({', '.join(names)}); install one or set CXX")


@cache
def _nvcc(wanted: str) -> str | None:
    """The CUDA compiler of the major version that torch was built with."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [f"{home}/bin" for home in homes if home]
    found = shutil.which("nvcc", path=os.pathsep.join([*places, os.environ.get("PATH", "")]))
    major = wanted.split(".")[0]
    with suppress(BuildFailed):
        if found and re.search(rf"release {major}\.", _version(found)):
            return str(Path(found).absolute())
    _say("the CUDA part", f"no nvcc of CUDA {major} is found; set CUDA_HOME")
    return None


def _gpu_flags() -> list[str]:
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST") or _GPUS
    flags = []
    for gpu in re.split(r"[;,\s]+", listed.strip()):
        match = re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", gpu)
        if match is None:
            raise BuildFailed(f"TORCH_CUDA_ARCH_LIST: {gpu} is not like 9.0 or 9.0+PTX")
        number = match[1] + match[2]
        codes = f"[sm_{number},compute_{number}]" if match[3] else f"sm_{number}"
        flags.append(f"-gencode=arch=compute_{number},code={codes}")
    return flags


def _version(compiler: str) -> str:
    how = {"capture_output": True, "check": True, "timeout": 60, "env": _english()}
    try:
        said = subprocess.run([compiler, "--version"], **how).stdout
        return said.decode(errors="replace")
    except (OSError, subprocess.SubprocessError) as error:
        problem = f"the compiler {Path(compiler).name} does not run"
        raise BuildFailed(f"{problem} ({type(error).__name__}); mend it or set CXX") from error


def _build_in_turn(library: Path, folder: Path, flags: tuple[str, ...]) -> None:
    log = library.with_suffix(".log")
    seen = _written(log)
    with _locked(library.parent / "lock"):
        if library.exists():
            return
        if _written(log) != seen:
            raise BuildFailed(f"another process has just failed to compile it: {_last(log)}")
        # Only who holds the lock builds, so these are what dead builders left.
        for leftover in library.parent.glob("building-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        _compile(library, folder, flags, log)


def _written(log: Path) -> int | None:
    return log.stat().st_mtime_ns if log.exists() else None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits for a lock that the kernel drops with the process that holds it."""
    with path.open("a+", encoding="utf-8", errors="replace") as stream:
        deadline = time.monotonic() + WAIT_S
        while not _taken(stream):
            if time.monotonic() > deadline:
                stream.seek(0)
                raise _stalled(path, stream.read(200))
            time.sleep(0.1)
        try:
            stream.truncate(0)
            print(f"process {os.getpid()} on {platform.node()}", file=stream, end="", flush=True)
            yield
        finally:
            # A process forked meanwhile shares the lock, so closing the file would not free it.
            fcntl.flock(stream, fcntl.LOCK_UN)


def _taken(stream: IO[str]) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _stalled(lock: Path, owner: str) -> BuildStalled:
    problem = f"{owner or 'another process'} has held it for over {WAIT_S:.0f} s"
    remedy = f"end that process, or set {SWITCH}=ref"
    return BuildStalled(f"error[7]: {_shown(lock)}: {problem}; nothing was compiled; {remedy}")


def _compile(library: Path, folder: Path, flags: tuple[str, ...], log: Path) -> None:
    """Builds beside ``library``, so that the last step is a rename: it is there whole or not."""
    beside = {"prefix": "building-", "dir": library.parent}
    with tempfile.TemporaryDirectory(**beside, ignore_cleanup_errors=True) as private:
        out, said = Path(private, "library"), Path(private, "log")
        problem = _run(_command(folder, flags, out), folder, said)
        if problem or not out.is_file():
            said.replace(log)
            problem = problem or "the compiler wrote no library"
            raise BuildFailed(f"{problem}: {_last(log)}; all of it is in {_shown(log)}")
        with out.open("rb") as stream:
            os.fsync(stream.fileno())
        out.replace(library)
        log.unlink(missing_ok=True)


def _run(command: list[str], folder: Path, said: Path) -> str:
    """What went wrong, or nothing; neither this process nor its end leaves a compiler behind."""
    compiler = Path(command[0]).name
    with (
        said.open("wb") as stream,
        subprocess.Popen(
            ["/bin/sh", "-c", _WATCHED, "sh", *command],
            cwd=folder,
            env=_english(TMPDIR=str(said.parent)),
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            process_group=0,
        ) as process,
    ):
        try:
            code = process.wait(COMPILE_S)
        except subprocess.TimeoutExpired:
            return f"{compiler} was stopped after {COMPILE_S:.0f} s"
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    return f"{compiler} ended with {code}" if code else ""


def _english(**more: str) -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", **more}


def _last(log: Path) -> str:
    """The last lines of a compiler, short enough for one message."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 4096))
        lines = stream.read().decode(errors="replace").splitlines()
    told = [line.strip() for line in lines if line.strip()]
    return " | ".join(told[-5:])[-500:] or "it said nothing"


def _shown(path: Path) -> str:
    return str(Path(*path.parts[-3:]))
