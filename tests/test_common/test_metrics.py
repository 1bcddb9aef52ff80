import bisect
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import linalg, stats
from torch import Tensor

from common.metrics import bootstrap, distributions, fidelity
from common.metrics.conditional import class_distance, estimates, mean_distance
from common.metrics.protocol import MetricRefused

pytestmark = pytest.mark.usefixtures("one_thread")


def normals(count: int, seed: int, mean: np.ndarray, covariance: np.ndarray) -> Tensor:
    draw = np.random.default_rng(seed)
    return torch.from_numpy(draw.multivariate_normal(mean, covariance, count))


def with_exact_moments(
    mean: np.ndarray, covariance: np.ndarray, seed: int, count: int = 50
) -> Tensor:
    """A sample whose own mean and (n - 1) covariance are exactly those asked for."""
    x = np.random.default_rng(seed).normal(size=(count, len(mean)))
    x = x - x.mean(0)
    white = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return torch.from_numpy(white @ np.linalg.cholesky(covariance).T + mean)


def random_covariance(dim: int, seed: int) -> np.ndarray:
    factor = np.random.default_rng(seed).normal(size=(dim, dim))
    return factor @ factor.T / dim + 0.1 * np.eye(dim)


def frechet_by_matrix_root(
    mean_1: np.ndarray, cov_1: np.ndarray, mean_2: np.ndarray, cov_2: np.ndarray
) -> float:
    root = linalg.sqrtm(cov_1 @ cov_2).real
    return float(np.sum((mean_1 - mean_2) ** 2) + np.trace(cov_1 + cov_2 - 2 * root))


def kernel_by_loops(real: Tensor, fake: Tensor) -> float:
    real, fake = real.tolist(), fake.tolist()

    def kernel(x: list[float], y: list[float]) -> float:
        return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3

    def within(rows: list[list[float]]) -> float:
        pairs = [kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j]
        return sum(pairs) / len(pairs)

    across = [kernel(x, y) for x in real for y in fake]
    return within(real) + within(fake) - 2 * sum(across) / len(across)


def kernel_truth(dim: int, shift: float) -> float:
    """Squared MMD of N(0, 1) and N(shift, 1) in every direction, from their first moments.

    With the kernel (x·y / D + 1)³ it is the sum over k of C(3, k) / D^k |E x^k - E y^k|², x^k being
    the k-fold tensor product.
    """
    mean, eye = np.full(dim, shift), np.eye(dim)
    third = np.einsum("i,j,k->ijk", mean, mean, mean) + sum(
        np.einsum(f"{pair},{single}->ijk", eye, mean)
        for pair, single in (("ij", "k"), ("ik", "j"), ("jk", "i"))
    )
    gaps = mean, np.outer(mean, mean), third
    return sum(
        weight / dim**k * np.sum(gap**2)
        for k, weight, gap in zip((1, 2, 3), (3, 3, 1), gaps, strict=True)
    )


# Fréchet distance ------------------------------------------------------------------------------


def test_frechet_distance_of_diagonal_normals_is_the_closed_form() -> None:
    mean_1, mean_2 = np.array([0.0, 1.0, 2.0, -1.0]), np.array([1.0, 1.0, 0.0, 0.5])
    deviation_1, deviation_2 = np.array([1.0, 2.0, 0.5, 3.0]), np.array([2.0, 2.0, 1.5, 0.1])
    real = with_exact_moments(mean_1, np.diag(deviation_1**2), 0)
    fake = with_exact_moments(mean_2, np.diag(deviation_2**2), 1)
    truth = np.sum((mean_1 - mean_2) ** 2) + np.sum((deviation_1 - deviation_2) ** 2)
    assert fidelity.frechet_distance(real, fake) == pytest.approx(truth, rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_frechet_distance_of_correlated_normals_agrees_with_the_matrix_root(seed: int) -> None:
    mean_1, mean_2 = np.zeros(6), np.linspace(-1, 1, 6)
    cov_1, cov_2 = random_covariance(6, 10 + seed), random_covariance(6, 20 + seed)
    real, fake = with_exact_moments(mean_1, cov_1, 30), with_exact_moments(mean_2, cov_2, 40)
    truth = frechet_by_matrix_root(mean_1, cov_1, mean_2, cov_2)
    assert fidelity.frechet_distance(real, fake) == pytest.approx(truth, rel=1e-9)


def test_frechet_distance_with_more_features_than_images_agrees_with_the_singular_values() -> None:
    # tr sqrt(S1 S2) is the sum of the singular values of X1 X2^T for centred rows, whatever D is.
    draw = np.random.default_rng(3)
    real, fake = draw.normal(size=(12, 200)), draw.normal(size=(9, 200)) * 1.5 + 0.2
    centred = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (real, fake)]
    root = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    truth = np.sum((real.mean(0) - fake.mean(0)) ** 2) + sum(np.sum(x**2) for x in centred)
    found = fidelity.frechet_distance(torch.from_numpy(real), torch.from_numpy(fake))
    assert found == pytest.approx(truth - 2 * root, rel=1e-6)


def test_fewer_images_than_features_are_noted() -> None:
    assert "50 images for 64 features" in fidelity.frechet_note(100, 50, 64)
    assert "64 images for 64 features" in fidelity.frechet_note(64, 100, 64)
    assert "biased: fewer than 5,000 images" in fidelity.frechet_note(65, 9000, 64)
    assert fidelity.frechet_note(5000, 5000, 64) == ""


# Kernel distance -------------------------------------------------------------------------------


def test_kernel_distance_agrees_with_plain_loops() -> None:
    real = normals(14, 0, np.zeros(3), np.eye(3))
    fake = normals(14, 1, np.ones(3), random_covariance(3, 2))
    mean, deviation = fidelity.kernel_distance(real, fake)
    assert mean == pytest.approx(kernel_by_loops(real, fake), rel=1e-10)
    assert deviation == 0


def test_kernel_distance_over_subsets_depends_on_the_seed_alone() -> None:
    real, fake = normals(25, 0, np.zeros(3), np.eye(3)), normals(40, 1, np.ones(3), np.eye(3))
    first = fidelity.kernel_distance(real, fake, subsets=10, seed=5)
    assert first == fidelity.kernel_distance(real, fake, subsets=10, seed=5)
    assert first != fidelity.kernel_distance(real, fake, subsets=10, seed=6)
    assert first[1] > 0
    assert fidelity.kernel_distance(fake, real, subsets=10)[1] > 0


def test_kernel_subsets_never_exceed_a_thousand_images() -> None:
    assert fidelity.kernel_subset_size(5000, 2000) == 1000
    assert fidelity.kernel_subset_size(300, 2000) == 300


@pytest.mark.parametrize("sizes", [(9, 14), (12, 12)])
def test_the_estimate_from_all_images_agrees_with_plain_loops(sizes: tuple[int, int]) -> None:
    real = normals(sizes[0], 0, np.zeros(3), np.eye(3))
    fake = normals(sizes[1], 1, np.ones(3), random_covariance(3, 2))
    value, error = bootstrap.kernel_estimate(real, fake)
    assert value == pytest.approx(kernel_by_loops(real, fake), rel=1e-10)
    assert error == bootstrap.kernel_error(real, fake)


# Classifier score ------------------------------------------------------------------------------


def score_by_loops(logits: np.ndarray, splits: int) -> tuple[float, float]:
    """Salimans et al. 2016, in the order in which torch-fidelity shuffles."""
    logits = logits[np.random.RandomState(2020).permutation(len(logits))]
    scores = []
    for part in np.split(logits, splits):
        seen = [[math.exp(x) / sum(map(math.exp, row)) for x in row] for row in part.tolist()]
        mean = [sum(column) / len(seen) for column in zip(*seen, strict=True)]
        apart = [p * math.log(p / q) for row in seen for p, q in zip(row, mean, strict=True)]
        scores.append(math.exp(sum(apart) / len(seen)))
    return float(np.mean(scores)), float(np.std(scores))


@pytest.mark.parametrize("splits", [1, 4])
def test_the_classifier_score_agrees_with_plain_loops(splits: int) -> None:
    logits = np.random.default_rng(0).normal(0, 2, (60, 5))
    found = fidelity.classifier_score(torch.from_numpy(logits), splits)
    assert found == pytest.approx(score_by_loops(logits, splits), rel=1e-10)


def test_the_classifier_score_of_sure_and_of_helpless_classifiers() -> None:
    sure = 100 * torch.eye(4).repeat(25, 1)
    assert fidelity.classifier_score(sure, 1)[0] == pytest.approx(4)
    assert fidelity.classifier_score(100 * torch.eye(4)[:1].repeat(100, 1), 1)[0] == pytest.approx(
        1
    )
    assert fidelity.classifier_score(torch.zeros(100, 4), 10) == pytest.approx((1, 0))


def test_too_few_images_have_no_classifier_score() -> None:
    with pytest.raises(MetricRefused, match="At least 100 images are needed; there are 99"):
        fidelity.classifier_score(torch.zeros(99, 4), 10)
    with pytest.raises(MetricRefused, match="not finite"):
        fidelity.classifier_score(torch.full((100, 4), torch.nan), 10)


def test_the_interval_over_parts_is_that_of_their_mean() -> None:
    parts = np.random.default_rng(0).normal(3, 1, 10)
    found = bootstrap.parts_interval(parts.mean(), parts.std(), 10)
    expected = stats.t.interval(0.95, 9, parts.mean(), stats.sem(parts))
    assert found == pytest.approx(expected)


# Distance of classes ---------------------------------------------------------------------------


def classes(count: int, seed: int) -> tuple[Tensor, list[str]]:
    """Two classes far from each other, and one of which there is hardly an image."""
    first, second = (normals(count, seed + k, np.full(3, 2 * k), np.eye(3)) for k in (0, 1))
    rare = normals(4, seed + 2, np.full(3, 9), np.eye(3))
    return torch.cat([first, second, rare]), ["a"] * count + ["b"] * count + ["rare"] * 4


def test_the_distance_of_classes_is_the_mean_of_theirs() -> None:
    (real, labels), (fake, others) = classes(12, 0), classes(15, 10)
    alone = [kernel_by_loops(real[:12], fake[:15]), kernel_by_loops(real[12:24], fake[15:30])]
    found = mean_distance(estimates(real, fake, labels, others))
    assert found.value == pytest.approx(np.mean(alone), rel=1e-10)
    worst = "ab"[int(np.argmax(alone))]
    assert found.note == f"largest for {worst}: {max(alone):.4g}; too few images of rare"
    assert found.rule.startswith("classes=2:")
    pairs = (real[:12], fake[:15]), (real[12:24], fake[15:30])
    error = math.hypot(*(bootstrap.kernel_error(*pair) for pair in pairs)) / 2
    # Student's t with 11 degrees of freedom exceeds 2.2010 in 2.5 % of cases.
    assert found.high - found.value == pytest.approx(2.2010 * error, rel=1e-4)
    assert found.value - found.low == pytest.approx(2.2010 * error, rel=1e-4)


def test_the_distance_of_one_class_is_that_of_its_images_or_says_how_few_there_are() -> None:
    (real, labels), (fake, others) = classes(12, 0), classes(15, 10)
    found = estimates(real, fake, labels, others)
    assert list(found) == ["a", "b", "rare"]
    pair = real[12:24], fake[15:30]
    measured = class_distance(found["b"])
    assert measured.value == pytest.approx(kernel_by_loops(*pair), rel=1e-10)
    reach = 2.2010 * bootstrap.kernel_error(*pair)
    assert measured.high - measured.value == pytest.approx(reach, rel=1e-4)
    with pytest.raises(MetricRefused, match=r"At least 10 images on each side .* there are 4"):
        class_distance(found["rare"])


def test_the_distance_of_classes_does_not_depend_on_the_order_of_images() -> None:
    (real, labels), (fake, others) = classes(12, 0), classes(15, 10)
    found = mean_distance(estimates(real.flip(0), fake, labels[::-1], others))
    expected = mean_distance(estimates(real, fake, labels, others))
    assert found.value == pytest.approx(expected.value, rel=1e-9)


def test_one_class_with_enough_images_is_no_question_of_classes() -> None:
    (real, labels), (fake, _) = classes(12, 0), classes(12, 10)
    with pytest.raises(MetricRefused, match=r"Two classes with at least 10 .* there are 1"):
        mean_distance(estimates(real, fake, labels, ["a"] * 24 + ["rare"] * 4))


# Both ------------------------------------------------------------------------------------------


def kernel_mean(real: Tensor, fake: Tensor) -> float:
    return fidelity.kernel_distance(real, fake)[0]


DISTANCES = pytest.mark.parametrize("distance", [fidelity.frechet_distance, kernel_mean])


@DISTANCES
def test_a_set_is_at_no_distance_from_itself_and_distances_are_symmetric(
    distance: Callable[..., float],
) -> None:
    real = normals(40, 0, np.zeros(5), random_covariance(5, 1))
    fake = normals(40, 1, np.ones(5), random_covariance(5, 2))
    far = distance(real, fake)
    assert far > 1
    assert distance(fake, real) == pytest.approx(far, rel=1e-9)
    # The unbiased estimator is below zero where both sides are the very same images.
    assert -far / 2 < distance(real, real.clone()) < 1e-6


@DISTANCES
def test_distances_do_not_depend_on_the_order_of_images(distance: Callable[..., float]) -> None:
    real = normals(30, 0, np.zeros(5), np.eye(5))
    fake = normals(30, 1, np.ones(5), np.eye(5))
    assert distance(real.flip(0), fake.roll(7, 0)) == pytest.approx(distance(real, fake), rel=1e-9)


@DISTANCES
def test_too_few_images_and_non_finite_features_are_refused(distance: Callable[..., float]) -> None:
    real = normals(12, 0, np.zeros(3), np.eye(3))
    with pytest.raises(MetricRefused, match="12 real and 1 synthetic"):
        distance(real, real[:1])
    fake = real.clone()
    fake[3, 1] = float("nan")
    with pytest.raises(MetricRefused, match="synthetic images are not finite"):
        distance(real, fake)


def test_nine_images_have_a_frechet_but_no_kernel_distance() -> None:
    real = normals(9, 0, np.zeros(3), np.eye(3))
    assert np.isfinite(fidelity.frechet_distance(real, real))
    with pytest.raises(MetricRefused, match="At least 10"):
        fidelity.kernel_distance(real, real)


def test_one_feature_has_no_frechet_distance() -> None:
    with pytest.raises(MetricRefused, match="two features"):
        fidelity.frechet_distance(torch.rand(9, 1), torch.rand(9, 1))


# Intervals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shift", "fewest", "most"), [(0.5, 0.88, 0.99), (0.0, 0.95, 1.0)])
def test_the_kernel_interval_covers_the_true_distance_as_often_as_it_says(
    shift: float, fewest: float, most: float
) -> None:
    truth, draw = kernel_truth(4, shift), np.random.default_rng(0)
    hits, values = [], []
    for _ in range(300):
        real = torch.from_numpy(draw.normal(size=(40, 4)))
        fake = torch.from_numpy(draw.normal(size=(30, 4)) + shift)
        value, deviation = fidelity.kernel_distance(real, fake, subsets=10)
        low, high = bootstrap.kernel_interval(real, fake, value, deviation / 10**0.5)
        hits.append(low <= truth <= high)
        values.append(value)
    assert fewest <= np.mean(hits) <= most
    assert np.mean(values) == pytest.approx(truth, abs=4 * np.std(values) / 300**0.5)


def test_the_kernel_error_agrees_with_leaving_out_each_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bootstrap, "_ROWS", 5)
    real = normals(12, 0, np.zeros(3), np.eye(3))
    fake = normals(15, 1, np.ones(3), np.eye(3))
    variance = 0.0
    for a, b in ((real, fake), (fake, real)):
        left_out = [kernel_by_loops(torch.cat([a[:i], a[i + 1 :]]), b) for i in range(len(a))]
        variance += (len(a) - 1) * np.var(left_out)
    assert bootstrap.kernel_error(real, fake) == pytest.approx(variance**0.5, rel=1e-9)


def test_the_kernel_error_of_sequences_agrees_with_leaving_out_each_of_them() -> None:
    real = normals(12, 0, np.zeros(3), np.eye(3))
    fake = normals(15, 1, np.ones(3), np.eye(3))
    variance = 0.0
    for a, b in ((real, fake), (fake, real)):
        starts = range(0, len(a), 3)
        left_out = [kernel_by_loops(torch.cat([a[:i], a[i + 3 :]]), b) for i in starts]
        variance += (len(starts) - 1) * np.var(left_out)
    assert bootstrap.kernel_error(real, fake, frames=3) == pytest.approx(variance**0.5, rel=1e-9)
    # Student's t with 3 degrees of freedom exceeds 3.1824 in 2.5 % of cases.
    expected = (7 - 3.1824 * variance**0.5, 7 + 3.1824 * variance**0.5)
    found = bootstrap.kernel_interval(real, fake, 7, frames=3)
    assert found == pytest.approx(expected, rel=1e-4)


def sequences(count: int, draw: np.random.Generator, shift: float = 0.0) -> Tensor:
    """Six frames each, which are nearly alike."""
    middles = draw.normal(shift, 1, (count, 1, 4)).repeat(6, 1)
    return torch.from_numpy(middles + draw.normal(0, 0.2, middles.shape)).flatten(0, 1)


def test_the_kernel_error_of_sequences_is_the_scatter_over_others() -> None:
    draw, found = np.random.default_rng(0), []
    for _ in range(200):
        pair = sequences(30, draw), sequences(40, draw, shift=0.7)
        found.append((*bootstrap.kernel_estimate(*pair, 6), bootstrap.kernel_error(*pair)))
    values, errors, of_frames = np.array(found).T
    assert np.median(errors) == pytest.approx(values.std(), rel=0.2)
    assert np.median(of_frames) < 0.5 * values.std()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_frames_that_are_all_alike_tell_of_a_share_what_their_sequences_do(share: float) -> None:
    points = np.random.default_rng(0).random(80) < share
    assert bootstrap.effective_draws(points.repeat(4), 4) == pytest.approx(80)
    assert bootstrap.effective_draws(points, 1) == 80


def test_independent_frames_of_sequences_tell_nearly_as_much_as_single_images() -> None:
    draw = np.random.default_rng(0)
    found = [bootstrap.effective_draws(draw.random(400) < 0.3, 4) for _ in range(50)]
    assert 350 < np.mean(found) <= 400 and min(found) >= 100


def test_the_kernel_interval_adds_the_error_of_the_subsets() -> None:
    real = normals(12, 0, np.zeros(3), np.eye(3))
    fake = normals(15, 1, np.ones(3), np.eye(3))
    error = (bootstrap.kernel_error(real, fake) ** 2 + 2**2) ** 0.5
    # Student's t with 11 degrees of freedom exceeds 1.7959 in 5 % of cases.
    expected = (7 - 1.7959 * error, 7 + 1.7959 * error)
    assert bootstrap.kernel_interval(real, fake, 7, 2, level=0.9) == pytest.approx(expected, 1e-4)


def test_the_bootstrap_interval_of_a_mean_covers_it() -> None:
    draw = np.random.default_rng(1)
    hits = []
    for seed in range(200):
        low, high = bootstrap.bootstrap_interval(
            np.mean, draw.normal(3, 2, 40), resamples=200, seed=seed
        )
        hits.append(low <= 3 <= high)
    assert 0.88 <= np.mean(hits) <= 0.99


def test_the_bootstrap_has_the_error_of_two_independent_means() -> None:
    draw = np.random.default_rng(2)
    x, y = draw.normal(0, 1, 200), draw.normal(0, 3, 100)
    found = bootstrap.bootstrap_interval(
        lambda a, b: a.mean() - b.mean(), x, y, resamples=4000, level=0.9
    )
    error = np.sqrt(x.var() / 200 + y.var() / 100)
    ends = x.mean() - y.mean() + error * stats.norm.ppf([0.05, 0.95])
    assert found == pytest.approx(ends, abs=0.15 * error)


def test_the_bootstrap_depends_on_its_seed_alone() -> None:
    values = np.arange(20.0)
    first = bootstrap.bootstrap_interval(np.mean, values, resamples=50, seed=3)
    assert first == bootstrap.bootstrap_interval(np.mean, values, resamples=50, seed=3)
    assert first != bootstrap.bootstrap_interval(np.mean, values, resamples=50, seed=4)


def most_without_copies(of: int, among: int) -> int:
    """The greatest number of images nearer than the threshold that is not more than chance."""
    fits = range(of + 1)

    def above(count: int) -> bool:
        return bootstrap.nearer_interval(count, of, 0.01, 0.01 * (among + 1), among)[0] > 0.01

    return bisect.bisect_left(fits, True, key=above) - 1


@pytest.mark.parametrize("of", [500, 10000])
@pytest.mark.parametrize("among", [100, 150, 400, 1000])
def test_images_that_copy_nothing_are_rarely_above_chance_however_few_are_held_out(
    of: int, among: int
) -> None:
    draw, most = np.random.default_rng(among), most_without_copies(of, among)
    # Distances to the nearest of many in six dimensions: of few, the part below u is u ** 6.
    held_out = draw.random((4000, among)) ** (1 / 6)
    below = np.quantile(held_out, 0.01, axis=1, method="weibull") ** 6
    assert 0.009 < below.mean() < 0.0105
    assert 0.005 < np.mean(draw.binomial(of, below) > most) < 0.04


@pytest.mark.parametrize(("copied", "among"), [(0.03, 1000), (0.2, 100)])
def test_the_interval_of_nearer_images_covers_the_share_as_often_as_it_says(
    copied: float, among: int
) -> None:
    draw, rank = np.random.default_rng(0), 0.01 * (among + 1)
    below = draw.beta(rank, among + 1 - rank, 500)
    found, times = np.unique(draw.binomial(500, copied + (1 - copied) * below), return_counts=True)
    ends = [bootstrap.nearer_interval(int(count), 500, 0.01, rank, among) for count in found]
    share = copied + (1 - copied) * 0.01
    hits = [low <= share <= high for low, high in ends]
    assert 0.93 <= np.average(hits, weights=times) <= 0.98


def test_beside_endlessly_many_others_the_interval_of_nearer_images_is_that_of_a_share() -> None:
    for count in (0, 7, 30, 500):
        found = bootstrap.nearer_interval(count, 500, 0.01, 1e7, 10**9)
        assert found == pytest.approx(bootstrap.share_interval(count, 500), abs=1e-5)


# Distributions ---------------------------------------------------------------------------------


def test_shifted_values_are_at_the_wasserstein_distance_of_the_shift() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert distributions.wasserstein(values, values + 2.5) == pytest.approx(2.5)


def test_wasserstein_of_equally_many_values_is_the_mean_gap_of_the_sorted_ones() -> None:
    draw = np.random.default_rng(1)
    real, fake = draw.gamma(2, size=60), draw.normal(size=60)
    gap = np.abs(np.sort(real) - np.sort(fake)).mean()
    assert distributions.wasserstein(real, fake) == pytest.approx(gap)


def test_kolmogorov_smirnov_is_the_largest_gap_of_the_distribution_functions() -> None:
    draw = np.random.default_rng(2)
    real, fake = draw.normal(size=40), draw.normal(0.7, size=31)
    points = np.concatenate([real, fake])
    gap = max(abs((real <= t).mean() - (fake <= t).mean()) for t in points)
    assert distributions.kolmogorov_smirnov(real, fake) == pytest.approx(gap)
    assert distributions.kolmogorov_smirnov(real, real + 100) == 1


@pytest.mark.parametrize("distance", [distributions.wasserstein, distributions.kolmogorov_smirnov])
def test_values_that_could_not_be_measured_are_left_out_and_counted(
    distance: Callable[..., float],
) -> None:
    real, fake = np.arange(20.0), np.arange(5.0, 25.0)
    holes = np.concatenate([real, [np.nan, np.inf]])
    assert distributions.finite(holes)[1] == 2
    assert distance(holes, fake) == distance(real, fake)
    assert distributions.interval(distance, holes, fake) == distributions.interval(
        distance, real, fake
    )
    with pytest.raises(MetricRefused, match="9 real and 20 synthetic"):
        distance(np.append(real[:9], np.nan), fake)


@pytest.mark.parametrize("shift", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("distance", [distributions.wasserstein, distributions.kolmogorov_smirnov])
def test_the_interval_of_a_distance_covers_the_true_one_also_near_zero(
    distance: Callable[..., float], shift: float
) -> None:
    # Shifted normals: the shift itself, and the gap of the two functions half way between them.
    height = 2 * stats.norm.cdf(shift / 2) - 1
    truth = shift if distance is distributions.wasserstein else height
    draw = np.random.default_rng(3)
    hits = []
    for seed in range(100):
        real, fake = draw.normal(size=60), draw.normal(size=45) + shift
        low, high = distributions.interval(distance, real, fake, resamples=100, seed=seed)
        assert low <= distance(real, fake) <= high
        hits.append(low <= truth <= high)
    assert np.mean(hits) >= 0.88


def test_the_reach_of_a_kolmogorov_smirnov_interval_is_the_known_one() -> None:
    # Kolmogorov 1933: sup |F_n - F| stays below 1.358 sqrt(1 / n) in 95 % of cases.
    draw = np.random.default_rng(4)
    real, fake = draw.normal(size=400), draw.normal(0.3, size=400)
    low, high = distributions.interval(distributions.kolmogorov_smirnov, real, fake)
    assert (high - low) / 2 == pytest.approx(1.358 * (2 / 400) ** 0.5, rel=0.05)
    value = distributions.kolmogorov_smirnov(real, fake)
    assert (high + low) / 2 == pytest.approx(value)


def test_an_interval_of_a_distance_stays_where_distances_can_be() -> None:
    values = np.arange(12.0)
    for distance in (distributions.wasserstein, distributions.kolmogorov_smirnov):
        assert distributions.interval(distance, values, values)[0] == 0
    low, high = distributions.interval(distributions.kolmogorov_smirnov, values, values + 50)
    assert low < high == 1
