import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.denoising import non_local_means, reference
from kernels.registry import using

SIZES = [
    ((2, 1, 20, 23), 7, 4),
    ((1, 3, 40, 33), 5, 3),
    ((1, 6, 3, 2), 7, 5),
    ((1, 9, 33, 17), 17, 1),
    ((1, 2, 34, 258), 3, 1),
    ((3, 2, 5, 9), 1, 2),
    ((1, 4, 6, 1), 3, 0),
    ((1, 1, 1, 1), 9, 3),
]
# float32 adds in another order; of the shorter types it is the rounding of a result below 1.
CLOSE = {
    torch.float32: 5e-6,
    torch.float64: 1e-12,
    torch.bfloat16: 2.0**-9 + 5e-6,
    torch.float16: 2.0**-12 + 5e-6,
}


@pytest.fixture(params=["ref", "native"])
def mode(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "native":
        request.getfixturevalue("compiled")
    with using(request.param):
        yield request.param


def image(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)


def by_formula(x: np.ndarray, patch: int, distance: int, h: float, sigma: float) -> np.ndarray:
    """One image [C, H, W], pixel by pixel."""
    radius = patch // 2
    halo = distance + radius
    wide = np.pad(x, [(0, 0), (halo, halo), (halo, halo)], mode="reflect")
    result = np.empty_like(x)
    for i, j in np.ndindex(x.shape[1:]):
        total, weights = 0.0, 0.0
        here = wide[:, i + distance : i + distance + patch, j + distance : j + distance + patch]
        for a, b in np.ndindex(2 * distance + 1, 2 * distance + 1):
            there = wide[:, i + a : i + a + patch, j + b : j + b + patch]
            d2 = ((here - there) ** 2).mean()
            weight = np.exp(-max(d2 - 2 * sigma**2, 0.0) / h**2)
            total = total + weight * there[:, radius, radius]
            weights += weight
        result[:, i, j] = total / weights
    return result


@pytest.mark.parametrize("sigma", [0.0, 0.15])
@pytest.mark.parametrize(("shape", "patch", "distance"), SIZES)
def test_it_is_the_weighted_mean_of_the_definition(
    shape: tuple[int, ...], patch: int, distance: int, sigma: float, mode: str
) -> None:
    x = image(shape, torch.float64)
    expected = np.stack([by_formula(i, patch, distance, 0.2, sigma) for i in x.numpy()])
    out = non_local_means(x, patch, distance, 0.2, sigma)
    np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize(("shape", "patch", "distance"), SIZES)
def test_every_type_and_layout_is_close_to_float64(
    shape: tuple[int, ...],
    patch: int,
    distance: int,
    dtype: torch.dtype,
    layout: torch.memory_format,
    mode: str,
) -> None:
    x = image(shape, dtype).contiguous(memory_format=layout)
    out = non_local_means(x, patch, distance, 0.2, 0.1)
    assert out.dtype == dtype and out.is_contiguous(memory_format=layout)
    expected = reference(x.double(), patch, distance, 0.2, 0.1)
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=CLOSE[dtype])


def test_one_image_is_a_batch_of_one_and_strides_do_not_matter(mode: str) -> None:
    x = image((3, 2, 18, 11))
    expected = non_local_means(x, 3, 2)
    torch.testing.assert_close(non_local_means(x[1], 3, 2), expected[1], rtol=0, atol=0)
    sparse = x.repeat_interleave(2, 3)[..., ::2]
    torch.testing.assert_close(non_local_means(sparse, 3, 2), expected, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8), (2, 3, 0, 8), (0, 8, 8)])
def test_nothing_gives_nothing(shape: tuple[int, ...], mode: str) -> None:
    assert non_local_means(torch.empty(shape)).shape == shape


def test_a_constant_image_stays_as_it_is(mode: str) -> None:
    x = torch.full((1, 2, 40, 37), 1000.0)
    torch.testing.assert_close(non_local_means(x), x, rtol=1e-6, atol=0)


def test_a_larger_sigma_and_a_larger_h_smooth_more(mode: str) -> None:
    x = image((1, 1, 32, 32))
    rough = [non_local_means(x, 5, 3, h, s).var() for h, s in [(0.1, 0), (0.2, 0), (0.2, 0.2)]]
    assert rough == sorted(rough, reverse=True)
    # With all differences taken for noise, the mean over the window is left.
    mean = non_local_means(x, 5, 3, 0.1, 10.0)[0, 0, 10, 12]
    torch.testing.assert_close(mean, x[0, 0, 7:14, 9:16].mean())


def test_patches_without_likeness_have_no_weight(mode: str) -> None:
    x = 65535 * image((1, 1, 24, 24))
    torch.testing.assert_close(non_local_means(x, 5, 3, h=1e-6), x, rtol=0, atol=0)


def psnr(x: Tensor, truth: Tensor) -> float:
    return float(-10 * (x - truth).square().mean().log10())


def test_it_denoises_cells_and_keeps_their_edges(mode: str) -> None:
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    cells = [(30, 25, 14), (60, 70, 18), (75, 25, 10)]
    truth = 0.1 + 0.6 * sum(((y - a) ** 2 + (x - b) ** 2 < r * r).float() for a, b, r in cells)
    truth = torch.stack([truth, 1 - truth, 0.5 * truth])
    generator = torch.Generator().manual_seed(1)
    noisy = truth + 0.1 * torch.randn(truth.shape, generator=generator)
    denoised = non_local_means(noisy, 5, 6, h=0.06, sigma=0.1)
    blurred = torch.nn.functional.avg_pool2d(noisy, 3, 1, 1, count_include_pad=False)
    assert psnr(denoised, truth) > psnr(noisy, truth) + 8
    assert psnr(denoised, truth) > psnr(blurred, truth) + 4


def test_channels_share_their_weights(mode: str) -> None:
    x = image((1, 1, 20, 20))
    torch.testing.assert_close(
        non_local_means(x.expand(1, 4, 20, 20), 5, 3), non_local_means(x, 5, 3).expand(1, 4, 20, 20)
    )


def test_it_commutes_with_mirroring_and_scaling(mode: str) -> None:
    x = image((1, 2, 70, 270), torch.float64)
    expected = reference(x, 5, 3, 0.2, 0.1)
    mirrored = non_local_means(x.flip(2, 3), 5, 3, 0.2, 0.1).flip(2, 3)
    torch.testing.assert_close(mirrored, expected, rtol=0, atol=1e-12)
    scaled = non_local_means(65535 * x, 5, 3, 65535 * 0.2, 65535 * 0.1) / 65535
    torch.testing.assert_close(scaled, expected, rtol=0, atol=1e-12)


def test_a_pixel_that_is_no_number_spreads_as_far_as_window_and_patch(mode: str) -> None:
    x = image((1, 1, 40, 40))
    x[0, 0, 20, 20] = torch.nan
    found = non_local_means(x, 5, 3).isnan()[0, 0]
    assert found[15:26, 15:26].all() and found.sum() == 11 * 11


def test_threads_do_not_change_the_result(mode: str) -> None:
    x = image((2, 2, 70, 300))
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(non_local_means(x, 3, 2))
    torch.set_num_threads(before)
    assert torch.equal(*results)


def test_the_result_requires_no_gradient(mode: str) -> None:
    x = image((1, 1, 8, 8)).requires_grad_()
    assert not non_local_means(x, 3, 1).requires_grad
    assert x.requires_grad


def test_the_operator_is_declared_soundly(mode: str) -> None:
    for x in (image((2, 3, 9, 8)), image((2, 3, 9, 8)).to(memory_format=torch.channels_last)):
        checks = ("test_schema", "test_faketensor")
        torch.library.opcheck(
            torch.ops.kernels.non_local_means.default, (x, 3, 2, 0.1, 0.0), test_utils=checks
        )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"x": torch.zeros(1, 4, 4, dtype=torch.uint8)}, r"x of torch.uint8: .*; give x.float\(\)"),
        ({"x": torch.zeros(1, 4, 4, dtype=torch.int32)}, r"x of torch.int32: .*; give x.float\(\)"),
        (
            {"x": torch.zeros(4, 4)},
            r"x of shape \(4, 4\): is no image; give \[C, H, W\] or \[N, C, H, W\]",
        ),
        ({"patch_size": 4}, "patch_size=4: .*; give 5 or 7"),
        ({"patch_size": -1}, "patch_size=-1: .*; give 5 or 7"),
        ({"patch_distance": -1}, "patch_distance=-1: is negative; give 0 or more"),
        ({"h": 0.0}, "h=0.0: .*; give it in units of x"),
        ({"h": float("nan")}, "h=nan: .*; give it in units of x"),
        ({"sigma": -1.0}, "sigma=-1.0: .*; give it in units of x"),
        ({"sigma": float("inf")}, "sigma=inf: .*; give it in units of x"),
    ],
)
def test_arguments_out_of_range_are_refused(change: dict[str, Any], text: str) -> None:
    arguments = {"x": torch.zeros(1, 4, 4)} | change
    with pytest.raises((TypeError, ValueError)) as caught:
        non_local_means(**arguments)
    assert re.fullmatch(text, str(caught.value))
