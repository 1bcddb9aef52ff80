"""upfirdn2d_bias_act: the two operators after one another, and compiled code against these."""

import random

import pytest
import torch
from compared_operators import STEPS, assert_alike, image
from torch import Tensor

from kernels import noise_bias_act, setup_filter, upfirdn2d, upfirdn2d_bias_act, using
from kernels.curves import CURVES

BINOMIAL = setup_filter([1, 3, 3, 1])
# What is rounded in between may differ by one step, which scale and gain then enlarge.
MORE_STEPS = tuple(2 * steps for steps in STEPS)


def random_call(rng: random.Random, dtype: torch.dtype) -> tuple | None:
    """A function of its leaves, the leaves, and a note; None where no pixel is left."""
    x = image(rng, dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    f = rng.choice([BINOMIAL, BINOMIAL, torch.randn(3, 4), torch.randn(5)])
    use = {"up": rng.choice([1, 2, [1, 2]]), "down": rng.choice([1, 1, 2]), "fir_gain": 2.0}
    use |= {"padding": [rng.randint(-1, 5) for _ in range(4)], "flip_filter": rng.random() < 0.5}
    resampling = {name: value for name, value in use.items() if name != "fir_gain"}
    try:
        size = upfirdn2d(x, f, **resampling).shape[2:]
    except ValueError:
        return None
    n, c = x.shape[:2]
    shapes = {"noise": [rng.choice([1, n]), 1, *size], "strength": [], "b": [c], "scale": [n, c]}
    names = [name for name in shapes if rng.random() < 0.6]
    sides = [torch.randn(shapes[name], dtype=wide) for name in names]
    curve = {"act": rng.choice([*CURVES, "lrelu", "lrelu"]), "clamp": rng.choice([None, None, 0.8])}

    def call(x: Tensor, *given: Tensor) -> Tensor:
        return upfirdn2d_bias_act(x, f, **use, **dict(zip(names, given, strict=True)), **curve)

    return call, [x, *sides], (dtype, tuple(x.shape), x.stride(), use, names, curve)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_compiled_agrees_with_the_reference(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rng, tried = random.Random(2), 0
    while tried < 80:
        if found := random_call(rng, dtype):
            assert_alike(*found, MORE_STEPS)
            tried += 1


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_compiled_agrees_on_lines_and_channels_of_whole_vectors(
    layout: torch.memory_format, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    for up in (1, 2):
        x = torch.randn(1, 32, 17, 64).to(dtype).to(memory_format=layout)
        noise, b = torch.randn(1, 1, 17 * up, 64 * up), torch.randn(32)

        def call(x: Tensor, noise: Tensor, b: Tensor, up: int = up) -> Tensor:
            return upfirdn2d_bias_act(x, BINOMIAL, up, 1, [2, 1, 2, 1], noise=noise, b=b)

        assert_alike(call, [x, noise, b], up, MORE_STEPS)


@pytest.mark.parametrize("mode", ["ref", "auto"])
def test_it_is_one_operator_after_the_other(mode: str) -> None:
    x, b = torch.randn(2, 3, 9, 8), torch.randn(3)
    noise, scale, strength = torch.randn(2, 1, 18, 16), torch.randn(2, 3), torch.tensor(0.3)
    leaves = [t.requires_grad_() for t in (x, noise, strength, b, scale)]
    with using(mode):
        fused = upfirdn2d_bias_act(
            x,
            BINOMIAL,
            2,
            1,
            [2, 1, 2, 1],
            fir_gain=4.0,
            noise=noise,
            strength=strength,
            b=b,
            clamp=0.9,
            scale=scale,
        )
        y = upfirdn2d(x, BINOMIAL, 2, 1, [2, 1, 2, 1], gain=4.0)
        apart = noise_bias_act(y, noise, strength, b, clamp=0.9, scale=scale)
    assert torch.allclose(fused, apart, atol=1e-6)
    found, expected = (torch.autograd.grad(y.square().sum(), leaves) for y in (fused, apart))
    for f, e in zip(found, expected, strict=True):
        assert torch.allclose(f, e, atol=1e-4)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("act", ["lrelu", "swish"])
def test_gradients_are_numerically_right(act: str) -> None:
    x = torch.randn(2, 3, 3, 2, dtype=torch.float64)
    sides = [torch.randn(s, dtype=torch.float64) for s in ([2, 1, 6, 4], [], [3], [2, 3])]
    leaves = [t.requires_grad_() for t in (x, *sides)]

    def call(x: Tensor, noise: Tensor, strength: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        sides = {"noise": noise, "strength": strength, "b": b, "scale": scale}
        return upfirdn2d_bias_act(x, BINOMIAL, 2, 1, [2, 1, 2, 1], **sides, act=act, clamp=1.7)

    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


@pytest.mark.usefixtures("compiled")
def test_opcheck() -> None:
    x = torch.randn(2, 3, 4, 5)
    sides = (torch.randn(2, 3), torch.randn(1, 80), torch.randn(()), torch.randn(3))
    sides = tuple(side.requires_grad_() for side in sides)
    sampling = ([2, 2], [1, 1], [2, 1, 2, 1], False, 4.0)
    for given in (sides, (None, None, None, sides[3])):
        for laid in (x, x.to(memory_format=torch.channels_last)):
            leaf = laid.clone().requires_grad_()
            rest = (*sampling, *given, 1, 2, 0.2, 1.4, 0.8)
            torch.library.opcheck(torch.ops.kernels.upfirdn2d_epilogue, (leaf, BINOMIAL, *rest))


@pytest.mark.parametrize("mode", ["ref", "auto"])
def test_a_compiled_graph_holds_the_operator(mode: str) -> None:
    x, b = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(3, requires_grad=True)

    def layer(x: Tensor, b: Tensor) -> Tensor:
        return upfirdn2d_bias_act(x, BINOMIAL, 2, 1, [2, 1, 2, 1], b=b).square().mean()

    with using(mode):
        expected = torch.autograd.grad(layer(x, b), [x, b])
        graph = torch.compile(layer, fullgraph=True, backend="aot_eager")
        found = torch.autograd.grad(graph(x, b), [x, b])
    assert all(torch.allclose(e, f, atol=1e-6) for e, f in zip(expected, found, strict=True))


def test_a_side_that_fits_the_input_only_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise of shape \[1, 1, 4, 4\] is not of shape"):
        upfirdn2d_bias_act(
            torch.zeros(1, 2, 4, 4), BINOMIAL, 2, 1, [2, 1, 2, 1], noise=torch.zeros(1, 1, 4, 4)
        )
