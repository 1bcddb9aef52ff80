"""Noise of cameras is measured in recordings and added to samples."""

from types import SimpleNamespace

import pytest
import torch

from common.sampling import DETAIL_SEED, seeded_noise
from experiments.multi_stylegan.camera_noise import CameraNoise, noise_level
from experiments.multi_stylegan.module import MultiStyleGAN

TINY = {
    **{"image_size": 16, "latent_dim": 8, "style_dim": 8, "width": 4, "max_width": 8},
    **{"mapping_layers": 2, "d_width": 8, "d_levels": 3, "noise": False},
}


@pytest.fixture(autouse=True)
def _quick(one_thread: None) -> None:
    torch.manual_seed(0)


def scenes(count: int = 60) -> torch.Tensor:
    """Noiseless discs with sharp edges on uneven ground [N, 32, 32]."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    middle = 8 + 16 * torch.rand(count, 2, 1, 1)
    discs = ((y - middle[:, 0]) ** 2 + (x - middle[:, 1]) ** 2 < 36).float()
    return 0.02 * (x - 16) + discs - 0.5


@pytest.mark.parametrize("level", [0.01, 0.1])
def test_white_noise_is_measured_beside_sharp_objects(level: float) -> None:
    frames = scenes()
    found = noise_level(frames + level * torch.randn_like(frames))
    assert found == pytest.approx(level, rel=0.1)
    assert noise_level(frames) < 1e-6


def test_each_domain_gets_the_noise_of_its_own_camera() -> None:
    clean = torch.stack([scenes(), -scenes()], 1)[:, :, None].expand(-1, -1, 3, -1, -1)
    strength = torch.tensor([0.02, 0.1])
    camera = CameraNoise(2)
    noise = torch.randn(60, 2 * 3 * 32 * 32)
    assert torch.equal(camera(clean, noise), clean)
    recorded = clean + strength.view(-1, 1, 1, 1) * torch.randn_like(clean)
    camera.measure(recorded)
    torch.testing.assert_close(camera.strength, strength, rtol=0.1, atol=0)
    added = camera(clean, noise) - clean
    torch.testing.assert_close(added.std((0, 2, 3, 4)), camera.strength, rtol=0.05, atol=0)
    # That of one frame says nothing of that of another.
    pairs = torch.corrcoef(added.movedim(0, 2).flatten(2).flatten(0, 1))
    assert (pairs - torch.eye(6)).abs().max() < 0.02


def test_samples_come_with_the_noise_that_training_frames_have() -> None:
    made = MultiStyleGAN(**TINY).eval()
    recorded = 0.1 * torch.randn(50, 2, 3, 16, 16)

    def spread(split: str, count: int) -> torch.Tensor:
        assert split == "train"
        return recorded[:count]

    made.trainer = SimpleNamespace(datamodule=SimpleNamespace(spread=spread))
    made.setup("predict")
    assert not made.camera.strength.any()
    made.setup("fit")
    torch.testing.assert_close(made.camera.strength, torch.full((2,), 0.1), rtol=0.1, atol=0)
    seeds = torch.arange(3)
    first, again = (made.predict_step({"seed": seeds}, 0)["image"] for _ in range(2))
    assert torch.equal(first, again)
    noise = seeded_noise(seeds + DETAIL_SEED, sum(made._noise_values))
    clean = made.generator(seeded_noise(seeds, 8), noise=noise[:, : made.generator.noise_values])
    left = (first - clean).flatten(1)
    torch.testing.assert_close(left.std(1), torch.full((3,), 0.1), rtol=0.15, atol=0)
    # In the discriminator's steps each batch has new noise, and so has each step of the generator.
    torch.manual_seed(1)
    assert not torch.equal(made._samples(2)[0], made._samples(2)[0])


def test_without_it_nothing_is_measured() -> None:
    made = MultiStyleGAN(**TINY, camera_noise=False)
    made.trainer = None
    made.setup("fit")
    assert not made.camera.strength.any()
