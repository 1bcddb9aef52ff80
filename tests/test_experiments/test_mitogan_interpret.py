"""Interpretation is right where the truth is known: a discriminator that one feature decides."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.mitogan import interpret
from experiments.mitogan.biology import measure
from experiments.mitogan.networks import discriminator

SIDE = 32


def tubules(rng: np.random.Generator, width: float) -> np.ndarray:
    """Two or three lines of a width in pixels; number, place and brightness tell nothing of it."""
    y, x = np.mgrid[:SIDE, :SIDE]
    image = np.zeros((SIDE, SIDE))
    for _ in range(rng.integers(2, 4)):
        angle, offset = rng.uniform(0, np.pi), rng.uniform(-9, 9)
        across = (x - SIDE / 2) * np.cos(angle) + (y - SIDE / 2) * np.sin(angle) - offset
        along = -(x - SIDE / 2) * np.sin(angle) + (y - SIDE / 2) * np.cos(angle)
        length = rng.uniform(6, 13)
        line = np.exp(-0.5 * (across / (width / 2.35)) ** 2) * (np.abs(along) < length)
        image = np.maximum(image, line)
    noisy = rng.uniform(0.7, 1) * image + rng.normal(0, 0.03, image.shape)
    return noisy.clip(0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, np.ndarray]:
    """Frames, and samples that differ from them by the width of their tubules alone."""
    rng = np.random.default_rng(0)
    thin = np.stack([tubules(rng, rng.normal(2.2, 0.25)) for _ in range(160)])
    wide = np.stack([tubules(rng, rng.normal(4.0, 0.25)) for _ in range(160)])
    return thin, wide


@pytest.fixture(scope="module")
def trained(planted: tuple[np.ndarray, np.ndarray]) -> interpret.InCompany:
    real, fake = (torch.from_numpy(images)[:, None] * 2 - 1 for images in planted)
    torch.manual_seed(0)
    network = discriminator("dcgan", SIDE, 1, 8, 32, normalised=False)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    # Fewer steps leave the coarse maps of layer-CAM at chance with some seeds.
    for _ in range(600):
        rows = torch.randint(0, len(real), (2, 16))
        logits = network(real[rows[0]]), network(fake[rows[1]])
        loss = F.softplus(-logits[0]).mean() + F.softplus(logits[1]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return interpret.InCompany(network.eval(), real[:3])


def test_the_planted_feature_ranks_first(
    planted: tuple[np.ndarray, np.ndarray], trained: interpret.InCompany
) -> None:
    images = np.concatenate(planted)
    rows = [measure(image[None]) for image in images]
    names = list(rows[0])
    with torch.no_grad():
        logits = trained(torch.from_numpy(images)[:, None] * 2 - 1).numpy()
    groups = [f"{k // 8}" for k in range(len(images))]
    features = np.array([list(row.values()) for row in rows])
    found = interpret.surrogate(features, names, logits, groups)
    assert next(iter(found.importance)) == "tubule_width"
    assert found.r2 > 0.5 and found.correlation["tubule_width"] < -0.5


@pytest.mark.parametrize("method", interpret.METHODS)
def test_maps_name_the_pixels_that_the_logit_comes_from(
    planted: tuple[np.ndarray, np.ndarray], trained: interpret.InCompany, method: str
) -> None:
    images = torch.from_numpy(planted[0][:48])[:, None] * 2 - 1
    before = images.clone()
    maps = interpret.attribution(trained, images, method)
    assert maps.shape == (48, SIDE, SIDE) and torch.equal(images, before)
    chance = torch.rand(maps.shape, generator=torch.Generator().manual_seed(1))
    own, by_chance = (interpret.curves(trained, images, one) for one in (maps, chance))
    assert own.deletion < by_chance.deletion - 0.05


@pytest.mark.parametrize("method", interpret.METHODS)
def test_maps_of_a_network_with_random_weights_are_others(
    planted: tuple[np.ndarray, np.ndarray], trained: interpret.InCompany, method: str
) -> None:
    images = torch.from_numpy(planted[0][:6])[:, None] * 2 - 1
    maps = interpret.attribution(trained, images, method)
    weights = {name: p.clone() for name, p in trained.named_parameters()}
    networks = list(interpret.randomised(trained))
    others = interpret.attribution(networks[-1][1], images, method)
    assert interpret.rank_correlation(maps, maps) == pytest.approx(1)
    assert interpret.rank_correlation(maps, others) < 0.5
    assert all(torch.equal(p, weights[name]) for name, p in trained.named_parameters())


def test_integrated_gradients_of_a_linear_network_add_up_to_the_difference() -> None:
    class Linear(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return (images * torch.linspace(-1, 1, SIDE)).sum((1, 2, 3))

    images = torch.randn(4, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    network = interpret.InCompany(Linear(), images[:3])
    maps = interpret.attribution(network, images, "integrated gradients")
    blurred = interpret.without_detail(images)
    torch.testing.assert_close(maps.sum((1, 2)), network(images) - network(blurred))
    expected = ((images - blurred) * torch.linspace(-1, 1, SIDE))[:, 0]
    torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", interpret.METHODS)
def test_few_images_are_held_at_once(method: str) -> None:
    network, seen = discriminator("dcgan", SIDE, 1, 4, 8, normalised=False).eval(), []
    network.register_forward_hook(lambda layer, inputs, logits: seen.append(len(logits)))
    images = torch.rand(interpret.AT_ONCE + 4, 1, SIDE, SIDE)
    maps = interpret.attribution(interpret.InCompany(network, images[:3]), images, method)
    assert len(maps) == len(images)
    # Each with the three that it is judged beside.
    assert max(seen) <= 4 * interpret.AT_ONCE


def curve_of(maps: Callable[[Tensor], Tensor]) -> interpret.Curves:
    """Of a network whose logit is the mean of one quarter of the image."""
    images = torch.rand(5, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    images[:, :, :16, :16] += 3
    images[:, :, :16:2] += 3
    return interpret.curves(lambda x: x[:, 0, :16, :16].square().mean((1, 2)), images, maps(images))


def test_areas_are_those_of_closed_forms() -> None:
    quarter = torch.zeros(SIDE, SIDE)
    quarter[:16, :16] = 1
    best = curve_of(
        lambda images: quarter + 0.1 * (images - interpret.without_detail(images))[:, 0]
    )
    worst = curve_of(lambda images: -quarter.expand(len(images), -1, -1))
    # The logit is gone after a quarter of the pixels, or stays until the last quarter.
    assert best.deletion < 0.15 and best.insertion > 0.85
    assert worst.deletion > 0.85 and worst.insertion < 0.15


def test_company_makes_a_logit_independent_of_what_else_is_judged() -> None:
    network = discriminator("style", SIDE, 1, 8, 16, normalised=True).eval()
    images = torch.randn(6, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    company = interpret.InCompany(network, images[:3])
    with torch.no_grad():
        alone, together = company(images[3:4]), company(images)
        assert not torch.allclose(network(images[3:4]), network(images)[3:4], atol=1e-6)
    torch.testing.assert_close(alone, together[3:4])


def test_an_unknown_method_is_refused() -> None:
    images = torch.zeros(1, 1, SIDE, SIDE)
    network = interpret.InCompany(nn.Identity(), images)
    with pytest.raises(ValueError, match="none of integrated gradients, occlusion, layer-CAM"):
        interpret.attribution(network, images, "guess")
