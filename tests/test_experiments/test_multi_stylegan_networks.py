"""Networks of multi_stylegan: two paths that are two, and the released code's function."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from released_weights import REFERENCE, needs_reference, write_released
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from common.errors import Exit, UserError
from experiments.multi_stylegan.discriminator import Discriminator
from experiments.multi_stylegan.module import MultiStyleGAN
from experiments.multi_stylegan.networks import Generator, Wiring
from experiments.multi_stylegan.published import load_published
from experiments.multi_stylegan.published_baseline import generate, judge
from running import ROOT

CONFIGS = ROOT / "experiments/multi_stylegan/configs"


def small(wiring: Wiring = "dual", domains: int = 2) -> Generator:
    torch.manual_seed(0)
    network = Generator(16, domains, 3, 8, 8, (8, 8, 4), 2, wiring)
    for name, parameter in network.named_parameters():
        # Without noise, its strength would get no gradient.
        if name.endswith("strength"):
            torch.nn.init.constant_(parameter, 0.1)
    return network


def without_gradient(network: Generator) -> set[str]:
    network(torch.randn(3, 8)).square().sum().backward()
    parameters = network.named_parameters()
    return {name for name, p in parameters if p.grad is None or not p.grad.abs().sum() > 0}


@needs_reference
def test_what_the_released_code_computes_is_reproduced() -> None:
    arrays = np.load(REFERENCE)
    z, other, real = (torch.from_numpy(arrays[name]) for name in ("z", "z2", "real"))
    generator, discriminator = load_published(REFERENCE)
    real.requires_grad_()
    logit, pixel_logit = discriminator(real)
    (gradient,) = torch.autograd.grad(logit.sum() + pixel_logit.sum(), real)
    with torch.no_grad():
        mixed = generator([z, other], inject_index=2, randomize_noise=False)
        found = {
            "w": generator.mapping(z),
            "image": generator(z, randomize_noise=False),
            "mixed_image_inject2": mixed,
            "logit": logit,
            "pixel_logit": pixel_logit,
            "grad_real_of_sum": gradient,
        }
    for name, tensor in found.items():
        expected = torch.from_numpy(arrays[name])
        assert tensor.shape == expected.shape, name
        assert (tensor - expected).abs().max() < 1e-4 * expected.abs().max(), name


@pytest.mark.parametrize(
    ("widths", "d_widths", "latent_dim", "mapping_layers", "frames", "domains", "d_rising"),
    [
        ((16, 8, 8), (8, 16, 24), 12, 2, 3, 2, None),
        ((8, 8, 12, 8, 4), (8, 16, 24, 48, 64), 16, 8, 1, 3, None),
        ((8, 8, 8), (8, 16, 24, 32), 8, 3, 5, 1, None),
        # Neighbours that differ by little; as many channels before a block as behind it.
        ((8, 8, 8), (8, 12, 16, 20), 8, 2, 3, 2, None),
        ((8, 8, 8), (6, 16, 16, 24), 8, 2, 3, 2, (8, 4, 10)),
    ],
)
def test_weights_of_other_sizes_compute_what_plain_operators_do(
    widths: tuple[int, ...],
    d_widths: tuple[int, ...],
    latent_dim: int,
    mapping_layers: int,
    frames: int,
    domains: int,
    d_rising: tuple[int, ...] | None,
    tmp_path: Path,
) -> None:
    sizes = (widths, d_widths, latent_dim, mapping_layers, frames, domains, d_rising)
    parts = write_released(tmp_path / "a.npz", *sizes)
    generator, discriminator = load_published(tmp_path / "a.npz")
    z = torch.randn(2, 3, latent_dim, generator=torch.Generator().manual_seed(1))
    real = torch.randn(3, domains, frames, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        pairs = [
            (generator(z[0], randomize_noise=False), generate(parts[0], z[0])),
            (generator([*z], 3, randomize_noise=False), generate(parts[0], [*z], 3)),
            *zip(discriminator(real), judge(parts[1], real), strict=True),
        ]
    for found, expected in pairs:
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def saved(path: Path, change: Callable[[dict], object] = lambda parts: parts) -> Path:
    """The reference as the released training code saves it."""
    arrays = np.load(REFERENCE)
    parts: dict = {"generator": {}, "discriminator": {}, "path_length_regularization": {}}
    for name in arrays.files:
        network, _, key = name.partition("/")
        if key:
            parts[network][f"module.{key}"] = torch.from_numpy(arrays[name])
    parts["generator_ema"] = dict(parts["generator"])
    torch.save(change(parts), path)
    return path


@needs_reference
def test_a_checkpoint_of_data_parallel_gives_the_averaged_generator(tmp_path: Path) -> None:
    def zero(parts: dict) -> dict:
        before = parts["generator"]
        return parts | {"generator": {name: torch.zeros_like(t) for name, t in before.items()}}

    z = torch.from_numpy(np.load(REFERENCE)["z"])
    generator, discriminator = load_published(saved(tmp_path / "a.pt", zero))
    expected, _ = load_published(REFERENCE)
    assert torch.equal(generator(z, randomize_noise=False), expected(z, randomize_noise=False))
    assert not generator.training and not discriminator.training


@needs_reference
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda parts: [parts], "is a list"),
        (lambda parts: parts | {"discriminator": {}}, "lacks the weights"),
        (lambda parts: parts | {"generator_ema": {"a": torch.ones(1)}}, "holds no networks"),
        (lambda parts: parts | {"discriminator": {"a": torch.ones(1)}}, "holds no networks"),
    ],
)
def test_other_checkpoints_are_refused(
    change: Callable[[dict], object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words) as refused:
        load_published(saved(tmp_path / "a.pt", change))
    assert refused.value.code == Exit.CHECKPOINT


@pytest.mark.parametrize("name", ["a.pt", "a.npz"])
def test_files_that_are_damaged_or_missing_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{name}: is not there"):
        load_published(tmp_path / name)
    (tmp_path / name).write_bytes(b"PK no archive")
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
        load_published(tmp_path / name)


@pytest.mark.parametrize("domains", [1, 2, 3])
def test_every_parameter_of_dual_paths_gets_a_gradient(domains: int) -> None:
    assert without_gradient(small("dual", domains)) == set()


def test_in_published_wiring_all_finer_layers_of_the_second_path_are_dead() -> None:
    network = small("published")
    names = {name for name, _ in network.named_parameters()}
    layers = [f"levels.{level}.paths.1." for level in (1, 2)]
    assert without_gradient(network) == {n for n in names if n.startswith(tuple(layers))}


def test_dual_paths_begin_alike_and_are_learnt_apart() -> None:
    dual = small("dual")
    assert torch.equal(*dual.constants)
    assert not torch.allclose(*small("published").constants)
    assert without_gradient(dual) == set()
    first, second = (dict(path.named_parameters()) for path in dual.levels[1].paths)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.allclose(first[name].grad, second[name].grad) for name in first)
    assert not torch.allclose(*dual.constants.grad)


def test_the_second_domain_does_not_depend_on_layers_of_the_first() -> None:
    network, z = small(), torch.randn(2, 8)
    before = network(z, randomize_noise=False)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".paths.0." in name or ".frames.0." in name:
                parameter.add_(1)
        network.constants[0].add_(1)
    after = network(z, randomize_noise=False)
    assert torch.equal(before[:, 1], after[:, 1])
    assert not torch.allclose(before[:, 0], after[:, 0])


def test_the_paper_has_its_number_of_parameters_and_the_taper_a_tenth_of_the_work() -> None:
    def size(network: torch.nn.Module) -> float:
        return sum(parameter.numel() for parameter in network.parameters()) / 1e6

    def typed(name: str) -> dict:
        return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["model"]

    made, work = {}, []
    for name in ("paper", "tapered"):
        with torch.device("meta"):
            made[name] = MultiStyleGAN(**typed("default") | typed(name)["init_args"])
            assert size(made[name].discriminator) == pytest.approx(50.86, rel=0.005)
            with FlopCounterMode(display=False) as counter:
                made[name].generator.to("meta").eval()(torch.empty(1, 512), randomize_noise=False)
        work.append(counter.get_total_flops())
    assert size(made["paper"].generator) == pytest.approx(53.02, rel=0.005)
    # The facts state about 458 giga multiply-adds.
    assert work[0] / 2 == pytest.approx(458e9, rel=0.02)
    assert work[0] > 10 * work[1]


def test_frames_depend_on_z_and_noise_and_nothing_else() -> None:
    network = small().eval()
    z = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(3, network.noise_values, generator=torch.Generator().manual_seed(2))
    frames = network(z, noise=noise)
    assert frames.shape == (3, 2, 3, 16, 16)
    torch.testing.assert_close(network(z[1:2], noise=noise[1:2]), frames[1:2])
    assert torch.equal(network(z, randomize_noise=False), network(z, randomize_noise=False))
    assert not torch.equal(network(z), network(z))
    mixed = network([z, -z], randomize_noise=False)
    alone = [network(one, randomize_noise=False) for one in (z, -z)]
    assert not any(torch.allclose(mixed, one) for one in alone)
    typical = network(z, truncation=0.0, randomize_noise=False)
    torch.testing.assert_close(typical, typical[:1].expand_as(typical))


def logits(network: Discriminator, x: Tensor) -> list[Tensor]:
    return [found.detach() for found in network(x)]


@pytest.mark.parametrize(("places", "same"), [(1, True), (4, False)])
def test_only_with_several_places_a_logit_tells_where_something_is(places: int, same: bool) -> None:
    torch.manual_seed(0)
    network = Discriminator(6, (8, 8, 16, 16), group_size=1, places=places)
    here, there = torch.zeros(2, 1, 2, 3, 96, 96)
    # Far from the borders, and moved by what the coarsest features have a place for.
    here[..., 38:42, 38:42] = there[..., 54:58, 54:58] = torch.randn(4, 4)
    one, other = (logits(network, x)[0] for x in (here, there))
    assert torch.allclose(one, other, atol=1e-5) is same


def test_released_networks_take_frames_for_other_ones() -> None:
    torch.manual_seed(0)
    sizes = {"image_size": 16, "latent_dim": 8, "style_dim": 8, "widths": [8, 8, 4]}
    ours, released = (Generator(**sizes, released=one) for one in (False, True))
    released.load_state_dict(ours.state_dict())
    z, x = torch.randn(3, 8), torch.rand(3, 2, 3, 16, 16)
    inside, outside = (g(z, randomize_noise=False) for g in (ours, released))
    # From [0, 1], with the last row first.
    torch.testing.assert_close(outside, (2 * inside - 1).flip(-2))
    plain, turning = (Discriminator(6, (8, 8, 16), released=one) for one in (False, True))
    turning.load_state_dict(plain.state_dict())
    logit, pixels = plain(x)
    again, pixels_again = turning((2 * x - 1).flip(-2))
    torch.testing.assert_close(again, logit)
    torch.testing.assert_close(pixels_again, pixels.flip(-2))


def test_without_a_blur_every_other_pixel_of_a_convolution_is_kept() -> None:
    torch.manual_seed(0)
    network = Discriminator(6, (8, 8, 16, 16), blurs=False).down[0]
    torch.nn.init.normal_(network.bias)
    x = torch.randn(2, 8, 12, 12)
    scaled = network.weight / (8 * 9) ** 0.5
    expected = torch.nn.functional.conv2d(x, scaled, network.bias, padding=1)[..., ::2, ::2]
    assert torch.allclose(network(x), expected, atol=1e-5)


@pytest.mark.parametrize("blur_last", [False, True])
def test_every_pixel_has_a_logit(blur_last: bool) -> None:
    torch.manual_seed(0)
    network = Discriminator(6, (8, 8, 16, 16), group_size=1, blur_last=blur_last)
    x = torch.randn(3, 2, 3, 32, 32)
    logit, pixel_logit = logits(network, x)
    assert logit.shape == (3, 1) and pixel_logit.shape == (3, 1, 1, 32, 32)
    alone = logits(network, x[:1])
    torch.testing.assert_close(alone, [logit[:1], pixel_logit[:1]], rtol=1e-4, atol=1e-5)
    for name, parameter in network.named_parameters():
        # The mask of attention starts at 0, and with it what only attention reads.
        if name.endswith("strength"):
            torch.nn.init.ones_(parameter)
    sum(found.sum() for found in network(x)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
