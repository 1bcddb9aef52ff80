"""What operators do at the edges: transforms, infinities, odd shapes, threads, raw misuse."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
import torch
from compared_operators import assert_alike, derivatives

from kernels import (
    bias_act,
    modulated_conv2d,
    noise_bias_act,
    setup_filter,
    upfirdn2d,
    upfirdn2d_bias_act,
    upsample2d,
    using,
)
from kernels.registry import status

BINOMIAL = setup_filter([1, 3, 3, 1])
OPS = torch.ops.kernels


@pytest.mark.parametrize(
    "call",
    [
        lambda x: bias_act(x, act="swish"),
        lambda x: upsample2d(x, BINOMIAL),
        lambda x: upfirdn2d_bias_act(x, BINOMIAL, padding=2),
    ],
)
def test_forward_mode_derivatives_are_not_lost(call: Callable) -> None:
    x, v = torch.randn(2, 1, 2, 5, 6, dtype=torch.float64)
    _, tangent = torch.func.jvp(call, (x,), (v,))
    step = 1e-6
    assert torch.allclose(
        tangent, (call(x + step * v) - call(x - step * v)) / (2 * step), atol=1e-6
    )
    assert torch.allclose(
        torch.func.grad(lambda x: call(x).sum())(x),
        torch.autograd.grad(call(x.requires_grad_()).sum(), x)[0],
    )


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("act", "clamp"),
    [
        ("linear", None),
        ("linear", 0.9),
        ("lrelu", None),
        ("lrelu", 0.9),
        ("tanh", None),
        ("swish", None),
    ],
)
def test_infinities_and_nan_have_the_gradients_of_the_reference(
    act: str, dtype: torch.dtype, clamp: float | None
) -> None:
    values = [float("inf"), -float("inf"), float("nan"), 1.0]
    x, scale = torch.tensor(values, dtype=dtype).view(1, 1, 2, 2), torch.tensor([[2.0]])
    for sides in ({}, {"scale": scale}):
        found = [
            derivatives(mode, lambda x, s=sides: noise_bias_act(x, act=act, clamp=clamp, **s), [x])
            for mode in ("ref", "native")
        ]
        for expected, got in zip(found[0][:2], found[1][:2], strict=True):
            assert torch.allclose(expected.float(), got.float(), rtol=1e-2, equal_nan=True), sides


@pytest.mark.parametrize("mode", ["ref", "auto"])
def test_curves_near_zero_and_far_below(mode: str) -> None:
    x = torch.tensor([-1e-8, -1e-5, -0.009, -0.011, -20.0])
    with using(mode):
        assert torch.allclose(bias_act(x, act="elu"), torch.expm1(x), rtol=1e-5, atol=0)
        assert bias_act(torch.tensor([-3e38]), act="swish").abs() == 0


def test_float16_autocast_does_not_overflow() -> None:
    x, weight = torch.randn(2, 64, 8, 8), torch.randn(8, 64, 3, 3) * 40
    styles = torch.randn(2, 64) * 40
    with torch.autocast("cpu", torch.float16):
        y = modulated_conv2d(x, weight, styles, padding=1)
    expected = modulated_conv2d(x, weight, styles, padding=1)
    assert torch.allclose(y.float(), expected, atol=0.02)


def test_a_channel_of_zeros_stays_one_in_float16() -> None:
    weight = torch.randn(3, 2, 3, 3)
    weight[1] = 0
    styles = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    y = modulated_conv2d(torch.randn(2, 2, 5, 5).half(), weight, styles, padding=1)
    assert not y[:, 1].any() and not y[1].any() and y.isfinite().all()


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("samples", [0, 1, 2])
def test_the_layout_is_that_of_the_image(samples: int, up: int) -> None:
    x = torch.randn(samples, 3, 32, 32).to(memory_format=torch.channels_last)
    y = modulated_conv2d(x, torch.randn(5, 3, 3, 3), torch.randn(samples, 3), up=up, padding=1)
    assert y.shape == (samples, 5, 32 * up, 32 * up)
    assert not samples or y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "shape", [[1, 1, 1, 1], [2, 1, 1, 1], [8], [1, 8], [], [2, 1, 8, 1], [8, 8], [2, 5, 8, 8]]
)
def test_noise_broadcasts(shape: list[int]) -> None:
    x, w, styles = torch.randn(2, 3, 8, 8), torch.randn(5, 3, 3, 3), torch.randn(2, 3)
    noise = torch.randn(shape)
    found = modulated_conv2d(x, w, styles, noise, padding=1)
    assert torch.allclose(found, modulated_conv2d(x, w, styles, padding=1) + noise, atol=1e-5)


def test_images_of_whole_numbers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"convert it by .float\(\)"):
        modulated_conv2d(torch.ones(1, 2, 4, 4).int(), torch.ones(1, 2, 1, 1), torch.ones(1, 2))


@pytest.mark.usefixtures("compiled")
def test_activations_without_pixels_of_their_own() -> None:
    leaves = [torch.randn(s) for s in ([2, 3], [2, 1], [], [3])]
    assert_alike(lambda *given: noise_bias_act(*given), leaves)


@pytest.mark.usefixtures("compiled")
def test_sums_over_everything_do_not_depend_on_threads() -> None:
    x = torch.randn(8, 128, 64, 64).to(memory_format=torch.channels_last)
    noise, before, found = torch.randn(8, 1, 64, 64), torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        strength = torch.tensor(0.5, requires_grad=True)
        found.append(torch.autograd.grad(noise_bias_act(x, noise, strength).sum(), strength)[0])
    torch.set_num_threads(before)
    assert torch.equal(*found)


def test_modes_of_threads_that_overlap_end() -> None:
    before, entered, leave = status()["mode"], threading.Event(), threading.Event()

    def long() -> None:
        with using("auto"):
            entered.set()
            leave.wait(10)

    with using("ref"):
        thread = threading.Thread(target=long)
        thread.start()
        entered.wait(10)
    leave.set()
    thread.join()
    assert status()["mode"] == before


@pytest.mark.usefixtures("compiled")
def test_transforms_are_refused_where_compiled_code_must_run() -> None:
    x = torch.randn(1, 2, 5, 6)
    with using("native"), pytest.raises(RuntimeError, match=r"torch\.func and .*; use auto"):
        torch.func.jvp(bias_act, (x,), (x,))


IMAGE = torch.randn(1, 2, 6, 6)
LAST = IMAGE.to(memory_format=torch.channels_last)
PLAIN = (1, 0, 0.0, 1.0, -1.0)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    "call",
    [
        lambda: OPS.epilogue(IMAGE, None, None, None, None, 1, 77, 0.0, 1.0, -1.0),
        lambda: OPS.epilogue(IMAGE, None, None, None, None, 9, 0, 0.0, 1.0, -1.0),
        lambda: OPS.epilogue_backward(
            IMAGE, *[None] * 5, 1, 2, 0.2, 1.0, -1.0, False, False, [False] * 3
        ),
        lambda: OPS.epilogue_backward(
            IMAGE, IMAGE[:, :1], *[None] * 4, *PLAIN, False, False, [0] * 3
        ),
        lambda: OPS.upfirdn2d(IMAGE, BINOMIAL, [1, 1], [0, 1], [2, 2, 2, 2], False, 1.0),
        lambda: OPS.upfirdn2d(IMAGE, BINOMIAL, [1], [1, 1], [2, 2, 2, 2], False, 1.0),
        lambda: OPS.upfirdn2d(IMAGE, BINOMIAL, [1, 1], [1, 1], [2, 2], False, 1.0),
        lambda: OPS.upfirdn2d(IMAGE, BINOMIAL.double(), [1, 1], [1, 1], [2] * 4, False, 1.0),
        lambda: OPS.upfirdn2d(IMAGE, BINOMIAL[None], [1, 1], [1, 1], [2] * 4, False, 1.0),
        lambda: OPS.upfirdn2d_epilogue(
            *(IMAGE, BINOMIAL, [1, 1], [1, 1], [2] * 4, False, 1.0),
            *(None, None, None, torch.zeros(1), 0, 2, 0.2, 1.0, -1.0),
        ),
        lambda: OPS.epilogue(LAST, None, None, None, torch.zeros(6), 2, 0, 0.0, 1.0, -1.0),
        lambda: OPS.epilogue_backward(
            *(IMAGE, IMAGE, torch.ones(1, 2), None, None, None),
            *(1, 2, 0.2, 1.0, -1.0, True, True, [False] * 3),
        ),
        lambda: OPS.epilogue_backward(
            *(IMAGE, IMAGE, *[None] * 4, 1, 8, 0.0, 1.0, -1.0, True, False, [False] * 3)
        ),
        lambda: OPS.non_local_means(IMAGE, 0, 3, 0.1, 0.0),
        lambda: OPS.non_local_means(IMAGE, 2, 3, 0.1, 0.0),
    ],
)
def test_raw_operators_refuse_what_they_would_misread(call: Callable) -> None:
    with pytest.raises(RuntimeError):
        call()


def test_a_filter_gets_no_gradient() -> None:
    f = BINOMIAL.clone().requires_grad_()
    for mode in ("ref", "auto"):
        with using(mode):
            assert not upfirdn2d(IMAGE, f, padding=2).requires_grad


@pytest.mark.usefixtures("compiled")
def test_an_unknown_level_is_refused() -> None:
    code = "import torch; from kernels import bias_act; bias_act(torch.ones(2, 2), act='relu')"
    done = _python(code, KERNELS_CPU="avx1024")
    assert done.returncode == 1
    assert "KERNELS_CPU=avx1024: is not known; give baseline, avx2 or avx512" in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("level", ["baseline", "avx2"])
def test_the_other_levels_agree_with_the_reference(level: str) -> None:
    done = _python(_TESTS.format("agrees"), KERNELS_CPU=level)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.usefixtures("compiled")
def test_results_beyond_the_caches_are_written_around_them() -> None:
    done = _python(_TESTS.format("agrees_on"), KERNELS_STREAM_FROM="1")
    assert done.returncode == 0, done.stdout[-2000:]


_TESTS = "import pytest, sys; sys.exit(pytest.main(['-q', '-k', '{}', 'tests/test_kernels']))"


def _python(code: str, **settings: str) -> subprocess.CompletedProcess:
    how = {"capture_output": True, "text": True, "env": {**os.environ, **settings}, "timeout": 600}
    return subprocess.run([sys.executable, "-c", code], **how)
