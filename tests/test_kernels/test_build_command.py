"""What a user sees of a build: the command, make, and that an import does none of it."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernels import build as building
from kernels import cache, toolchain
from kernels.build import BuildStalled, find, main
from kernels.toolchain import Torch
from running import ROOT
from tiny_operator import COMPILES, compiler, library, ran

# Ends the process if it starts another one.
NO_PROCESS = """
import sys
ways = ("system", "exec", "fork", "forkpty", "posix_spawn")
def watch(event, arguments):
    if event == "subprocess.Popen" or event in {f"os.{way}" for way in ways}:
        raise SystemExit(f"{event} {arguments}")
"""


@pytest.fixture
def cxx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler, an empty cache, and a small library in the place of each of the product's."""
    for name in ("KERNELS", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "operator.cpp").touch()
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path / "cache"))
    path = compiler(tmp_path / "bin/cxx")
    monkeypatch.setenv("CXX", str(path))
    monkeypatch.setattr(building, "CPU", library(sources, name="cpu"))
    monkeypatch.setattr(building, "CUDA", library(sources, name="cuda", cuda=True))
    return path


# Said when a compiler starts.
NOTICE = "is compiled now, once: a minute or two"
Said = Callable[[], tuple[str, str]]


@pytest.fixture
def said(capfd: pytest.CaptureFixture) -> Iterator[Said]:
    """What was printed meanwhile: to stdout, and to stderr."""
    return lambda: tuple(capfd.readouterr())


def test_the_command_says_in_one_line_what_it_built(cxx: Path, said: Said, tmp_path: Path) -> None:
    stamp = tmp_path / "stamp"
    assert main(["--quiet", "--stamp", str(stamp)]) == 0
    assert said() == (f"kernels: cpu {NOTICE}\nkernels: cpu built in 0 s\n", "")
    assert stamp.exists()
    assert main([]) == 0 and said() == ("kernels: cpu is ready\n", "")
    assert main(["--quiet"]) == 0 and said() == ("", "")
    assert main(["--retry", "--strict"]) == 0 and said() == ("kernels: cpu is ready\n", "")
    assert len(ran(cxx)) == 2


def test_a_failure_is_said_each_time_and_tried_once(cxx: Path, said: Said, tmp_path: Path) -> None:
    compiler(cxx, 'echo "$@" >> "$0.ran"; printf "no\\033[2J header\\n"; exit 4')
    stamp, before = tmp_path / "stamp", 0
    for tried, arguments, code in ((1, [], 0), (1, [], 0), (2, ["--retry", "--strict"], 1)):
        assert main([*arguments, "--stamp", str(stamp)]) == code
        out, err = said()
        (line,) = err.splitlines()
        assert out == f"kernels: cpu {NOTICE}\n" * (tried > before)
        before = tried
        assert line.startswith("kernels: cpu runs on its torch reference, which is slower: ")
        assert "cxx ended with 4: no [2J header; all of it is in" in line and line.isprintable()
        assert line.endswith("KERNELS=ref stops trying")
        assert len(ran(cxx)) == tried and not stamp.exists()


def test_an_older_build_stays_in_use_where_nothing_can_be_compiled_anew(
    cxx: Path, said: Said, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert main([]) == 0
    said()
    monkeypatch.setenv("CXX", "absent")
    assert main(["--strict"]) == 0 and said() == ("kernels: cpu is ready\n", "")
    assert main(["--strict", "--retry"]) == 0
    out, err = said()
    assert "is ready from before, but cannot be built now: no C++ compiler is found" in out
    assert not err


def test_without_compiled_operators_nothing_is_built(
    cxx: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERNELS", "ref")
    assert main(["--quiet"]) == 0 and said() == ("", "")
    assert main(["--strict"]) == 0
    assert said() == ("kernels: nothing is built, because KERNELS=ref\n", "") and not ran(cxx)


def test_a_stalled_build_ends_with_its_own_code_where_a_build_was_asked_for(
    cxx: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stall(*arguments: object) -> None:
        raise BuildStalled("error[7]: cache/lock: is held; wait")

    monkeypatch.setattr(cache, "build_once", stall)
    for arguments, code in (([], 0), (["--strict"], 7)):
        assert main(arguments) == code
        assert said() == ("", "error[7]: cache/lock: is held; wait\n")


def test_the_cuda_operators_are_built_beside_where_torch_has_cuda(
    cxx: Path, said: Said, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Without nvcc, the CPU part is not touched by it.
    monkeypatch.setattr(toolchain, "find_torch", lambda: Torch(tmp_path, "99.0"))
    stamp = tmp_path / "stamp"
    for arguments, code in (([], 0), (["--strict"], 0), (["--strict", "--cuda"], 1)):
        assert main(["--quiet", "--stamp", str(stamp), *arguments]) == code
        line = said()[1]
        assert line.startswith("kernels: cuda runs on its torch reference, which is slower: ")
        assert "no nvcc of CUDA 99 is found" in line
    assert stamp.exists() and find(building.CPU) and not find(building.CUDA)
    compiler(cxx.with_name("nvcc"), COMPILES, "release 99.1")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert main([]) == 0
    ready, started, built = said()[0].splitlines()
    assert (ready, started) == ("kernels: cpu is ready", f"kernels: cuda {NOTICE}")
    assert built == "kernels: cuda built in 0 s"


def test_the_command_does_not_import_torch(cxx: Path) -> None:
    run = f"""
import runpy, sys
sys.argv = ["build.py", "--help"]
try:
    runpy.run_path({str(ROOT / "kernels/build.py")!r}, run_name="__main__")
finally:
    assert "torch" not in sys.modules and "kernels.toolchain" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=True)
    assert "--retry" in done.stdout


@pytest.mark.parametrize("stored", ["nothing", "a failure", "a library", "an older library"])
def test_an_import_starts_no_process_and_builds_nothing(stored: str, tmp_path: Path) -> None:
    look = f"""{NO_PROCESS}
from kernels.build import CPU, find
sys.addaudithook(watch)
sys.exit(find(CPU) is None)
"""
    # torch itself may ask the system about its libraries.
    load = f"{NO_PROCESS}\nimport torch; sys.addaudithook(watch); import kernels, kernels.registry"
    env = {**os.environ, "KERNELS": "", "KERNELS_CACHE": str(tmp_path / "cache"), "PATH": ""}
    place = tmp_path / "cache"
    place.mkdir()
    key = building._source_key(building.CPU)
    key = "4567" if stored == "an older library" else key
    suffix = {"nothing": "none", "a failure": "failed"}.get(stored, "so")
    # What cannot be loaded is no reason to build it either.
    (place / f"cpu-{key}-0123.{suffix}").write_text("not a library")
    before = sorted(path.name for path in place.iterdir())
    how = {"env": env, "cwd": ROOT, "capture_output": True, "text": True, "check": False}
    found = subprocess.run([sys.executable, "-c", look], **how)
    assert found.returncode == (stored != "a library"), found.stderr
    done = subprocess.run([sys.executable, "-c", load], **how)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in place.iterdir()) == before
    # Who has never built it is not told so by each import.
    said = {
        "a library": "cannot be loaded (",
        "an older library": "the cpu operators are not built from these sources",
    }
    warned = [line for line in done.stderr.splitlines() if "run `make kernels`" in line]
    assert len(warned) == (stored in said), done.stderr
    assert said.get(stored, "") in "".join(warned)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with make and a Python that notes what it runs."""
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels")
    for name in ("Makefile", "requirements.txt", "requirements-weights.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    sources = tmp_path / "kernels/csrc"
    for name in ("cpu/level.cpp", "bind_cpu.cpp"):
        (sources / name).parent.mkdir(parents=True, exist_ok=True)
        (sources / name).write_text("// C++")
    (tmp_path / "experiments/any").mkdir(parents=True)
    (tmp_path / "experiments/any/cli.py").write_text("")
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    script = f'echo "$@" >> "$0.ran"\ncase "$*" in *build.py*) exec {sys.executable} "$@"; esac'
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    compiler(tmp_path / "bin/cxx")
    (tmp_path / ".venv/.ready").touch()
    return tmp_path


def make(project: Path, *words: str, **settings: str) -> tuple[int, list[str], str]:
    """Its exit code, what it ran, and what it said."""
    # ARGS of the `make test` that runs this, too.
    ours = ("MAKE", "KERNELS", "TORCH_", "ARGS")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    env = {**kept, "CXX": str(project / "bin/cxx"), "HOME": str(project), **settings}
    command = ["make", "EXP=any", "CONFIG=any", *words]
    done = subprocess.run(
        command, cwd=project, env=env, capture_output=True, text=True, check=False
    )
    python = project / ".venv/bin/python"
    files = [line.split()[0] for line in ran(python)]
    python.with_name("python.ran").unlink(missing_ok=True)
    return done.returncode, files, done.stdout + done.stderr


BUILD, TRAIN = "kernels/build.py", "experiments/any/cli.py"


def test_make_builds_before_it_trains_and_only_what_has_changed(project: Path) -> None:
    code, files, text = make(project, "train")
    assert (code, files) == (0, [BUILD, TRAIN])
    notice, built = text.splitlines()
    assert notice == f"kernels: cpu {NOTICE}" and built.startswith("kernels: cpu built in ")
    assert make(project, "train") == (0, [TRAIN], "")
    source = project / "kernels/csrc/cpu/level.cpp"
    source.write_text("// other")
    os.utime(source, (time.time() + 5,) * 2)
    assert make(project, "generate")[1:2] == ([BUILD, TRAIN],)
    os.utime(source, (1, 1))
    assert make(project, "evaluate") == (0, [TRAIN], "")
    # The stamp cannot tell that the cache is gone, or another one.
    shutil.rmtree(project / "build")
    assert "built in" in make(project, "train")[2]
    other = {"KERNELS_CACHE": str(project / "other")}
    assert "built in" in make(project, "train", **other)[2]
    assert make(project, "train", **other) == (0, [BUILD, TRAIN], "")


def test_make_goes_on_where_nothing_can_be_compiled(project: Path) -> None:
    for _ in range(2):
        code, files, text = make(project, "train", CXX="absent")
        assert (code, files) == (0, [BUILD, TRAIN])
        (line,) = text.splitlines()
        assert "no C++ compiler is found" in line
    code, files, text = make(project, "kernels", CXX="absent")
    assert code and files == [BUILD] and "no C++ compiler is found" in text
    assert make(project, "train", KERNELS="ref") == (0, [BUILD, TRAIN], "")
    assert not (project / "build/kernels").exists()
    assert "kernels: cpu built in " in make(project, "kernels")[2]
    assert make(project, "train") == (0, [TRAIN], "")
