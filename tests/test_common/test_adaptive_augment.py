"""Augmentation for discriminators: what moves, what does not, what comes back."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from common.adaptive_augment import POLICIES, AdaptiveProbability, Augment
from common.errors import UserError
from common.warp import rotated_and_scaled, shifted

EVERYTHING = "microscopy+noise+cutout"
STEPS = ("flip", "turn", "translate", "affine", "brightness", "contrast", "noise", "cutout")
GEOMETRIC, PHOTOMETRIC = STEPS[:4], STEPS[4:7]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=seeded(99)) * 2 - 1


def same_draws(policy: str, x: Tensor, p: float = 1.0, **how: list[int]) -> Tensor:
    return Augment(policy, **how)(x, p, seeded())


@pytest.mark.parametrize("policy", [EVERYTHING, *POLICIES])
def test_a_generator_decides_everything_and_nothing_else_does(policy: str) -> None:
    x = images(6, 2, 16, 16)
    first = same_draws(policy, x, 0.7)
    torch.manual_seed(1)
    assert torch.equal(first, same_draws(policy, x, 0.7))
    if policy != "none":
        assert not torch.equal(first, Augment(policy)(x, 0.7, seeded(1)))


def test_without_a_generator_the_global_seed_decides() -> None:
    x, augment = images(6, 1, 16, 16), Augment(EVERYTHING)
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append(augment(x, 0.7))
    assert torch.equal(*found)


@pytest.mark.parametrize("policy", [*STEPS, EVERYTHING])
def test_the_images_that_were_given_stay_as_they_were(policy: str) -> None:
    x = images(8, 2, 16, 16)
    before = x.clone()
    changed = same_draws(policy, x)
    assert torch.equal(x, before) and not torch.equal(changed, x)
    assert changed.shape == x.shape and changed.dtype == x.dtype
    assert torch.equal(same_draws(policy, x, 0.0), x)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_comes_to_as_many_images_as_its_probability_says(step: str) -> None:
    x = images(4000, 1, 8, 8)
    changed = (same_draws(step, x, 0.4) != x).flatten(1).any(1).double().mean()
    # Some draws change nothing: no flip, no turn, a shift by less than half a pixel along x and y.
    unseen = {"flip": 1 / 2, "turn": 1 / 4, "translate": 1 / 4}.get(step, 0.0)
    chance = 0.4 * (1 - unseen) if step != "affine" else 1 - 0.6**2
    assert changed == pytest.approx(chance, abs=0.03)


def test_more_probability_changes_more_images_by_the_same_draws() -> None:
    x = images(200, 1, 8, 8)
    few, many = (same_draws("brightness", x, p) for p in (0.3, 0.8))
    moved = (few != x).flatten(1).any(1)
    assert torch.equal(few[moved], many[moved]) and 0 < moved.sum() < 100


@pytest.mark.parametrize("step", [s for s in STEPS if s != "noise"])
def test_all_channels_and_frames_of_an_image_change_alike(step: str) -> None:
    plane = images(8, 1, 1, 12, 12)
    found = same_draws(step, plane.expand(-1, 3, 4, -1, -1))
    torch.testing.assert_close(found, found[:, :1, :1].expand_as(found))
    torch.testing.assert_close(found[:, 0, 0], same_draws(step, plane[:, :, 0])[:, 0])


def test_a_mask_keeps_its_values_where_images_change_their_brightness() -> None:
    x = images(8, 3, 12, 12)
    for step in PHOTOMETRIC:
        found = same_draws(step, x, photometric_channels=[0, 2])
        assert torch.equal(found[:, 1], x[:, 1])
        assert (found[:, [0, 2]] != x[:, [0, 2]]).flatten(1).any(1).all()
    mask = (x > 0).float()
    found = same_draws("flip+turn+translate+brightness", mask, photometric_channels=[])
    assert set(found.unique().tolist()) == {0.0, 1.0}


def test_slopes_stay_finite_where_no_channel_may_change_its_brightness() -> None:
    x = images(4, 2, 8, 8).requires_grad_()
    found = same_draws("brightness+contrast+noise", x, photometric_channels=[])
    (slope,) = torch.autograd.grad(found.sum(), x)
    assert torch.equal(slope, torch.ones_like(x))


def test_contrast_keeps_the_mean_of_the_channels_that_it_changes() -> None:
    x = images(8, 3, 12, 12)
    found = same_draws("contrast", x, photometric_channels=[0, 1])
    torch.testing.assert_close(found[:, :2].mean((1, 2, 3)), x[:, :2].mean((1, 2, 3)))
    ratio = found[:, :2].flatten(1).std(1) / x[:, :2].flatten(1).std(1)
    assert (ratio - 1).abs().min() > 1e-3


@pytest.mark.parametrize(
    ("step", "expected"), [("brightness", 0.2), ("contrast", 0.5), ("noise", 0.1)]
)
def test_photometric_steps_have_the_spread_of_the_paper(step: str, expected: float) -> None:
    x = images(4000, 1, 8, 8)
    found = same_draws(step, x)
    drawn = {
        "brightness": lambda: (found - x).mean((1, 2, 3)),
        "contrast": lambda: (found.flatten(1).std(1) / x.flatten(1).std(1)).log2(),
        # N(0, s^2) with s = |N(0, 0.1)| has the standard deviation 0.1 over all images.
        "noise": lambda: (found - x).flatten(),
    }[step]()
    assert drawn.std().item() == pytest.approx(expected, rel=0.05)
    assert drawn.mean().item() == pytest.approx(0, abs=0.02)


def test_cutout_empties_a_rectangle_of_half_the_sides() -> None:
    x = torch.ones(500, 2, 16, 24)
    gone = same_draws("cutout", x) == 0
    assert torch.equal(gone[:, 0], gone[:, 1])
    heights, widths = (gone[:, 0].any(axis).sum(1) for axis in (2, 1))
    assert heights.max() == 8 and widths.max() == 12 and heights.min() >= 3
    assert torch.equal(gone[:, 0].sum((1, 2)), heights * widths)
    # The middle is gone where the centre lies within a quarter of a side of it, along both axes.
    assert gone[:, 0, 8, 12].double().mean().item() == pytest.approx(0.25, abs=0.06)


def poses(x: Tensor) -> list[Tensor]:
    return [turned for flipped in (x, x.flip(-1)) for turned in _turns(flipped)]


def _turns(x: Tensor) -> list[Tensor]:
    return [x.rot90(k, (-2, -1)) for k in range(4)]


@pytest.mark.parametrize("p", [0.3, 0.8])
def test_below_four_fifths_the_pose_of_an_image_can_be_told(p: float) -> None:
    x = images(1, 1, 5, 5)
    found = same_draws("orientation", x.expand(4000, -1, -1, -1), p)
    counts = [int((found == pose).flatten(1).all(1).sum()) for pose in poses(x)]
    assert sum(counts) == 4000
    chances = [flip * turn for flip in (1 - p / 2, p / 2) for turn in (1 - 3 * p / 4, *[p / 4] * 3)]
    np.testing.assert_allclose(counts, 4000 * np.array(chances), atol=100)
    assert counts[0] > 1.3 * max(counts[1:])


def test_at_certainty_the_pose_of_an_image_is_lost() -> None:
    x = images(1, 1, 5, 5)
    found = same_draws("orientation", x.expand(4000, -1, -1, -1), 1.0)
    counts = [int((found == pose).flatten(1).all(1).sum()) for pose in poses(x)]
    assert max(counts) < 1.25 * min(counts)


def test_oblong_images_are_turned_upside_down_and_no_further() -> None:
    x = images(200, 1, 6, 9)
    found = same_draws("turn", x)
    kept = (found == x).flatten(1).all(1)
    assert torch.equal(found[~kept], x[~kept].rot90(2, (-2, -1))) and 60 < kept.sum() < 140


@pytest.mark.parametrize("axis", [-1, -2])
def test_a_shift_reflects_the_border_as_numpy_does(axis: int) -> None:
    x, pixels = images(9, 2, 7, 8), torch.arange(9) - 4
    found = shifted(x, pixels, axis)
    for image, moved, k in zip(x.numpy(), found.numpy(), pixels.tolist(), strict=True):
        padding = [(0, 0)] * 3
        padding[axis] = (4, 4)
        wide = np.pad(image, padding, mode="reflect")
        start = 4 - k
        expected = np.take(wide, range(start, start + image.shape[axis]), axis)
        np.testing.assert_array_equal(moved, expected)


def smooth(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((height, width))
    return ndimage.gaussian_filter(noise, 4)


@pytest.mark.parametrize(("degrees", "scale"), [(15, 1.0), (-10, 1.1), (0, 0.9), (90, 1.0)])
def test_rotation_and_scale_are_those_of_scipy(degrees: float, scale: float) -> None:
    image = smooth(41, 33)
    angle, centre = np.deg2rad(degrees), np.array([20.0, 16.0])
    # From result to source, in (row, column) with y down: +x turns towards +y.
    back = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    expected = ndimage.affine_transform(image, back, centre - back @ centre, order=3, mode="mirror")
    x = torch.from_numpy(image)[None, None]
    found = rotated_and_scaled(x, torch.tensor([angle]), torch.tensor([scale]))[0, 0].numpy()
    inside = np.s_[8:-8, 8:-8] if degrees != 90 else np.s_[6:-6, 6:-6]
    np.testing.assert_allclose(found[inside], expected[inside], atol=0.03 * image.std())


def test_a_quarter_turn_by_interpolation_is_the_exact_one() -> None:
    x = images(2, 1, 9, 9)
    found = rotated_and_scaled(x, torch.full((2,), torch.pi / 2), torch.ones(2))
    torch.testing.assert_close(found, x.rot90(-1, (-2, -1)), atol=1e-4, rtol=0)


def test_images_that_no_step_touches_are_the_same_to_the_bit() -> None:
    x = images(50, 1, 16, 16)
    found = same_draws("affine", x, 0.3)
    still = (found == x).flatten(1).all(1)
    assert still.double().mean().item() == pytest.approx(0.49, abs=0.2)


@pytest.mark.parametrize("policy", [*STEPS, EVERYTHING])
def test_derivatives_of_first_and_second_order_are_right(policy: str) -> None:
    x = images(3, 2, 6, 6).double().requires_grad_()
    function = partial(same_draws, policy)
    assert torch.autograd.gradcheck(function, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: function(x).square(), x, fast_mode=True)


def test_an_unknown_step_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(UserError, match=r"'hue' is no step and no policy.*diffaugment.*cutout"):
        Augment("flip+hue")


def after(logits: Tensor, batches: int, **how: float) -> float:
    adaptive = AdaptiveProbability(**how)
    for _ in range(batches):
        adaptive.update(logits)
    return adaptive.probability.item()


def test_probability_rises_while_the_discriminator_knows_all_real_images() -> None:
    sure = torch.full((64,), 5.0)
    assert after(sure, 100, images=64_000) == pytest.approx(0.1)
    assert after(sure, 2000, images=64_000) == pytest.approx(0.8)
    assert after(sure, 2000, images=64_000, maximum=0.5) == pytest.approx(0.5)


def test_probability_falls_while_the_discriminator_knows_nothing() -> None:
    adaptive = AdaptiveProbability(images=64_000)
    adaptive.probability.fill_(0.5)
    chance = torch.tensor([1.0, -1.0]).repeat(32)
    for _ in range(100):
        adaptive.update(chance)
    assert adaptive.probability.item() == pytest.approx(0.4)
    for _ in range(900):
        adaptive.update(chance)
    assert adaptive.probability.item() == 0


def test_the_target_is_the_share_where_rising_turns_to_falling() -> None:
    # 80 % above 0 are r = 0.6.
    below, above = (torch.tensor([1.0] * n + [-1.0] * (100 - n)) for n in (79, 81))
    assert after(below, 10) == 0 and after(above, 10) > 0


def test_only_the_sign_counts_and_maps_count_by_their_share_of_pixels() -> None:
    wild = torch.tensor([1e9] * 70 + [-1e-9] * 30)
    assert after(wild, 10) == 0
    maps = torch.ones(100, 1, 4, 4)
    maps[:, :, :2] = -1
    assert after(maps, 10) == 0 and after(maps.abs(), 10) > 0


def test_adjustments_come_every_so_many_images() -> None:
    adaptive = AdaptiveProbability(images=1000, every=256)
    steps = []
    for _ in range(8):
        adaptive.update(torch.ones(64))
        steps.append(adaptive.probability.item())
    assert steps == pytest.approx([0, 0, 0, 0.256, 0.256, 0.256, 0.256, 0.512])


def test_the_state_goes_on_where_it_was_saved() -> None:
    logits = torch.randn(40, 24, generator=seeded()) + 0.8
    whole, first, second = (AdaptiveProbability(images=500, every=64) for _ in range(3))
    for batch in logits[:13]:
        first.update(batch)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for batch in logits[13:]:
        second.update(batch)
    for batch in logits:
        whole.update(batch)
    assert whole.state_dict() == second.state_dict() and whole.probability > 0
    assert whole.seen > 0, "the test must stop between two adjustments"


def test_the_probability_of_the_controller_can_be_given_as_it_is() -> None:
    x, adaptive = images(4, 1, 8, 8), AdaptiveProbability()
    assert torch.equal(Augment(EVERYTHING)(x, adaptive.probability, seeded()), x)
