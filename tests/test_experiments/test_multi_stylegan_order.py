import numpy as np
import pytest
import torch

from common.errors import UserError
from experiments.multi_stylegan.position import draw_position
from experiments.multi_stylegan.simulator import TrapMovie, draw_trap
from experiments.multi_stylegan.temporal_order import (
    order_accuracy,
    shuffled,
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
    assert order_accuracy(model, held_out, seed=1) > 0.75
    still = np.repeat(held_out[:, :, :1], 3, axis=2)
    assert np.isclose(order_accuracy(model, still, seed=1), 0.5)


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
