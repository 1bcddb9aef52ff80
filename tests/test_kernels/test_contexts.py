"""Operators wherever torch may call them: autocast, vmap, inference, tensors without values."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from kernels import (
    bias_act,
    downsample2d,
    modulated_conv2d,
    noise_bias_act,
    setup_filter,
    upfirdn2d_bias_act,
    upsample2d,
    using,
)

BINOMIAL = setup_filter([1, 3, 3, 1])
LINE = setup_filter([1, 3, 3, 1], separable=True)


def modulated(x: Tensor) -> Tensor:
    """Twice the size, with an up-sampling filter made on the way."""
    weight, styles = x.new_ones(4, x.shape[1], 3, 3), x.new_ones(x.shape[:2])
    f = setup_filter([1, 3, 3, 1], device=x.device)
    return modulated_conv2d(x, weight, styles, up=2, padding=1, resample_filter=f)


OPERATIONS = {
    "bias_act": lambda x: bias_act(x, act="lrelu", clamp=0.9),
    "noise_bias_act": lambda x: noise_bias_act(x, x[:1, :1].detach(), 0.3, act="swish"),
    "upsample2d": lambda x: upsample2d(x, BINOMIAL.to(x.device)),
    "downsample2d": lambda x: downsample2d(x, LINE.to(x.device)),
    "upfirdn2d_bias_act": lambda x: upfirdn2d_bias_act(x, BINOMIAL.to(x.device), padding=2),
    "modulated_conv2d": modulated,
}
every_operation = pytest.mark.parametrize("name", OPERATIONS)


@pytest.mark.parametrize("mode", ["ref", "auto"])
@pytest.mark.parametrize("name", ["upsample2d", "downsample2d", "upfirdn2d_bias_act"])
def test_autocast_does_not_round_what_operators_compute(name: str, mode: str) -> None:
    x = torch.randn(1, 3, 16, 16)
    expected = OPERATIONS[name](x)
    with using(mode), torch.autocast("cpu", torch.bfloat16):
        found = OPERATIONS[name](x)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-6)


@every_operation
def test_vmap_is_a_loop(name: str) -> None:
    call, x = OPERATIONS[name], torch.randn(3, 1, 2, 8, 8)
    found = torch.vmap(call)(x)
    assert torch.allclose(found, torch.stack([call(one) for one in x]), atol=1e-5)
    gradients = torch.vmap(torch.func.grad(lambda one: call(one).square().sum()))(x)
    leaf = x.clone().requires_grad_()
    sum(call(one).square().sum() for one in leaf).backward()
    assert torch.allclose(gradients, leaf.grad, atol=1e-4)


@every_operation
def test_inference_mode_and_no_grad_change_no_value(name: str) -> None:
    x = torch.randn(1, 2, 8, 8, requires_grad=True)
    expected = OPERATIONS[name](x)
    for context in (torch.inference_mode(), torch.no_grad()):
        with context:
            found = OPERATIONS[name](x)
        assert not found.requires_grad
        assert torch.equal(found, expected)


@every_operation
def test_tensors_without_values_have_the_shape_of_the_result(name: str) -> None:
    expected = OPERATIONS[name](torch.randn(1, 2, 8, 8))
    bare = OPERATIONS[name](torch.empty(1, 2, 8, 8, device="meta"))
    assert (bare.shape, bare.dtype, bare.device.type) == (expected.shape, expected.dtype, "meta")
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = OPERATIONS[name](torch.randn(1, 2, 8, 8))
    assert (fake.shape, fake.dtype, fake.stride()) == (
        expected.shape,
        expected.dtype,
        expected.stride(),
    )


@every_operation
def test_one_graph_serves_every_size(name: str) -> None:
    graph = torch.compile(OPERATIONS[name], fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for size in (8, 10, 14):
            x = torch.randn(2, 2, size, size + 2, requires_grad=True)
            (expected,) = torch.autograd.grad(OPERATIONS[name](x).square().sum(), x)
            (found,) = torch.autograd.grad(graph(x).square().sum(), x)
            assert torch.allclose(found, expected, atol=1e-4), size
    torch.compiler.reset()


@pytest.mark.usefixtures("compiled")
def test_a_graph_of_gradients_names_the_operators() -> None:
    y = bias_act(torch.ones(2, 3, requires_grad=True), act="relu")
    assert type(y.grad_fn).__name__ == "epilogueBackward"


@pytest.mark.usefixtures("compiled")
def test_a_device_without_compiled_operators_is_told_so() -> None:
    with (
        using("native"),
        pytest.raises(RuntimeError, match=r"no compiled operators for .* on meta"),
    ):
        bias_act(torch.ones(2, 3, device="meta"))


@pytest.mark.usefixtures("compiled")
def test_the_doctor_tells_that_a_level_is_unknown() -> None:
    settings = {**os.environ, "KERNELS_CPU": "avx1024"}
    command = [sys.executable, "-m", "kernels.doctor"]
    done = subprocess.run(command, capture_output=True, text=True, env=settings, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "none: avx1024 is not known; give baseline, avx2 or avx512" in done.stdout


def test_a_filter_that_sums_up_to_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="sums up to 0"):
        setup_filter([1, -1])
