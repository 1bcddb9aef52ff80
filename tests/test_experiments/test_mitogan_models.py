"""The game of generator and discriminator, by each preset of the study."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from common.errors import Exit, UserError
from common.losses.adversarial import discriminator_loss, generator_loss
from common.sampling import DETAIL_SEED, seeded_noise
from experiments.mitogan.health import WORST, CriticHealth
from experiments.mitogan.latents import along, directions, interpolation
from experiments.mitogan.module import MitoGAN
from experiments.mitogan.networks import generator
from outcome import history
from running import ROOT, Cli, at, refuses, run_folder, smoke

CONFIGS = ROOT / "experiments/mitogan/configs"
TINY = {"image_size": 32, "latent_dim": 16, "width": 8, "max_width": 16}
STUDY = {
    "plain": ["gan"],
    "on masks": ["gan", "threshold"],
    "on skeletons": ["gan", "skeleton"],
    "wasserstein": ["wgan"],
    "recommended": [],
}
# Run by CI; smoke training of the others takes as long and tells little more.
QUICK = ("plain", "recommended")


def model(**settings: object) -> MitoGAN:
    torch.manual_seed(0)
    made = MitoGAN(**TINY, **settings)
    made.trainer = SimpleNamespace(images_seen=8, world_size=1)
    return made


def frames(count: int = 8) -> Tensor:
    return torch.randn(count, 1, 32, 32, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)


def whole(count: int = 8) -> Tensor:
    return torch.ones(count, 1, 32, 32)


@pytest.mark.parametrize(
    "overlays",
    [
        pytest.param(overlays, id=name, marks=() if name in QUICK else pytest.mark.slow)
        for name, overlays in STUDY.items()
    ],
)
def test_each_preset_of_the_study_trains(
    overlays: list[str], tmp_path: Path, trained_data: Path, cli: Cli
) -> None:
    configs = [word for name in overlays for word in ("--config", CONFIGS / f"{name}.yaml")]
    small = ["--model.init_args.width", "8", "--model.init_args.max_width", "16"]
    small += ["--model.init_args.val_extractor", "random-conv"]
    small += ["--model.init_args.val_samples", "10", "--data.root", trained_data]
    result = cli("mitogan", "fit", *smoke("mitogan"), *configs, *small, *at(tmp_path, "one"))
    assert result.code == 0, result.err
    rows = history(run_folder(tmp_path, "mitogan", "one"))[1:]
    logged = {name for _, _, _, name, _ in rows}
    curves = {f"{stage}/{side}_loss" for stage in ("train", "val") for side in "gd"}
    assert curves | {"val/kernel_distance"} <= logged
    assert all(math.isfinite(float(value)) for *_, value in rows)


@pytest.fixture(scope="module")
def trained_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from experiments.mitogan.simulator import simulate

    root = tmp_path_factory.mktemp("mito") / "raw"
    root.mkdir()
    simulate(root, 60, 0, 64, frames_per_video=10)
    return root


def test_presets_differ_where_the_study_says_so() -> None:
    read = {
        name: yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) for name in ("gan", "wgan")
    }
    plain, wasserstein = (MitoGAN(**read[name]["model"]["init_args"]) for name in read)
    norms = [
        sum(isinstance(m, torch.nn.BatchNorm2d) for m in one.discriminator.modules())
        for one in (plain, wasserstein)
    ]
    # A critic whose gradient is penalised image by image must not mix the images of a batch.
    assert norms[0] > 0 and norms[1] == 0
    assert plain.hparams.r1_weight == 0 and wasserstein.hparams.interpolation_weight == 10


@pytest.mark.parametrize("loss", ["non_saturating", "hinge", "wasserstein", "relativistic"])
def test_terms_are_those_of_the_losses(loss: str) -> None:
    made = model(loss=loss, augment="none", r1_weight=0.0, backbone="dcgan").eval()
    real = frames()
    torch.manual_seed(3)
    found = made.discriminator_terms(real, whole(), 0)["d_loss"]
    torch.manual_seed(3)
    fake = made.generator(torch.randn(8, 16), None)
    logits = made.discriminator(real), made.discriminator(fake)
    torch.testing.assert_close(found, discriminator_loss(loss, *logits))
    torch.manual_seed(3)
    found = made.generator_terms(real, whole())["g_loss"]
    torch.testing.assert_close(found, generator_loss(loss, *reversed(logits)))


def test_frames_and_samples_are_seen_on_the_same_part_of_the_canvas() -> None:
    made, seen = model(loss="relativistic", augment="none", r1_weight=0.0).eval(), []
    judged = made.discriminator.forward
    made.discriminator.forward = lambda x: (seen.append(x), judged(x))[1]
    made.log_dict = lambda values, **settings: None
    mask, real = whole(), frames()
    mask[:3, :, 20:], mask[3:6, ..., :9] = 0, 0
    made.discriminator_terms(real, mask, 1)
    made.generator_terms(real, mask)
    made.validation_step({"image": real, "mask": mask}, 0)
    batch = {"seed": torch.arange(8), "mask": mask}
    assert len(seen) == 6
    for shown in (*seen, made.predict_step(batch, 0)["image"]):
        assert (shown[mask == 0] == -1).all() and (shown[mask == 1] != -1).any()
    assert sum(torch.equal(shown[mask == 1], real[mask == 1]) for shown in seen) == 3


def test_a_penalty_comes_when_it_is_due_and_weighs_for_the_steps_between() -> None:
    made = model(r1_weight=2.0, r2_weight=4.0, penalty_every=4, augment="none").eval()
    terms = []
    for step in range(5):
        torch.manual_seed(0)
        terms.append(made.discriminator_terms(frames(), whole(), step))
    assert ["r1" in found for found in terms] == [True, False, False, False, True]
    penalty = 4 * (terms[0]["r1"] + 2 * terms[0]["r2"])
    torch.testing.assert_close(terms[0]["d_loss"] - terms[1]["d_loss"], penalty)


def test_augmentation_follows_frames_and_leaves_them_as_they_were() -> None:
    made = model(adaptive_images=1000)
    real = frames()
    before = real.clone()
    for _ in range(64):
        made.discriminator_terms(real, whole(), 1)
    assert torch.equal(real, before) and not real.requires_grad
    assert made.adaptive.seen + made.adaptive.signs.abs() > 0 or made.adaptive.probability > 0
    fixed = model(augment_prob=0.3)
    assert fixed.discriminator_terms(real, whole(), 1)["augment_prob"] == pytest.approx(0.3)


def test_a_mask_is_moved_and_keeps_its_two_values() -> None:
    made = model(num_channels=2, mask_channels=1, augment="flip+brightness+contrast+noise")
    real = frames().repeat(1, 2, 1, 1)
    real[:, 1] = (real[:, 1] > 0).float() * 2 - 1
    seen = made.augment(real, 1.0)
    assert set(seen[:, 1].unique().tolist()) == {-1, 1}
    assert not torch.equal(seen[:, 1], real[:, 1])
    assert not set(seen[:, 0].unique().tolist()) & {-1.0}


def test_the_zero_of_relativistic_logits_is_that_of_samples() -> None:
    signs = []
    for loss in ("relativistic", "non_saturating"):
        made = model(loss=loss, backbone="dcgan", augment="none", r1_weight=0.0)
        with torch.no_grad():
            made.discriminator[-2].bias.add_(100)
        made.discriminator_terms(frames(), whole(), 1)
        signs.append(float(made.adaptive.signs))
    # All logits are far above zero, those of samples too: only one of the two takes that for skill.
    assert abs(signs[0]) < 8 and signs[1] == 8


def test_sample_k_depends_on_seed_k_alone() -> None:
    made = model().eval()
    batch = {"seed": torch.tensor([5, 6, 7]), "mask": whole(3)}
    alone = {"seed": torch.tensor([6]), "mask": whole(1)}
    images = made.predict_step(batch, 0)["image"]
    assert images.shape == (3, 1, 32, 32) and images.abs().max() <= 1
    assert torch.equal(images[1:2], made.predict_step(alone, 0)["image"])
    assert not torch.equal(images[0], images[1])


def test_truncation_brings_samples_together() -> None:
    spreads = [
        made.predict_step({"seed": torch.arange(16), "mask": whole(16)}, 0)["image"].std(0).mean()
        for made in (model(truncation=psi).eval() for psi in (1.0, 0.3))
    ]
    assert spreads[1] < spreads[0]


def test_styles_are_mixed_in_training_alone() -> None:
    z, noise = torch.randn(4, 16), None
    network = generator("style", 32, 1, 16, 8, 16, 1.0)
    noise = torch.zeros(4, network.noise_values)
    assert not torch.equal(network(z, noise), network(z, noise))
    network.eval()
    assert torch.equal(network(z, noise), network(z, noise))


class Metrics:
    def __init__(self, value: float) -> None:
        self.callback_metrics = {"val/d_loss": torch.tensor(value)}
        self.images_seen = 1000


def test_a_critic_that_has_run_away_ends_the_training() -> None:
    CriticHealth().on_validation_epoch_end(Metrics(-0.9 * WORST), None)
    with pytest.raises(UserError, match="training diverged") as caught:
        CriticHealth().on_validation_epoch_end(Metrics(-1.1 * WORST), None)
    assert caught.value.code == Exit.NON_FINITE


def test_a_planted_divergence_stops_with_six(tmp_path: Path, trained_data: Path, cli: Cli) -> None:
    wild = ["--model.init_args.loss", "wasserstein", "--model.init_args.d_lr", "1e4"]
    wild += ["--model.init_args.r1_weight", "0", "--data.root", trained_data]
    result = cli("mitogan", "fit", *smoke("mitogan"), *wild, *at(tmp_path, "wild"))
    assert result.code == Exit.NON_FINITE


def test_too_few_validation_images_are_refused(
    tmp_path: Path, trained_data: Path, cli: Cli
) -> None:
    few = ["--data.root", trained_data, "--data.val_fraction", "0.01"]
    for path in sorted(trained_data.glob("*.ome.tif"))[:1]:
        from common.data.image_io import read_image, write_ome_tiff

        (tmp_path / "raw").mkdir()
        stack = read_image(path).pixels
        for k in range(3):
            write_ome_tiff(tmp_path / f"raw/v{k}.ome.tif", stack[3 * k : 3 * k + 3], "TYX")
    few[1] = tmp_path / "raw"
    result = cli("mitogan", "fit", *smoke("mitogan"), *few, *at(tmp_path, "few"))
    refuses(result, 3, "holds 3 validation images, fewer than the 10")


def test_a_walk_goes_from_seed_to_seed() -> None:
    for backbone in ("style", "dcgan"):
        network = generator(backbone, 32, 1, 16, 8, 16, 0.0).eval()
        walk = interpolation(network, 16, range(3, 5), 4)
        assert walk.shape == (8, 1, 32, 32)
        z = seeded_noise(torch.tensor([3]), 16)
        noise = seeded_noise(torch.tensor([3 + DETAIL_SEED]), network.noise_values)
        with torch.no_grad():
            first = network(z, noise).clamp(-1, 1)
        torch.testing.assert_close(walk[:1], first, atol=1e-5, rtol=1e-4)
        there_and_back = (walk - walk.roll(-1, 0)).abs().mean((1, 2, 3))
        torch.testing.assert_close(there_and_back, there_and_back.flip(0), atol=1e-5, rtol=1e-4)
        assert there_and_back.min() > 0


def test_a_direction_is_named_by_what_it_changes() -> None:
    torch.manual_seed(0)
    network = generator("style", 32, 1, 16, 8, 16, 0.0).eval()

    def measure(image: np.ndarray) -> dict[str, float]:
        return {"brightness": float(image.mean()), "constant": 1.0, "missing": math.nan}

    found = directions(network, 16, measure, 3, range(6))
    assert len(found) == 3 and {one.feature for one in found} == {"brightness"}
    shares = [one.share for one in found]
    assert shares == sorted(shares, reverse=True) and sum(shares) <= 1
    # What is told is the mean over these seeds; a single one may go the other way.
    walks = [along(network, 16, found[0], seed, 5) for seed in range(6)]
    change = sum(walk[-1].mean() - walk[0].mean() for walk in walks)
    assert change.sign() == math.copysign(1, found[0].change)
