"""The CUDA sources, run on the CPU by `kernels/csrc/emu`, agree with the torch references.

Threads run in several orders, so that a missing barrier shows, and on guarded copies of tensors, so
that a read or write beyond one shows. That this is so is tested first, on planted faults.
"""

import ctypes
import itertools
import math
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import denoising, epilogue_reference, fir, fused_resampling, toolchain
from kernels.curves import CURVES, Options
from kernels.toolchain import BuildFailed

OPERATORS = ["epilogue", "epilogue_backward", "upfirdn2d", "upfirdn2d_epilogue", "non_local_means"]
SOURCES = Path(toolchain.__file__).parent / "csrc"
ORDERS = {"ascending": 0, "descending": -1, "shuffled": 7}
# Of one rounding to the type, beside what an order of summation makes.
ROUNDING = {torch.float32: 2e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}
LAYOUTS = [torch.contiguous_format, torch.channels_last]
FAULTS = {
    "race": None,
    "beyond": "index beyond an array at planted.cu:",
    "shared": "write beyond the shared memory",
    "left": "threads ended before a barrier",
    "apart": "threads wait at different barriers",
    "misaligned": "misaligned access at planted.cu:",
    "wild": "memory outside of every allocation",
    "greedy": None,
}
PLANTED = """
#include "cuda/launch.h"
enum Fault { none, race, beyond, shared, left, apart, misaligned, wild, greedy };
__global__ void reversed(const float* in, float* out, Fault fault) {
  __shared__ float fixed[32];
  DYNAMIC_SHARED(float, dynamic);
  const int i = threadIdx.x;
  fixed[i + (fault == beyond ? 1 : 0)] = in[i];
  dynamic[i + (fault == shared ? 1 : 0)] = 1;
  if (fault == left && i == 3) return;
  if (fault == apart && i == 3)
    __syncthreads();
  else if (fault != race)
    __syncthreads();
  if (fault == misaligned) *reinterpret_cast<float4*>(out + 1) = make_float4(0, 0, 0, 0);
  if (fault == wild) out[1 << 30] = 0;
  out[i] = fixed[31 - i] * dynamic[31 - i] * __syncthreads_count(i % 2);
}
extern "C" int planted(const float* in, float* out, int fault) {
  LAUNCH(reversed, 2, 32, fault == greedy ? 1 << 16 : 128, nullptr, in, out, Fault(fault));
  return cudaGetLastError();
}
"""


@pytest.fixture(scope="module")
def compile_all(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compiles sources at once into one library."""
    try:
        cxx, home = toolchain.find_cxx(), toolchain.find_torch().folder
    except BuildFailed as missing:
        pytest.skip(str(missing))
    common = [cxx, "-O1", "-std=c++17", "-fPIC", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}"]
    device = ["-DKERNELS_EMULATED", "-Wno-unknown-pragmas", "-fno-strict-aliasing", "-x", "c++"]
    device += ["-fsanitize=bounds,alignment"]
    host = [f"-DTORCH_TARGET_VERSION={toolchain.ABI_FLOOR}", "-isystem", f"{home}/include"]

    def compiled(*sources: Path) -> Path:
        folder = tmp_path_factory.mktemp("emulated")
        objects = [folder / f"{source.name}.o" for source in sources]
        running = [
            subprocess.Popen(
                [*common, *(device if s.suffix == ".cu" else host), "-c", s.name, "-o", o],
                cwd=s.parent,
            )
            for s, o in zip(sources, objects, strict=True)
        ]
        assert [process.wait(300) for process in running] == [0] * len(running)
        linked = [cxx, "-shared", *objects, "-o", folder / "library.so"]
        subprocess.run([*linked, f"-L{home}/lib", "-ltorch_cpu"], check=True, timeout=60)
        return folder / "library.so"

    return compiled


@pytest.fixture(scope="module")
def emulated(compile_all: Callable[..., Path]) -> Iterator[SimpleNamespace]:
    """The operators of ``torch.ops.kernels_emulated``, and what sets the order of threads."""
    declared = torch.library.Library("kernels_emulated", "DEF")
    operators = {}
    for name in OPERATORS:
        schema = str(getattr(torch.ops.kernels, name).default._schema)
        declared.define(schema.removeprefix("kernels::"))
        operators[name] = getattr(torch.ops.kernels_emulated, name)
    path = compile_all(*SOURCES.glob("cuda/*.cu"), SOURCES / "emu/bind_emulated.cpp")
    torch.ops.load_library(path)
    yield SimpleNamespace(order=ctypes.CDLL(str(path)).emulation_order, **operators)


@pytest.fixture(scope="module")
def planted(compile_all: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs a kernel that reverses 32 numbers, with a fault in it: error, message and result."""
    source = tmp_path_factory.mktemp("planted") / "planted.cu"
    source.write_text(PLANTED)
    library = ctypes.CDLL(str(compile_all(source)))
    library.emulation_message.restype = ctypes.c_char_p
    sources = torch.arange(32.0)

    def run(fault: str | None, order: int) -> tuple[int, str, bool]:
        out = torch.zeros(64)
        number = 1 + list(FAULTS).index(fault) if fault else 0
        library.emulation_order(order)
        places = (ctypes.c_void_p(t.data_ptr()) for t in (sources, out))
        error = library.planted(*places, number)
        correct = torch.equal(out[:32], sources.flip(0) * 16)
        return error, library.emulation_message().decode(), correct

    return run


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_a_sound_kernel_is_emulated(planted: Any, order: int) -> None:
    error, _, correct = planted(None, order)
    assert (error, correct) == (0, True)


@pytest.mark.parametrize("fault", [fault for fault, text in FAULTS.items() if text])
def test_faults_are_found_and_the_next_launch_is_sound(planted: Any, fault: str) -> None:
    error, message, _ = planted(fault, 0)
    assert error == 719
    assert FAULTS[fault] in message
    assert planted(None, 0)[::2] == (0, True)


def test_a_missing_barrier_shows_in_another_order(planted: Any) -> None:
    assert not all(planted("race", order)[2] for order in ORDERS.values())


def test_a_launch_beyond_the_limits_is_refused(planted: Any) -> None:
    assert planted("greedy", 0)[0] == 9


SHAPES = [
    *((2, 5, 3, 7), (3, 8, 4, 4), (1, 24, 5, 8), (2, 80, 20, 30), (1, 2, 64, 80), (4, 3, 1, 1)),
    *((1, 600, 1, 2), (2, 16, 17, 16), (0, 3, 4, 4), (5, 7), (2, 16), (2, 3, 5, 4, 4)),
]


class Case:
    """Random arguments; a seed is one case."""

    def __init__(self, seed: int, dtype: torch.dtype | None = None) -> None:
        self._draw = random.Random(seed)
        torch.manual_seed(seed)
        self.any = self._draw.choice
        self.order = self.any([*ORDERS.values()])
        self.dtype = dtype or self.any([*ROUNDING])
        self.layout = self.any(LAYOUTS)

    def maybe(self) -> bool:
        return self.any([True, False])

    def images(self, *shape: int) -> Tensor:
        return self.placed(torch.randn(shape).to(self.dtype))

    def placed(self, x: Tensor) -> Tensor:
        """In the layout of the case, at times where vectors are not aligned."""
        x = x.contiguous(memory_format=self.layout) if x.ndim == 4 else x
        shift = self.any([0, 0, 0, 1, 2])
        memory = x.new_empty(x.numel() + shift)
        return torch.as_strided(memory, x.shape, x.stride(), shift).copy_(x)

    def epilogue(self, n: int, c: int, *size: int) -> tuple[epilogue_reference.Sides, Options]:
        """Some of the tensors beside activations of that shape, and an activation."""

        def side(*shape: int) -> Tensor | None:
            return self.placed(torch.randn(shape)) if self.maybe() else None

        noise = side(self.any([1, max(n, 1)]), math.prod(size)) if size else None
        strength = torch.tensor(0.7) if noise is not None and self.maybe() else None
        bounds = [None, 0.8, 256]
        options = Options.checked(self.any([*CURVES]), None, None, self.any(bounds))
        return epilogue_reference.Sides(side(n, c), noise, strength, side(c)), options

    def sampling(self) -> tuple[Tensor, fir.Sampling]:
        """A filter, and what happens around it; results of 16 x 16 pixels are not empty."""
        taps = self.any([[4], [1], [3], [12], [2, 5], [4, 4], [7, 1]])
        up, down = ([self.any([1, 1, 2, 3]), self.any([1, 1, 2, 3])] for _ in range(2))
        padding = [self.any([-2, 0, 1, 3, 9]) for _ in range(4)]
        return torch.rand(taps), fir.Sampling(up, down, padding, self.maybe(), 1.5)


def agrees(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Up to an error relative to each element, or to the largest one of a tensor of sums."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if not found.numel():
        return True
    scale = 1 + expected.double().abs()
    error = (found.double() - expected.double()).abs()
    return bool((error / (scale if scale.ndim > 2 else scale.max())).max() <= tolerance)


@pytest.mark.parametrize("seed", range(100))
def test_epilogue(emulated: SimpleNamespace, seed: int) -> None:
    case = Case(seed)
    x = case.images(*case.any(SHAPES))
    sides, options = case.epilogue(*x.shape)
    emulated.order(case.order)
    y = emulated.epilogue(x, *sides, *options)
    assert y.stride() == x.stride()
    assert agrees(y, epilogue_reference.reference(x, *sides, *options), ROUNDING[case.dtype])


@pytest.mark.parametrize("seed", range(100))
def test_epilogue_backward(emulated: SimpleNamespace, seed: int) -> None:
    case = Case(seed)
    shape = case.any(SHAPES)
    x, dy = case.images(*shape), case.images(*shape)
    sides, options = case.epilogue(*shape)
    from_output = options.sign_tells and sides.scale is None
    kept = case.placed(epilogue_reference.reference(x, *sides, *options)) if from_output else x
    if options.identity and sides.scale is None:
        kept = None
    wanted = (sides.scale, sides.noise, sides.bias)
    sums = [side is not None and case.maybe() for side in wanted]
    arguments = (dy, kept, *sides, *options, from_output, case.maybe(), sums)
    emulated.order(case.order)
    found = emulated.epilogue_backward(*arguments)
    expected = epilogue_reference.backward_reference(*arguments)
    assert found[0].stride() == dy.stride()
    assert agrees(found[0], expected[0], ROUNDING[case.dtype])
    assert all(agrees(*pair, 2e-4) for pair in zip(found[1:], expected[1:], strict=True))


@pytest.mark.parametrize("seed", range(80))
def test_upfirdn2d(emulated: SimpleNamespace, seed: int) -> None:
    case = Case(seed)
    x = case.images(*case.any([(2, 3, 16, 17), (1, 8, 24, 16), (1, 40, 17, 19), (1, 1, 33, 70)]))
    f, sampling = case.sampling()
    emulated.order(case.order)
    y = emulated.upfirdn2d(x, f, *sampling)
    assert y.is_contiguous(memory_format=case.layout)
    assert agrees(y, fir.reference(x, f, *sampling), 4 * ROUNDING[case.dtype])


FACTORS = {"blur": (1, 1), "down2": (1, 2), "up2": (2, 1)}
every_four_taps = pytest.mark.parametrize(
    ("how", "dtype", "layout", "whole"),
    list(itertools.product(FACTORS, ROUNDING, LAYOUTS, [True, False])),
    ids=lambda value: str(value).removeprefix("torch."),
)


def four_taps(
    case: Case, how: str, layout: torch.memory_format, whole: bool
) -> tuple[Tensor, Tensor, fir.Sampling]:
    """For the kernels of four taps along both axes; in vectors where ``whole``."""
    shape = (case.any([1, 2]), case.any([8, 16]), case.any([8, 13, 40]), case.any([16, 32]))
    if not whole:
        shape = (shape[0], 6, shape[2], case.any([0, 17, 31]))
    x = torch.randn(shape).to(case.dtype).contiguous(memory_format=layout)
    if shape[3] and case.maybe():
        x[..., 0] = case.any([math.inf, -math.inf, math.nan])
        x[..., -1, :] = math.inf
    left, top, bottom = (case.any([-1, 0, 1, 2, 3, 7]) for _ in range(3))
    # What is cut or added keeps rows of whole vectors whole.
    padding = [left, 3 - left, top, bottom] if shape[3] else [4, 4, top, bottom]
    (up, down), line = FACTORS[how], torch.rand(4) + 0.1
    f = case.any([line, line.outer(torch.rand(4) + 0.1), torch.rand(4, 4) + 0.1])
    return x, f, fir.Sampling([up, up], [down, down], padding, case.maybe(), 1.5)


@pytest.mark.parametrize("fused", [False, True], ids=["alone", "with an epilogue"])
@every_four_taps
def test_four_taps(
    emulated: SimpleNamespace,
    how: str,
    dtype: torch.dtype,
    layout: torch.memory_format,
    whole: bool,
    fused: bool,
) -> None:
    """Where pixels beside the border are no numbers, too."""
    for seed in range(4):
        case = Case(seed, dtype)
        x, f, sampling = four_taps(case, how, layout, whole)
        arguments = (x, f, *sampling)
        run, reference = emulated.upfirdn2d, fir.reference
        if fused:
            sides, _ = case.epilogue(*x.shape[:2], *sampling.size(x, f))
            act, clamp = case.any(["linear", "relu", "lrelu"]), case.any([None, 0.8, 256])
            arguments += (*sides, *Options.checked(act, None, None, clamp))
            run, reference = emulated.upfirdn2d_epilogue, fused_resampling.reference
        emulated.order(case.order)
        near = 8 * ROUNDING[dtype]
        found, expected = run(*arguments), reference(*arguments)
        torch.testing.assert_close(found, expected, rtol=near, atol=near, equal_nan=True)


def test_lengths_beyond_32_bits_are_left_to_the_other_kernel(emulated: SimpleNamespace) -> None:
    x, f = torch.ones(1, 1, 8, 8), torch.tensor([1.0, 3.0, 3.0, 1.0])
    for padding in ([2**32, 3 - 2**32, 2, 1], [2, 1, 2**32, 3 - 2**32]):
        arguments = (x, f, [1, 1], [1, 1], padding, False, 1.0)
        assert not emulated.upfirdn2d(*arguments).any()


@pytest.mark.parametrize("seed", range(60))
def test_upfirdn2d_epilogue(emulated: SimpleNamespace, seed: int) -> None:
    case = Case(seed)
    x = case.images(*case.any([(2, 3, 16, 17), (1, 8, 16, 16), (1, 20, 17, 19)]))
    f, sampling = case.sampling()
    sides, options = case.epilogue(*x.shape[:2], *sampling.size(x, f))
    arguments = (x, f, *sampling, *sides, *options)
    emulated.order(case.order)
    found = emulated.upfirdn2d_epilogue(*arguments)
    expected = fused_resampling.reference(*arguments)
    assert agrees(found, expected, 4 * ROUNDING[case.dtype])


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("act", CURVES)
def test_every_activation_far_from_zero(emulated: SimpleNamespace, act: str, order: int) -> None:
    end = math.inf if CURVES[act].straight else 300.0
    x = torch.tensor([-end, -200, -90, -20, -1, -1e-3, -0.0, 0, 1e-3, 1, 3, 20, 90, 200])
    x = torch.cat([x, torch.tensor([end, math.nan])]).view(1, 1, 4, 4)
    options = Options.checked(act, None, None, None)
    emulated.order(order)
    expected = epilogue_reference.reference(x, None, None, None, None, *options)
    found = emulated.epilogue(x, None, None, None, None, *options)
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-7, equal_nan=True)


def test_a_block_takes_more_samples_than_a_grid_has_rows(emulated: SimpleNamespace) -> None:
    dy, sums = torch.randn(65540, 1, 1, 2), [False, False, True]
    arguments = (dy, None, None, None, None, torch.zeros(1), *Options.checked("linear", 0, 1, None))
    emulated.order(ORDERS["descending"])
    dx, _, _, dbias = emulated.epilogue_backward(*arguments, False, False, sums)
    assert torch.equal(dx, dy)
    torch.testing.assert_close(dbias, dy.double().sum().float().view(1), rtol=1e-4, atol=1e-2)


def test_the_order_of_threads_does_not_change_a_sum(emulated: SimpleNamespace) -> None:
    dy = torch.randn(2, 40, 30, 20).contiguous(memory_format=torch.channels_last)
    arguments = (dy, None, None, None, None, torch.zeros(40))
    found = []
    for order in ORDERS.values():
        emulated.order(order)
        rest = (*Options.checked("linear", None, None, None), False, False, [False, False, True])
        found.append(emulated.epilogue_backward(*arguments, *rest)[3])
    assert all(torch.equal(one, found[0]) for one in found)


def test_float64_is_refused(emulated: SimpleNamespace) -> None:
    x = torch.zeros(1, 2, 3, 4, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="error 1"):
        emulated.epilogue(x, None, None, None, None, *Options.checked("relu", None, None, None))


@pytest.mark.parametrize(
    ("shape", "patch_size", "patch_distance", "dtype", "layout"),
    [
        ((1, 1, 5, 7), 3, 2, torch.float32, torch.contiguous_format),
        ((2, 3, 33, 40), 5, 3, torch.float32, torch.channels_last),
        ((1, 11, 9, 34), 3, 1, torch.bfloat16, torch.contiguous_format),
        ((1, 2, 1, 3), 7, 4, torch.float16, torch.contiguous_format),
    ],
)
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_non_local_means(
    emulated: SimpleNamespace,
    shape: tuple[int, ...],
    patch_size: int,
    patch_distance: int,
    dtype: torch.dtype,
    layout: torch.memory_format,
    order: int,
) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    x = x.contiguous(memory_format=layout)
    emulated.order(order)
    arguments = (x, patch_size, patch_distance, 0.3, 0.05)
    found = emulated.non_local_means(*arguments)
    assert agrees(found, denoising.reference(*arguments), 4 * ROUNDING[dtype])


def test_patches_beyond_the_shared_memory_are_refused(emulated: SimpleNamespace) -> None:
    for size in (251, 65487):  # of the latter, 32 bits would make 304 bytes
        with pytest.raises(RuntimeError, match=r"error [19]:"):
            emulated.non_local_means(torch.ones(1, 1, 2, 2), size, 50, 0.3, 0.0)
