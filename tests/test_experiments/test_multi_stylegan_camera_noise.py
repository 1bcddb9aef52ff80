"""Noise of cameras is measured in recordings and added to samples."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from common.sampling import DETAIL_SEED, seeded_noise
from experiments.multi_stylegan.camera_noise import CameraNoise, noise_level
from experiments.multi_stylegan.module import MultiStyleGAN

TINY = {
    **{"image_size": 16, "latent_dim": 8, "style_dim": 8, "width": 4, "max_width": 8},
    **{"mapping_layers": 2, "d_width": 8, "d_levels": 3, "noise": False, "augment": "none"},
}
WHOLE = torch.ones(60, 32, 32)


@pytest.fixture(autouse=True)
def _quick(one_thread: None) -> None:
    torch.manual_seed(0)


def scenes() -> Tensor:
    """Noiseless discs with sharp edges on uneven ground [60, 32, 32]."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    middle = 8 + 16 * torch.rand(60, 2, 1, 1)
    discs = ((y - middle[:, 0]) ** 2 + (x - middle[:, 1]) ** 2 < 36).float()
    return 0.01 * (x - 16) + 0.5 * discs - 0.25


class Data:
    """Recordings that are nothing but noise."""

    def __init__(self, count: int = 50) -> None:
        self.opened = 0
        self.recorded = 0.1 * torch.randn(count, 2, 3, 16, 16)

    def spread(self, split: str, count: int) -> dict[str, Tensor]:
        assert split == "train"
        self.opened += 1
        masks = torch.ones(len(self.recorded), 1, 16, 16)
        return {"image": self.recorded[:count], "mask": masks[:count]}


def measured(**settings: object) -> MultiStyleGAN:
    """A module that has begun to train."""
    made = MultiStyleGAN(**TINY | settings)
    made.trainer = SimpleNamespace(
        datamodule=Data(), is_global_zero=True, images_seen=4, world_size=1
    )
    made.on_fit_start()
    return made


@pytest.mark.parametrize("level", [0.01, 0.05])
def test_white_noise_is_measured_beside_sharp_objects(level: float) -> None:
    frames = scenes()
    noisy = frames + level * torch.randn_like(frames)
    assert noise_level(noisy, WHOLE).item() == pytest.approx(level, rel=0.1)
    assert noise_level(frames, WHOLE) < 1e-6
    # What a camera of 8 bits rounds it to.
    grey = (noisy * 127.5).round() / 127.5
    assert noise_level(grey, WHOLE).item() == pytest.approx(level, rel=0.15)


def test_the_canvas_and_what_was_clipped_tell_nothing_of_noise() -> None:
    masks = WHOLE.clone()
    masks[:, 20:] = masks[:, :, 25:] = 0
    noisy = scenes() + 0.05 * torch.randn(60, 32, 32)
    flat = noisy * masks
    assert noise_level(flat, WHOLE) < 0.01
    assert noise_level(flat, masks).item() == pytest.approx(0.05, rel=0.1)
    noisy[:, :, :12] = 1
    assert noise_level(noisy, WHOLE).item() == pytest.approx(0.05, rel=0.1)
    assert noise_level(torch.ones(2, 8, 8), torch.ones(2, 8, 8)) == 0
    tiny = 0.1 * torch.randn(1, 4, 4)
    assert 0 < noise_level(tiny, torch.ones(1, 4, 4)) < 1


def test_each_domain_gets_the_noise_of_its_own_camera() -> None:
    clean = torch.stack([scenes(), -scenes()], 1)[:, :, None].expand(-1, -1, 3, -1, -1)
    strength = torch.tensor([0.02, 0.1])
    camera = CameraNoise(2, 3, 32, enabled=True)
    noise = torch.randn(60, camera.noise_values)
    assert torch.equal(camera(clean, noise), clean)
    recorded = clean + strength.view(-1, 1, 1, 1) * torch.randn_like(clean)
    camera.measure(recorded, WHOLE[:, None])
    torch.testing.assert_close(camera.strengths, strength.expand(64, 2), rtol=0.2, atol=0)
    added = camera(clean, noise) - clean
    torch.testing.assert_close(added.std((0, 2, 3, 4)), strength, rtol=0.1, atol=0)
    # That of one frame says nothing of that of another.
    pairs = torch.corrcoef(added.movedim(0, 2).flatten(2).flatten(0, 1))
    assert (pairs - torch.eye(6)).abs().max() < 0.02


def test_samples_have_the_noise_of_one_recording_each() -> None:
    camera = CameraNoise(2, 3, 32, enabled=True)
    strengths = torch.linspace(0.01, 0.1, 64)[:, None].expand(64, 2)
    recorded = strengths.view(64, 2, 1, 1, 1) * torch.randn(64, 2, 3, 32, 32)
    camera.measure(recorded, torch.ones(64, 1, 32, 32))
    noise = torch.randn(1000, camera.noise_values)
    added = camera(torch.zeros(1000, 2, 3, 32, 32), noise).flatten(2).std(2)
    # Noisy in one domain is noisy in the other, as in the recordings.
    assert torch.corrcoef(added.T)[0, 1] > 0.95
    wanted = torch.quantile(strengths[:, 0], torch.tensor([0.1, 0.5, 0.9]))
    found = torch.quantile(added[:, 0], torch.tensor([0.1, 0.5, 0.9]))
    torch.testing.assert_close(found, wanted, rtol=0.2, atol=0)


def test_samples_come_with_the_noise_that_training_frames_have(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = measured().eval()
    found = [f"{value / 2:.2%}" for value in made.camera.strengths.median(0).values.tolist()]
    assert f"noise of cameras: {found[0]} and {found[1]} of the window" in capsys.readouterr().out
    torch.testing.assert_close(made.camera.strengths, torch.full((64, 2), 0.1), rtol=0.3, atol=0)
    seeds = torch.arange(3)
    first, again = (made.predict_step({"seed": seeds}, 0)["image"] for _ in range(2))
    assert torch.equal(first, again)
    noise = seeded_noise(seeds + DETAIL_SEED, made.noise_values)
    clean = made.generator(seeded_noise(seeds, 8), noise=noise[:, : made.generator.noise_values])
    left = (first - clean).flatten(1)
    torch.testing.assert_close(left.std(1), torch.full((3,), 0.1), rtol=0.3, atol=0)


def test_the_discriminator_sees_new_noise_in_every_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    made, seen = measured(r1_weight=0, path_length_weight=0, cutmix_prob=0), []
    made.discriminator.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    styles = made.generator.mapping(torch.randn(4, 8)).detach()
    monkeypatch.setattr(made, "_styles", lambda count: styles[:count])
    made.discriminator_terms(torch.zeros(4, 2, 3, 16, 16), 0.0, 1)
    made.generator_terms(4, 1)
    clean = made.generator.synthesize(styles)
    rests = [(shown - clean).flatten(1) for shown in seen[1:]]
    assert len(rests) == 2
    for rest in rests:
        torch.testing.assert_close(rest.std(1), torch.full((4,), 0.1), rtol=0.3, atol=0)
    assert torch.corrcoef(torch.stack([rest.flatten() for rest in rests]))[0, 1].abs() < 0.05


def test_what_a_checkpoint_holds_is_not_measured_again() -> None:
    made = measured()
    data, before = made.trainer.datamodule, made.camera.strengths.clone()
    made.on_fit_start()
    assert data.opened == 1
    resumed = MultiStyleGAN(**TINY)
    resumed.load_state_dict(made.state_dict())
    resumed.trainer = made.trainer
    resumed.on_fit_start()
    assert data.opened == 1 and torch.equal(resumed.camera.strengths, before)


def test_without_it_nothing_is_measured_or_added() -> None:
    made = measured(camera_noise=False)
    assert made.trainer.datamodule.opened == 0 and made.camera.noise_values == 0
    made.camera.strengths.fill_(1)
    z, noise = torch.randn(2, 8), torch.randn(2, made.noise_values)
    assert torch.equal(made.decode(z, noise), made.generator(z, noise=noise).clamp(-1, 1))
