"""What multi_stylegan's networks learn from, and when each part of it begins."""

from functools import partial
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from common.data.image_io import write_png
from common.errors import UserError
from common.losses.adversarial import generator_loss
from common.losses.penalties import gradient_square
from common.networks.discriminator import group_of
from experiments.multi_stylegan.module import MultiStyleGAN
from experiments.multi_stylegan.pixel_map import read_pixel_map
from experiments.multi_stylegan.schedule import kinds, ramp
from experiments.multi_stylegan.tricks import (
    boxes,
    consistency,
    cutmix_loss,
    hardest,
    mixed,
    number_wrong,
    order_loss,
    reordered,
)

TINY = {
    **{"image_size": 16, "latent_dim": 8, "style_dim": 8, "width": 4, "max_width": 8},
    **{"mapping_layers": 2, "d_width": 8, "d_levels": 3, "r1_every": 2, "path_length_every": 2},
    "camera_noise": False,
}


@pytest.fixture(autouse=True)
def _quick(one_thread: None) -> None:
    torch.manual_seed(0)


def model(images_seen: int = 4, **settings: object) -> MultiStyleGAN:
    made = MultiStyleGAN(**TINY | settings)
    made.trainer = SimpleNamespace(images_seen=images_seen, world_size=1)
    return made


def sequences(count: int = 4) -> Tensor:
    return torch.randn(count, 2, 3, 16, 16, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)


@pytest.mark.parametrize(("seen", "share"), [(0, 0), (10, 0), (15, 0.5), (20, 1), (90, 1)])
def test_a_ramp_rises_from_its_start_to_its_end(seen: int, share: float) -> None:
    assert ramp(seen, 10, 20) == share
    assert ramp(seen, 15, 15) == float(seen >= 15)


def test_each_schedule_is_one_of_images_seen() -> None:
    settings = {
        **{"cutmix_prob": 0.5, "cutmix_images": 100, "top_k_share": 0.5, "top_k_from": 25},
        **{"top_k_to": 75, "order_share": 0.25, "order_from": 75},
    }
    found = [model(seen, **settings).schedule() for seen in (0, 25, 50, 75, 100)]
    assert [one["cutmix_prob"] for one in found] == [0, 0.125, 0.25, 0.375, 0.5]
    assert [one["top_k_share"] for one in found] == [1, 1, 0.75, 0.5, 0.5]
    assert [one["order_share"] for one in found] == [0, 0, 0, 0.25, 0.25]
    assert model(100, frames=1, **settings).schedule()["order_share"] == 0


def test_a_wrong_order_is_a_permutation_and_never_the_right_one() -> None:
    x = torch.arange(3.0).view(1, 1, 3, 1, 1).expand(200, 2, 3, 2, 2)
    orders = reordered(x)[:, :, :, 0, 0]
    assert torch.equal(orders[:, 0], orders[:, 1])
    found = {tuple(order.tolist()) for order in orders[:, 0]}
    assert found == set(permutations((0.0, 1.0, 2.0))) - {(0.0, 1.0, 2.0)}
    with pytest.raises(ValueError, match="no order"):
        reordered(x[:, :, :1])


@pytest.mark.parametrize(
    ("share", "count", "group", "wrong"),
    [
        *[(0, 16, 4, 0), (0.25, 16, 4, 4), (0.5, 24, 4, 12), (0.25, 4, 4, 4), (0.25, 6, 4, 3)],
        *[(0.25, 12, 0, 12), (0.5, 5, 4, 1), (0.25, 14, 4, 2), (0.25, 13, 4, 5)],
    ],
)
def test_whole_groups_are_shown_in_a_wrong_order(
    share: float, count: int, group: int, wrong: int
) -> None:
    assert number_wrong(share, count, group) == wrong
    if wrong and group:
        assert group_of(wrong, group) == group_of(count, group)


def test_a_wrong_order_takes_the_place_of_a_share_of_what_is_generated() -> None:
    fake, wrong = torch.tensor([[1.0], [3.0]]), torch.tensor([[7.0]])
    found = fake.mean() + order_loss("wasserstein", wrong, fake, 0.25)
    assert found == pytest.approx((2 + 0.25 * 7) / 1.25)
    right = order_loss("non_saturating", wrong - 99, fake - 99, 0.25)
    assert right == pytest.approx(0, abs=1e-6)
    assert order_loss("hinge", wrong, fake, 0.25) == pytest.approx(0.2 * (8 - 3))


def test_frames_in_a_wrong_order_are_judged_by_themselves_and_as_a_whole() -> None:
    made, seen = model(order_from=0, r1_weight=0, cutmix_prob=0, augment="none"), []
    judged = made.discriminator.forward
    made.discriminator.forward = lambda x: (seen.append(x), judged(x))[1]
    real = sequences()
    terms = made.discriminator_terms(real, 0.0, 1)
    shown, fake, wrong = seen
    assert torch.equal(shown, real) and len(fake) == len(wrong) == 4
    # The same frames, none where it was.
    assert torch.equal(wrong.sort(2).values, real.sort(2).values)
    assert not (wrong == real).flatten(1).all(1).any()
    terms["order"].backward()
    assert made.discriminator.pixel_bias.grad is None


def test_the_zero_of_a_wasserstein_logit_is_that_of_what_is_generated() -> None:
    for loss, above in (("wasserstein", 0.0), ("hinge", 5.0)):
        made, found = model(loss=loss, r1_weight=0, cutmix_prob=0), []
        made.adaptive.update = found.append
        made.discriminator.forward = lambda x: (torch.full((len(x), 1), 5.0), x[:, :1, :1])
        made.discriminator_terms(sequences(), 0.0, 1)
        assert torch.equal(found[0], torch.full((4, 1), above))


def test_cutmix_cuts_a_rectangle_out_of_as_many_as_asked() -> None:
    mask = boxes(torch.zeros(2000, 2, 3, 20, 20), 0.5)
    assert mask.shape == (2000, 1, 1, 20, 20) and set(mask.unique().tolist()) == {0, 1}
    cut = (1 - mask).flatten(1).sum(1)
    assert (cut > 0).float().mean() == pytest.approx(0.5, abs=0.05)
    for one in (1 - mask[cut > 0])[:50, 0, 0]:
        rows, columns = one.any(1).nonzero().flatten(), one.any(0).nonzero().flatten()
        assert one.sum() == len(rows) * len(columns)
        for side in (rows, columns):
            assert len(side) == side[-1] - side[0] + 1 and 1 <= len(side) <= 19
    assert boxes(torch.zeros(9, 1, 1, 8, 8), 0.0).min() == 1


def test_what_is_mixed_is_generated_as_a_whole_and_pixel_by_pixel_what_it_came_from() -> None:
    mask = torch.ones(2, 1, 1, 4, 4)
    mask[1, ..., :2] = 0
    real, fake = torch.full((2, 2, 3, 4, 4), 1.0), torch.full((2, 2, 3, 4, 4), -1.0)
    image = mixed(real, fake, mask)
    assert image[0].min() == 1 and image[1, ..., :2].max() == -1 and image[1, ..., 2:].min() == 1
    right = 20 * (2 * mask - 1)
    whole = torch.tensor([[20.0], [-20.0]])
    assert cutmix_loss("non_saturating", whole, right, mask) < 1e-6
    assert cutmix_loss("hinge", whole, right, mask) == 0
    assert cutmix_loss("non_saturating", -whole, right, mask) == pytest.approx(10)
    assert cutmix_loss("wasserstein", whole, right, mask) == -20
    # What was not mixed has no say, whatever is thought of it.
    assert cutmix_loss("non_saturating", whole - 99, right, mask) < 1e-6
    assert cutmix_loss("non_saturating", whole, right, torch.ones_like(mask)) == 0
    assert consistency(right, right, -right, torch.ones_like(mask)) == 0
    wrong = consistency(torch.zeros_like(mask), right, right, mask)
    assert wrong == pytest.approx(400)


def test_the_most_realistic_share_is_kept() -> None:
    logits = torch.tensor([[0.1], [3.0], [-1.0], [2.0]])
    assert hardest(logits, 0.5).tolist() == [1, 3]
    assert sorted(hardest(logits, 1.0).tolist()) == [0, 1, 2, 3]
    assert hardest(logits, 0.01).tolist() == [1]


def test_the_generator_learns_from_what_is_kept_alone() -> None:
    made = model(top_k_share=0.25, top_k_from=0, top_k_to=0, path_length_weight=0, augment="none")
    for block in made.discriminator.encoder:
        # Else each logit depends on how much the batch varies.
        block.group_size = 1
    shown, judged = [], made.discriminator.forward
    made.discriminator.forward = lambda x: (shown.append(x), judged(x))[1]
    made.generator_terms(4, 0)["g_loss"].backward(inputs=shown)
    moved = [float(g.abs().sum()) > 0 for g in shown[0].grad]
    assert sum(moved) == 1


@pytest.mark.parametrize("augment", ["flip+brightness", "none"])
def test_all_terms_are_finite_numbers_and_nothing_of_the_caller_is_changed(augment: str) -> None:
    made = model(cutmix_images=0, order_from=0, augment=augment, augment_prob=0.5)
    real = sequences()
    before = real.clone()
    terms = made.discriminator_terms(real, 0.5, 0) | made.generator_terms(4, 0)
    assert {"r1", "cutmix", "consistency", "path_length", "d_loss", "g_loss"} <= set(terms)
    for name, value in terms.items():
        assert torch.isfinite(torch.as_tensor(value)).all(), name
    assert torch.equal(real, before) and not real.requires_grad
    plain = model(cutmix_prob=0.0).discriminator_terms(real, 0.0, 1)
    assert not {"r1", "cutmix", "consistency"} & set(plain)


@pytest.mark.parametrize(("weight", "alone"), [(0, True), (1, False)])
def test_only_with_their_weight_pixels_add_to_the_penalty(weight: float, alone: bool) -> None:
    made = model(pixel_weight=weight, order_share=0, cutmix_prob=0, augment="none")
    real = sequences()
    penalty = made.discriminator_terms(real, 0.0, 0)["r1"]
    real.requires_grad_()
    of_logit = gradient_square(made.discriminator(real)[0], real)
    assert torch.allclose(penalty, of_logit) is alone


@pytest.mark.parametrize("loss", ["hinge", "wasserstein"])
def test_other_losses_train_both_networks(loss: str) -> None:
    made = model(loss=loss)
    made.discriminator_terms(sequences(), 0.5, 0)["d_loss"].backward()
    made.generator_terms(4, 0)["g_loss"].backward()
    assert all(p.grad is not None for p in made.discriminator.head.parameters())
    assert made.generator.constants.grad.abs().sum() > 0


@pytest.mark.parametrize(("logit", "rises"), [(5.0, True), (-5.0, False)])
def test_augmentation_follows_logits_of_real_sequences(logit: float, rises: bool) -> None:
    made = model(adaptive_images=1000, cutmix_prob=0.0)
    made.adaptive.probability.fill_(0.4)
    judged = made.discriminator.forward

    def confident(x: Tensor) -> tuple[Tensor, Tensor]:
        one, pixels = judged(x)
        # Real sequences are shown first.
        shown.append(len(x))
        return one * 0 + (logit if len(shown) % 2 else 0.0), pixels

    shown: list[int] = []
    made.discriminator.forward = confident
    for _ in range(100):
        made.discriminator_terms(sequences(), 0.5, 1)
    assert (made.adaptive.probability > 0.4) == rises


def test_sequences_are_a_function_of_the_seed() -> None:
    made = model().eval()
    seeds = torch.arange(5)
    together = made.predict_step({"seed": seeds}, 0)["image"]
    assert together.shape == (5, 2, 3, 16, 16) and together.abs().max() <= 1
    alone = made.predict_step({"seed": seeds[3:4]}, 0)["image"]
    assert torch.equal(together[3:4], alone)


def test_state_of_augmentation_and_path_length_is_saved() -> None:
    made = model()
    made.adaptive.probability.fill_(0.3)
    made.generator_terms(4, 0)
    again = model()
    again.load_state_dict(made.state_dict())
    assert again.adaptive.probability == pytest.approx(0.3)
    assert again.path_length.mean == made.path_length.mean != 0


@pytest.mark.parametrize("levels", [2, 6, 4])
def test_blocks_that_do_not_fit_are_refused(levels: int) -> None:
    with pytest.raises(UserError, match="choose 3 to 3"):
        model(d_levels=levels)


def test_no_more_regions_are_told_apart_than_features_have_pixels() -> None:
    assert model(d_places=4).discriminator.places == 4
    with pytest.raises(UserError, match=r"d_places 5: is more than the 4 pixels .* choose 1 to 4"):
        model(d_places=5)


def test_a_map_of_pixels_decides_how_much_each_of_them_counts(tmp_path: Path) -> None:
    picture = np.zeros((1, 32, 32), np.uint8)
    picture[:, :16] = 200
    write_png(tmp_path / "map.png", picture)
    settings = {"pixel_map": str(tmp_path / "map.png"), "pixel_map_from": 10}
    made = model(**settings, loss="wasserstein", augment="brightness+contrast")
    moving = model(**settings, augment="flip+contrast")
    for one, of_data, named in (
        (moving, "none", r"model.augment flip\+contrast"),
        (made, "mirror", "data.augment mirror"),
    ):
        one.trainer.datamodule = SimpleNamespace(augment=of_data)
        with pytest.raises(UserError, match=f"{named}: moves pixels"):
            one.setup("fit")
    made.trainer.datamodule.augment = "photometric"
    made.setup("fit")
    assert made.pixel_weights.mean() == pytest.approx(1, abs=1e-5)
    assert made.pixel_weights[:6].min() > 1.8 and made.pixel_weights[10:].max() < 0.2
    pixels = torch.zeros(1, 1, 1, 16, 16)
    pixels[..., :6, :] = 1
    found = (torch.zeros(1, 1), pixels)
    plain = made._loss(generator_loss, found)
    assert plain == pytest.approx(-6 / 16)
    made.trainer.images_seen = 10
    assert made._loss(generator_loss, found) == pytest.approx(-12 / 16, rel=0.05)
    write_png(tmp_path / "black.png", picture * 0)
    with pytest.raises(UserError, match="no map of pixels"):
        read_pixel_map(tmp_path / "black.png", 16)


def test_a_validation_leaves_the_gradients_that_graphs_add_to() -> None:
    made = model()
    weight = made.discriminator.pixel_bias
    for replays, kept in ((True, True), (False, False)):
        weight.grad = torch.ones_like(weight)
        made._graphs.enabled = replays
        made.on_validation_model_zero_grad()
        assert (weight.grad is not None) == kept


def test_steps_of_one_kind_are_those_that_do_the_same() -> None:
    made = model(100, top_k_share=0.5, top_k_from=0, top_k_to=200, r1_every=16)
    schedule = made.schedule()
    of = partial(kinds, made.hparams, 100, group_size=4)
    judges, makes = of(8, 1, schedule)
    assert of(8, 3, schedule) == (judges, makes)
    assert of(8, 16, schedule)[0] != judges and of(9, 1, schedule)[1] != makes
    later = schedule | {"top_k_share": 0.5, "order_share": 0.25}
    assert of(8, 1, later)[0] != judges and of(8, 1, later)[1] != makes


def test_a_lazy_penalty_is_cut_to_as_many_times_the_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    def norms(images_seen: int, **settings: float) -> tuple[float, float]:
        made, found = model(images_seen, clip_norm=5, **settings), {}
        for name in ("optimizers", "toggle_optimizer", "untoggle_optimizer", "log_dict"):
            monkeypatch.setattr(made, name, lambda *given: (None, None))

        def learn(*given: object, loss: str, clip_norm: float) -> dict[str, Tensor]:
            found[loss] = clip_norm
            return {}

        monkeypatch.setattr(made, "learn", learn)
        made.training_step({"image": sequences()}, 0)
        return found["d_loss"], found["g_loss"]

    lazy = {"r1_every": 2, "path_length_every": 4}
    assert norms(4, **lazy) == (10, 20)
    assert norms(8, **lazy) == (5, 5)
    assert norms(12, **lazy) == (10, 5)
    assert norms(4, **lazy, r1_weight=0, path_length_weight=0) == (5, 5)


def test_without_noise_samples_do_not_depend_on_it() -> None:
    made = model(noise=False)
    made.generator_terms(4, 0)["g_loss"].backward()
    still = {name for name, p in made.generator.named_parameters() if p.grad is None}
    assert still and all(name.endswith(".strength") for name in still)
    noise = torch.randn(2, 3, made.noise_values)
    z = torch.randn(3, 8)
    assert torch.equal(made.decode(z, noise[0]), made.decode(z, noise[1]))
    assert all(p.requires_grad for p in model().generator.parameters())
