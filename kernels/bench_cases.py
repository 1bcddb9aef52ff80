"""What `kernels.bench` times: each operator at the sizes of real networks."""

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels import bench_torch as others
from kernels.activation import bias_act, noise_bias_act
from kernels.bench_bars import BACKWARD, DOUBLE, FORWARD, PASSES
from kernels.denoising import non_local_means
from kernels.filters import setup_filter
from kernels.fused_resampling import upfirdn2d_bias_act
from kernels.modulation import modulated_conv2d
from kernels.resampling import upfirdn2d

DTYPES = (torch.float32, torch.bfloat16)


class Place(NamedTuple):
    """Where it runs; ``toy`` makes every tensor tiny."""

    device: str
    toy: bool = False


class Arm(NamedTuple):
    """One way to compute what an operator does."""

    call: Callable[..., Any]  # of the leaves
    mode: str = "auto"  # of `kernels.using`
    channels_last: bool = False  # leaves of four dimensions
    compiles: bool = False  # by torch.compile
    compared: bool = True  # must give what the reference gives


class Floor(NamedTuple):
    """What no arm can undercut: a copy of as many bytes, or a matrix product of as many FLOP."""

    name: str
    run: Callable[[], object]
    done: float  # bytes or FLOP of one run
    needed: dict[str, float]  # bytes or FLOP of each pass


class Problem(NamedTuple):
    """The tensors of a case, and the arms over them; the first leaf is the image."""

    leaves: tuple[Tensor, ...]
    arms: dict[str, Arm]
    floor: Floor | None = None
    passes: tuple[str, ...] = PASSES


class Case(NamedTuple):
    """An operator at one size and type; nothing is allocated before `make`."""

    operator: str
    size: str
    dtype: torch.dtype
    make: Callable[[], Problem]

    @property
    def name(self) -> str:
        """What a pattern is compared with."""
        return f"{self.operator} {self.size} {str(self.dtype).removeprefix('torch.')}"


_ACT_SHAPES = {
    "cpu": [(4, 64, 256, 256), (4, 128, 128, 128), (4, 512, 32, 32)],
    "cuda": [(16, 64, 512, 512), (32, 512, 128, 128)],
}
_FIR_SHAPES = {
    "cpu": [
        ("up2", (4, 6, 128, 128)),
        ("up2", (4, 128, 64, 64)),
        ("up2", (4, 64, 128, 128)),
        ("blur", (4, 128, 128, 128)),
        ("blur", (4, 512, 32, 32)),
        ("down2", (4, 64, 256, 256)),
        ("down2", (4, 256, 64, 64)),
    ],
    # Far beyond the last-level cache, so that each pass goes to memory.
    "cuda": [
        ("up2", (192, 6, 256, 256)),
        ("up2", (16, 64, 256, 256)),
        ("blur", (16, 64, 512, 512)),
        ("down2", (16, 64, 512, 512)),
    ],
}
# What a transposed convolution leaves, one row and column more than its layer returns.
_FUSED_SHAPES = {
    "cpu": [(4, 64, 257, 257), (4, 128, 129, 129), (4, 512, 33, 33)],
    "cuda": [(16, 64, 513, 513), (32, 512, 129, 129)],
}
_CONV_SHAPES = {
    "cpu": [
        (4, 512, 16, 16),
        (4, 512, 32, 32),
        (4, 256, 64, 64),
        (4, 128, 128, 128),
        (2, 64, 256, 256),
    ],
    "cuda": [(32, 512, 32, 32), (32, 256, 64, 64), (32, 128, 128, 128), (32, 64, 256, 256)],
}
_DENOISING_SHAPES = {
    "cpu": [(1, 6, 512, 512), (1, 1, 512, 512)],
    "cuda": [(16, 6, 512, 512), (16, 1, 512, 512)],
}
_SAMPLINGS = {"up2": others.UP, "down2": others.DOWN, "blur": others.BLUR}


def cases(place: Place) -> list[Case]:
    """All of them; toys that are the same are told once."""
    return list({case.name: case for case in _cases(place)}.values())


def _cases(place: Place) -> Iterator[Case]:
    device = place.device
    for dtype in DTYPES:
        for how, shape in _FIR_SHAPES[device]:
            yield _case(_upfirdn2d, place, dtype, shape, how)
        for make in (_bias_act, _noise_bias_act):
            for shape in _ACT_SHAPES[device]:
                yield _case(make, place, dtype, shape)
        for shape in _FUSED_SHAPES[device]:
            yield _case(_upfirdn2d_bias_act, place, dtype, shape)
        for shape in _CONV_SHAPES[device]:
            yield _case(_modulated_conv2d, place, dtype, shape)
    for shape in _DENOISING_SHAPES[device]:
        yield _case(_non_local_means, place, torch.float32, shape)


def _case(
    make: Callable[..., Problem],
    place: Place,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    *how: str,
) -> Case:
    if place.toy:
        shape = tuple(min(size, most) for size, most in zip(shape, (2, 8, 16, 16), strict=True))
    size = " ".join([*how, "x".join(map(str, shape))])
    name = make.__name__.removeprefix("_")
    return Case(name, size, dtype, partial(make, place, dtype, shape, *how))


def _arms(call: Callable[..., Tensor]) -> dict[str, Arm]:
    return {
        "compiled": Arm(call, "native"),
        "compiled channels_last": Arm(call, "native", channels_last=True),
        "reference": Arm(call, "ref"),
        "torch.compile": Arm(call, "ref", compiles=True),
    }


def _upfirdn2d(place: Place, dtype: torch.dtype, shape: tuple[int, ...], how: str) -> Problem:
    x, taps = _random(place, shape, dtype), torch.tensor([1.0, 3.0, 3.0, 1.0])
    sampling, f = _SAMPLINGS[how], setup_filter(taps, place.device)
    known = {"up": sampling.up, "down": sampling.down, "gain": sampling.gain}
    known["padding"] = [sampling.before, sampling.after] * 2
    found = others.resamplings((taps / taps.sum()).to(x), sampling)
    arms = _arms(lambda x: upfirdn2d(x, f, **known)) | {k: Arm(v) for k, v in found.items()}
    arms["depthwise channels_last"] = Arm(found["depthwise"], channels_last=True)
    once = _bytes(x) * (1 + sampling.gain / sampling.down**2)
    return Problem((x,), arms, _copy(place, once, once, once))


def _bias_act(place: Place, dtype: torch.dtype, shape: tuple[int, ...]) -> Problem:
    x, b = _random(place, shape, dtype), _random(place, shape[1:2])
    arms = _arms(lambda x, b: bias_act(x, b, act="lrelu"))
    arms["eager"] = Arm(others.bias_act)
    return Problem((x, b), arms, _epilogue_floor(place, x))


def _noise_bias_act(place: Place, dtype: torch.dtype, shape: tuple[int, ...]) -> Problem:
    x, noise, strength, b = _layer(place, shape, dtype)

    def eager(x: Tensor, strength: Tensor, b: Tensor) -> Tensor:
        return others.noise_bias_act(x, noise, strength, b, 256.0)

    arms = _arms(lambda x, strength, b: noise_bias_act(x, noise, strength, b, clamp=256.0))
    return Problem((x, strength, b), arms | {"eager": Arm(eager)}, _epilogue_floor(place, x))


def _upfirdn2d_bias_act(place: Place, dtype: torch.dtype, shape: tuple[int, ...]) -> Problem:
    small = (*shape[:2], shape[2] - 1, shape[3] - 1)
    _, noise, strength, b = _layer(place, small, dtype)
    x, f = _random(place, shape, dtype), setup_filter([1.0, 3.0, 3.0, 1.0], place.device)

    def fused(x: Tensor, strength: Tensor, b: Tensor) -> Tensor:
        sides = {"noise": noise, "strength": strength, "b": b, "clamp": 256.0}
        return upfirdn2d_bias_act(x, f, padding=1, fir_gain=4.0, **sides)

    def parts(x: Tensor, strength: Tensor, b: Tensor) -> Tensor:
        y = upfirdn2d(x, f, padding=1, gain=4.0)
        return noise_bias_act(y, noise, strength, b, clamp=256.0)

    arms = _arms(fused) | {"two parts": Arm(parts, "native")}
    arms["two parts channels_last"] = Arm(parts, "native", channels_last=True)
    floor = _copy(place, 2 * _bytes(x), 3 * _bytes(x), 3 * _bytes(x))
    return Problem((x, strength, b), arms, floor)


def _modulated_conv2d(place: Place, dtype: torch.dtype, shape: tuple[int, ...]) -> Problem:
    n, c, h, w = shape
    x, styles = _random(place, shape, dtype), _random(place, (n, c)) + 1
    weight = _random(place, (c, c, 3, 3))
    arms = _arms(lambda x, weight, styles: modulated_conv2d(x, weight, styles, padding=1))
    arms |= {"grouped": Arm(others.grouped), "scaled": Arm(others.scaled)}
    arms["scaled channels_last"] = Arm(others.scaled, channels_last=True)
    if h <= 64:
        arms["unfolded"] = Arm(others.unfolded)
    arms["convolution"] = Arm(others.plain, compared=False)
    arms["convolution channels_last"] = Arm(others.plain, channels_last=True, compared=False)
    once = 2.0 * n * c * c * 9 * h * w
    return Problem((x, weight, styles), arms, _product(place, dtype, once))


def _non_local_means(place: Place, dtype: torch.dtype, shape: tuple[int, ...]) -> Problem:
    x = _random(place, shape, dtype) * 0.1 + 0.5
    arms = _arms(lambda x: non_local_means(x, patch_size=7, patch_distance=11, h=0.1))
    # Hundreds of offsets, which torch.compile unrolls for many minutes.
    del arms["torch.compile"]
    if place.device == "cpu" and importlib.util.find_spec("cv2"):
        arms["cv2 on uint8"] = Arm(_denoising_by_opencv(x), compared=False)
    return Problem((x,), arms, passes=(FORWARD,))


def _denoising_by_opencv(x: Tensor) -> Callable[[Tensor], object]:
    """One channel after the other, because it takes no six."""
    import cv2

    cv2.setNumThreads(torch.get_num_threads())
    channels = [(255 * c.clamp(0, 1)).byte().numpy() for c in x.flatten(0, 1)]
    how = {"h": 25.0, "templateWindowSize": 7, "searchWindowSize": 23}
    return lambda x: [cv2.fastNlMeansDenoising(channel, **how) for channel in channels]


def _layer(place: Place, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Activations, noise, its strength, and bias; parameters are float32."""
    x, noise = _random(place, shape, dtype), _random(place, (shape[0], 1, *shape[2:]))
    return x, noise, torch.tensor(0.5, device=place.device), _random(place, shape[1:2])


def _random(place: Place, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator(place.device).manual_seed(prod(shape))
    return torch.randn(shape, generator=generator, dtype=dtype, device=place.device)


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


def _epilogue_floor(place: Place, x: Tensor) -> Floor:
    """Forward reads and writes once; backward reads dy and the kept output, and writes."""
    return _copy(place, 2 * _bytes(x), 3 * _bytes(x), 3 * _bytes(x))


def _copy(place: Place, forward: float, backward: float, double: float) -> Floor:
    source = _random(place, (int(forward) // 8,))
    out = torch.ones_like(source)
    run = partial(out.copy_, source)
    return Floor("copy", run, 2 * _bytes(source), _summed(forward, backward, double))


def _product(place: Place, dtype: torch.dtype, once: float) -> Floor:
    size = 64 if place.toy else 1024 if place.device == "cpu" else 8192
    a, b = _random(place, (size, size), dtype), _random(place, (size, size), dtype)
    # Backward has two more products: for the image and for the weight; R1 takes none for it.
    needed = {FORWARD: once, BACKWARD: 3 * once, DOUBLE: 3 * once}
    return Floor("matrix product", partial(torch.mm, a, b), 2.0 * size**3, needed)


def _summed(forward: float, backward: float, double: float) -> dict[str, float]:
    """A pass includes those before it."""
    return {
        FORWARD: forward,
        BACKWARD: forward + backward,
        DOUBLE: forward + backward + double,
    }
