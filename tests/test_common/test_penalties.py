"""Penalties against gradients that are known."""

import copy

import pytest
import torch
from torch import Tensor, nn

from common.losses.penalties import (
    PathLengthPenalty,
    gradient_square,
    interpolation_penalty,
    lazy_weight,
    mixed_pixels,
    path_length,
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def images(batch: int = 4) -> Tensor:
    return torch.randn(batch, 2, 3, 5, dtype=torch.float64, requires_grad=True)


def test_a_linear_discriminator_has_the_square_of_its_weights() -> None:
    x, weight = images(), torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    penalty = gradient_square((x * weight).sum((1, 2, 3)), x)
    torch.testing.assert_close(penalty, weight.square().sum())
    # What is minimised is the weight: the penalty needs its own slope.
    (slope,) = torch.autograd.grad(penalty, weight)
    torch.testing.assert_close(slope, 2 * weight)


def test_a_quadratic_discriminator_has_the_square_of_its_input() -> None:
    x, a = images(), torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    penalty = gradient_square(a * x.square().sum((1, 2, 3)) / 2, x)
    expected = a.square() * x.square().sum((1, 2, 3)).mean()
    torch.testing.assert_close(penalty, expected)
    (slope,) = torch.autograd.grad(penalty, a)
    torch.testing.assert_close(slope, 2 * expected / a)


def test_a_map_counts_as_the_mean_of_its_pixels() -> None:
    x = images()
    mapped = x.square().sum(1, keepdim=True)
    torch.testing.assert_close(
        gradient_square(mapped, x), gradient_square(mapped.mean((1, 2, 3)), x)
    )


def test_mixed_pixels_have_on_average_the_squared_gradient_of_a_pixel() -> None:
    torch.manual_seed(0)
    kernel, image = torch.randn(1, 2, 3, 3), torch.randn(2000, 2, 8, 8).requires_grad_()
    maps = nn.functional.conv2d(image, kernel)[:, None]
    mixed = mixed_pixels(maps)
    assert mixed.shape == (2000, 1)
    # Of a convolution each pixel's gradient is the kernel.
    assert gradient_square(mixed, image).item() == pytest.approx(
        float(kernel.square().sum()), rel=0.05
    )
    assert gradient_square(maps, image) < kernel.square().sum() / 2


def test_gradients_are_squared_in_single_precision() -> None:
    # 2^-14 is a half-precision number whose square is none.
    x = torch.zeros(2, 1, 4, 4, dtype=torch.float16, requires_grad=True)
    penalty = gradient_square((x * 2**-14).sum((1, 2, 3)), x)
    assert penalty.dtype == torch.float32 and penalty.item() == 16 * 2**-28


@pytest.mark.parametrize("target", [1.0, 0.0, 750.0])
def test_the_interpolation_penalty_of_a_linear_discriminator(target: float) -> None:
    weight = torch.randn(2, 3, 5, dtype=torch.float64)
    penalty = interpolation_penalty(
        lambda x: (x * weight).sum((1, 2, 3)), images(), images(), target
    )
    torch.testing.assert_close(penalty, (weight.norm() - target).square())


def test_the_points_lie_between_pairs_and_follow_the_generator() -> None:
    seen = []

    def half_square(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x.square().flatten(1).sum(1) / 2

    real, fake = images(64), images(64)
    for _ in range(2):
        generator = torch.Generator().manual_seed(3)
        penalty = interpolation_penalty(half_square, real, fake, generator=generator)
    assert torch.equal(*seen)
    # The gradient of half the square is the point itself.
    torch.testing.assert_close(penalty, (seen[0].flatten(1).norm(dim=1) - 1).square().mean())
    share = (seen[0] - real) / (fake - real)
    torch.testing.assert_close(share, share[:, :1, :1, :1].expand_as(share))
    share = share[:, 0, 0, 0]
    assert 0 <= share.min() < 0.1 and 0.9 < share.max() <= 1


def test_a_discriminator_that_is_flat_has_finite_slopes() -> None:
    weight = torch.zeros((), dtype=torch.float64, requires_grad=True)
    penalty = interpolation_penalty(lambda x: weight * x.flatten(1).sum(1), images(), images(), 1.0)
    assert penalty.item() == 1
    (slope,) = torch.autograd.grad(penalty, weight)
    assert slope.isfinite()


def test_path_length_of_a_linear_generator_is_that_of_its_transpose() -> None:
    matrix = torch.randn(30, 7, dtype=torch.float64)
    styles = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    made, noise = (styles @ matrix.T).view(4, 2, 3, 5), torch.randn(4, 2, 3, 5).double()
    expected = (noise.flatten(1) @ matrix).norm(dim=1) / 15**0.5
    torch.testing.assert_close(path_length(made, styles, noise), expected)


def test_path_length_of_many_layers_is_the_root_of_their_mean_square() -> None:
    styles = torch.randn(4, 3, 7, dtype=torch.float64, requires_grad=True)
    made = (styles.sum(1) @ torch.randn(7, 30).double()).view(4, 2, 3, 5)
    noise = torch.randn(4, 2, 3, 5).double()
    single = styles.detach().sum(1).requires_grad_()
    torch.manual_seed(0)
    torch.randn(4, 3, 7, dtype=torch.float64)
    alone = (single @ torch.randn(7, 30).double()).view(4, 2, 3, 5)
    torch.testing.assert_close(path_length(made, styles, noise), path_length(alone, single, noise))


def test_the_mean_path_length_moves_in_training_alone_and_is_saved() -> None:
    penalty = PathLengthPenalty()
    lengths = torch.tensor([1.0, 3.0], requires_grad=True)
    # Written from the paper: the mean of decay 0.99 starts from 0 and moves before it is used.
    mean = 0.0
    for _ in range(3):
        found = penalty(lengths)
        mean += 0.01 * (2 - mean)
        assert found.item() == pytest.approx(((1 - mean) ** 2 + (3 - mean) ** 2) / 2)
    found.backward()
    torch.testing.assert_close(lengths.grad, lengths.detach() - mean)
    assert penalty.eval()(lengths).item() == pytest.approx(found.item())
    restored = PathLengthPenalty()
    restored.load_state_dict(copy.deepcopy(penalty.state_dict()))
    assert torch.equal(restored.mean, penalty.mean) and penalty.mean > 0


def test_two_penalties_of_one_step_can_be_minimised_together() -> None:
    penalty = PathLengthPenalty()
    lengths = torch.tensor([1.0, 3.0], requires_grad=True)
    (penalty(lengths) + penalty(lengths)).backward()
    assert lengths.grad.isfinite().all()


@pytest.mark.parametrize("every", [1, 4, 16])
def test_a_lazy_penalty_weighs_on_average_what_it_would_always_weigh(every: int) -> None:
    weights = [lazy_weight(step, every) for step in range(48)]
    assert weights[0] == every and sum(weights) == 48
    assert sum(w > 0 for w in weights) == 48 // every


def test_the_gradient_of_a_real_network_is_that_of_finite_differences() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(30, 8), nn.Softplus(), nn.Linear(8, 1)).double()
    x = images(1)
    step, slopes = 1e-6, []
    for k in range(30):
        moved = torch.zeros(30, dtype=torch.float64)
        moved[k] = step
        ahead, behind = (network(x + s * moved.view_as(x)) for s in (1, -1))
        slopes.append((ahead - behind).item() / (2 * step))
    expected = sum(slope**2 for slope in slopes)
    assert gradient_square(network(x)[:, 0], x).item() == pytest.approx(expected, rel=1e-6)
