import fcntl
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from common.errors import Exit, quoted_error
from kernels import build as building
from kernels import cache, toolchain
from kernels.build import CPU, BuildFailed, BuildStalled, Unit, build, failure, find
from kernels.toolchain import Torch
from tiny_operator import COMPILES, compiler, library, operator, ran

SETTINGS = ("KERNELS", "CXX", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST")


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one C++ file and one header; the cache is empty."""
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path / "cache"))
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "sources"
    (folder / "inner").mkdir(parents=True)
    (folder / "operator.cpp").write_text("// C++")
    (folder / "inner/header.h").write_text("// header")
    return folder


@pytest.fixture
def cxx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Puts a shell script in the compiler's place."""

    def place(*words: str, name: str = "cxx") -> Path:
        path = compiler(tmp_path / "bin" / name, *words)
        monkeypatch.setenv("CXX", str(path))
        return path

    return place


def cached(sources: Path) -> set[str]:
    """Kinds of what is in the cache."""
    return {path.suffix for path in sources.with_name("cache").iterdir()}


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_a_compiled_operator_is_there_for_torch(sources: Path) -> None:
    (sources / "operator.cpp").write_text(operator("build_test"))
    torch.ops.load_library(build(library(sources)))
    assert torch.ops.build_test.twice(21) == 42
    made, *others = sorted(sources.with_name("cache").glob("operators-*"))
    assert made.suffix == ".so" and not others


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_the_cpu_operators_compile_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    # In the cache of the product: it is compiled only if a source has changed.
    log = build(CPU, retry=True).with_suffix(".log")
    assert not log.exists(), log.read_text()[-3000:]


def test_warnings_are_kept_beside_the_library(sources: Path, cxx: Callable[..., Path]) -> None:
    cxx(f"echo warning: unused\n{COMPILES}")
    assert build(library(sources)).with_suffix(".log").read_text() == "warning: unused\n" * 2


def test_what_is_built_is_built_once(sources: Path, cxx: Callable[..., Path]) -> None:
    script = cxx()
    elsewhere = shutil.copytree(sources, sources.with_name("elsewhere"))
    first = build(library(sources))
    first.with_name("lock").unlink()
    assert build(library(sources)) == build(library(elsewhere)) == first
    assert [line.endswith("-ltorch_cpu") for line in ran(script)] == [False, True]
    # A finished cache is not written to: it may be read-only.
    assert list(first.parent.iterdir()) == [first]


CHANGES = {
    "source": lambda folder, patch, place: (folder / "operator.cpp").write_text("// other"),
    "header": lambda folder, patch, place: (folder / "inner/header.h").write_text("// other"),
    "new file": lambda folder, patch, place: (folder / "second.cpp").write_text(""),
    "flags": lambda folder, patch, place: patch.setattr(toolchain, "CPP_FLAGS", ("-DOTHER",)),
    "machine": lambda folder, patch, place: patch.setattr("platform.machine", lambda: "z80"),
    "compiler": lambda folder, patch, place: place(COMPILES, "fake 1.1"),
    "compiler's path": lambda folder, patch, place: place(name="other"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_the_library_changes_its_name(
    change: str, sources: Path, cxx: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cxx()
    before = build(library(sources))
    CHANGES[change](sources, monkeypatch, cxx)
    # Importing takes what another compiler made.
    assert find(library(sources)) == (before if "compiler" in change else None)
    assert build(library(sources)) != before


def test_other_flags_are_another_library(sources: Path, cxx: Callable[..., Path]) -> None:
    script = cxx()
    assert build(library(sources)) != build(library(sources, "-DOTHER"))
    assert ["-DOTHER" in line for line in ran(script)] == [False, False, True, False]


def test_files_that_a_library_omits_do_not_change_it(
    sources: Path, cxx: Callable[..., Path]
) -> None:
    cxx()
    part = library(sources, omits=("inner", "operator.cu"))
    before = build(part)
    (sources / "inner/header.h").write_text("// other")
    (sources / "operator.cu").write_text("// CUDA")
    assert find(part) == before


def test_the_newest_build_is_found_in_any_place(
    sources: Path, cxx: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cxx()
    places = [sources.with_name("project"), sources.with_name("home")]
    monkeypatch.setattr(cache, "places", lambda: places)
    first = build(library(sources))
    assert find(library(sources)) == first == places[0] / first.name
    places.reverse()
    cxx(COMPILES, "fake 2.0")
    second = build(library(sources))
    assert second.parent == places[0]
    for newest, oldest in ((first, second), (second, first)):
        os.utime(oldest, (1, 1))
        os.utime(newest, (2, 2))
        assert find(library(sources)) == newest


def test_nothing_is_found_where_nothing_can_be_read(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("absent", "operator.cpp", "operator.cpp/below", "a\n" * 200):
        monkeypatch.setenv("KERNELS_CACHE", str(sources / place))
        assert find(library(sources)) is None and failure(library(sources)) is None
    assert find(library(sources.with_name("absent"))) is None


FAILURES = {
    "does not compile": ("seq 9999; echo a.cpp:1: error: no >&2; exit 3", "cxx ended with 3: "),
    "crashes": ("kill -SEGV $$", "cxx ended with 139: "),
    "writes nothing": ("exit 0", "the compiler wrote no library: it said nothing"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failed_build_is_not_tried_again_before_someone_asks_for_it(
    kind: str, sources: Path, cxx: Callable[..., Path]
) -> None:
    script, reason = FAILURES[kind]
    tried = cxx(f'echo "$@" >> "$0.ran"\n{script}')
    with pytest.raises(BuildFailed) as first:
        build(library(sources))
    assert reason in str(first.value) and len(str(first.value)) < 1000
    assert ("a.cpp:1: error: no; all of it is in" in str(first.value)) == ("compile" in kind)
    once = len(ran(tried))
    with pytest.raises(BuildFailed) as second:
        build(library(sources))
    assert str(second.value) == f"an earlier build failed: {first.value}"
    assert failure(library(sources)) == str(first.value)
    assert "`make kernels` tries again" in str(second.value) and len(ran(tried)) == once
    with pytest.raises(BuildFailed, match=reason):
        build(library(sources), retry=True)
    assert len(ran(tried)) == 2 * once
    assert cached(sources) == {".log", ".failed", ""} and find(library(sources)) is None
    cxx(COMPILES)
    assert build(library(sources), retry=True) == find(library(sources))
    assert cached(sources) == {".so", ""} and failure(library(sources)) is None


def test_another_compiler_is_tried_where_one_has_failed(
    sources: Path, cxx: Callable[..., Path]
) -> None:
    cxx("exit 1")
    with pytest.raises(BuildFailed):
        build(library(sources))
    cxx(COMPILES, "fake 1.1")
    assert build(library(sources)) == find(library(sources))


def test_a_failed_build_leaves_its_log_and_no_library(
    sources: Path, cxx: Callable[..., Path]
) -> None:
    cxx('seq 9999; while [ "$1" != -o ]; do shift; done; echo half > "$2"; exit 1')
    with pytest.raises(BuildFailed):
        build(library(sources))
    (log,) = sources.with_name("cache").glob("*.log")
    assert len(log.read_text().splitlines()) == 9999


def test_what_was_changed_while_it_was_compiled_is_not_kept(
    sources: Path, cxx: Callable[..., Path]
) -> None:
    cxx(f"echo // other > {sources}/operator.cpp\n{COMPILES}")
    with pytest.raises(BuildFailed, match="its sources were changed meanwhile"):
        build(library(sources))
    assert cached(sources) == {""}
    assert build(library(sources)) == find(library(sources))


def test_a_source_that_is_not_there_is_named(sources: Path, cxx: Callable[..., Path]) -> None:
    cxx()
    with pytest.raises(BuildFailed, match=r"absent/\*\.cpp is not in .*/sources"):
        build(library(sources, units=(Unit("absent/*.cpp"),)))


def test_a_machine_without_a_compiler_is_told_what_to_do(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(sources))
    with pytest.raises(BuildFailed, match=r"no C\+\+ compiler is found .*; install one or set CXX"):
        build(library(sources))


def test_a_compiler_that_does_not_run_is_named(sources: Path, cxx: Callable[..., Path]) -> None:
    cxx().write_text("#!/bin/sh\nexit 1")
    with pytest.raises(BuildFailed, match=r"the compiler cxx does not run .*; mend it or set CXX"):
        build(library(sources))


def test_a_cache_that_cannot_be_written_is_named(
    sources: Path, cxx: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = cxx()
    monkeypatch.setenv("KERNELS_CACHE", str(sources / "operator.cpp"))
    with pytest.raises(BuildFailed, match=r"operator\.cpp cannot be used .*; set KERNELS_CACHE to"):
        build(library(sources))
    assert not ran(script)


def test_objects_are_compiled_side_by_side_and_a_failure_stops_the_others(
    sources: Path, cxx: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        (sources / f"more{number}.cpp").write_text("")
    ran_here = sources.with_name("here")
    ran_here.mkdir()
    meet = f"touch {ran_here}/$$; for i in $(seq 500); do [ $(ls {ran_here} | wc -l) = 2 ] && break"
    # The first two meet; one of them fails, which is the end of the other.
    cxx(f'{meet}; sleep 0.01; done\n case "$*" in *more0.cpp*) exit 5;; *) sleep 60;; esac')
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    started = time.monotonic()
    with pytest.raises(BuildFailed, match="cxx ended with 5"):
        build(library(sources))
    assert len(list(ran_here.iterdir())) == 2 and time.monotonic() - started < 30


def test_a_compiler_that_does_not_end_is_stopped_with_all_it_started(
    sources: Path, cxx: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cxx('sh -c \'exec 9> "$0.open"; echo alive >&9; sleep 60\' "$0" &\nwait')
    opened = sources.parent / "bin/cxx.open"
    monkeypatch.setattr(building, "COMPILE_S", 1.0)
    with pytest.raises(BuildFailed, match="cxx was stopped after 1 s"):
        build(library(sources))
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
    sources: Path, cxx: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = cxx()
    monkeypatch.setattr(cache, "WAIT_S", 0.3)
    lock = sources.with_name("cache") / "lock"
    lock.parent.mkdir()
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        print("process 12 on elsewhere", file=stream, end="", flush=True)
        with pytest.raises(BuildStalled) as caught:
            build(library(sources))
    error = quoted_error(str(caught.value))
    assert error.code == Exit.LOST and "cache/lock" in error.subject
    assert "process 12 on elsewhere" in error.problem and not ran(script)
    assert build(library(sources)).is_file()


def test_of_two_builders_one_compiles(sources: Path, cxx: Callable[..., Path]) -> None:
    script = cxx(f"sleep 0.3\n{COMPILES}")
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(build, [library(sources)] * 2)
    assert first == second and len(ran(script)) == 2


def test_who_waited_for_a_build_that_failed_does_not_repeat_it(
    sources: Path, cxx: Callable[..., Path]
) -> None:
    script = cxx('echo "$@" >> "$0.ran"; sleep 0.5; exit 1')

    def say(retry: bool) -> str:
        with pytest.raises(BuildFailed) as caught:
            build(library(sources), retry)
        return str(caught.value)

    with ThreadPoolExecutor(2) as pool:
        told = sorted(pool.map(say, [True, True]))
    assert len(ran(script)) == 1
    assert told[0] == f"another process has just failed to build it: {told[1]}"


def test_what_dead_builders_left_is_swept(sources: Path, cxx: Callable[..., Path]) -> None:
    cxx()
    left = sources.with_name("cache") / "building-dead"
    left.mkdir(parents=True)
    (left / "library").write_text("half")
    assert build(library(sources)).read_text() == "library\n"
    assert not left.exists()


@pytest.fixture
def cuda(sources: Path, cxx: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvcc of CUDA 13 beside a torch of the same; the sources have a CUDA file."""
    cxx()
    (sources / "operator.cu").write_text("// CUDA")
    monkeypatch.setenv("CUDA_HOME", str(sources.parent))
    monkeypatch.setattr(toolchain, "find_torch", lambda: Torch(sources / "torch", "13.2"))
    version = "tools, release 13.0, V13.0.88"
    return compiler(sources.parent / "bin/nvcc", COMPILES, version)


CUDA_UNITS = (Unit("*.cu"), Unit("*.cpp"))


def test_cuda_sources_are_compiled_by_nvcc_and_the_rest_by_the_cxx_compiler(
    sources: Path, cuda: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0a+PTX")
    part = library(sources, units=CUDA_UNITS, cuda=True)
    made = build(part)
    kernels, link = ran(cuda)
    (binding,) = ran(sources.parent / "bin/cxx")
    codes = "code=sm_80 -gencode=arch=compute_90a,code=[sm_90a,compute_90a]"
    assert codes in kernels and "operator.cu" in kernels and "fast" not in kernels
    assert "-DUSE_CUDA" in binding and f"-isystem {sources.parent}/include" in binding
    assert "-shared -cudart=static -Xlinker=--exclude-libs,ALL" in link
    assert link.endswith("-ltorch_cuda -ltorch_cpu")
    # Neither other cards nor another CUDA are served by it; the CPU library depends on neither.
    assert find(part) == made
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "7.5")
    assert find(part) is None
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0a+PTX; 8.0")
    monkeypatch.setattr(toolchain, "find_torch", lambda: Torch(sources, "12.8"))
    assert find(part) is None


def test_another_cuda_than_that_of_torch_is_not_compiled_with(
    sources: Path, cuda: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain, "find_torch", lambda: Torch(sources, "12.8"))
    monkeypatch.setenv("PATH", str(sources))
    part = library(sources, units=CUDA_UNITS, cuda=True)
    with pytest.raises(BuildFailed, match=r"no nvcc of CUDA 12 is found; .* set CUDA_HOME"):
        build(part)
    monkeypatch.setattr(toolchain, "find_torch", lambda: Torch(sources, None))
    with pytest.raises(BuildFailed, match="the installed torch is one without CUDA"):
        build(part)
    assert not ran(cuda)


def test_a_graphics_card_that_is_none_is_refused(
    sources: Path, cuda: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0 Hopper")
    with pytest.raises(BuildFailed, match="TORCH_CUDA_ARCH_LIST: Hopper is not like"):
        build(library(sources, units=CUDA_UNITS, cuda=True))
