"""The compilers of this machine: where they are, how they are called, and that they end."""

import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# The oldest torch whose stable ABI is relied on, 2.11: an operator cannot ask for anything newer.
ABI_FLOOR = "0x020b000000000000"
X86 = platform.machine() in ("x86_64", "AMD64")
# -ffast-math is none of them: linked in, it rounds tiny numbers to zero in the whole process. Nor
# -march=native, nor what a compiler takes by itself: a cache that machines share would crash the
# older ones.
CPP_FLAGS = (
    *(("-march=x86-64",) if X86 else ()),
    *("-O3", "-std=c++17", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"),
    *("-fno-math-errno", "-fno-trapping-math"),
    *("-fopenmp-simd", f"-DTORCH_TARGET_VERSION={ABI_FLOOR}", "-I."),
)
CUDA_FLAGS = ("-O3", "-std=c++17", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra", "-I.")
# The CUDA runtime inside the library must not be taken for the one that torch has loaded.
CUDA_LINK_FLAGS = (
    *("-shared", "-cudart=static", "-Xlinker=--exclude-libs,ALL"),
    # Nothing else leads the loader from here to what torch has loaded.
    "-Xlinker=--no-as-needed",
)
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


class CommandFailed(Exception):
    """A compiler failed, or took too long.

    Args:
        problem: which one, and how it ended.
        log: what it said.
    """

    def __init__(self, problem: str, log: Path) -> None:
        super().__init__(problem)
        self.log = log


@dataclass(frozen=True)
class Torch:
    """The installed torch: its folder, and the version of CUDA that it was built with, if any."""

    folder: Path
    cuda: str | None


@dataclass(frozen=True)
class Toolchain:
    """The programs that build a library; ``nvcc`` and its cards are there for CUDA only."""

    torch: Torch
    cxx: str
    nvcc: str | None = None
    gpu_flags: tuple[str, ...] = ()

    def key(self) -> str:
        """Digest of the compilers' paths and versions.

        Raises:
            BuildFailed: one of them does not run.
        """
        return digest({path: version(path) for path in filter(None, (self.cxx, self.nvcc))})

    def compile(self, source: str, flags: Sequence[str], out: Path) -> list[str]:
        """The command that makes an object file; ``*.cu`` goes to nvcc."""
        ends = ["-c", source, "-o", str(out)]
        if source.endswith(".cu"):
            return [*self._nvcc(), *CUDA_FLAGS, *self.gpu_flags, *flags, *ends]
        headers = ["-isystem", f"{self.torch.folder}/include"]
        if self.nvcc is not None:
            headers += ["-DUSE_CUDA", "-isystem", f"{Path(self.nvcc).parent.parent}/include"]
        return [self.cxx, *CPP_FLAGS, *flags, *headers, *ends]

    def link(self, objects: Sequence[Path], out: Path) -> list[str]:
        """The command that makes the library; nvcc knows where the CUDA runtime is."""
        ends = [*map(str, objects), f"-L{self.torch.folder}/lib", "-o", str(out)]
        if self.nvcc is None:
            return [self.cxx, "-shared", *ends, "-ltorch_cpu"]
        return [*self._nvcc(), *CUDA_LINK_FLAGS, *ends, "-ltorch_cuda", "-ltorch_cpu"]

    def _nvcc(self) -> list[str]:
        return [str(self.nvcc), "-ccbin", self.cxx]


def find_toolchain(cuda: bool) -> Toolchain:
    """What a library needs.

    Raises:
        BuildFailed: a part is missing; the text says which and what to do.
    """
    torch = find_torch()
    if not cuda:
        return Toolchain(torch, find_cxx())
    if torch.cuda is None:
        raise BuildFailed("the installed torch is one without CUDA")
    nvcc = find_nvcc(torch.cuda.split(".")[0])
    return Toolchain(torch, find_cxx(), nvcc, gpu_flags(gpus()))


def find_torch() -> Torch:
    """Reads its version file: importing torch takes seconds.

    Raises:
        BuildFailed: there is no torch.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise BuildFailed("torch is not installed; run `make setup`")
    folder = Path(spec.origin).parent
    try:
        text = (folder / "version.py").read_text(encoding="utf-8")
    except OSError as error:
        raise BuildFailed(f"torch/version.py cannot be read ({error.strerror})") from error
    match = re.search(r"^cuda\b[^=\n]*= *['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return Torch(folder, match[1] if match else None)


def find_cxx() -> str:
    """The C++ compiler: ``CXX``, or the first that is there.

    Raises:
        BuildFailed: there is none.
    """
    chosen = os.environ.get("CXX")
    names = [chosen] if chosen else ["g++", "c++", "clang++"]
    for found in filter(None, map(shutil.which, names)):
        # Not resolved: a link named g++ may lead to a program that looks at its own name.
        return str(Path(found).absolute())
    raise BuildFailed(f"no C++ compiler is found ({', '.join(names)}); install one or set CXX")


def find_nvcc(major: str = "") -> str:
    """The CUDA compiler: of ``CUDA_HOME``, the usual folder or ``PATH``.

    Args:
        major: the version it must be of, such as 13; empty accepts any.

    Raises:
        BuildFailed: there is none.
    """
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    paths = [*(f"{home}/bin" for home in homes if home), os.environ.get("PATH", "")]
    for found in filter(None, (shutil.which("nvcc", path=path) for path in paths)):
        with suppress(BuildFailed):
            if re.search(rf"release {major or '[0-9]+'}\.", version(found)):
                return str(Path(found).absolute())
    wanted = f"nvcc of CUDA {major}" if major else "nvcc"
    raise BuildFailed(f"no {wanted} is found; install it or set CUDA_HOME")


def gpus() -> list[str]:
    """The graphics cards to build for, as ``TORCH_CUDA_ARCH_LIST`` names them."""
    listed = (os.environ.get("TORCH_CUDA_ARCH_LIST") or "").strip() or _GPUS
    return re.split(r"[;,\s]+", listed.strip(";, "))


def gpu_flags(cards: Sequence[str]) -> tuple[str, ...]:
    """What a list of graphics cards means for nvcc.

    Raises:
        BuildFailed: one of them is not like 9.0, 9.0a or 9.0+PTX.
    """
    flags = []
    for gpu in cards:
        match = re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", gpu)
        if match is None:
            raise BuildFailed(f"TORCH_CUDA_ARCH_LIST: {gpu} is not like 9.0, 9.0a or 9.0+PTX")
        number = match[1] + match[2]
        codes = f"[sm_{number},compute_{number}]" if match[3] else f"sm_{number}"
        flags.append(f"-gencode=arch=compute_{number},code={codes}")
    return tuple(flags)


def version(compiler: str) -> str:
    """What the compiler says to ``--version``.

    Raises:
        BuildFailed: it does not run.
    """
    how = {"capture_output": True, "check": True, "timeout": 60, "env": _english()}
    try:
        said = subprocess.run([compiler, "--version"], **how).stdout
        return said.decode(errors="replace")
    except (OSError, subprocess.SubprocessError) as error:
        problem = f"the compiler {Path(compiler).name} does not run"
        raise BuildFailed(f"{problem} ({type(error).__name__}); mend it or set CXX") from error


def digest(facts: object) -> str:
    """Sixteen hexadecimal digits that stand for what can be written as JSON."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def run_all(commands: Mapping[Path, Sequence[str]], folder: Path, limit_s: float) -> None:
    """Runs commands side by side, one for each processor; none of them outlives this process.

    Args:
        commands: by the file that takes what a command says; temporary files are put beside it.
        folder: where they run.
        limit_s: seconds for all of them together.

    Raises:
        CommandFailed: the first that failed; the others are stopped.
    """
    waiting, running = list(commands.items()), {}
    deadline = time.monotonic() + limit_s
    try:
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                log, words = waiting.pop(0)
                running[log] = _start(words, folder, log)
            time.sleep(0.01)
            for log in [log for log, process in running.items() if process.poll() is not None]:
                _check(commands[log], running.pop(log), log)
            if running and time.monotonic() > deadline:
                log = next(iter(running))
                name = Path(commands[log][0]).name
                raise CommandFailed(f"{name} was stopped after {limit_s:.0f} s", log)
    finally:
        for process in running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def _start(words: Sequence[str], folder: Path, log: Path) -> subprocess.Popen:
    with log.open("wb") as stream:
        return subprocess.Popen(
            ["/bin/sh", "-c", _WATCHED, "sh", *words],
            cwd=folder,
            env=_english(TMPDIR=str(log.parent)),
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            process_group=0,
        )


def _check(words: Sequence[str], process: subprocess.Popen, log: Path) -> None:
    process.communicate()
    if process.returncode:
        raise CommandFailed(f"{Path(words[0]).name} ended with {process.returncode}", log)


def _english(**more: str) -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", **more}
