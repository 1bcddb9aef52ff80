"""Residual discriminator: its formulae, and that all can be minimised."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from common.losses.adversarial import discriminator_loss
from common.losses.penalties import gradient_square, interpolation_penalty
from common.networks.discriminator import Discriminator, minibatch_deviation
from common.networks.residual import ResidualDiscriminator, ResidualGenerator

WIDTHS = [16, 16, 8, 8]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def shaken(network: nn.Module) -> nn.Module:
    """Some layers start at 0, where they show nothing."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=max(1, parameter[0].numel()) ** -0.5)
    return network


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("group", [1, 4])
def test_the_parameters_are_as_many_as_the_closed_form_says(channels: int, group: int) -> None:
    expected = WIDTHS[-1] * (channels + 1)
    for after, before in pairwise(WIDTHS):
        expected += before * (9 * before + 1) + after * (9 * before + 1) + after * before
    coarsest = WIDTHS[0]
    expected += coarsest * (9 * (coarsest + (group > 1)) + 1)
    expected += coarsest * (16 * coarsest + 1) + coarsest + 1
    assert count(Discriminator(32, channels, WIDTHS, group)) == expected


@pytest.mark.parametrize("size", [32, 64, 128, 256, 512])
def test_every_size_from_32_to_512_gives_one_logit_an_image(size: int) -> None:
    widths = [8] * (size.bit_length() - 2)
    x = torch.randn(2, 2, size, size)
    for kind in (Discriminator, ResidualDiscriminator):
        logits = kind(size, 2, widths)(x)
        assert logits.shape == (2,) and logits.isfinite().all()


def test_the_deviation_is_that_over_the_images_of_a_group() -> None:
    x = torch.randn(8, 5, 4, 4)
    found = minibatch_deviation(x, 4)
    assert found.shape == (8, 1, 4, 4)
    for k in range(2):
        expected = x[k::2].std(0, correction=0).mean()
        torch.testing.assert_close(found[k::2], expected.expand(4, 1, 4, 4))


@pytest.mark.parametrize(("batch", "size"), [(6, 3), (7, 1), (3, 3), (1, 1), (12, 4)])
def test_any_batch_is_divided_into_the_largest_groups_that_fit(batch: int, size: int) -> None:
    x = torch.randn(batch, 3, 4, 4)
    groups = x.view(size, batch // size, -1)
    expected = groups.std(0, correction=0).mean(1).repeat(size)
    found = minibatch_deviation(x, 4)[:, 0, 0, 0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_equal_images_differ_by_nothing_and_have_finite_slopes() -> None:
    x = torch.randn(1, 3, 4, 4).repeat(4, 1, 1, 1).requires_grad_()
    deviation = minibatch_deviation(x, 4)
    assert deviation.max() <= 1.1e-4
    assert torch.autograd.grad(deviation.sum(), x)[0].isfinite().all()


def test_a_collapsed_batch_is_seen_by_the_discriminator() -> None:
    discriminator, alone = Discriminator(32, 1, WIDTHS), Discriminator(32, 1, WIDTHS, 1)
    x = torch.randn(4, 1, 32, 32)
    same = x[:1].repeat(4, 1, 1, 1)
    assert (discriminator(x)[0] - discriminator(same)[0]).abs() > 1e-4
    torch.testing.assert_close(alone(x)[0], alone(same)[0])


@pytest.mark.parametrize("kind", [Discriminator, ResidualDiscriminator])
@pytest.mark.parametrize("half", [False, True])
def test_a_penalised_loss_reaches_every_weight(kind: type[nn.Module], half: bool) -> None:
    network = shaken(kind(32, 2, WIDTHS))
    real, fake = (torch.randn(4, 2, 32, 32, requires_grad=True) for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        logits = network(real), network(fake)
        loss = discriminator_loss("non_saturating", *logits)
        loss = loss + gradient_square(logits[0], real) + gradient_square(logits[1], fake)
        loss = loss + interpolation_penalty(network, real, fake)
    assert logits[0].dtype == loss.dtype == torch.float32
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name


def test_the_gradient_penalty_is_that_of_finite_differences() -> None:
    network = Discriminator(8, 1, [8, 8]).double()
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    step, total = 1e-6, 0.0
    for k in range(64):
        moved = torch.zeros(64, dtype=torch.float64)
        moved[k] = step
        ahead, behind = (network(x + s * moved.view_as(x)) for s in (1, -1))
        total += ((ahead - behind).item() / (2 * step)) ** 2
    assert gradient_square(network(x), x).item() == pytest.approx(total, rel=1e-5)


def test_the_residual_pair_depends_on_single_images_alone() -> None:
    generator = shaken(ResidualGenerator(32, 2, 12, WIDTHS, depth=1))
    discriminator = shaken(ResidualDiscriminator(32, 2, WIDTHS, depth=1))
    z = torch.randn(5, 12)
    image = generator(z)
    assert image.shape == (5, 2, 32, 32)
    torch.testing.assert_close(generator(z[1:3]), image[1:3], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        discriminator(image[3:4]), discriminator(image)[3:4], atol=1e-4, rtol=1e-4
    )


def test_residual_blocks_start_as_the_identity_and_count_as_expected() -> None:
    shallow, deep = (ResidualDiscriminator(32, 2, WIDTHS, depth) for depth in (1, 3))
    deep.load_state_dict(shallow.state_dict(), strict=False)
    assert all(not p.any() for n, p in deep.named_parameters() if "third" in n or "bias" in n)
    # Two 1 x 1 layers, groups of 16 channels in the 3 x 3 one, two biases: inside are 2 x as many.
    block = [2 * w * w * 2 + 2 * w * 16 * 9 + 2 * 2 * w for w in WIDTHS]
    assert count(deep) - count(shallow) == 2 * sum(block)
    x = torch.randn(2, 2, 32, 32)
    changed = [n for n, _ in deep.named_parameters() if "first" in n]
    before = deep(x)
    for name in changed:
        nn.init.normal_(deep.get_parameter(name))
    assert torch.equal(before, deep(x))


def test_an_untrained_residual_pair_is_of_the_order_of_one() -> None:
    widths = [64, 64, 32, 16]
    image = ResidualGenerator(32, 1, 64, widths)(torch.randn(64, 64))
    logits = ResidualDiscriminator(32, 1, widths)(torch.randn(64, 1, 32, 32))
    assert 0.2 < image.std() < 5 and logits.std() < 5


@pytest.mark.parametrize("kind", [Discriminator, ResidualDiscriminator])
def test_widths_that_do_not_fit_are_refused(kind: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match="3 widths do not fit 32 px"):
        kind(32, 1, [8, 8, 8])


def test_widths_that_make_no_whole_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="no multiples of 8"):
        ResidualGenerator(32, 1, 12, [8, 8, 8, 12])
