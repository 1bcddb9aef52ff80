import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kernels import build as building
from kernels import doctor, registry, toolchain
from kernels.build import BuildFailed, build
from tiny_operator import compiler, library

LEVEL = """
extern "C" __attribute__((visibility("default"))) const char* kernels_cpu_level() {
  return "avx2";
}
"""


@pytest.fixture
def status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What the registry says; nothing is built, and no setting is set but the cache."""
    for name in ("KERNELS", "KERNELS_CPU", "TORCH_CUDA_ARCH_LIST", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path / "cache"))
    told = {"mode": "auto", "loaded": {}, "missing": {"cpu": "the cpu operators are not built"}}
    monkeypatch.setattr(registry, "status", lambda: told)
    return told


def test_it_prints_one_fact_a_line(
    status: dict[str, object], capsys: pytest.CaptureFixture
) -> None:
    assert doctor.main([]) == 0
    out = capsys.readouterr().out
    facts = doctor.facts()
    width = max(len(name) for name, _ in doctor.facts())
    assert out.splitlines() == [f"{name:<{width}}  {text}" for name, text in facts]


def test_without_a_library_it_says_what_to_do(
    status: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = dict(doctor.facts())
    assert facts["mode"] == "auto"
    assert facts["cpu library"] == "none: the cpu operators are not built; run `make kernels`"
    assert "cpu level" not in facts
    cache = f"{tmp_path}/cache, is not there yet, can be written (KERNELS_CACHE is set)"
    assert facts["cache"] == cache
    assert facts["CUDA targets"] == "7.5 8.0 9.0+PTX"
    assert facts["torch"].startswith(torch.__version__)
    assert facts["threads"] == f"{torch.get_num_threads()} of {os.cpu_count()} processors"
    monkeypatch.setattr(torch.version, "cuda", None)
    assert dict(doctor.facts())["cuda library"] == "none: the installed torch is one without CUDA"
    status["mode"] = "ref"
    assert dict(doctor.facts())["cpu library"] == "none: KERNELS=ref"


def test_it_repeats_why_a_build_failed(
    status: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources/operator.cpp").touch()
    part = library(tmp_path / "sources")
    monkeypatch.setenv("CXX", str(compiler(tmp_path / "bin/cxx", "echo no header; exit 3")))
    monkeypatch.setitem(doctor._LIBRARIES, "cpu", part)
    with pytest.raises(BuildFailed):
        build(part)
    facts = dict(doctor.facts())
    assert facts["cpu library"].startswith("none: cxx ended with 3: no header; all of it is in ")
    assert facts["C++ compiler"] == f"{tmp_path}/bin/cxx, fake 1.0"


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_it_tells_the_instruction_set_and_what_chose_it(
    status: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources/level.cpp").write_text(LEVEL)
    part = library(tmp_path / "sources")
    status["loaded"] = {"cpu": build(part)}
    facts = dict(doctor.facts())
    assert facts["cpu library"] == str(status["loaded"]["cpu"])
    processor = torch.backends.cpu.get_cpu_capability()
    assert facts["cpu level"] == f"avx2 (the processor has {processor})"
    monkeypatch.setenv("KERNELS_CPU", "avx2")
    assert dict(doctor.facts())["cpu level"] == "avx2 (KERNELS_CPU is set)"


def test_it_tells_for_each_operator_and_device_what_runs(
    status: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = torch.library.Library("kernels", "FRAGMENT")
    for name in ("doctor_with", "doctor_without"):
        held.define(f"{name}(Tensor x) -> Tensor")
        held.impl(name, lambda x: x, "CompositeExplicitAutograd")
    held.impl("doctor_with", lambda x: x, "CPU")
    status["loaded"] = {"cpu": Path("cpu.so")}
    monkeypatch.setattr(doctor, "_level", lambda path: "avx2")
    facts = dict(doctor.facts())
    assert facts["doctor_with"] == "cpu native, cuda reference"
    assert facts["doctor_without"] == "cpu reference, cuda reference"
    status["mode"] = "ref"
    assert dict(doctor.facts())["doctor_with"] == "cpu reference, cuda reference"
    held._destroy()


def test_a_library_that_cannot_be_loaded_is_told_before_an_older_failure(
    status: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    status["missing"] = {"cpu": "x.so cannot be loaded (no); delete it"}
    monkeypatch.setattr(building, "find", lambda part: Path("x.so"))
    monkeypatch.setattr(building, "failure", lambda part: "it does not compile")
    told = "none: x.so cannot be loaded (no); delete it; run `make kernels`"
    assert dict(doctor.facts())["cpu library"] == told


def test_it_ends_well_where_everything_is_missing(
    status: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("KERNELS_CACHE", "/proc/none/kernels")
    absent = replace(library(tmp_path), folder=tmp_path / "absent")
    monkeypatch.setattr(doctor, "_LIBRARIES", {"cpu": absent, "cuda": absent})
    assert doctor.main([]) == 0
    facts = dict(doctor.facts())
    assert facts["C++ compiler"].startswith("none: no C++ compiler is found")
    assert "cannot be written" in facts["cache"] or os.geteuid() == 0
    monkeypatch.setattr(toolchain, "version", lambda path: "")
    assert dict(doctor.facts())["C++ compiler"].startswith("none: ")


def test_arguments_that_it_does_not_know_are_refused() -> None:
    with pytest.raises(SystemExit) as stop:
        doctor.main(["--unknown"])
    assert stop.value.code == 2
