"""`make kernels-check-cuda` passes on the product and fails on what it is there to find."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kernels import cuda_check, toolchain
from kernels.build import BuildFailed, Unit
from tiny_operator import library

try:
    toolchain.find_nvcc()
    WHY = ""
except BuildFailed as missing:
    WHY = str(missing)
needs_nvcc = pytest.mark.skipif(bool(WHY), reason=WHY)

KERNEL = """
#include <cuda_runtime.h>
template <class T> __global__ void twice(T* x) {
  __shared__ T tile[32];
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = 2 * tile[31 - threadIdx.x];
}
extern "C" int twice_cuda(float* x, void* stream) {
  twice<float><<<1, 32, 0, static_cast<cudaStream_t>(stream)>>>(x);
  return cudaGetLastError();
}
"""
BINDING = """
#include <torch/csrc/stable/library.h>
extern "C" int twice_cuda(float* x, void* stream);
static int64_t twice(int64_t x) { return twice_cuda(reinterpret_cast<float*>(x), nullptr); }
STABLE_TORCH_LIBRARY(check_test, m) { m.def("twice(int x) -> int"); }
STABLE_TORCH_LIBRARY_IMPL(check_test, CUDA, m) { m.impl("twice", TORCH_BOX(&twice)); }
"""
# Sixty-four values at once, where the launch bounds leave room for thirty-two.
SPILLS = """
__global__ void __launch_bounds__(1024, 2) spills(float* x) {
  float v[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) v[i] = x[i * 1024 + threadIdx.x];
  for (int k = 0; k < 64; ++k) {
#pragma unroll
    for (int i = 0; i < 64; ++i) v[i] = v[i] * v[(i + 7) % 64] + v[(i * 3 + 1) % 64];
  }
#pragma unroll
  for (int i = 0; i < 64; ++i) x[i * 1024 + threadIdx.x] = v[i];
}
"""


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., int]:
    """Checks a kernel and its binding with something planted in them."""

    def call(kernel: str = "", binding: str = "") -> int:
        (tmp_path / "cuda").mkdir()
        (tmp_path / "cuda/twice.cu").write_text(KERNEL + kernel)
        (tmp_path / "bind_cuda.cpp").write_text(BINDING + binding)
        units = (Unit("cuda/*.cu"), Unit("bind_cuda.cpp"))
        return cuda_check.check(library(tmp_path, units=units, cuda=True))

    return call


@pytest.mark.slow
@needs_nvcc
def test_the_cuda_operators_pass(capfd: pytest.CaptureFixture) -> None:
    code = cuda_check.main([])
    said = capfd.readouterr()
    assert code == 0, said.err[-3000:]
    assert "passed: no warnings, no spills, at most 128 registers" in said.out


@needs_nvcc
def test_what_is_well_made_passes_with_a_line_for_each_kernel_and_card(
    check: Callable[..., int], capfd: pytest.CaptureFixture
) -> None:
    assert check() == 0
    head, *rows, last = capfd.readouterr().out.splitlines()
    assert head.split() == ["registers", "spilled", "shared", "card", "source", "kernel"]
    cells = [row.split(maxsplit=5) for row in rows]
    assert [row[1:5] for row in cells] == [
        ["0", "128", card, "cuda/twice.cu"] for card in ("sm_80", "sm_90")
    ]
    assert all(0 < int(row[0]) < 128 and "twice" in row[5] for row in cells)
    assert last.startswith("kernels-check-cuda: passed")


PLANTED = {
    "a warning of nvcc": ({"kernel": "__global__ void k() { int unused; }"}, "never referenced"),
    "a warning of g++": ({"kernel": "int f(int unused) { return 2; }"}, "unused parameter"),
    "a warning in the binding": ({"binding": "static int f() { return 2; }"}, "unused-function"),
    "an error": ({"kernel": "int f() { return undeclared; }"}, "undeclared"),
    "spills": ({"kernel": SPILLS}, "bytes; keep fewer values at once"),
    "a foreign symbol": (
        {"binding": "namespace c10 { int f(); }\nint g() { return c10::f(); }"},
        "_ZN3c101fEv: is not allowed; call the stable interface of torch instead",
    ),
}


@needs_nvcc
@pytest.mark.parametrize("planted", PLANTED)
def test_it_fails_on_what_it_is_there_to_find(
    planted: str, check: Callable[..., int], capfd: pytest.CaptureFixture
) -> None:
    parts, sentence = PLANTED[planted]
    assert check(**parts) == 1
    said = capfd.readouterr()
    assert sentence in said.err and "passed" not in said.out
    assert said.err.splitlines()[-1].startswith("error[1]: ")


@needs_nvcc
def test_it_fails_beyond_the_budget_of_registers(
    check: Callable[..., int], capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_check, "MAX_REGISTERS", 4)
    assert check() == 1
    first, second = capfd.readouterr().err.splitlines()
    assert "cuda/twice.cu: " in first and "registers of 4; keep fewer values at once" in first
    assert "sm_80" in first and "sm_90" in second


def test_without_nvcc_it_says_why_it_is_skipped(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    def missing() -> str:
        raise BuildFailed("no nvcc is found; install it or set CUDA_HOME")

    monkeypatch.setattr(toolchain, "find_nvcc", missing)
    assert cuda_check.main([]) == 0
    told = "kernels-check-cuda: skipped, no nvcc is found; install it or set CUDA_HOME\n"
    assert capfd.readouterr() == (told, "")


def test_what_the_assembler_says_is_read() -> None:
    said = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z5twicePf' for 'sm_80'
ptxas info    : Function properties for _Z5twicePf
    8 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Function properties for _Z5innerf
    0 bytes stack frame, 1 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 30 registers, used 1 barriers, 128 bytes smem, 364 bytes cmem[0]
ptxas info    : Compiling entry function '_Z5twicePf' for 'sm_90'
ptxas info    : Used 9 registers, used 0 barriers
"""
    first, second = cuda_check.kernels_in(said, "a.cu")
    assert first == cuda_check.Kernel("a.cu", "_Z5twicePf", "sm_80", 30, 13, 128)
    assert (second.gpu, second.registers, second.spilled, second.shared) == ("sm_90", 9, 0, 0)
