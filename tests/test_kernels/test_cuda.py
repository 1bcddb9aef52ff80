"""On a GPU, every public operator agrees with its torch reference in float64 on the CPU.

Needs torch, numpy, pytest and what `make kernels CUDA=1` builds; where there is no more than that:
`python -m pytest --noconftest tests/test_kernels/test_cuda.py`.
"""

import importlib.util
import math
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import kernels
from kernels.curves import CURVES
from kernels.registry import using

DEVICE = "cuda"
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="torch.compile needs triton"
)
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
LAYOUTS = [torch.contiguous_format, torch.channels_last]
Tensors = dict[str, Tensor]


class Operation(NamedTuple):
    """A public function and the shapes of its tensors; the first one is the image.

    What is rounded to the image's type before an activation may come to lie on the other side of
    its kink than the exact value does: such an operation is compared in its own type.
    """

    call: Callable[..., Tensor]
    shapes: dict[str, tuple[int, ...]]
    rounds_within: bool = False


def _filter(taps: int) -> Tensor:
    return torch.tensor([1.0, 3.0, 3.0, 1.0] if taps == 4 else [1.0] * taps)


def _resampled(**options: int | list[int]) -> Callable[..., Tensor]:
    return lambda x, f: kernels.upfirdn2d(x, f / f.sum(), **options)


IMAGE = {"x": (3, 8, 10, 12)}
OPERATIONS = {
    "bias_act": Operation(lambda x, b: kernels.bias_act(x, b, act="lrelu"), {**IMAGE, "b": (8,)}),
    "bias_act swish": Operation(
        lambda x, b: kernels.bias_act(x, b, act="swish"), {**IMAGE, "b": (8,)}
    ),
    "noise_bias_act": Operation(
        lambda x, noise, strength, b, scale: kernels.noise_bias_act(
            x, noise, strength, b, scale=scale
        ),
        {**IMAGE, "noise": (3, 1, 10, 12), "strength": (), "b": (8,), "scale": (3, 8)},
    ),
    "upsampling": Operation(_resampled(up=2, padding=[2, 1, 2, 1]), {**IMAGE, "f": (4,)}),
    "downsampling": Operation(_resampled(down=2, padding=1), {**IMAGE, "f": (4,)}),
    "blur and crop": Operation(_resampled(padding=[3, -2, 1, 2]), {**IMAGE, "f": (3,)}),
    "upfirdn2d_bias_act": Operation(
        lambda x, f, noise, b: kernels.upfirdn2d_bias_act(
            x, f / f.sum(), up=2, padding=[2, 1, 2, 1], fir_gain=4, noise=noise, b=b
        ),
        {**IMAGE, "f": (4,), "noise": (1, 1, 20, 24), "b": (8,)},
        rounds_within=True,
    ),
    "modulated_conv2d": Operation(
        lambda x, weight, styles: kernels.modulated_conv2d(x, weight, styles, padding=1),
        {**IMAGE, "weight": (16, 8, 3, 3), "styles": (3, 8)},
    ),
}
DENOISING = Operation(
    lambda x: kernels.non_local_means(x, patch_size=3, patch_distance=2, h=0.8), IMAGE
)
every_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)


@pytest.fixture(autouse=True)
def compiled_code_runs() -> Iterator[None]:
    """Says what is missing instead of comparing the reference with itself."""
    # The reference's convolutions are exact, and these in TF32 unless told.
    with using("native"), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def made(
    operation: Operation,
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
    device: str = DEVICE,
) -> Tensors:
    """The same numbers at every call; side inputs are float32 as parameters are."""
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for name, shape in operation.shapes.items():
        tensors[name] = torch.randn(shape, generator=generator)
        if name == "f":
            tensors[name] = _filter(shape[0])
    first = next(iter(tensors))
    tensors[first] = tensors[first].to(dtype).contiguous(memory_format=layout)
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def on_cpu(tensors: Tensors) -> Tensors:
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}


def exact(tensors: Tensors) -> Tensors:
    """On the CPU in float64, but for filters, which are float32 everywhere."""
    moved = on_cpu(tensors)
    return {name: tensor if name == "f" else tensor.double() for name, tensor in moved.items()}


def first_order(call: Callable[..., Tensor], tensors: Tensors) -> list[Tensor]:
    """The result, and gradients of a sum of it in which each element has a weight of its own."""
    leaves = {name: tensor.detach().requires_grad_(name != "f") for name, tensor in tensors.items()}
    y = call(**leaves)
    # Exact in every type.
    weights = (torch.arange(y.numel(), device=y.device) % 17 - 8).view(y.shape) / 8
    wanted = [leaf for leaf in leaves.values() if leaf.requires_grad]
    loss = (y * weights).sum()
    return [y.detach(), *torch.autograd.grad(loss, wanted)]


def second_order(call: Callable[..., Tensor], tensors: Tensors) -> list[Tensor]:
    """Gradients of the square of a gradient with respect to the image, as R1 takes them."""
    leaves = {name: tensor.detach().requires_grad_(name != "f") for name, tensor in tensors.items()}
    wanted = [leaf for leaf in leaves.values() if leaf.requires_grad]
    y = call(**leaves)
    (slope,) = torch.autograd.grad(y.square().mean(), wanted[0], create_graph=True)
    found = torch.autograd.grad(slope.square().sum(), wanted, allow_unused=True)
    pairs = zip(found, wanted, strict=True)
    return [torch.zeros_like(x) if gradient is None else gradient for gradient, x in pairs]


def agree(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Each up to an error relative to its largest element."""
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        error = (one.cpu().double() - other.double()).abs()
        assert not error.numel() or error.max() <= tolerance * max(1.0, float(other.abs().max()))


def expected_of(
    how: Callable[..., list[Tensor]], call: Callable[..., Tensor], tensors: Tensors
) -> list[Tensor]:
    with using("ref"):
        return how(call, exact(tensors))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@every_operation
def test_values_and_gradients(
    operation: Operation, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    tensors = made(operation, dtype, layout)
    found = first_order(operation.call, tensors)
    assert found[0].dtype == dtype
    assert found[0].is_contiguous(memory_format=layout)
    with using("ref"):
        given = on_cpu(tensors) if operation.rounds_within else exact(tensors)
        expected = first_order(operation.call, given)
    agree(found, expected, 2 * TOLERANCE[dtype])


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@every_operation
def test_gradients_of_gradients(operation: Operation, layout: torch.memory_format) -> None:
    tensors = made(operation, layout=layout)
    found = second_order(operation.call, tensors)
    agree(found, expected_of(second_order, operation.call, tensors), 1e-4)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_denoising(dtype: torch.dtype, layout: torch.memory_format) -> None:
    tensors = made(DENOISING, dtype, layout)
    with using("ref"):
        expected = DENOISING.call(**exact(tensors))
    agree([DENOISING.call(**tensors)], [expected], TOLERANCE[dtype])


def _sizes(draw: random.Random) -> list[int]:
    return [
        draw.choice([1, 2, 5]),
        draw.choice([1, 3, 8, 40, 512]),
        *draw.choices(range(1, 40), k=2),
    ]


@pytest.mark.parametrize("seed", range(60))
def test_random_epilogues(seed: int) -> None:
    draw = random.Random(seed)
    n, c, h, w = _sizes(draw)
    every = {"x": (n, c, h, w), "noise": (draw.choice([1, n]), 1, h, w), "strength": ()}
    every |= {"b": (c,), "scale": (n, c)}
    shapes = {name: shape for name, shape in every.items() if name == "x" or draw.random() < 0.6}
    act, clamp = draw.choice([*CURVES]), draw.choice([None, None, 0.9])
    dtype = torch.float32 if clamp else draw.choice([*TOLERANCE])

    def call(x: Tensor, **sides: Tensor) -> Tensor:
        if "noise" not in sides:
            sides.pop("strength", None)
        y = kernels.noise_bias_act(x, **sides, act=act, clamp=clamp)
        return y + sum(0 * side.sum() for side in sides.values()).to(y) if sides else y

    tensors = made(Operation(call, shapes), dtype, draw.choice(LAYOUTS))
    if "noise" not in tensors:
        tensors.pop("strength", None)
    found = first_order(call, tensors)
    agree(found, expected_of(first_order, call, tensors), 4 * TOLERANCE[dtype])


@pytest.mark.parametrize("seed", range(60))
def test_random_resampling(seed: int) -> None:
    draw = random.Random(seed)
    up, down, taps = draw.choice([1, 1, 2, 3]), draw.choice([1, 1, 2, 3]), draw.randint(1, 9)
    n, c, h, w = _sizes(draw)
    padding = [taps + draw.randint(0, 3), draw.randint(0, 3), taps, draw.randint(-1, 3)]
    call = _resampled(up=up, down=down, padding=padding)
    dtype = draw.choice([*TOLERANCE])
    shapes = {"x": (n, c, h + 1, w), "f": draw.choice([(taps,), (taps, draw.randint(1, 4))])}
    tensors = made(Operation(call, {"x": shapes["x"]}), dtype, draw.choice(LAYOUTS))
    tensors["f"] = torch.rand(shapes["f"], generator=torch.Generator().manual_seed(seed)).to(DEVICE)
    found = first_order(call, tensors)
    agree(found, expected_of(first_order, call, tensors), 4 * TOLERANCE[dtype])


@every_operation
def test_memory_that_is_not_aligned(operation: Operation) -> None:
    tensors = made(operation, torch.bfloat16)
    shifted = {}
    for name, tensor in tensors.items():
        memory = tensor.new_empty(tensor.numel() + 1)
        shifted[name] = memory[1:].view(tensor.shape).copy_(tensor)
    agree(
        [operation.call(**shifted)],
        [operation.call(**tensors).cpu()],
        TOLERANCE[torch.bfloat16],
    )


@every_operation
def test_an_empty_batch(operation: Operation) -> None:
    batched = ("x", "scale", "styles")
    shapes = {
        name: (0, *shape[1:]) if name in batched or (name == "noise" and shape[0] > 1) else shape
        for name, shape in operation.shapes.items()
    }
    y, *gradients = first_order(operation.call, made(Operation(operation.call, shapes)))
    assert y.shape[0] == 0
    assert all(not gradient.any() for gradient in gradients)


@every_operation
def test_the_same_bits_at_every_call(operation: Operation) -> None:
    tensors = made(operation)
    if operation is OPERATIONS["modulated_conv2d"]:
        pytest.skip("its convolution is torch's")
    first, *others = [first_order(operation.call, tensors) for _ in range(3)]
    pairs = [pair for other in others for pair in zip(first, other, strict=True)]
    assert all(torch.equal(*pair) for pair in pairs)


@every_operation
def test_another_stream(operation: Operation) -> None:
    tensors = made(operation)
    expected = first_order(operation.call, tensors)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        # Whoever does not wait for this stream reads zeros.
        late = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        torch.cuda._sleep(100_000_000)
        for name, tensor in tensors.items():
            late[name].copy_(tensor)
        found = first_order(operation.call, late)
    stream.synchronize()
    agree(found, [tensor.cpu() for tensor in expected], 1e-4)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second GPU")
@every_operation
def test_another_device(operation: Operation) -> None:
    expected = first_order(operation.call, made(operation))
    found = first_order(operation.call, made(operation, device="cuda:1"))
    assert {tensor.device.index for tensor in found} == {1}
    assert torch.cuda.current_device() == 0
    agree(found, [tensor.cpu() for tensor in expected], 1e-4)


@pytest.mark.parametrize("name", ["b", "noise", "scale", "strength"])
def test_a_tensor_elsewhere_is_refused_or_moved(name: str) -> None:
    operation = OPERATIONS["noise_bias_act"]
    tensors = made(operation)
    expected = operation.call(**tensors)
    try:
        found = operation.call(**{**tensors, name: tensors[name].cpu()})
    except (RuntimeError, ValueError):
        return
    agree([found], [expected.cpu()], 1e-6)


@every_operation
def test_autocast(operation: Operation) -> None:
    tensors = made(operation)
    with torch.autocast(DEVICE, torch.bfloat16):
        y, *gradients = first_order(operation.call, tensors)
    inputs = [tensor for name, tensor in tensors.items() if name != "f"]
    assert [g.dtype for g in gradients] == [x.dtype for x in inputs]
    expected = expected_of(first_order, operation.call, tensors)
    agree([y], expected[:1], 2 * TOLERANCE[torch.bfloat16])


@needs_triton
@every_operation
def test_compilation_as_one_graph(operation: Operation) -> None:
    tensors = made(operation)
    torch.compiler.reset()
    compiled = torch.compile(operation.call, fullgraph=True)
    expected = first_order(operation.call, tensors)
    agree(first_order(compiled, tensors), [tensor.cpu() for tensor in expected], 1e-5)


@every_operation
def test_a_cuda_graph_of_forward_and_backward(operation: Operation) -> None:
    tensors = made(operation)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            first_order(operation.call, tensors)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = first_order(operation.call, tensors)
    for name, tensor in tensors.items():
        tensor.mul_(1 if name == "f" else -0.5)
    graph.replay()
    torch.cuda.synchronize()
    expected = first_order(operation.call, tensors)
    agree(captured, [tensor.cpu() for tensor in expected], 1e-4)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("name", ["bias_act", "blur and crop", "upsampling"])
def test_more_samples_than_a_grid_has_rows(name: str, layout: torch.memory_format) -> None:
    operation = OPERATIONS[name]
    shapes = {**operation.shapes, "x": (70_000, 2, 4, 3)}
    if "b" in shapes:
        shapes["b"] = (2,)
    tensors = made(Operation(operation.call, shapes), layout=layout)
    found = first_order(operation.call, tensors)
    agree(found, expected_of(first_order, operation.call, tensors), 1e-3)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(
    ("name", "taps"), [("bias_act", 0), ("blur and crop", 3), ("downsampling", 4)]
)
def test_more_elements_than_31_bits_count(
    name: str, taps: int, layout: torch.memory_format
) -> None:
    if torch.cuda.mem_get_info()[0] < 16 << 30:
        pytest.skip("needs 16 GiB of GPU memory")
    channels, side = 8, math.isqrt(2**31 // 8) + 40
    b = {"f": _filter(taps)} if taps else {"b": torch.randn(channels, device=DEVICE)}
    x = torch.zeros(1, channels, side, side, dtype=torch.bfloat16, device=DEVICE)
    x = x.to(memory_format=layout)
    corner = (..., slice(-40, None), slice(-40, None))
    x[corner] = torch.randn(1, channels, 40, 40, device=DEVICE).bfloat16()
    sides = {key: value.to(DEVICE) for key, value in b.items()}
    y = OPERATIONS[name].call(x, **sides)
    with using("ref"):
        expected = OPERATIONS[name].call(**exact({"x": x[corner], **sides}))
    last = (..., slice(-8, None), slice(-8, None))
    agree([y[last]], [expected[last]], TOLERANCE[torch.bfloat16])
