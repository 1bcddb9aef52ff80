"""Times all arms of a case in turn, after it has seen that they give the same values."""

import gc
import importlib.util
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kernels import registry, toolchain
from kernels.bench_bars import BACKWARD, DOUBLE, FORWARD, bars
from kernels.bench_cases import Arm, Case, Place, Problem
from kernels.bench_report import NO_COMPILER, REFUSED, Result
from kernels.layout import laid_out
from kernels.toolchain import BuildFailed

# Of one pass of one case; where it is not enough there are fewer rounds, but no fewer than these.
LIMIT_S = 10.0
FEWEST = 3
# Largest relative distance to the reference in the Euclidean norm. What is rounded to 16 bits
# before an activation may come to lie on the other side of its kink.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
TF32_TOLERANCE = 1e-2
# What torch.compile says to a second derivative.
_REFUSAL = re.compile("double backward|create_graph")

Run = Callable[[], object]


class Inputs(NamedTuple):
    """Leaves, and the gradients that two backward passes start from."""

    leaves: tuple[Tensor, ...]
    dy: Tensor | None = None
    ddx: Tensor | None = None


def forward(call: Callable[..., Tensor], given: Inputs) -> tuple[Tensor, ...]:
    """The values."""
    with torch.no_grad():
        return (call(*given.leaves),)


def backward(call: Callable[..., Tensor], given: Inputs) -> tuple[Tensor | None, ...]:
    """The gradients of all leaves; None where one is not used."""
    y = call(*given.leaves)
    return torch.autograd.grad(y, given.leaves, given.dy, allow_unused=True)


def double(call: Callable[..., Tensor], given: Inputs) -> tuple[Tensor, ...]:
    """R1's pattern: of the image's gradient, the gradient with respect to dy."""
    y = call(*given.leaves)
    (dx,) = torch.autograd.grad(y, given.leaves[0], given.dy, create_graph=True)
    return torch.autograd.grad(dx, given.dy, given.ddx)


PASSES = {FORWARD: forward, BACKWARD: backward, DOUBLE: double}


def measure(case: Case, place: Place, rounds: int) -> Iterator[Result]:
    """Each pass of a case, in at most so many rounds."""
    problem = case.make()
    # As training does. Not for the filters of `upfirdn2d`: with the search for the best algorithm,
    # the second derivatives of their grouped convolutions did not end within a minute.
    torch.backends.cudnn.benchmark = case.operator == "modulated_conv2d"
    for step in problem.passes:
        runs, untimed = _warmed(problem, step, _tolerance(case.dtype, place), place.device)
        timed = {name: (problem.arms[name].mode, run) for name, run in runs.items()}
        if problem.floor:
            timed["floor"] = ("auto", problem.floor.run)
        seconds = in_turn(timed, rounds, place.device)
        yield _result(case, step, place, untimed, seconds, problem)
        runs.clear()
        timed.clear()
        _forget(place.device)


def in_turn(runs: dict[str, tuple[str, Run]], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each run in each round; every round starts with another one.

    Args:
        runs: by name, the mode of `kernels.using` and what is timed.
        rounds: the most; they end sooner where all runs together have taken `LIMIT_S`.
        device: cpu or cuda.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    # Written before each run: it fills the caches, and the GPU is busy while the run is queued.
    busy = torch.empty(2**28, device=device) if device == "cuda" else None
    gc.collect()
    gc.disable()
    try:
        started = time.perf_counter()
        for index in range(rounds + 1):
            if index > FEWEST and time.perf_counter() - started > LIMIT_S:
                break
            first = index % max(len(names), 1)
            for name in names[first:] + names[:first]:
                mode, run = runs[name]
                with registry.using(mode):
                    seconds[name].append(_seconds(run, busy))
    finally:
        gc.enable()
    # The first round warms up.
    return {name: values[1:] for name, values in seconds.items()}


def differs(found: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float) -> bool:
    """Whether one of the tensors is further away than rounding takes it."""
    pairs = [(a.detach(), b.detach()) for a, b in zip(found, expected, strict=True)]
    return any(
        a.shape != b.shape or a.dtype != b.dtype or not _distance(a, b) <= tolerance
        for a, b in pairs
    )


def can_compile(device: str) -> bool:
    """Whether torch.compile has what it needs beside torch."""
    try:
        toolchain.find_cxx()
    except BuildFailed:
        return False
    return device == "cpu" or importlib.util.find_spec("triton") is not None


def _warmed(
    problem: Problem, step: str, tolerance: float, device: str
) -> tuple[dict[str, Run], dict[str, str]]:
    """What can be timed, and why the others cannot be."""
    layouts = {arm.channels_last for arm in problem.arms.values()}
    inputs = {layout: _inputs(problem, step, layout) for layout in layouts}
    runs, untimed, expected = {}, {}, None
    for name in sorted(problem.arms, key=lambda name: name != "reference"):
        arm = problem.arms[name]
        if arm.compiles and not can_compile(device):
            untimed[name] = NO_COMPILER
            continue
        run = _run(arm, step, inputs[arm.channels_last])
        try:
            with registry.using(arm.mode):
                found = run()
        except RuntimeError as error:
            refused = arm.compiles and step == DOUBLE and _REFUSAL.search(str(error))
            untimed[name] = REFUSED if refused else f"failed: {_brief(error)}"
            continue
        expected = found if name == "reference" else expected
        if arm.compared and expected and differs(found, expected, tolerance):
            untimed[name] = "differs from the reference"
        else:
            runs[name] = run
    return runs, untimed


def _result(
    case: Case,
    step: str,
    place: Place,
    untimed: dict[str, str],
    seconds: dict[str, list[float]],
    problem: Problem,
) -> Result:
    ms = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    asked = () if place.toy else bars(case.operator, case.dtype, place.device)
    known = {"bars": tuple(bar for bar in asked if step in bar.passes)}
    if floor := problem.floor:
        rate = floor.done / ms["floor"]
        known |= {"floor": floor.name, "floor_ms": floor.needed[step] / rate}
        known["floor_rate"] = 1e3 * rate
    rounds = max(map(len, seconds.values()), default=0)
    arms = {name: untimed.get(name) or ms[name] for name in problem.arms}
    return Result(case.operator, case.name, step, rounds, arms, **known)


def _inputs(problem: Problem, step: str, channels_last: bool) -> Inputs:
    leaves = tuple(
        (laid_out(x, channels_last) if x.ndim == 4 else x).detach().requires_grad_(step != FORWARD)
        for x in problem.leaves
    )
    if step == FORWARD:
        return Inputs(leaves)
    arm = problem.arms["reference"]
    with registry.using(arm.mode), torch.no_grad():
        y = arm.call(*leaves)
    dy, ddx = (_positive(like, channels_last) for like in (y, leaves[0]))
    return Inputs(leaves, dy.requires_grad_(step == DOUBLE), ddx)


def _positive(like: Tensor, channels_last: bool) -> Tensor:
    """Random, of the same values in every layout; no sum of gradients is near zero by chance."""
    generator = torch.Generator(like.device).manual_seed(1)
    values = torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    return laid_out(values, channels_last)


def _run(arm: Arm, step: str, given: Inputs) -> Run:
    call = torch.compile(arm.call, dynamic=False) if arm.compiles else arm.call
    return lambda: PASSES[step](call, given)


def _seconds(run: Run, busy: Tensor | None) -> float:
    if busy is None:
        started = time.perf_counter()
        run()
        return time.perf_counter() - started
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    # A millisecond: a backward pass takes the host longer to start than a large GPU to write once.
    for _ in range(4):
        busy.zero_()
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.float() - b.float()).norm() / b.float().norm().clamp(min=1e-30))


def _tolerance(dtype: torch.dtype, place: Place) -> float:
    return max(TOLERANCE[dtype], TF32_TOLERANCE if place.device == "cuda" else 0.0)


def _brief(error: Exception) -> str:
    """One cell of a table."""
    lines = str(error).replace("|", "/").splitlines()
    return (lines or [type(error).__name__])[0][:100]


def _forget(device: str) -> None:
    if can_compile(device):
        torch.compiler.reset()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
