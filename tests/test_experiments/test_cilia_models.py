"""The generators beside the default one, and what they all share."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from common.data.canvas import rectangle_mask
from common.data.datasets import Batch
from common.errors import UserError
from common.losses.variational import free_bits, gaussian_kl_between, masked_edge_mse
from common.sampling import seeded_noise
from common.trainer import ExperimentTrainer
from experiments.cilia_cvae.diffusion import CiliaDiffusion
from experiments.cilia_cvae.flow import AggregatedPosterior
from experiments.cilia_cvae.generator import CiliaGenerator
from experiments.cilia_cvae.health import LatentHealth
from experiments.cilia_cvae.hierarchical import HierarchicalCVAE
from experiments.cilia_cvae.hierarchy import Gaussian
from experiments.cilia_cvae.module import CiliaCVAE
from experiments.cilia_cvae.networks import defects
from experiments.cilia_cvae.published import PublishedCVAE
from running import ROOT, Cli, at, refuses, smoke

CLASSES = ["IDA", "Normal", "ODA", "ODA_IDA"]
PLANS = {
    224: {"image_size": 224},
    448: {
        "image_size": 448,
        "encoder_channels": [64, 128, 256],
        "decoder_channels": [128, 64, 32, 16],
        "grid_channels": 128,
        "repeats": 2,
        "dense": [1024, 512, 256],
    },
}
MAKERS = {
    "default": lambda: CiliaCVAE(CLASSES, 32, latent_dim=8, width=8, condition_dim=8),
    "published": lambda: PublishedCVAE(CLASSES, 32, dense=[16, 8], latent_dim=8),
    "hierarchical": lambda: HierarchicalCVAE(
        CLASSES, 32, width=8, multipliers=[1, 1, 1], latent_channels=[4, 2], num_groups=[1, 2],
        condition_dim=8,
    ),
    "diffusion": lambda: CiliaDiffusion(
        CLASSES, 32, width=8, multipliers=[2, 2], attention=[False, True], num_heads=2, num_steps=3
    ),
}  # fmt: skip
WITH_POSTERIOR = ["default", "hierarchical", "published"]


@pytest.fixture(autouse=True)
def _reproducible(one_thread: None) -> None:
    torch.manual_seed(0)


@pytest.fixture(params=sorted(MAKERS))
def model(request: pytest.FixtureRequest) -> Iterator[CiliaGenerator]:
    made = MAKERS[request.param]()
    trainer = ExperimentTrainer(accelerator="cpu", barebones=True)
    made.trainer = trainer  # held only weakly
    made.log_dict = lambda values, **options: None
    yield made
    del trainer


def batch_of(count: int = 4, size: int = 32) -> Batch:
    rng = np.random.default_rng(0)
    masks = [rectangle_mask(size, size if k % 2 else size // 2, size) for k in range(count)]
    coarse = torch.from_numpy(rng.uniform(-1, 1, (count, 1, 4, 4))).float()
    return {
        "name": [str(k) for k in range(count)],
        "image": torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear"),
        "mask": torch.from_numpy(np.stack(masks)).float(),
        "label": torch.arange(count) % len(CLASSES),
        "seed": torch.arange(count),
    }


def without_images(batch: Batch) -> Batch:
    return {key: value for key, value in batch.items() if key != "image"}


def learned(model: CiliaGenerator, steps: int = 3) -> CiliaGenerator:
    """Out of the zeros that blocks start with."""
    optimizer = model.configure_optimizers()
    for _ in range(steps):
        loss = model.training_step(batch_of(), 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def test_every_parameter_of_every_model_learns(model: CiliaGenerator) -> None:
    model.trainer.images_seen = 100_000
    learned(model, 4)
    model.zero_grad()
    model.training_step(batch_of(), 0).backward()
    found = dict(model.named_parameters())
    still = [name for name, p in found.items() if p.grad is None or not p.grad.any()]
    assert not still


def test_image_k_of_every_model_depends_on_seed_k_alone(model: CiliaGenerator) -> None:
    learned(model).eval()
    batch = without_images(batch_of(5))
    batch["label"], batch["mask"] = torch.zeros(5, dtype=torch.long), torch.ones(5, 1, 32, 32)
    with torch.no_grad():
        images = model.predict_step(batch, 0)["image"]
        alone = model.predict_step({k: v[3:4] for k, v in batch.items()}, 0)["image"]
    assert images.shape == (5, 1, 32, 32) and images.abs().max() <= 1
    assert len(torch.unique(images.flatten(1), dim=0)) == 5
    assert torch.equal(alone[0], images[3])


def test_the_class_changes_the_image_of_a_seed(model: CiliaGenerator) -> None:
    learned(model, 8).eval()
    batch = without_images(batch_of())
    batch["seed"], batch["mask"] = torch.zeros(4, dtype=torch.long), torch.ones(4, 1, 32, 32)
    with torch.no_grad():
        images = model.predict_step(batch, 0)["image"]
    assert len(torch.unique(images.flatten(1), dim=0)) == len(CLASSES)


@pytest.mark.parametrize("name", WITH_POSTERIOR)
def test_images_around_a_posterior_depend_on_the_image(name: str) -> None:
    model = MAKERS[name]().eval()
    batch = batch_of()
    with torch.no_grad():
        before = model.predict_step(batch, 0)["image"]
        again = model.predict_step(batch, 0)["image"]
        other = model.predict_step({**batch, "image": -batch["image"]}, 0)["image"]
    assert torch.equal(before, again) and not torch.equal(before, other)


@pytest.mark.parametrize("name", WITH_POSTERIOR)
def test_features_of_an_image_are_its_own(name: str) -> None:
    model, image = MAKERS[name]().eval(), batch_of()["image"]
    with torch.no_grad():
        features, alone = model.embed(image), model.embed(image[1:2])
    assert len(torch.unique(features, dim=0)) == len(image)
    torch.testing.assert_close(features[1:2], alone, rtol=1e-4, atol=1e-5)


def test_latents_of_the_posterior_become_the_pixels_that_the_prior_makes_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both ways down are one network; only where the latents come from differs."""
    model = MAKERS["hierarchical"]().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    batch, drawn = batch_of(), []
    shown = model.shown_by(batch)
    condition = model.condition(batch["label"], torch.zeros(4))
    noise = [torch.randn(4, *shape) for shape in model.decoder.latent_shapes]
    draw = Gaussian.draw

    def keep(posterior: Gaussian, noise: Tensor) -> Tensor:
        drawn.append(draw(posterior, noise))
        return drawn[-1]

    with torch.no_grad():
        features = model.encoder(torch.cat([batch["image"], shown], 1), condition)
        monkeypatch.setattr(Gaussian, "draw", keep)
        inferred, _ = model.decoder.infer(features, noise, shown, condition)
        assert [z.shape[1:] for z in drawn] == [z.shape[1:] for z in noise]
        monkeypatch.setattr(Gaussian, "draw", lambda prior, z: z)
        made = model.decoder.generate(drawn, shown, condition)
        other = model.decoder.generate(noise, shown, condition)
    torch.testing.assert_close(made, inferred)
    assert not torch.allclose(other, inferred)


@pytest.mark.parametrize(("size", "encoder", "decoder"), [(224, 51.7, 26.0), (448, 824, 104)])
def test_the_published_plans_have_the_published_sizes(
    size: int, encoder: float, decoder: float
) -> None:
    with torch.device("meta"):
        model = PublishedCVAE([str(k) for k in range(10)], **PLANS[size])
    parts = (
        (model.convolutions, model.dense, model.mean, model.log_variance),
        (model.expand, model.deconvolutions),
    )
    millions = [sum(p.numel() for m in part for p in m.parameters()) / 1e6 for part in parts]
    assert millions == pytest.approx([encoder, decoder], rel=0.01)


def test_the_default_model_has_a_fifth_of_the_published_parameters() -> None:
    configs = ROOT / "experiments/cilia_cvae/configs"
    size = yaml.safe_load((configs / "default.yaml").read_text())
    plan = yaml.safe_load((configs / "seed224.yaml").read_text())["model"]["init_args"]
    assert size["data"]["image_size"] == PLANS[224]["image_size"] == 224
    classes = [str(k) for k in range(10)]
    with torch.device("meta"):
        published = PublishedCVAE(classes, 224, **plan)
        default = CiliaCVAE(classes, 224, **size["model"])
    ours, theirs = (sum(p.numel() for p in m.parameters()) for m in (default, published))
    assert ours <= theirs / 5


def test_the_published_loss_is_summed_squared_error_plus_kl() -> None:
    model = MAKERS["published"]().eval()
    batch = batch_of()
    torch.manual_seed(3)
    terms = model.terms(batch)
    torch.manual_seed(3)
    mean, log_variance = model.encode(batch["image"], batch["label"])
    z = mean + torch.randn_like(mean) * torch.exp(log_variance / 2)
    decoded = (model._pixels(z, batch["label"]) + 1) / 2
    squared = ((decoded - (batch["image"] + 1) / 2) ** 2).sum((1, 2, 3))
    kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1)
    torch.testing.assert_close(terms["loss"], (squared + kl).mean())


def test_kl_between_gaussians_is_that_of_torch() -> None:
    mean, log_variance, other, log_other = torch.randn(4, 3, 5)
    from torch.distributions import Normal, kl_divergence

    expected = kl_divergence(
        Normal(mean, (log_variance / 2).exp()), Normal(other, (log_other / 2).exp())
    )
    torch.testing.assert_close(gaussian_kl_between(mean, log_variance, other, log_other), expected)


def test_free_bits_press_no_unit_below_their_number() -> None:
    kl = torch.tensor([[0.1, 3.0], [0.3, 1.0]], requires_grad=True)
    pressed = free_bits(kl, 0.5)
    torch.testing.assert_close(pressed, torch.tensor([3.5, 1.5]))
    pressed.sum().backward()
    torch.testing.assert_close(kl.grad, torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    torch.testing.assert_close(free_bits(kl, 0.0), kl.sum(1))


def test_edges_are_differences_of_neighbours_inside_the_mask() -> None:
    image, other = torch.rand(2, 2, 6, 5)[:, :, None].transpose(0, 1)
    mask = torch.zeros(2, 1, 6, 5)
    mask[:, :, 1:4, 1:5] = 1
    error = (image - other)[:, :, 1:4, 1:5]
    steps = [error.diff(dim=2).flatten(1), error.diff(dim=3).flatten(1)]
    expected = torch.cat(steps, 1).square().mean(1)
    torch.testing.assert_close(masked_edge_mse(image, other, mask), expected)


def test_the_flow_is_a_density_and_its_own_inverse() -> None:
    flow = AggregatedPosterior(6, 3, width=16, num_layers=4)
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    noise, condition = torch.randn(5, 6), torch.randn(5, 3)
    z = flow(noise, condition)
    for k in range(5):

        def one(x: Tensor, k: int = k) -> Tensor:
            return flow(x[None], condition[k : k + 1])[0]

        jacobian = torch.autograd.functional.jacobian(one, noise[k])
        expected = 0.5 * (noise[k].square().sum() + 6 * math.log(2 * math.pi))
        expected = expected + torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(
            flow.nll(z[k : k + 1], condition[k : k + 1])[0], expected, rtol=1e-4, atol=1e-4
        )


def test_the_flow_learns_what_no_gaussian_is() -> None:
    flow = AggregatedPosterior(2, 1, width=32, num_layers=6)
    optimizer = torch.optim.Adam(flow.parameters(), 5e-3)

    def ring(count: int) -> Tensor:
        angle = 2 * math.pi * torch.rand(count)
        return torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(count, 2)

    condition = torch.zeros(256, 1)
    for _ in range(400):
        loss = flow.nll(ring(256), condition).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        radius = flow(torch.randn(1000, 2), torch.zeros(1000, 1)).norm(dim=1)
    # Of the Gaussian of the same variance four in ten lie within 0.7.
    assert (radius < 0.7).float().mean() < 0.3


def test_the_flow_leaves_the_bound_alone() -> None:
    model = MAKERS["default"]()
    model.trainer = trainer = ExperimentTrainer(accelerator="cpu", barebones=True)
    terms = model.terms(batch_of())
    terms["density"].backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched and all(name.startswith("density.") for name in touched)
    del trainer


def test_joined_classes_share_their_defects() -> None:
    names, rows = defects(CLASSES)
    assert names == ["IDA", "Normal", "ODA"]
    assert rows == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1]]


@pytest.mark.parametrize(
    "classes", [["a_b", "c"], ["a", "b", "a_b", "b_a"], ["a", "a_a"], ["a_b", "a"]]
)
def test_no_two_classes_are_the_same_set_of_defects(classes: list[str]) -> None:
    _, rows = defects(classes)
    assert len({tuple(row) for row in rows}) == len(classes)
    assert all(any(row) for row in rows)


def test_a_set_of_defects_that_no_class_is_can_be_asked_for() -> None:
    model = MAKERS["default"]()
    aspect = torch.zeros(2)
    sets = torch.tensor([[1.0, 0, 1], [1, 1, 1]])
    with torch.no_grad():
        asked = model.condition(sets, aspect)
        known = model.condition(torch.tensor([3, 3]), aspect)
    torch.testing.assert_close(asked[0], known[0])
    assert not torch.equal(asked[1], known[1])


def test_guidance_leads_away_from_the_mean_of_all_classes() -> None:
    model = learned(_attached(MAKERS["diffusion"]()), 8).eval()
    batch = batch_of()
    arguments = (batch["image"], torch.full((4,), 500.0), batch["label"], batch["mask"])
    with torch.no_grad():
        own = model.velocity(*arguments)
        hidden = model.velocity(*arguments[:2], torch.full((4,), len(CLASSES)), batch["mask"])
        for weight in (1.0, 3.0):
            model.guidance = weight
            torch.testing.assert_close(
                model.guided(*arguments), hidden + weight * (own - hidden), rtol=1e-4, atol=1e-5
            )


def test_a_hidden_label_hides_the_guide() -> None:
    model, batch = _attached(GUIDED["diffusion"]()), batch_of()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    batches = [{**batch, "guide": torch.rand(4, 2, 32, 32)} for _ in range(2)]
    arguments = (batch["image"], torch.full((4,), 500.0), batch["label"])
    with torch.no_grad():
        for model.guidance, model.label_dropout in ((0.0, 1.0), (2.0, 0.0)):
            made = [model.guided(*arguments, model.shown_by(one)) for one in batches]
            torch.manual_seed(0)
            first = model.training_step(batches[0], 0)
            torch.manual_seed(0)
            second = model.training_step(batches[1], 0)
            hidden = model.guidance == 0
            assert torch.equal(*made) == hidden and torch.equal(first, second) == hidden


@pytest.mark.parametrize("steps", [1, 7, 30, 64])
def test_a_constant_velocity_is_followed_all_the_way(steps: int) -> None:
    model = MAKERS["diffusion"]().eval()
    model.num_steps, model.contrast, seen = steps, 1.0, []

    def velocity(noisy: Tensor, time: Tensor, label: Tensor, shown: Tensor) -> Tensor:
        seen.append(float(time[0]))
        return torch.full_like(noisy, 0.1)

    model.velocity, model.guidance = velocity, 1.0
    batch = without_images(batch_of(1))
    with torch.no_grad():
        image = model.predict_step(batch, 0)["image"]
    noise = seeded_noise(batch["seed"], 1, 32, 32)
    expected = torch.where(batch["mask"] > 0, (noise + 0.1).clamp(-1, 1), 1.0)
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)
    assert seen == pytest.approx([1000 * (1 - k / steps) for k in range(steps)])


GUIDED = {
    "default": lambda: CiliaCVAE(
        CLASSES, 32, latent_dim=8, width=8, condition_dim=8, guide_channels=2
    ),
    "hierarchical": lambda: HierarchicalCVAE(
        CLASSES, 32, width=8, multipliers=[1, 1, 1], latent_channels=[4, 2], num_groups=[1, 2],
        condition_dim=8, guide_channels=2,
    ),
    "diffusion": lambda: CiliaDiffusion(
        CLASSES, 32, width=8, multipliers=[2, 2], attention=[False, True], num_heads=2,
        num_steps=3, guide_channels=2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(GUIDED))
def test_a_guide_changes_the_image_where_it_has_spots(name: str) -> None:
    model, batch = _attached(GUIDED[name]()), batch_of()
    guide = torch.zeros(4, 2, 32, 32)
    guide[:, 0, 12:20, 12:20] = 1
    batch = {**batch, "guide": guide, "mask": torch.ones(4, 1, 32, 32)}
    # Dark where the guide is: what a spot stands for can be learned in a few steps.
    batch["image"] = 0.5 - guide[:, :1]
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(30):
        loss = model.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    moved = {**without_images(batch), "guide": guide.roll(8, 3)}
    with torch.no_grad():
        here = model.predict_step(without_images(batch), 0)["image"].mean(0)[0]
        there = model.predict_step(moved, 0)["image"].mean(0)[0]
    spot, beside = (slice(12, 20), slice(12, 16)), (slice(12, 20), slice(22, 28))
    assert here[spot].mean() < here[beside].mean()
    assert there[beside].mean() < here[beside].mean()


def test_what_lies_outside_the_mask_changes_nothing() -> None:
    model = learned(_attached(MAKERS["diffusion"]()), 8).eval()
    batch, time = batch_of(), torch.full((4,), 500.0)
    other = batch["image"] + torch.randn_like(batch["image"]) * (1 - batch["mask"])
    with torch.no_grad():
        found = [
            model.velocity(x, time, batch["label"], batch["mask"]) for x in (batch["image"], other)
        ]
    assert torch.equal(*found)


def test_a_path_ends_at_the_image_that_the_velocity_points_to() -> None:
    model = MAKERS["diffusion"]().eval()
    target = torch.linspace(-0.8, 0.8, 32).expand(1, 1, 32, 32)

    def velocity(noisy: Tensor, time: Tensor, label: Tensor, mask: Tensor) -> Tensor:
        return (model.contrast * target - noisy) / (time / 1000)[:, None, None, None]

    model.velocity = velocity
    with torch.no_grad():
        image = model.predict_step(without_images(batch_of()), 0)["image"]
    expected = torch.where(batch_of()["mask"] > 0, target, 1.0)
    torch.testing.assert_close(image, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: CiliaDiffusion(CLASSES, 40), "is not a multiple of 16 px"),
        (lambda: CiliaDiffusion(CLASSES, 32, num_steps=1001), "more than the 1000 times"),
        (lambda: PublishedCVAE(CLASSES, 100), "is not a multiple of 8 px"),
        (lambda: HierarchicalCVAE(CLASSES, 40), "is not a multiple of 16 px"),
        (lambda: HierarchicalCVAE(CLASSES, 32, num_groups=[1]), "must name 3 grids"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(made: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        made()


@pytest.mark.parametrize("overlay", ["seed224", "hierarchical"])
def test_an_overlay_switches_the_model_and_keeps_the_rest(
    overlay: str, tmp_path: Path, cli: Cli
) -> None:
    path = ROOT / f"experiments/cilia_cvae/configs/{overlay}.yaml"
    fit = ["fit", *smoke("cilia_cvae"), "--config", str(path), *at(tmp_path, "a")]
    result = cli("cilia_cvae", *fit)
    assert result.code == 0, result.err
    run = tmp_path / "runs/cilia_cvae/a"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["class_path"] == yaml.safe_load(path.read_text())["model"]["class_path"]
    assert config["data"]["image_size"] == 32
    metrics = (run / "metrics.csv").read_text()
    assert "val/active_units" in metrics and "val/spike" in metrics and "val/mse" in metrics
    assert cli("cilia_cvae", "generate", "--n", "2", *at(tmp_path, "a")).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("overlay", ["seed224", "hierarchical"])
def test_other_models_are_exported(overlay: str, tmp_path: Path, cli: Cli) -> None:
    path = ROOT / f"experiments/cilia_cvae/configs/{overlay}.yaml"
    fit = ["fit", *smoke("cilia_cvae"), "--config", str(path), *at(tmp_path, "a")]
    assert cli("cilia_cvae", *fit).code == 0
    assert cli("cilia_cvae", "export", *at(tmp_path, "a")).code == 0


def test_the_overlay_of_448_px_has_the_published_size() -> None:
    text = (ROOT / "experiments/cilia_cvae/configs/seed448.yaml").read_text()
    given = yaml.safe_load(text)["model"]["init_args"]
    assert {**given, "image_size": 448} == PLANS[448] | {"latent_dim": 128, "lr": 1e-3}


def test_a_model_without_a_posterior_says_so(tmp_path: Path, cli: Cli) -> None:
    overlay = ["--config", str(ROOT / "experiments/cilia_cvae/configs/diffusion.yaml")]
    few = ["--model.init_args.num_steps", "2"]
    fit = ["fit", *smoke("cilia_cvae"), *overlay, *few, *at(tmp_path, "d")]
    assert cli("cilia_cvae", *fit).code == 0
    assert cli("cilia_cvae", "generate", "--n", "3", *at(tmp_path, "d")).code == 0
    result = cli("cilia_cvae", "generate", *at(tmp_path, "d"), "--around_training", "true")
    refuses(result, 2, "CiliaDiffusion has no posterior")
    assert cli("cilia_cvae", "figures", "--n", "2", *at(tmp_path, "d")).code == 0
    drawn = {path.name for path in (tmp_path / "runs/cilia_cvae/d/figures").iterdir()}
    assert drawn == {"classes.png", "class_swap.png"}


class _Strategy:
    def reduce(self, value: Tensor, reduce_op: str) -> Tensor:
        return torch.as_tensor(value)


class _Trainer:
    sanity_checking = False
    strategy = _Strategy()


class _Module:
    """Logs into a dict."""

    def __init__(self, kl: Tensor) -> None:
        self.kl, self.logged = kl, {}

    def units(self, batch: Batch) -> Tensor:
        return self.kl

    def log_dict(self, values: dict[str, float]) -> None:
        self.logged |= values


def _validated(health: LatentHealth, module: _Module, error: float) -> dict[str, float]:
    terms = {"mse": torch.tensor(error), "loss": torch.tensor(-1.0)}
    health.on_validation_epoch_start(_Trainer(), module)
    health.on_validation_batch_end(_Trainer(), module, terms, batch_of(), 0)
    health.on_validation_epoch_end(_Trainer(), module)
    return module.logged


def test_units_of_a_grid_count_by_place() -> None:
    model = learned(_attached(MAKERS["hierarchical"]())).eval()
    torch.manual_seed(1)
    kl = model.terms(batch_of())["kl"]
    torch.manual_seed(1)
    units = model.units(batch_of())
    places = torch.tensor([16.0] * 4 + [64.0] * 4)
    num_values = batch_of()["mask"].flatten(1).sum(1)
    torch.testing.assert_close(((units * places).sum(1) / num_values).mean(), kl)


def test_unused_units_are_counted_and_collapse_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    kl = torch.zeros(4, 20)
    kl[:, :3] = torch.tensor([0.02, 1.0, 5.0])
    logged = _validated(LatentHealth(), _Module(kl), 0.1)
    assert float(logged["val/active_units"]) == pytest.approx(3 / 20)
    assert float(logged["val/kl_unit_max"]) == 5 and not capsys.readouterr().err
    _validated(LatentHealth(), _Module(kl[:, 2:]), 0.1)
    assert "posterior collapse: 6% of 18 latent units" in capsys.readouterr().err


def test_a_spike_is_told_against_the_median_of_before(capsys: pytest.CaptureFixture[str]) -> None:
    health, module = LatentHealth(), _Module(torch.ones(4, 2))
    for error in (0.2, 0.1, 0.1):
        _validated(health, module, error)
    assert not capsys.readouterr().err
    again = LatentHealth()
    again.load_state_dict(health.state_dict())
    logged = _validated(again, module, 0.5)
    assert logged["val/spike"] == pytest.approx(5)
    assert "5.0 times the median" in capsys.readouterr().err


def test_a_sanity_validation_leaves_no_trace() -> None:
    health, module, trainer = LatentHealth(), _Module(torch.ones(4, 2)), _Trainer()
    _validated(health, module, 0.1)
    before, module.logged, trainer.sanity_checking = health.state_dict(), {}, True
    terms = {"mse": torch.tensor(9.0), "loss": torch.tensor(-1.0)}
    health.on_validation_epoch_start(trainer, module)
    health.on_validation_batch_end(trainer, module, terms, batch_of(), 0)
    health.on_validation_epoch_end(trainer, module)
    assert health.state_dict() == before and not module.logged


def _attached(model: CiliaGenerator) -> CiliaGenerator:
    _attached.trainer = ExperimentTrainer(accelerator="cpu", barebones=True)
    model.trainer = _attached.trainer
    model.log_dict = lambda values, **options: None
    return model
