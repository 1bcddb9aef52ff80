"""Adversarial losses against closed forms."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from common.losses.adversarial import Loss, discriminator_loss, generator_loss, zero_of

KINDS = Loss.__args__
LN2 = math.log(2)


@pytest.mark.parametrize(
    ("kind", "discriminator", "generator"),
    [
        ("non_saturating", 2 * LN2, LN2),
        ("hinge", 2.0, 0.0),
        ("wasserstein", 0.0, 0.0),
        ("relativistic", LN2, LN2),
    ],
)
def test_at_chance_the_losses_are_those_of_no_knowledge(
    kind: Loss, discriminator: float, generator: float
) -> None:
    nothing = torch.zeros(5)
    found = discriminator_loss(kind, nothing, nothing), generator_loss(kind, nothing, nothing)
    torch.testing.assert_close(torch.stack(found), torch.tensor([discriminator, generator]))


def test_the_non_saturating_loss_is_the_cross_entropy_of_torch() -> None:
    real, fake = torch.randn(7) * 3, torch.randn(7) * 3
    ones = torch.ones(7)
    cross_entropy = F.binary_cross_entropy_with_logits
    expected = cross_entropy(real, ones) + cross_entropy(fake, 0 * ones)
    torch.testing.assert_close(discriminator_loss("non_saturating", real, fake), expected)
    torch.testing.assert_close(generator_loss("non_saturating", fake), cross_entropy(fake, ones))


def test_hinge_and_wasserstein_are_what_one_computes_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 2.0])
    hinge = (0 + 0.5 + 2) / 3 + (0 + 1 + 3) / 3
    assert discriminator_loss("hinge", real, fake).item() == pytest.approx(hinge)
    assert discriminator_loss("wasserstein", real, fake).item() == pytest.approx(-1.5 / 3 - 1 / 3)
    for kind in ("hinge", "wasserstein"):
        assert generator_loss(kind, fake).item() == pytest.approx(1 / 3)


def test_the_relativistic_loss_sees_the_difference_of_a_pair_alone() -> None:
    real, fake = torch.randn(6), torch.randn(6)
    expected = -torch.log(torch.sigmoid(real - fake)).mean()
    torch.testing.assert_close(discriminator_loss("relativistic", real, fake), expected)
    shifted = discriminator_loss("relativistic", real + 9, fake + 9)
    torch.testing.assert_close(shifted, expected)
    torch.testing.assert_close(
        generator_loss("relativistic", fake, real), discriminator_loss("relativistic", fake, real)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_of_pixels_counts_each_pixel(kind: Loss) -> None:
    real, fake = torch.randn(3, 1, 4, 5), torch.randn(3, 1, 4, 5)
    flat = discriminator_loss(kind, real.flatten(), fake.flatten())
    torch.testing.assert_close(discriminator_loss(kind, real, fake), flat)
    flat = generator_loss(kind, fake.flatten(), real.flatten())
    torch.testing.assert_close(generator_loss(kind, fake, real), flat)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1e4, 1e30])
@pytest.mark.parametrize("signs", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_extreme_logits_overflow_neither_losses_nor_slopes(
    kind: Loss, size: float, signs: tuple[int, int]
) -> None:
    real, fake = (torch.full((2,), sign * size, requires_grad=True) for sign in signs)
    loss = discriminator_loss(kind, real, fake) + generator_loss(kind, fake, real)
    slopes = torch.autograd.grad(loss, (real, fake), allow_unused=True)
    values = [loss, *(slope for slope in slopes if slope is not None)]
    assert all(value.isfinite().all() for value in values)


@pytest.mark.parametrize("kind", KINDS)
def test_the_two_players_pull_the_fake_logit_apart(kind: Loss) -> None:
    real, fake = torch.zeros(3), torch.zeros(3, requires_grad=True)
    (down,) = torch.autograd.grad(discriminator_loss(kind, real, fake), fake)
    (up,) = torch.autograd.grad(generator_loss(kind, fake, real), fake)
    assert (down > 0).all() and (up < 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_logits_are_summed_in_single(kind: Loss) -> None:
    real, fake = (torch.randn(64).bfloat16() for _ in range(2))
    found = discriminator_loss(kind, real, fake)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, discriminator_loss(kind, real.float(), fake.float()))


def test_logits_that_make_no_pairs_are_refused() -> None:
    column: Tensor = torch.zeros(4, 1)
    with pytest.raises(ValueError, match="make no pairs"):
        discriminator_loss("relativistic", column, torch.zeros(4))
    with pytest.raises(ValueError, match="give real_logits"):
        generator_loss("relativistic", column)


def test_an_unknown_loss_is_refused() -> None:
    for call in (discriminator_loss, generator_loss):
        with pytest.raises(ValueError, match="'saturating' is no loss"):
            call("saturating", torch.zeros(1), torch.zeros(1))


@pytest.mark.parametrize(
    ("kind", "zero"), [("non_saturating", 0), ("hinge", 0), ("wasserstein", 3), ("relativistic", 3)]
)
def test_losses_of_differences_leave_the_zero_to_generated_images(kind: str, zero: float) -> None:
    assert zero_of(kind, torch.tensor([2.0, 4.0])) == zero
