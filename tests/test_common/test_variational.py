import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from common.losses.variational import bounded, gaussian_kl, gaussian_nll, masked_mse


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_kl_equals_that_of_torch_distributions() -> None:
    mean, log_variance = torch.randn(4, 6), torch.randn(4, 6) * 2
    posterior, prior = Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)
    expected = kl_divergence(posterior, prior)
    torch.testing.assert_close(gaussian_kl(mean, log_variance), expected)
    assert gaussian_kl(torch.zeros(1, 3), torch.zeros(1, 3)).count_nonzero() == 0


def test_nll_of_a_whole_image_equals_that_of_torch_distributions() -> None:
    image, mean, variance = torch.randn(4, 2, 5, 3), torch.randn(4, 2, 5, 3), torch.tensor(0.3)
    mse = (image - mean).square().flatten(1).mean(1)
    expected = -Independent(Normal(mean, variance.sqrt()), 3).log_prob(image)
    torch.testing.assert_close(gaussian_nll(mse, variance, 30), expected)


def test_nll_of_masked_images_counts_each_ones_pixels() -> None:
    image, mean, variance = torch.randn(2, 2, 4, 4), torch.randn(2, 2, 4, 4), torch.tensor(0.7)
    mask = torch.ones(2, 1, 4, 4)
    mask[1, :, 2:] = 0
    log_prob = Normal(mean, variance.sqrt()).log_prob(image)
    expected = torch.stack([-log_prob[0].sum(), -log_prob[1, :, :2].sum()])
    num_values = mask.flatten(1).sum(1) * 2
    found = gaussian_nll(masked_mse(mean, image, mask), variance, num_values)
    torch.testing.assert_close(found, expected)


def test_the_variance_of_the_least_nll_is_the_mean_squared_error() -> None:
    variance = torch.tensor(0.123, requires_grad=True)
    (slope,) = torch.autograd.grad(gaussian_nll(torch.tensor([0.123]), variance, 50), variance)
    assert abs(slope) < 1e-3


def test_masked_mse_sees_only_what_is_inside_the_mask() -> None:
    image, prediction = torch.randn(3, 2, 6, 6), torch.randn(3, 2, 6, 6)
    mask = torch.zeros(3, 1, 6, 6)
    mask[0, :, 1:4, 2:6], mask[1], mask[2, :, 0, 0] = 1, 1, 1
    squares = (image - prediction).square()
    parts = squares[0, :, 1:4, 2:6], squares[1], squares[2, :, 0, 0]
    expected = torch.stack([part.mean() for part in parts])
    torch.testing.assert_close(masked_mse(prediction, image, mask), expected)
    outside = torch.where(mask == 0, 1e6, 0.0)
    changed = masked_mse(prediction + outside, image, mask)
    assert torch.equal(changed, masked_mse(prediction, image, mask))


def test_bounded_is_smooth_within_its_range_and_the_identity_in_the_middle() -> None:
    low, high = -10.0, 4.0
    x = torch.linspace(-40, 40, 2001, dtype=torch.float64, requires_grad=True)
    y = bounded(x, low, high)
    assert low <= y.min() < low + 1e-2 and high - 1e-2 < y.max() <= high
    assert (y.diff() > 0).all()
    (slope,) = torch.autograd.grad(y.sum(), x)
    near = (x - (-3)).abs() < 0.5
    torch.testing.assert_close(y[near], x[near], atol=0.01, rtol=0)
    torch.testing.assert_close(slope[near], torch.ones_like(slope[near]), atol=0.01, rtol=0)
    extremes = bounded(torch.tensor([-1e30, 1e30, float("inf")]), low, high)
    assert torch.equal(extremes, torch.tensor([low, high, high]))
