"""Style-based generator against an independent plain-torch implementation and closed forms."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import UserError
from common.losses.penalties import path_length
from common.networks.equalized import EqualizedConv, EqualizedLinear, halving_widths, resolutions
from common.networks.style import MappingNetwork, StyleLayer, SynthesisNetwork, ToImage
from common.onnx_graph import run_graph, write_graph
from common.sampling import Sampler, seeded_noise
from running import ROOT

STYLE, CHANNELS, WIDTHS = 12, 3, [10, 8, 8, 6]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def synthesis() -> SynthesisNetwork:
    """32 px, with noise and biases that are not 0."""
    network = SynthesisNetwork(32, CHANNELS, STYLE, WIDTHS)
    for name, parameter in network.named_parameters():
        if name.endswith(("strength", "bias")):
            nn.init.normal_(parameter)
    return network


def fir(x: Tensor, gain: float, padding: tuple[int, int]) -> Tensor:
    """Low-pass filter of 1 3 3 1, one channel after the other."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    kernel = (taps[:, None] * taps * gain).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, [*padding, *padding]), kernel, groups=x.shape[1])


def with_zeros(x: Tensor) -> Tensor:
    wide = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    wide[:, :, ::2, ::2] = x
    return wide


def plain_layer(layer: StyleLayer, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
    """Figure 2c of Karras et al. 2020 with weights of its own for each sample."""
    styles = w @ layer.affine.weight.T / STYLE**0.5 + layer.affine.bias
    made = []
    for image, style in zip(x, styles, strict=True):
        weight = layer.weight * style[:, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        image = image[None]
        if layer.up == 2:
            # Filtering and convolving commute: inside, the order makes no difference.
            image = fir(with_zeros(image), 4, (3, 2))
        made.append(F.conv2d(image, weight, padding=0 if layer.up == 2 else 1))
    y = torch.cat(made) + layer.strength * noise + layer.bias[:, None, None]
    return F.leaky_relu(y, 0.2) * 2**0.5


def plain_image(layer: ToImage, x: Tensor, w: Tensor) -> Tensor:
    styles = (w @ layer.affine.weight.T / STYLE**0.5 + layer.affine.bias) / x.shape[1] ** 0.5
    weight = layer.weight[:, :, 0, 0]
    return torch.einsum("bi,oi,bihw->bohw", styles, weight, x) + layer.bias[:, None, None]


@pytest.mark.parametrize("up", [1, 2])
def test_a_layer_is_that_of_the_paper_sample_by_sample(up: int) -> None:
    layer = StyleLayer(5, 7, up, STYLE)
    for parameter in (layer.bias, layer.strength, layer.affine.bias):
        nn.init.normal_(parameter)
    x, w, noise = torch.randn(3, 5, 8, 8), torch.randn(3, STYLE), torch.randn(3, 1, 8 * up, 8 * up)
    found, expected = layer(x, w, noise), plain_layer(layer, x, w, noise)
    assert found.shape == (3, 7, 8 * up, 8 * up)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_network_is_the_sum_of_its_enlarged_images(synthesis: SynthesisNetwork) -> None:
    w = torch.randn(2, synthesis.num_styles, STYLE)
    noise = torch.randn(2, synthesis.noise_values)
    x, image, planes, start = synthesis.constant.expand(2, -1, -1, -1), None, noise, 0
    for k, block in enumerate(synthesis.blocks):
        for layer in block.layers:
            side = 4 << k
            plane, planes = planes.split([side**2, planes.shape[1] - side**2], dim=1)
            x = plain_layer(layer, x, w[:, start], plane.view(2, 1, side, side))
            start += 1
        part = plain_image(block.to_image, x, w[:, start])
        image = part if image is None else fir(with_zeros(image), 4, (2, 1)) + part
    assert planes.numel() == 0 and start + 1 == synthesis.num_styles
    torch.testing.assert_close(synthesis(w, noise), image, atol=1e-3, rtol=1e-3)


def test_the_parameters_are_as_many_as_the_closed_form_says(synthesis: SynthesisNetwork) -> None:
    expected = 16 * WIDTHS[0]
    sizes = [(WIDTHS[0], WIDTHS[0])]
    for before, after in pairwise(WIDTHS):
        sizes += [(before, after), (after, after)]
    for before, after in sizes:
        # Weights, bias, strength of the noise, affine map of w.
        expected += 9 * before * after + after + 1 + before * (STYLE + 1)
    for width in WIDTHS:
        expected += CHANNELS * (width + 1) + width * (STYLE + 1)
    assert sum(p.numel() for p in synthesis.parameters()) == expected
    mapping = MappingNetwork(20, STYLE, layers=3)
    expected = STYLE * (20 + 1) + 2 * STYLE * (STYLE + 1)
    assert sum(p.numel() for p in mapping.parameters()) == expected


def test_noise_is_fresh_or_given_or_none(synthesis: SynthesisNetwork) -> None:
    w = torch.randn(3, STYLE)
    assert not torch.equal(synthesis(w), synthesis(w))
    fresh = [synthesis(w, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*fresh)
    noise = seeded_noise(torch.tensor([4, 5, 6]), synthesis.noise_values)
    assert torch.equal(synthesis(w, noise), synthesis(w, noise))
    assert not torch.equal(synthesis(w, noise), synthesis(w, "none"))
    torch.testing.assert_close(synthesis(w, "none"), synthesis(w, torch.zeros_like(noise)))
    # An image is a function of its own w and noise.
    torch.testing.assert_close(synthesis(w, noise)[1:2], synthesis(w[1:2], noise[1:2]))


def test_one_style_for_all_layers_or_one_for_each(synthesis: SynthesisNetwork) -> None:
    w = torch.randn(2, STYLE)
    each = w[:, None].repeat(1, synthesis.num_styles, 1)
    assert torch.equal(synthesis(w, "none"), synthesis(each, "none"))
    for layer in range(synthesis.num_styles):
        changed = each.clone()
        changed[:, layer] += 1
        assert not torch.equal(synthesis(changed, "none"), synthesis(each, "none")), layer


def test_coarse_styles_change_more_than_the_last_image(synthesis: SynthesisNetwork) -> None:
    each = torch.randn(2, 1, STYLE).repeat(1, synthesis.num_styles, 1)
    changed = each.clone()
    changed[:, -1] += 1
    last = synthesis.blocks[-1].to_image
    difference = synthesis(changed, "none") - synthesis(each, "none")
    features = []
    last.register_forward_hook(lambda _, inputs, __: features.append(inputs[0]))
    synthesis(each, "none")
    (x,) = features
    expected = plain_image(last, x, changed[:, -1]) - plain_image(last, x, each[:, -1])
    torch.testing.assert_close(difference, expected, atol=1e-4, rtol=1e-4)


def test_path_length_can_be_minimised_through_the_network(synthesis: SynthesisNetwork) -> None:
    w = torch.randn(2, synthesis.num_styles, STYLE, requires_grad=True)
    image = synthesis(w)
    lengths = path_length(image, w, torch.randn_like(image))
    lengths.square().mean().backward()
    slopes = [p.grad for p in synthesis.parameters() if p.grad is not None]
    assert all(slope.isfinite().all() for slope in slopes)
    assert synthesis.blocks[1].layers[0].weight.grad.abs().max() > 0


def test_mapping_sees_the_direction_of_z_alone() -> None:
    mapping, z = MappingNetwork(20, STYLE, layers=2), torch.randn(4, 20)
    torch.testing.assert_close(mapping(z), mapping(5 * z))
    x = z / z.square().mean(1, keepdim=True).sqrt()
    for layer in mapping.layers:
        weight, bias = layer.weight * 0.01 / layer.weight.shape[1] ** 0.5, layer.bias * 0.01
        x = F.leaky_relu(x @ weight.T + bias, 0.2) * 2**0.5
    torch.testing.assert_close(mapping(z), x)


def test_mapping_layers_learn_at_their_own_speed() -> None:
    # Adam changes each weight by its rate; used, that is the rate times the multiplier.
    slow, fast = (EqualizedLinear(8, 4, lr_multiplier=m) for m in (0.01, 1.0))
    assert (slow.weight.std() / fast.weight.std()).item() == pytest.approx(100, rel=0.5)
    assert slow.gain * 100 == pytest.approx(fast.gain)


def test_the_average_of_w_moves_in_training_alone_and_truncation_aims_at_it() -> None:
    mapping = MappingNetwork(20, STYLE)
    w = mapping(torch.randn(64, 20))
    torch.testing.assert_close(mapping.average, 0.002 * w.mean(0))
    average = mapping.eval().average.clone()
    z = torch.randn(5, 20)
    torch.testing.assert_close(mapping(z, 0.7), average + 0.7 * (mapping(z) - average))
    torch.testing.assert_close(mapping(z, 0.0), average.expand(5, -1))
    assert torch.equal(mapping.average, average)
    assert "average" in mapping.state_dict()


def test_autocast_leaves_styles_and_images_in_single_precision(
    synthesis: SynthesisNetwork,
) -> None:
    mapping, z = MappingNetwork(20, STYLE), torch.randn(2, 20)
    exact = synthesis(mapping(z), "none")
    seen = []
    synthesis.blocks[-1].layers[-1].register_forward_hook(lambda _, i, o: seen.append((i, o)))
    with torch.autocast("cpu", torch.bfloat16):
        w = mapping(z)
        image = synthesis(w, "none")
    ((inputs, output),) = seen
    assert w.dtype == image.dtype == torch.float32 and output.dtype == torch.bfloat16
    assert inputs[1].dtype == torch.float32
    assert (image - exact).abs().max() < 0.05 * exact.std()


def test_styles_start_from_one() -> None:
    fresh = SynthesisNetwork(32, CHANNELS, STYLE, WIDTHS)
    for block in fresh.blocks:
        for layer in (*block.layers, block.to_image):
            styles = layer.affine(torch.zeros(2, STYLE))
            assert torch.equal(styles, torch.ones_like(styles))


def test_layers_keep_the_variance_of_what_they_get() -> None:
    x = torch.randn(64, 32, 16, 16)
    linear = EqualizedLinear(400, 300, "lrelu")(torch.randn(200, 400))
    assert linear.square().mean().item() == pytest.approx(1.04, abs=0.1)
    assert EqualizedConv(32, 48)(x)[:, :, 1:-1, 1:-1].square().mean().item() == pytest.approx(
        1, abs=0.1
    )


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_halving_convolution_filters_before_it_leaves_pixels_out(kernel: int) -> None:
    layer, x = EqualizedConv(5, 7, kernel, "lrelu", down=2, gain=0.5), torch.randn(2, 5, 8, 12)
    nn.init.normal_(layer.bias)
    padding = kernel // 2
    blurred = fir(x, 1, (1 + padding + 1, 1 + padding))[:, :, 1:, 1:]
    weight = layer.weight / (5 * kernel**2) ** 0.5
    y = F.conv2d(blurred, weight, layer.bias * 0, stride=2) + layer.bias[:, None, None]
    expected = F.leaky_relu(y, 0.2) * 2**0.5 * 0.5
    found = layer(x)
    assert found.shape == (2, 7, 4, 6)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_widths_double_at_each_halving_up_to_the_limit() -> None:
    assert halving_widths(64, 16, 100) == [100, 100, 64, 32, 16]
    assert resolutions(64) == [4, 8, 16, 32, 64]


@pytest.mark.parametrize("size", [0, 4, 48, 100])
def test_a_size_that_is_no_power_of_two_is_refused(size: int) -> None:
    with pytest.raises(UserError, match=f"image_size {size}.*power of two"):
        resolutions(size)


def test_widths_that_do_not_fit_the_resolutions_are_refused() -> None:
    with pytest.raises(ValueError, match="argument"):
        SynthesisNetwork(32, 1, STYLE, WIDTHS[:-1])


@pytest.mark.slow
def test_the_network_is_exported_with_parity(synthesis: SynthesisNetwork, tmp_path: Path) -> None:
    inputs = {
        "styles": torch.randn(11, STYLE),
        "noise": torch.randn(11, synthesis.noise_values),
    }
    synthesis = synthesis.eval()
    sampler = Sampler(synthesis, inputs)
    with torch.no_grad():
        write_graph(tmp_path / "s.onnx", synthesis, sampler, {})
        found = run_graph(tmp_path / "s.onnx", inputs, (3, 8))
        torch.testing.assert_close(found, sampler(), atol=1e-3, rtol=1e-3)


def test_the_networks_need_no_lightning() -> None:
    modules = ("networks.style", "networks.discriminator", "networks.residual", "adaptive_augment")
    lines = [f"import common.{name}" for name in (*modules, "losses.penalties")]
    code = "; ".join([*lines, "import sys", "sys.exit('pytorch_lightning' in sys.modules)"])
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
