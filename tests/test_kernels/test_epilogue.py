"""bias_act and noise_bias_act: the reference against torch, compiled code against the reference."""

import random
from collections.abc import Callable

import pytest
import torch
from compared_operators import assert_alike, derivatives, image
from torch import Tensor
from torch.nn import functional as F

from kernels import bias_act, noise_bias_act, using
from kernels.curves import CURVES, Options
from kernels.epilogue import accumulated
from kernels.epilogue_reference import Sides

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
BY_TORCH = {
    "linear": lambda v: v,
    "relu": F.relu,
    "lrelu": lambda v: F.leaky_relu(v, 0.2),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "elu": F.elu,
    "selu": F.selu,
    "softplus": F.softplus,
    "swish": F.silu,
}


def random_call(rng: random.Random, dtype: torch.dtype) -> tuple:
    """A random use of noise_bias_act: a function of its leaves, the leaves, and a note."""
    x = image(rng, dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    n, c, h, w = x.shape
    shapes = {"noise": [rng.choice([1, n]), 1, h, w], "strength": [], "b": [c], "scale": [n, c]}
    names = [name for name in shapes if rng.random() < 0.6]
    sides = [torch.randn(shapes[name], dtype=wide) for name in names]
    act = rng.choice(list(CURVES))
    options = {
        "act": act,
        "alpha": rng.choice([None, 0.0, 0.1, -0.3]),
        "gain": rng.choice([None, 1.0, 0.7, -1.3]),
        "clamp": rng.choice([None, None, 0.5, 1.3]),
    }

    def call(x: Tensor, *given: Tensor) -> Tensor:
        return noise_bias_act(x, **dict(zip(names, given, strict=True)), **options)

    return call, [x, *sides], (dtype, tuple(x.shape), x.stride(), names, options)


@pytest.mark.parametrize("act", CURVES)
def test_the_reference_is_what_torch_computes(act: str) -> None:
    x, b = torch.randn(2, 3, 5, 7, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    with using("ref"):
        y = bias_act(x, b, act=act, gain=1.5)
    assert torch.allclose(y, BY_TORCH[act](x + b[:, None, None]) * 1.5, atol=1e-14)


@pytest.mark.parametrize("act", CURVES)
def test_slopes_are_the_derivatives_of_the_activations(act: str) -> None:
    v = torch.randn(50, dtype=torch.float64, requires_grad=True)
    (derivative,) = torch.autograd.grad(CURVES[act].value(v, 0.2).sum(), v)
    assert torch.allclose(CURVES[act].slope(v, 0.2), derivative, atol=1e-14)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", DTYPES)
def test_compiled_agrees_with_the_reference(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rng = random.Random(1)
    for _ in range(100):
        call, leaves, note = random_call(rng, dtype)
        assert_alike(call, leaves, note)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4), (2, 3, 4, 5), (1, 2, 3, 2, 3), (0, 3)])
def test_a_bias_may_belong_to_any_dimension(shape: tuple[int, ...]) -> None:
    for dim in range(-len(shape), len(shape)):
        x, b = torch.randn(shape), torch.randn(shape[dim])
        layouts = [x, x.to(memory_format=torch.channels_last)] if x.ndim == 4 else [x]
        for laid in layouts:
            assert_alike(lambda x, b, d=dim: bias_act(x, b, d, "lrelu", clamp=0.9), [laid, b], dim)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_agrees_on_large_planes_and_many_channels(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for shape in ((1, 3, 130, 97), (2, 700, 9, 5), (1, 2100, 3, 3)):
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(shape).to(dtype).to(memory_format=layout)
            sides = [torch.randn(1, 1, *shape[2:]), torch.randn(()), torch.randn(shape[1])]
            scale = torch.randn(shape[:2])
            assert_alike(
                lambda x, n, s, b, d: noise_bias_act(x, n, s, b, scale=d), [x, *sides, scale], shape
            )


@pytest.mark.usefixtures("compiled")
def test_a_second_derivative_by_the_scale_is_rounded_once() -> None:
    x, dy = torch.randn(2, 2, 3, 8, 8).bfloat16()
    scale, weights = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3)
    dy.requires_grad_()
    with using("native"):
        y = noise_bias_act(x, act="linear", scale=scale)
        (dscale,) = torch.autograd.grad(y, scale, dy, create_graph=True)
        (found,) = torch.autograd.grad(dscale, dy, weights)
    torch.testing.assert_close(found.float(), x * weights[..., None, None], rtol=2**-8, atol=0)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("act", CURVES)
def test_gradients_are_numerically_right(act: str) -> None:
    x = torch.randn(2, 3, 3, 2, dtype=torch.float64)
    sides = [torch.randn(s, dtype=torch.float64) for s in ([2, 1, 3, 2], [], [3], [2, 3])]
    leaves = [t.requires_grad_() for t in (x, *sides)]

    def call(x: Tensor, noise: Tensor, strength: Tensor, b: Tensor, scale: Tensor) -> Tensor:
        return noise_bias_act(x, noise, strength, b, act=act, clamp=1.7, scale=scale)

    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("act", ["lrelu", "swish"])
def test_opcheck(act: str) -> None:
    options = Options.checked(act, None, None, 0.8)
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    sides = Sides(torch.randn(2, 3), torch.randn(1, 20), torch.randn(()), torch.randn(3))
    for given in (Sides(bias=sides.bias), sides):
        given = Sides(*(s if s is None else s.requires_grad_() for s in given))
        for laid in (x, x.detach().to(memory_format=torch.channels_last).requires_grad_()):
            torch.library.opcheck(torch.ops.kernels.epilogue, (laid, *given, *options))
            kept = laid.detach()
            rest = (*options, False, True, [s is not None for s in (given[0], given[2], given[3])])
            torch.library.opcheck(
                torch.ops.kernels.epilogue_backward,
                (torch.randn_like(laid).requires_grad_(), kept, *given, *rest),
            )


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    "bias", [torch.ones(1).expand(3), torch.ones(3).double(), torch.ones(4), torch.ones(0)]
)
def test_compiled_code_refuses_what_it_would_misread(bias: Tensor) -> None:
    options = Options.checked("linear", None, None, None)
    with pytest.raises(RuntimeError, match="must be contiguous"):
        torch.ops.kernels.epilogue(torch.randn(2, 3, 4, 5), None, None, None, bias, *options)


@pytest.mark.usefixtures("compiled")
def test_a_compiled_graph_holds_the_operators() -> None:
    x, b = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(3, requires_grad=True)

    def layer(x: Tensor, b: Tensor) -> Tensor:
        return bias_act(x, b, act="lrelu", clamp=0.9).square().mean()

    expected = torch.autograd.grad(layer(x, b), [x, b])
    graph = torch.compile(layer, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(graph(x, b), [x, b])
    assert all(torch.allclose(e, f, atol=1e-6) for e, f in zip(expected, found, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["ref", "auto"])
def test_inductor_compiles_it(mode: str) -> None:
    x, b = torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(3, requires_grad=True)
    with using(mode):
        graph = torch.compile(lambda x, b: bias_act(x, b, act="swish"), fullgraph=True)
        graph(x, b).sum().backward()
    (expected,) = torch.autograd.grad((F.silu(x + b[:, None, None]) * 2**0.5).sum(), [x])
    assert torch.allclose(x.grad, expected, atol=1e-5)


@pytest.mark.usefixtures("compiled")
def test_the_number_of_threads_does_not_matter() -> None:
    x, b, noise = torch.randn(3, 20, 64, 64), torch.randn(20), torch.randn(3, 1, 64, 64)
    strength = torch.randn(())
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        for laid in (x, x.to(memory_format=torch.channels_last)):
            leaves = [laid, noise, strength, b]
            found.append(derivatives("native", lambda *given: noise_bias_act(*given), leaves))
    torch.set_num_threads(before)
    for one, other in ((0, 2), (0, 4), (1, 3), (1, 5)):
        pairs = zip(found[one], found[other], strict=True)
        assert all(p is None or torch.equal(p, q) for p, q in pairs)


@pytest.mark.usefixtures("compiled")
def test_derivatives_of_third_order() -> None:
    x = torch.randn(6, dtype=torch.float64, requires_grad=True)
    found = []
    for mode in ("ref", "native"):
        with using(mode):
            y = bias_act(x, act="swish").sum()
            for _ in range(3):
                (y,) = torch.autograd.grad(y, x, create_graph=True)
                y = y.sum()
            found.append(y.detach())
    assert torch.allclose(*found, atol=1e-12)


@pytest.mark.parametrize("mode", ["ref", "auto"])
def test_nan_stays_and_the_bound_holds(mode: str) -> None:
    x = torch.tensor([float("nan"), 1e30, -1e30, 0.25, -0.5])
    with using(mode):
        for act in CURVES:
            y = bias_act(x, act=act, clamp=0.75)
            assert y[0].isnan() and y[1:].abs().max() <= 0.75, act


@pytest.mark.parametrize("mode", ["ref", "auto"])
def test_under_autocast_the_type_is_that_of_the_input(mode: str) -> None:
    b = torch.randn(3, requires_grad=True)
    with using(mode), torch.autocast("cpu", torch.bfloat16):
        x = F.conv2d(torch.randn(1, 2, 8, 8), torch.randn(3, 2, 3, 3))
        y = bias_act(x, b, act="lrelu")
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert b.grad.dtype == torch.float32


def test_side_inputs_are_combined_in_the_accumulation_type() -> None:
    sides = Sides(bias=torch.randn(3, dtype=torch.bfloat16))
    assert accumulated(sides, torch.empty(1, 3, dtype=torch.bfloat16)).bias.dtype == torch.float32
    assert accumulated(sides, torch.empty(1, 3, dtype=torch.float64)).bias.dtype == torch.float64


X = torch.zeros(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bias_act(X, act="gelu"), "act='gelu': is not known; give one of linear"),
        (lambda: bias_act(X, clamp=-1), "clamp=-1: is negative"),
        (lambda: bias_act(X, torch.zeros(4)), r"b of shape \[4\] does not fit dim 1"),
        (lambda: bias_act(X, torch.zeros(3), dim=4), "does not fit dim 4"),
        (lambda: bias_act(X.int()), "convert it by .float()"),
        (lambda: noise_bias_act(X, torch.zeros(4, 5)), r"noise of shape \[4, 5\] is not of shape"),
        (lambda: noise_bias_act(X, scale=torch.zeros(3)), r"scale of shape \[3\] is not of shape"),
        (lambda: noise_bias_act(X, X[:, :1], torch.zeros(2)), "is not one number"),
        (lambda: noise_bias_act(torch.zeros(3)), "has no channels"),
    ],
)
def test_misuse_is_refused_in_a_sentence(call: Callable, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call()
