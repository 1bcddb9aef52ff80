"""Steps that are replayed do what they would have done."""

import pytest
import torch
from torch import Tensor, nn

from common.step_graphs import StepGraphs

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def trained(enabled: bool, steps: int) -> tuple[list[float], list[Tensor]]:
    """Losses and weights of a network with noise, a penalty every third step, and clipping."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1)).cuda()
    optimizer = torch.optim.Adam(network.parameters(), 1e-2, fused=True)
    graphs, losses = StepGraphs(enabled), []
    for step in range(steps):
        lazy = step % 3 == 0

        def passes(x: Tensor, share: Tensor, lazy: bool = lazy) -> dict[str, Tensor]:
            optimizer.zero_grad(set_to_none=not enabled)
            with torch.autocast("cuda", torch.bfloat16):
                noisy = (x + share * torch.randn_like(x)).requires_grad_()
                y = network(noisy).float()
            loss = y.square().mean()
            if lazy:
                (slope,) = torch.autograd.grad(y.sum(), noisy, create_graph=True)
                loss = loss + slope.square().mean()
            loss.backward()
            return {"loss": loss.detach()}

        x = torch.full((16, 8), float(step), device="cuda")
        share = torch.full((), 0.1 * step, device="cuda")
        losses.append(float(graphs(lazy, passes, x, share)["loss"]))
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return losses, list(network.parameters())


@on_gpu
@pytest.mark.cuda
def test_replayed_steps_draw_and_learn_what_plain_ones_do() -> None:
    plain, replayed = trained(False, 30), trained(True, 30)
    assert replayed[0] == pytest.approx(plain[0], rel=1e-3)
    for a, b in zip(replayed[1], plain[1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


@on_gpu
@pytest.mark.cuda
def test_results_of_one_graph_outlive_the_next() -> None:
    graphs, zero = StepGraphs(True), torch.zeros((), device="cuda")

    def doubled(x: Tensor) -> dict[str, Tensor]:
        return {"twice": 2 * x}

    def cubed(x: Tensor) -> dict[str, Tensor]:
        return {"cube": x * x * x}

    for number in range(8):
        twice = graphs("doubled", doubled, zero + number)["twice"]
        cube = graphs("cubed", cubed, zero + number)["cube"]
        assert (float(twice), float(cube)) == (2 * number, number**3)


def test_without_a_gpu_steps_run_as_they_are() -> None:
    calls = []

    def step(x: Tensor) -> dict[str, Tensor]:
        calls.append(float(x))
        return {"x": x}

    graphs = StepGraphs()
    found = [graphs("kind", step, torch.tensor(float(k)))["x"] for k in range(6)]
    assert calls == [0, 1, 2, 3, 4, 5] and [float(x) for x in found] == calls
