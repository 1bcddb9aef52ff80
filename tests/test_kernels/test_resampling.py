"""upfirdn2d and its helpers: the reference against the definition, compiled code against it."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from compared_operators import assert_alike, derivatives, image
from scipy import signal
from torch import Tensor

from kernels import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d, using

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
BINOMIAL = setup_filter([1, 3, 3, 1])


def random_filter(rng: random.Random) -> Tensor | None:
    """None, the filter of StyleGAN2, a product of two lines, one line, or any plane."""
    taps = rng.choice([1, 2, 3, 4, 4, 5, 8, 13])
    line, plane = torch.randn(taps), torch.randn(taps, rng.choice([1, 2, 3, 4, 6])) * 0.3
    return rng.choice([None, BINOMIAL, BINOMIAL, line.outer(torch.randn(4)), line, plane])


def random_use(rng: random.Random) -> dict:
    """Keyword arguments of upfirdn2d."""
    return {
        "up": rng.choice([1, 2, 2, 3, [1, 2], [2, 3]]),
        "down": rng.choice([1, 1, 2, 3, [2, 1]]),
        "padding": [rng.randint(-2, 7) for _ in range(4)],
        "flip_filter": rng.random() < 0.5,
        "gain": rng.choice([1, 4.0, 0.3]),
    }


def random_calls(count: int, seed: int, dtype: torch.dtype) -> list[tuple]:
    """Images, filters and arguments that leave at least one pixel."""
    torch.manual_seed(seed)
    rng, calls = random.Random(seed), []
    while len(calls) < count:
        x, f, use = image(rng, dtype), random_filter(rng), random_use(rng)
        try:
            upfirdn2d(x, f, **use)
        except ValueError:
            continue
        calls.append((x, f, use))
    return calls


def by_definition(
    x: np.ndarray,
    f: np.ndarray,
    up: int | list[int],
    down: int | list[int],
    padding: list[int],
    flip_filter: bool,
    gain: float,
) -> list[np.ndarray]:
    """Plane by plane, each step on its own; the convolution is SciPy's."""
    (up_x, up_y), (down_x, down_y) = ([k] * 2 if isinstance(k, int) else k for k in (up, down))
    left, right, top, bottom = padding
    filtered = signal.correlate2d if flip_filter else signal.convolve2d
    planes = []
    for plane in x.reshape(-1, *x.shape[2:]):
        zeros = np.zeros([plane.shape[0] * up_y, plane.shape[1] * up_x])
        zeros[::up_y, ::up_x] = plane
        more = [(max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0))]
        padded = np.pad(zeros, more)
        high, wide = padded.shape
        cut = padded[max(-top, 0) : high - max(-bottom, 0), max(-left, 0) : wide - max(-right, 0)]
        planes.append(gain * filtered(cut, f, "valid")[::down_y, ::down_x])
    return planes


@pytest.mark.parametrize("mode", ["ref", "auto"])
def test_it_is_the_definition(mode: str) -> None:
    for x, f, use in random_calls(150, 3, torch.float64):
        taps = np.ones([1, 1]) if f is None else f.double().numpy()
        taps = np.outer(taps, taps) if taps.ndim == 1 else taps
        with using(mode):
            found = upfirdn2d(x, f, **use).flatten(0, 1)
        expected = by_definition(x.numpy(), taps, **use)
        assert len(found) == len(expected)
        for plane, wanted in zip(found.numpy(), expected, strict=True):
            assert plane.shape == wanted.shape, use
            assert np.allclose(plane, wanted, atol=1e-12), use


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", DTYPES)
def test_compiled_agrees_with_the_reference(dtype: torch.dtype) -> None:
    for x, f, use in random_calls(100, 4, dtype):
        note = (x.shape, x.stride(), f if f is None else f.shape, use)
        assert_alike(lambda x, f=f, use=use: upfirdn2d(x, f, **use), [x], note)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: upsample2d(x, BINOMIAL), (1, 70, 33, 65)),
        (lambda x: downsample2d(x, BINOMIAL), (2, 20, 66, 130)),
        (lambda x: filter2d(x, BINOMIAL), (1, 9, 300, 257)),
        (lambda x: upfirdn2d(x, BINOMIAL, padding=[2, 1, 2, 1], gain=4), (3, 40, 64, 63)),
        (lambda x: upfirdn2d(x, torch.arange(9.0).view(3, 3), padding=1), (1, 5, 100, 600)),
        # Lines and channels of whole vectors, as what goes around the caches has to have.
        (lambda x: upsample2d(x, BINOMIAL), (2, 32, 17, 48)),
        (lambda x: downsample2d(x, BINOMIAL), (1, 16, 66, 96)),
        (lambda x: upfirdn2d(x, BINOMIAL, padding=[2, 1, 2, 1]), (1, 16, 9, 64)),
    ],
    ids=[
        *("upsample2d", "downsample2d", "filter2d", "blur", "a plane of taps"),
        *("whole upsample2d", "whole downsample2d", "whole blur"),
    ],
)
def test_compiled_agrees_on_many_lines_and_vectors(
    function: Callable, shape: tuple, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert_alike(function, [x.to(memory_format=layout)])


@pytest.mark.usefixtures("compiled")
def test_gradients_are_numerically_right() -> None:
    uses = [
        {"up": 2, "padding": [2, 1, 2, 1], "gain": 4},
        {"down": 2, "padding": 1},
        {"up": [1, 3], "down": [2, 1], "padding": [-1, 3, 2, 0], "flip_filter": True},
    ]
    for use in uses:
        x = torch.randn(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)
        for f in (BINOMIAL, setup_filter([1, 2, -2], separable=True), torch.randn(2, 3)):
            assert torch.autograd.gradcheck(lambda x, f=f, use=use: upfirdn2d(x, f, **use), [x])
            assert torch.autograd.gradgradcheck(lambda x, f=f, use=use: upfirdn2d(x, f, **use), [x])


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("shape", [(2, 3, 6, 5), (0, 3, 6, 5)])
def test_opcheck(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    for laid in (x, x.to(memory_format=torch.channels_last)):
        given = (laid.clone().requires_grad_(), BINOMIAL, [2, 1], [1, 2], [2, -1, 1, 3], False, 2.0)
        torch.library.opcheck(torch.ops.kernels.upfirdn2d, given)


@pytest.mark.parametrize("mode", ["ref", "auto"])
def test_a_compiled_graph_holds_the_operator(mode: str) -> None:
    x = torch.randn(2, 3, 8, 8, requires_grad=True)

    def network(x: Tensor) -> Tensor:
        return downsample2d(upsample2d(x, BINOMIAL).square(), BINOMIAL).sum()

    with using(mode):
        (expected,) = torch.autograd.grad(network(x), x)
        graph = torch.compile(network, fullgraph=True, backend="aot_eager")
        (found,) = torch.autograd.grad(graph(x), x)
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.usefixtures("compiled")
def test_the_number_of_threads_does_not_matter() -> None:
    x = torch.randn(3, 20, 64, 61)
    found, before = [], torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(derivatives("native", lambda x: upsample2d(x, BINOMIAL), [x]))
    torch.set_num_threads(before)
    for others in found[1:]:
        pairs = zip(found[0], others, strict=True)
        assert all(p is None or torch.equal(p, q) for p, q in pairs)


@pytest.mark.parametrize("mode", ["ref", "auto"])
def test_a_constant_image_stays_constant(mode: str) -> None:
    x = torch.full([1, 2, 12, 10], 3.0)
    with using(mode):
        up, down, same = (f(x, BINOMIAL) for f in (upsample2d, downsample2d, filter2d))
    assert [tuple(y.shape[2:]) for y in (up, down, same)] == [(24, 20), (6, 5), (12, 10)]
    for y in (up, down, same):
        assert torch.allclose(y[:, :, 3:-3, 2:-2], torch.tensor(3.0))


@pytest.mark.parametrize("taps", [1, 2, 3, 4, 5, 8])
def test_helpers_keep_the_exact_factor_of_the_size(taps: int) -> None:
    f = setup_filter(list(range(1, taps + 1)))
    x = torch.randn(1, 1, 12, 18)
    for factor, (fx, fy) in ((2, (2, 2)), ([3, 1], (3, 1)), ([1, 2], (1, 2))):
        assert upsample2d(x, f, up=factor).shape[2:] == (12 * fy, 18 * fx)
        assert downsample2d(x, f, down=factor).shape[2:] == (12 // fy, 18 // fx)
    assert filter2d(x, f).shape == x.shape


def test_downsampling_is_the_transpose_of_upsampling() -> None:
    x, y = torch.randn(1, 2, 8, 6, dtype=torch.float64), torch.randn(1, 2, 16, 12).double()
    enlarged, reduced = upsample2d(x, BINOMIAL), downsample2d(y, BINOMIAL, flip_filter=True)
    assert torch.allclose((enlarged * y).sum(), 4 * (x * reduced).sum())


@pytest.mark.parametrize("mode", ["ref", "auto"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_filters_of_a_converted_network_are_as_before(dtype: torch.dtype, mode: str) -> None:
    # These taps are exact in every floating type.
    x = torch.randn(1, 2, 6, 5).to(dtype)
    with using(mode):
        assert torch.equal(upsample2d(x, BINOMIAL.to(dtype)), upsample2d(x, BINOMIAL))


def test_setup_filter_makes_what_it_says() -> None:
    line = torch.tensor([1.0, 3, 3, 1]) / 8
    assert torch.allclose(setup_filter([1, 3, 3, 1]), line.outer(line))
    assert torch.allclose(setup_filter([1, 3, 3, 1], separable=True, gain=4), 2 * line)
    assert setup_filter(range(1, 9)).shape == (8,)
    assert setup_filter(None).tolist() == [[1.0]]
    assert setup_filter(2.0, normalize=False).tolist() == [[2.0 * 2.0]]
    assert setup_filter([[1.0, 2], [3, 4]], flip_filter=True, normalize=False)[0, 0] == 4
    assert setup_filter([1, 1], gain=9).sum() == 9


X = torch.zeros(1, 2, 4, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: setup_filter(torch.zeros(1, 1, 1)), "is no filter; give"),
        (lambda: setup_filter([]), "is no filter; give"),
        (lambda: setup_filter([1, -1]), "f sums up to 0; give normalize=False"),
        (lambda: setup_filter(torch.ones(2, 2), separable=True), "a separable filter needs"),
        (lambda: upfirdn2d(X[0], None), r"x of shape \[2, 4, 5\] is not \[N, C, H, W\]"),
        (lambda: upfirdn2d(X.int(), None), r"convert it by .float\(\)"),
        (lambda: upfirdn2d(X, torch.ones(2, 2).int()), "make it by setup_filter"),
        (lambda: upfirdn2d(X, torch.ones(2, 2, device="meta")), "f is on meta and x on cpu"),
        (lambda: upfirdn2d(X, BINOMIAL, up=0), "up=0: is not a number of at least 1"),
        (lambda: upfirdn2d(X, BINOMIAL, down=[1, 2, 3]), "or two of them"),
        (lambda: upfirdn2d(X, BINOMIAL, padding=[1, 2, 3]), "is not a number, "),
        (lambda: upfirdn2d(X, BINOMIAL, padding=-1), "leaves no pixel"),
    ],
)
def test_misuse_is_refused_in_a_sentence(call: Callable, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call()
