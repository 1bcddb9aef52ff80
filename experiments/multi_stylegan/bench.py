"""Seconds of each kind of training step, beside the same step in plain torch operators.

The released code took its penalties as steps of their own; so do all arms here. Rounds are
interleaved. What a step costs at least is told by the multiply-adds of its convolutions and the
rate of the fastest convolution measured in the same run.
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


def peaks(rounds: int = 5) -> dict[str, float]:
    """FLOP/s of a large matrix product and a 3 x 3 convolution in float32, the fastest of some."""
    a, image = torch.randn(2048, 2048), torch.randn(4, 512, 64, 64)
    weight = torch.randn(512, 512, 3, 3)
    runs = {"matrix": lambda: a @ a, "convolution": lambda: F.conv2d(image, weight, padding=1)}
    work = {"matrix": 2 * 2048**3, "convolution": 2 * 4 * 64**2 * 512**2 * 9}
    timed = in_turn({name: ("auto", run) for name, run in runs.items()}, rounds, "cpu")
    return {name: work[name] / min(timed[name]) for name in runs}


def convolution_flops(generator: nn.Module, styles: Tensor) -> int:
    """Floating point operations of all convolutions and products of one forward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        generator.synthesize(styles)
    return counter.get_total_flops()


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
    seconds: dict[str, dict[str, float]] = {}
    arms = {
        name: steps(arm, real)
        for name, arm in _arms(options.size, widths, latent_dim, options.only)
    }
    if not arms:
        parser.error("--only: this CPU has no instructions for bfloat16; name another arm")
    for kind in KINDS:
        timed = {name: ("auto", arm[kind]) for name, arm in arms.items()}
        found = in_turn(timed, options.rounds, "cpu")
        seconds[kind] = {name: statistics.median(values) for name, values in found.items()}
        print(_row(kind, seconds[kind], options.batch), flush=True)
    result |= {"seconds": seconds, "peak_flops": peaks()}
    network = Generator(
        options.size, widths=widths, latent_dim=latent_dim, style_dim=latent_dim, wiring="published"
    ).eval()
    styles = network.mapping(torch.randn(options.batch, latent_dim)).detach()
    result["g_forward_flops"] = convolution_flops(network, styles)
    result["peak_memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    _print_floor(result)
    print(json.dumps(result))


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


def _row(kind: str, seconds: dict[str, float], batch: int) -> str:
    plain = seconds.get("plain")
    cells = []
    for name, s in seconds.items():
        times = f", {plain / s:.1f} x" if plain else ""
        cells.append(f"{name} {s:.2f} s ({batch / s:.2f} sequences/s{times})")
    return f"{kind:17} " + "; ".join(cells)


def _print_floor(result: dict[str, Any]) -> None:
    peak = result["peak_flops"]
    floor = result["g_forward_flops"] / peak["convolution"]
    rates = ", ".join(f"{name} {value / 1e9:.0f} GFLOP/s" for name, value in peak.items())
    print(f"{result['hardware']}; peaks in float32: {rates}")
    if found := result["seconds"]["G forward"].get("published"):
        share = floor / found
        print(f"G forward, published: {share:.0%} of the convolution floor of {floor:.2f} s")
    print(f"peak memory {result['peak_memory_gb']:.1f} GB, all of them together")


if __name__ == "__main__":
    main()
