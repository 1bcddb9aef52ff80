"""modulated_conv2d against the definition, sample by sample, and its derivatives."""

import itertools
import random
from functools import partial
from typing import Any

import pytest
import torch
from compared_operators import assert_alike
from torch import Tensor
from torch.nn import functional as F

from kernels import (
    demodulation,
    modulated_conv2d,
    modulated_layer,
    modulation,
    noise_bias_act,
    setup_filter,
    upfirdn2d,
    using,
)

FILTER = setup_filter([1, 3, 3, 1])


def by_definition(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    up: int,
    down: int,
    padding: list[int],
    f: Tensor | None,
    demodulate: bool,
    flip_weight: bool,
) -> Tensor:
    """Equations 1 and 3 of StyleGAN2 for one sample after the other; every step on its own."""
    taps = 1 if f is None else f.shape[-1]
    samples = []
    for image, style in zip(x, styles, strict=True):
        w = weight * style[:, None, None]
        if demodulate:
            w = w / (w.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        w = w if flip_weight else w.flip(2, 3)
        y = image[None]
        x0, x1, y0, y1 = padding
        if up > 1:
            more = ((taps + up - 1) // 2, (taps - up) // 2)
            y0, y1, x0, x1 = y0 + more[0], y1 + more[1], x0 + more[0], x1 + more[1]
        if down > 1:
            more = ((taps - down + 1) // 2, (taps - down) // 2)
            y0, y1, x0, x1 = y0 + more[0], y1 + more[1], x0 + more[0], x1 + more[1]
        filters_first = up > 1 or down > 1
        y = upfirdn2d(y, f if filters_first else None, up=up, padding=[x0, x1, y0, y1], gain=up**2)
        y = F.conv2d(y, w)
        if up > 1 and down > 1:
            y = upfirdn2d(y, f, down=down)
        samples.append(y[:, :, ::down, ::down] if up == 1 else y)
    return torch.cat(samples)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (3, 1), (2, 2)])
def test_it_is_the_definition(
    up: int, down: int, per_sample: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modulation, "weights_per_sample", lambda x, weight, up: per_sample)
    torch.manual_seed(0)
    kernels, paddings = (1, 2, 3), ([1, 1, 1, 1], [0, 0, 0, 0], [1, 2, 0, 1], [2, 0, -1, 2])
    cases = itertools.product(kernels, paddings, (True, False), (True, False), (FILTER, None))
    for size, padding, demodulate, flip_weight, f in cases:
        x = torch.randn(2, 3, 7, 6, dtype=torch.float64)
        weight = torch.randn(4, 3, size, size, dtype=torch.float64)
        styles = torch.randn(2, 3, dtype=torch.float64)
        expected = by_definition(x, weight, styles, up, down, padding, f, demodulate, flip_weight)
        found = modulated_conv2d(
            *(x, weight, styles, None, up, down, padding, f, demodulate, flip_weight)
        )
        note = (size, padding, demodulate, flip_weight, f is None)
        assert found.shape == expected.shape, note
        assert torch.allclose(found, expected, atol=1e-10), note


def test_noise_of_every_shape_is_added() -> None:
    x, weight, styles = torch.randn(2, 3, 8, 8), torch.randn(5, 3, 3, 3), torch.randn(2, 3)
    plain = modulated_conv2d(x, weight, styles, padding=1)
    for shape in ([8, 8], [1, 1, 8, 8], [2, 1, 8, 8], [2, 5, 8, 8], [1, 5, 1, 1]):
        noise = torch.randn(shape)
        found = modulated_conv2d(x, weight, styles, noise, padding=1)
        assert torch.allclose(found, plain + noise, atol=1e-5), shape


def test_a_layer_is_its_two_parts() -> None:
    x, weight, styles = torch.randn(2, 3, 8, 8), torch.randn(5, 3, 3, 3), torch.randn(2, 3)
    b, strength = torch.randn(5), torch.randn(())
    for up, size in ((1, 8), (2, 16)):
        noise = torch.randn(2, 1, size, size)
        how = {"up": up, "padding": 1, "resample_filter": FILTER}
        parts = noise_bias_act(
            modulated_conv2d(x, weight, styles, **how), noise, strength, b, clamp=2.0
        )
        layer = modulated_layer(x, weight, styles, noise, **how, strength=strength, b=b, clamp=2.0)
        assert torch.allclose(layer, parts, atol=1e-5)


def small(*tensors: Tensor, **how: Any) -> Tensor:
    """Scaled down, so that errors relative to 1 are errors relative to the result."""
    return modulated_conv2d(*tensors, **how) * 0.1


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_compiled_agrees_with_the_reference(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rng = random.Random(2)
    for _ in range(40):
        n, up, down = rng.choice([1, 2, 3]), *rng.choice([(1, 1), (2, 1), (1, 2)])
        size, height, width = rng.choice([1, 3]), rng.randint(4, 9), rng.randint(4, 9)
        x = torch.randn(n, 3, height, width, dtype=dtype)
        if rng.random() < 0.5:
            x = x.to(memory_format=torch.channels_last)
        leaves = [x, torch.randn(4, 3, size, size, dtype=dtype), torch.randn(n, 3, dtype=dtype)]
        how = {"up": up, "down": down, "padding": size // 2, "resample_filter": FILTER}
        demodulate = rng.random() < 0.7

        call = partial(small, demodulate=demodulate, **how)

        assert_alike(call, leaves, (n, up, down, size, height, width, demodulate))


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("n", [1, 2])
def test_path_length_gradients_are_numerically_right(n: int) -> None:
    x, weight = torch.randn(n, 2, 4, 3).double(), torch.randn(3, 2, 3, 3).double()
    styles, noise, b = torch.randn(n, 2).double(), torch.randn(n, 1, 4, 3).double(), torch.randn(3)
    leaves = [t.double().requires_grad_() for t in (x, weight, styles, noise, b)]

    def call(x: Tensor, w: Tensor, s: Tensor, noise: Tensor, b: Tensor) -> Tensor:
        return modulated_layer(x, w, s, noise, padding=1, b=b)

    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


def test_unit_variance_is_what_demodulation_leaves() -> None:
    torch.manual_seed(0)
    weight, styles = torch.randn(8, 64, 3, 3), torch.rand(2, 64) * 5 + 0.1
    y = modulated_conv2d(torch.randn(2, 64, 64, 64), weight, styles)
    assert torch.allclose(y.var((2, 3)), torch.ones(2, 8), atol=0.15)


def test_half_precision_does_not_overflow() -> None:
    weight, styles = torch.randn(4, 64, 3, 3) * 50, torch.rand(2, 64) * 900
    x = torch.randn(2, 64, 8, 8).clamp(-2, 2)
    with using("ref"):
        expected = modulated_conv2d(x, weight, styles, padding=1)
        found = modulated_conv2d(x.half(), weight, styles, padding=1)
    assert torch.allclose(found.float(), expected, atol=0.02)


def test_autocast_leaves_the_demodulation_in_float32() -> None:
    weight, styles = torch.randn(4, 64, 3, 3), torch.rand(2, 64)
    expected = demodulation(weight, styles)
    with torch.autocast("cpu", torch.bfloat16):
        found = demodulation(weight, styles)
        y = modulated_conv2d(torch.randn(2, 64, 8, 8), weight, styles, padding=1)
    assert torch.equal(found, expected) and y.dtype == torch.bfloat16


@pytest.mark.usefixtures("compiled")
def test_a_compiled_graph_holds_it() -> None:
    x, weight, styles = torch.randn(2, 3, 8, 8), torch.randn(5, 3, 3, 3), torch.randn(2, 3)
    graph = torch.compile(modulated_layer, fullgraph=True, backend="aot_eager")
    how = {"up": 2, "padding": 1, "resample_filter": FILTER}
    expected = modulated_layer(x, weight, styles, **how)
    assert torch.allclose(graph(x, weight, styles, **how), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("shapes", "how", "message"),
    [
        (([2, 3, 4, 4], [5, 4, 3, 3], [2, 3]), {}, r"x of shape \[2, 3, 4, 4\] and weight"),
        (([2, 3, 4, 4], [5, 3, 3, 3], [2, 4]), {}, r"styles of shape \[2, 4\] do not fit; give"),
        (([2, 3, 4, 4], [5, 3, 3, 3], [2, 3]), {"up": 0}, "up=0, down=1: the factors"),
    ],
)
def test_misuse_is_refused_in_a_sentence(shapes: tuple, how: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        modulated_conv2d(*map(torch.zeros, shapes), **how)
