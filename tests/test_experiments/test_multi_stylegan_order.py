import numpy as np
import pytest
import torch

from common.errors import UserError
from common.metrics.protocol import Record
from experiments.multi_stylegan.position import draw_position
from experiments.multi_stylegan.simulator import TrapMovie, draw_trap
from experiments.multi_stylegan.temporal_order import (
    order_records,
    right_answers,
    shuffled,
    small,
    train_order_classifier,
)


def seen(movie: TrapMovie) -> np.ndarray:
    """Both domains in [0, 1], [D, T, H, W]."""
    brightfield, gfp = (x[:, 0].astype(np.float32) for x in (movie.bf, movie.gfp))
    low, high = np.percentile(brightfield, (0.1, 99.9))
    return np.stack([(brightfield - low) / (high - low), (gfp - 150) / 2200]).clip(0, 1)


def test_order_is_seen_in_traps_of_other_positions() -> None:
    training, held_out = (clips(first, count) for first, count in ((0, 22), (100, 8)))
    model = train_order_classifier(training, seed=0, steps=160)
    assert sum(p.numel() for p in model.parameters()) < 5000
    assert right_answers(model, held_out, seed=1).mean() > 0.75
    still = np.repeat(held_out[:, :, :1], 3, axis=2)
    assert np.isclose(right_answers(model, still, seed=1).mean(), 0.5)


def clips(first: int, count: int) -> np.ndarray:
    found = []
    for k in range(first, first + count):
        position = draw_position(np.random.default_rng([41, k]))
        sequence = seen(draw_trap(np.random.default_rng([42, k]), 9, 32, position))
        found += [sequence[:, t : t + 3] for t in range(7)]
    return np.stack(found)


def test_the_same_seed_gives_the_same_classifier() -> None:
    data = np.random.default_rng(0).random((6, 2, 3, 32, 32))
    first, again = (train_order_classifier(data, seed=3, steps=3) for _ in range(2))
    for name, values in first.state_dict().items():
        assert np.array_equal(values, again.state_dict()[name]), name


def test_a_shuffled_sequence_is_never_in_order_and_loses_no_frame() -> None:
    frames = torch.arange(4.0)[None, None, :, None, None].expand(300, 1, 4, 2, 2)
    mixed = shuffled(frames, np.random.default_rng(0))[:, 0, :, 0, 0]
    assert not torch.any((mixed == torch.arange(4.0)).all(dim=1))
    assert torch.equal(mixed.sort(dim=1).values, frames[:, 0, :, 0, 0])
    assert len(torch.unique(mixed, dim=0)) == 23


def test_a_single_frame_has_no_order() -> None:
    with pytest.raises(UserError, match=r"1 frame.*no order.*two frames"):
        train_order_classifier(np.zeros((4, 2, 1, 32, 32)), seed=0)
    with pytest.raises(ValueError, match=r"\[N, D, T, H, W\]"):
        train_order_classifier(np.zeros((4, 2, 32, 32)), seed=0)


def brightening(count: int, seed: int) -> np.ndarray:
    """Noise that is brighter in each frame than in the one before."""
    noise = np.random.default_rng(seed).random((count, 1, 3, 8, 8))
    return 0.1 * noise + np.arange(3)[:, None, None] / 3


def test_generated_sequences_are_judged_by_the_order_of_real_ones() -> None:
    train, real = brightening(40, 0), brightening(25, 1)
    fake = np.concatenate([brightening(10, 2), brightening(10, 3)[:, :, ::-1]])
    found = order_records(train, real, np.ascontiguousarray(fake), Record)
    made, held_out = found
    assert [r.metric for r in found] == ["order_accuracy", "order_accuracy_real"]
    assert held_out.value == 1 and held_out.low is None and "all sequences alike" in held_out.note
    assert (held_out.n_real, held_out.n_fake) == (25, 0) and (made.n_real, made.n_fake) == (0, 20)
    assert made.low < made.value < made.high < 1
    assert made.note == "chance 0.5; one classifier of one seed"
    rule = "trained on 40 real windows, 30 batches, seed 0; width 16, side 32, rate 0.003"
    assert made.rule == held_out.rule == rule
    assert order_records(train, real, np.ascontiguousarray(fake), Record) == found


def test_order_is_not_looked_for_where_there_is_none() -> None:
    one = np.zeros((4, 2, 1, 8, 8))
    for record in order_records(one, one, one, Record):
        assert (record.value, record.note) == (None, "A sequence of one frame has no order.")
    two = np.zeros((4, 2, 2, 8, 8))
    for record in order_records(two, two, np.zeros((4, 2, 3, 8, 8)), Record):
        assert record.value is None and "unlike shape cannot be compared" in record.note


def test_both_answers_to_a_sequence_count() -> None:
    train = brightening(40, 0)
    model = train_order_classifier(train, seed=0, steps=30)
    backwards = np.ascontiguousarray(train[:, :, ::-1])
    answers = right_answers(model, backwards, seed=0)
    assert answers.shape == (40,) and set(answers) <= {0, 0.5}
    assert answers.mean() < 0.5


def test_sequences_are_seen_at_32_pixels_or_below() -> None:
    ramp = torch.arange(64.0).expand(1, 2, 3, 64, 64)
    assert torch.equal(small(ramp)[0, 0, 0, 0], torch.arange(32.0) * 2 + 0.5)
    assert torch.equal(small(ramp[..., :8, :8]), ramp[..., :8, :8])
