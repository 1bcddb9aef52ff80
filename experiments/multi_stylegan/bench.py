"""Seconds of each kind of training step, beside the same step in plain torch operators.

The released code took its penalties as steps of their own; so do all arms here. Rounds are
interleaved. What a step could come to is told by the floating point operations of its convolutions
and products, and by the rates of one large convolution and product measured in the same run.
"""

import argparse
import json
import os
import resource
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from common.losses.adversarial import discriminator_loss, generator_loss
from common.losses.penalties import gradient_square, mixed_pixels, path_length
from common.networks.equalized import halving_widths
from common.optimizers import adam
from common.runs.hardware import has_native_bf16, keep_freed_memory
from experiments.multi_stylegan import published_baseline
from experiments.multi_stylegan.discriminator import Discriminator
from experiments.multi_stylegan.networks import Generator
from kernels.bench_timing import in_turn

ARMS = ("plain", "published", "published-bf16", "dual", "dual-bf16")
KINDS = ("G forward", "G step", "D step", "R1 step", "path length step")
# Of the released code: learning rates, norm to which gradients are cut, layers from z to w.
_G_LR, _D_LR, _CLIP, _MAPPING_LAYERS = 2e-4, 6e-4, 5.0, 8
_LOSS, _R1, _PATH = "non_saturating", 10.0, 2.0
_D_WIDTHS = (128, 256, 384, 768, 1024)


class Arm(NamedTuple):
    """One way to compute all steps.

    Attributes:
        generate: maps styles [B, slots, dim] or [B, dim] to frames.
        styles: maps a number of samples to styles with a graph.
        judge: maps sequences to logits and pixel logits.
        optimizers: of generator and discriminator.
        autocast: whether it computes in bfloat16.
    """

    generate: Callable[[Tensor], Tensor]
    styles: Callable[[int], Tensor]
    judge: Callable[[Tensor], tuple[Tensor, Tensor]]
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer]
    autocast: bool


def plain(size: int, widths: Sequence[int], latent_dim: int) -> Arm:
    """The released code's steps in plain operators: per-tensor Adam, all gradients computed."""
    parts = published_baseline.random_weights(widths, _D_WIDTHS, latent_dim, _MAPPING_LAYERS)
    for part in parts:
        for name, tensor in part.items():
            tensor.requires_grad_("kernel" not in name and "noises" not in name)
    generator, discriminator = parts

    def optimizer(part: dict[str, Tensor], lr: float) -> torch.optim.Optimizer:
        return torch.optim.Adam([t for t in part.values() if t.requires_grad], lr, (0.0, 0.999))

    return Arm(
        lambda w: published_baseline.synthesize(generator, w, w, fresh=True),
        lambda n: published_baseline.map_latents(generator, torch.randn(n, latent_dim)),
        lambda x: published_baseline.judge(discriminator, x),
        (optimizer(generator, _G_LR), optimizer(discriminator, _D_LR)),
        autocast=False,
    )


def ours(
    size: int, widths: Sequence[int], latent_dim: int, wiring: Any, bf16: bool, device: str
) -> Arm:
    """Our networks, with the fused Adam."""
    torch.manual_seed(0)
    generator = Generator(size, 2, 3, latent_dim, latent_dim, widths, _MAPPING_LAYERS, wiring)
    discriminator = Discriminator(6, _D_WIDTHS)
    layout = torch.channels_last if bf16 else torch.contiguous_format
    for network in (generator, discriminator):
        network.to(device, memory_format=layout).train()
    betas = (0.0, 0.999)
    return Arm(
        lambda w: generator.synthesize(w, torch.randn(len(w), generator.noise_values)),
        lambda n: generator.mapping(torch.randn(n, latent_dim, device=device)),
        discriminator,
        (
            adam(generator.parameters(), _G_LR, betas),
            adam(discriminator.parameters(), _D_LR, betas),
        ),
        bf16,
    )


def steps(arm: Arm, real: Tensor) -> dict[str, Callable[[], object]]:
    """Each kind of step as a function without arguments.

    Args:
        arm: computes it.
        real: sequences [B, D, T, S, S].
    """
    count = len(real)
    context = torch.autocast(real.device.type, torch.bfloat16) if arm.autocast else nullcontext()
    g_optimizer, d_optimizer = arm.optimizers

    def forward() -> None:
        with torch.no_grad(), context:
            arm.generate(arm.styles(count))

    def g_step() -> None:
        with context, _frozen(arm):
            logits = arm.judge(arm.generate(arm.styles(count)))
            loss = sum(generator_loss(_LOSS, one) for one in logits)
            _descend(g_optimizer, loss)

    def d_step() -> None:
        with context:
            with torch.no_grad():
                fake = arm.generate(arm.styles(count))
            pairs = zip(arm.judge(real), arm.judge(fake), strict=True)
            _descend(d_optimizer, sum(discriminator_loss(_LOSS, *pair) for pair in pairs))

    def r1_step() -> None:
        with context:
            x = real.clone().requires_grad_()
            logit, pixels = arm.judge(x)
            penalty = gradient_square(logit + mixed_pixels(pixels), x)
            _descend(d_optimizer, _R1 / 2 * penalty)

    def path_step() -> None:
        with context:
            styles = arm.styles(max(1, count // 2))
            frames = arm.generate(styles).flatten(1, 2)
            lengths = path_length(frames, styles, torch.randn_like(frames))
            _descend(g_optimizer, _PATH * lengths.square().mean())

    return dict(zip(KINDS, (forward, g_step, d_step, r1_step, path_step), strict=True))


def peaks(dtype: torch.dtype, rounds: int = 5) -> dict[str, float]:
    """FLOP/s of a 3 x 3 convolution and a large matrix product, the fastest of some."""
    a, image = torch.randn(2048, 2048, dtype=dtype), torch.randn(4, 512, 64, 64, dtype=dtype)
    weight = torch.randn(512, 512, 3, 3, dtype=dtype)
    if dtype != torch.float32:
        # As the networks have them, see `ours`.
        image, weight = (x.to(memory_format=torch.channels_last) for x in (image, weight))
    runs = {"convolution": lambda: F.conv2d(image, weight, padding=1), "product": lambda: a @ a}
    work = {"convolution": 2 * 4 * 64**2 * 512**2 * 9, "product": 2 * 2048**3}
    timed = in_turn({name: ("auto", run) for name, run in runs.items()}, rounds, "cpu")
    return {name: work[name] / min(timed[name]) for name in runs}


class _Counting(TorchDispatchMode):
    """Not torch's FlopCounterMode: its hooks on modules fail where no gradient is taken."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func.overloadpacket):
            self.total += count(*args, **(kwargs or {}), out_val=found)
        return found


def operations(step: Callable[[], object]) -> int:
    """Floating point operations of all convolutions and products of a step."""
    with _Counting() as counting:
        step()
    return counting.total


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64, help="side of a frame in pixels")
    parser.add_argument("--batch", type=int, default=4, help="sequences a step")
    parser.add_argument("--width", type=int, default=512, help="channels at full resolution")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=ARMS, default=ARMS, help="arms to be timed")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    latent_dim = min(512, options.width)
    widths = halving_widths(options.size, options.width)
    real = torch.randn(options.batch, 2, 3, options.size, options.size).clamp(-1, 1)
    result: dict[str, Any] = {
        "hardware": f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}",
        **vars(options),
    }
    arms = {
        name: steps(arm, real)
        for name, arm in _arms(options.size, widths, latent_dim, options.only)
    }
    if not arms:
        parser.error("--only: this CPU has no instructions for bfloat16; name another arm")
    rates = {name: peaks(getattr(torch, name)) for name in sorted({_precision(a) for a in arms})}
    result |= {"seconds": {}, "operations": {}, "peak_flops": rates}
    print(result["hardware"])
    for name, rate in rates.items():
        found = ", ".join(f"{what} {value / 1e9:.0f} GFLOP/s" for what, value in rate.items())
        print(f"peaks in {name}: {found}", flush=True)
    for kind in KINDS:
        timed = {name: ("auto", arm[kind]) for name, arm in arms.items()}
        found = in_turn(timed, options.rounds, "cpu")
        seconds = {name: statistics.median(values) for name, values in found.items()}
        counted = {name: operations(arm[kind]) for name, arm in arms.items()}
        result["seconds"][kind], result["operations"][kind] = seconds, counted
        for name in arms:
            print(_row(kind, name, result, options.batch), flush=True)
    result["peak_memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {result['peak_memory_gb']:.1f} GB, all of them together")
    print(json.dumps(result))


def _precision(arm: str) -> str:
    return "bfloat16" if arm.endswith("-bf16") else "float32"


def _arms(
    size: int, widths: Sequence[int], latent_dim: int, only: Sequence[str]
) -> Iterator[tuple[str, Arm]]:
    for name in only:
        wiring, _, bf16 = name.partition("-")
        if wiring == "plain":
            yield name, plain(size, widths, latent_dim)
        elif not bf16 or has_native_bf16("cpu"):
            yield name, ours(size, widths, latent_dim, wiring, bool(bf16), "cpu")


@contextmanager
def _frozen(arm: Arm) -> Iterator[None]:
    """The discriminator without gradients of its weights, where the arm is ours."""
    parameters = list(arm.judge.parameters()) if isinstance(arm.judge, nn.Module) else []
    for parameter in parameters:
        parameter.requires_grad_(False)
    yield
    for parameter in parameters:
        parameter.requires_grad_(True)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    nn.utils.clip_grad_norm_(parameters, _CLIP)
    optimizer.step()


def _row(kind: str, arm: str, result: dict[str, Any], batch: int) -> str:
    seconds, plain = result["seconds"][kind][arm], result["seconds"][kind].get("plain")
    rate = result["operations"][kind][arm] / seconds
    peak = result["peak_flops"][_precision(arm)]
    shares = ", ".join(f"{rate / value:.0%} of the {what}" for what, value in peak.items())
    times = f", {plain / seconds:.1f} x plain" if plain else ""
    speed = f"{seconds:.2f} s, {batch / seconds:.2f} sequences/s{times}"
    return f"{kind:17} {arm:15} {speed}; {rate / 1e9:.0f} GFLOP/s, {shares}"


if __name__ == "__main__":
    main()
