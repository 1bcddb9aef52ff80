"""Does a loss find all modes? 25 narrow Gaussians on a grid, and two small networks.

The usual benchmark of mode collapse (Dumoulin et al. 2017; Srivastava et al. 2017). Both networks
see their input and some waves of it: with plain inputs, fewer samples are good after equal steps.
"""

import json
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR

from common.losses.adversarial import Loss, discriminator_loss, generator_loss
from common.losses.penalties import gradient_square
from common.optimizers import adam

SPACING, SIGMA = 2.0, 0.05
LEVELS = torch.arange(-2, 3) * SPACING
MODES = torch.cartesian_prod(LEVELS, LEVELS)
LATENT_DIM, BATCH, STEPS, SAMPLES = 2, 512, 9000, 10_000
GENERATOR_LR, DISCRIMINATOR_LR, GAMMA = 1e-2, 5e-3, 0.1
# What is left of rates and of gamma at the end; Huang et al. 2024 let both fall, too.
LR_DECAY, GAMMA_DECAY = 0.02, 0.03
# A mode counts as covered with a twentieth of its share of the samples.
COVERED = SAMPLES // len(MODES) // 20


class Waves(nn.Module):
    """Appends sines and cosines of a few octaves, the lowest one of this period."""

    def __init__(self, period: float, octaves: int) -> None:
        super().__init__()
        self.rates = 2 * torch.pi / period * 2.0 ** torch.arange(octaves)

    def forward(self, x: Tensor) -> Tensor:
        phase = (x[:, :, None] * self.rates).flatten(1)
        return torch.cat([x, phase.sin(), phase.cos()], dim=1)


def network(period: float, octaves: int, widths: list[int], after: int) -> nn.Sequential:
    """Hidden layers of these widths on two numbers and their waves."""
    layers: list[nn.Module] = [Waves(period, octaves)]
    for sizes in pairwise([2 + 4 * octaves, *widths]):
        layers += [nn.Linear(*sizes), nn.LeakyReLU(0.2)]
        nn.init.kaiming_uniform_(layers[-2].weight, 0.2)
        nn.init.zeros_(layers[-2].bias)
    return nn.Sequential(*layers, nn.Linear(widths[-1], after))


class Found(NamedTuple):
    """Modes covered, and the share of samples within 4 sigma of one."""

    modes: int
    good: float


def found_after(kind: Loss, gamma: float, seed: int, steps: int) -> Found:
    """Trains a pair of networks; ``gamma`` weighs R1 and R2."""
    torch.manual_seed(seed)
    generator = network(8.0, 4, [128] * 4, 2)
    # Lengths are in units of the spacing inside the networks.
    discriminator = network(4.0, 4, [64] * 3, 1)
    upper, lower = (
        adam(player.parameters(), lr, (0.0, 0.99))
        for player, lr in ((generator, GENERATOR_LR), (discriminator, DISCRIMINATOR_LR))
    )
    falls = [ExponentialLR(player, LR_DECAY ** (1 / steps)) for player in (upper, lower)]
    for step in range(steps):
        real, fake = real_points(), generator(torch.randn(BATCH, LATENT_DIM))
        both = torch.cat([real, fake.detach()]).requires_grad_(gamma > 0)
        logits = discriminator(both).squeeze(1)
        loss = discriminator_loss(kind, *logits.chunk(2))
        if gamma:
            # Over real and generated points at once: gamma / 2 of R1 and gamma / 2 of R2.
            now = gamma * GAMMA_DECAY ** (step / steps)
            loss = loss + now * gradient_square(logits, both)
        descend(lower, loss)
        logits = discriminator(torch.cat([real, fake])).squeeze(1)
        descend(upper, generator_loss(kind, *reversed(logits.chunk(2))))
        for fall in falls:
            fall.step()
    return judged(generator)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    parameters = optimizer.param_groups[0]["params"]
    loss.backward(inputs=parameters)
    optimizer.step()


def real_points() -> Tensor:
    """Points [BATCH, 2] in units of the spacing."""
    points = MODES[torch.randint(len(MODES), (BATCH,))] + SIGMA * torch.randn(BATCH, 2)
    return points / SPACING


@torch.no_grad()
def judged(generator: nn.Module) -> Found:
    samples = generator(torch.randn(SAMPLES, LATENT_DIM)) * SPACING
    distance, mode = torch.cdist(samples, MODES).min(1)
    good = distance < 4 * SIGMA
    count = torch.bincount(mode[good], minlength=len(MODES))
    return Found(int((count >= COVERED).sum()), good.double().mean().item())


def test_the_judge_knows_the_truth_from_a_collapse() -> None:
    torch.manual_seed(0)

    class Real(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            points = MODES[torch.randint(25, (len(z),))] + SIGMA * torch.randn(len(z), 2)
            return points / SPACING

    truth = judged(Real())
    # 1 - exp(-8) of a Gaussian in the plane lies within 4 sigma.
    assert truth.modes == 25 and truth.good == pytest.approx(1 - 0.000335, abs=1e-3)

    class Collapsed(nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return (MODES[:1] + SIGMA * z) / SPACING

    assert judged(Collapsed()).modes == 1


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_penalised_relativistic_loss_finds_all_25_modes() -> None:
    penalised = found_after("relativistic", GAMMA, seed=0, steps=STEPS)
    plain = found_after("non_saturating", 0.0, seed=0, steps=STEPS)
    figures = {"relativistic, R1, R2": penalised, "non-saturating": plain}
    print(json.dumps({name: found._asdict() for name, found in figures.items()}))
    assert penalised.modes == 25 and penalised.good > 0.9, figures
