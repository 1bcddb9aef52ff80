import fcntl
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from common.errors import Exit, quoted_error
from kernels import build as building
from kernels.build import BuildFailed, BuildStalled, build, load
from tiny_operator import operator

OPERATOR = operator("build_test")
# Notes that it ran, and what it was asked for; then writes its output file.
COMPILES = """
echo "$@" >> "$0.ran"
while [ "$1" != -o ]; do shift; done
echo library > "$2"
"""


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one C++ file and one header; the cache is empty."""
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path / "cache"))
    for name in ("KERNELS", "CXX", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "sources"
    (folder / "inner").mkdir(parents=True)
    (folder / "operator.cpp").write_text("// C++")
    (folder / "inner/header.h").write_text("// header")
    return folder


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts a shell script in the compiler's place."""

    def place(script: str = COMPILES, version: str = "fake 1.0", name: str = "cxx") -> Path:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        asked = f'[ "$1" = --version ] && echo "{version}" && exit 0'
        path.write_text(f"#!/bin/sh\n{asked}\n{script}")
        path.chmod(0o755)
        if name == "cxx":
            monkeypatch.setenv("CXX", str(path))
        return path

    return place


def ran(compiler: Path) -> list[str]:
    noted = compiler.with_name(f"{compiler.name}.ran")
    return noted.read_text().splitlines() if noted.exists() else []


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_a_compiled_operator_is_there_for_torch(sources: Path) -> None:
    (sources / "operator.cpp").write_text(OPERATOR)
    assert load("operators", sources)
    assert torch.ops.build_test.twice(21) == 42
    library, *others = sorted(sources.with_name("cache").glob("operators-*"))
    assert library.suffix == ".so" and not others


def test_what_is_built_is_built_once(sources: Path, compiler: Callable[..., Path]) -> None:
    script = compiler()
    elsewhere = shutil.copytree(sources, sources.with_name("elsewhere"))
    first = build("operators", sources)
    first.with_name("lock").unlink()
    assert build("operators", sources) == build("operators", elsewhere) == first
    assert len(ran(script)) == 1
    # A finished cache is not written to: it may be read-only.
    assert list(first.parent.iterdir()) == [first]


CHANGES = {
    "source": lambda folder, patch, place: (folder / "operator.cpp").write_text("// other"),
    "header": lambda folder, patch, place: (folder / "inner/header.h").write_text("// other"),
    "new file": lambda folder, patch, place: (folder / "second.cpp").write_text(""),
    "torch": lambda folder, patch, place: patch.setattr(torch, "__version__", "2.99.0"),
    "CUDA": lambda folder, patch, place: patch.setattr(torch.version, "cuda", "99.0"),
    "compiler": lambda folder, patch, place: place(version="fake 1.1"),
    "compiler's path": lambda folder, patch, place: patch.setenv("CXX", str(place(name="other"))),
    "machine": lambda folder, patch, place: patch.setattr("platform.machine", lambda: "z80"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_the_library_changes_its_name(
    change: str, sources: Path, compiler: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler()
    before = build("operators", sources)
    CHANGES[change](sources, monkeypatch, compiler)
    assert build("operators", sources) != before


def test_other_flags_are_another_library(sources: Path, compiler: Callable[..., Path]) -> None:
    script = compiler()
    assert build("operators", sources) != build("operators", sources, ("-DOTHER",))
    assert ["-DOTHER" in line for line in ran(script)] == [False, True]


def test_the_switch_turns_compiled_operators_off_in_silence(
    sources: Path,
    compiler: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    script = compiler()
    monkeypatch.setenv("KERNELS", "ref")
    assert not load("operators", sources)
    assert not ran(script) and capfd.readouterr() == ("", "")


def test_an_unknown_switch_is_refused(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELS", "of")
    with pytest.raises(RuntimeError) as caught:
        load("operators", sources)
    assert quoted_error(str(caught.value)).code == Exit.USAGE


FAILURES = {
    "does not compile": ("seq 9999; echo a.cpp:1: error: no >&2; exit 3", "cxx ended with 3: "),
    "crashes": ("kill -SEGV $$", "cxx ended with 139: "),
    "writes nothing": ("exit 0", "the compiler wrote no library: "),
    "writes no library": (COMPILES, "cannot be loaded"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failed_build_is_said_once_and_tried_once(
    failure: str, sources: Path, compiler: Callable[..., Path], capfd: pytest.CaptureFixture
) -> None:
    script, reason = FAILURES[failure]
    compiler(f'echo >> "$0.tried"\n{script}')
    assert [load("operators", sources) for _ in range(2)] == [False, False]
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("kernels: operators runs on its torch reference, which is slower: ")
    assert reason in line and len(line) < 1000
    assert ("a.cpp:1: error: no; all of it is in" in line) == (failure == "does not compile")
    assert (sources.parent / "bin/cxx.tried").read_text() == "\n"


def test_a_failed_build_leaves_its_log_and_no_library(
    sources: Path, compiler: Callable[..., Path]
) -> None:
    compiler('seq 9999; while [ "$1" != -o ]; do shift; done; echo half > "$2"; exit 1')
    with pytest.raises(BuildFailed):
        build("operators", sources)
    assert {path.suffix for path in sources.with_name("cache").iterdir()} == {".log", ""}
    (log,) = sources.with_name("cache").glob("*.log")
    assert len(log.read_text().splitlines()) == 9999


def test_a_machine_without_a_compiler_is_told_what_to_do(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(sources))
    with pytest.raises(BuildFailed, match=r"no C\+\+ compiler is found .*; install one or set CXX"):
        build("operators", sources)


def test_a_compiler_that_does_not_end_is_stopped_with_all_it_started(
    sources: Path, compiler: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler('sh -c \'exec 9> "$0.open"; echo alive >&9; sleep 60\' "$0" &\nwait')
    opened = sources.parent / "bin/cxx.open"
    monkeypatch.setattr(building, "COMPILE_S", 1.0)
    with pytest.raises(BuildFailed, match="cxx was stopped after 1 s"):
        build("operators", sources)
    assert opened.read_text() == "alive\n"
    deadline = time.monotonic() + 5
    while (left := holders(opened)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left


def holders(path: Path) -> list[str]:
    """Processes that have the file open."""
    found = []
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if descriptor.readlink() == path:
                found.append(descriptor.parts[2])
        except OSError:
            continue
    return found


def test_a_live_process_that_keeps_the_lock_ends_the_wait_with_an_error(
    sources: Path, compiler: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = compiler()
    monkeypatch.setattr(building, "WAIT_S", 0.3)
    lock = sources.with_name("cache") / "lock"
    lock.parent.mkdir()
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        print("process 12 on elsewhere", file=stream, end="", flush=True)
        with pytest.raises(BuildStalled) as caught:
            load("operators", sources)
    error = quoted_error(str(caught.value))
    assert error.code == Exit.LOST and "cache/lock" in error.subject
    assert "process 12 on elsewhere" in error.problem and not ran(script)
    assert build("operators", sources).is_file()


def test_who_waited_for_a_build_that_failed_does_not_repeat_it(
    sources: Path, compiler: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The failure appears between the look before the wait and the lock.
    script = compiler("exit 1")
    with pytest.raises(BuildFailed):
        build("operators", sources)
    (log,) = sources.with_name("cache").glob("*.log")
    log.write_text("no such header")
    changes = iter([None, log.stat().st_mtime_ns])
    monkeypatch.setattr(building, "_written", lambda path: next(changes))
    with pytest.raises(BuildFailed, match=r"another process has just failed .*no such header"):
        build("operators", sources)
    assert not ran(script)


def test_what_dead_builders_left_is_swept(sources: Path, compiler: Callable[..., Path]) -> None:
    compiler()
    left = sources.with_name("cache") / "building-dead"
    left.mkdir(parents=True)
    (left / "library").write_text("half")
    assert build("operators", sources).read_text() == "library\n"
    assert not left.exists()


def test_cuda_sources_are_compiled_where_torch_and_the_machine_have_cuda(
    sources: Path,
    compiler: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    nvcc = compiler(name="nvcc", version="tools, release 13.0, V13.0.88")
    script = compiler()
    (sources / "operator.cu").write_text("// CUDA")
    monkeypatch.setenv("CUDA_HOME", str(sources.parent))
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0a+PTX")
    building._nvcc.cache_clear()
    build("operators", sources, ("-fopenmp",))
    (command,) = ran(nvcc)
    assert not ran(script) and capfd.readouterr().err == ""
    words = f"""-ccbin {script} -DUSE_CUDA -Xcompiler=-fopenmp operator.cpp operator.cu code=sm_80
        arch=compute_90a,code=[sm_90a,compute_90a] -ltorch_cuda"""
    assert not [word for word in words.split() if word not in command]

    # Another major version would need another driver than torch.
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    build("operators", sources)
    build("operators", sources, ("-DOTHER",))
    assert len(ran(nvcc)) == 1 and len(ran(script)) == 2 and "operator.cu" not in ran(script)[0]
    (line,) = capfd.readouterr().err.splitlines()
    assert "no nvcc of CUDA 12 is found; set CUDA_HOME" in line
    building._nvcc.cache_clear()


def test_a_graphics_card_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0 Hopper")
    with pytest.raises(BuildFailed, match="Hopper is not like"):
        building._gpu_flags()


def test_the_cache_is_where_caches_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KERNELS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert building._cache_folder() == tmp_path / ".cache/synthetic-microscopy/kernels"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert building._cache_folder() == tmp_path / "xdg/synthetic-microscopy/kernels"
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path / "own"))
    assert building._cache_folder() == tmp_path / "own"
