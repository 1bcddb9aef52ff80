import numpy as np
import pytest

from common.data.sampler import EpochSampler, epoch_order


def indices(sampler: EpochSampler) -> list[int]:
    return [index for _, index in sampler]


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_an_epoch_visits_every_image_once(count: int) -> None:
    for epoch in range(5):
        assert sorted(epoch_order(count, 3, epoch)) == list(range(count))
    assert sorted(indices(EpochSampler(count, seed=3, shuffle=True))) == list(range(count))


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    orders = {(s, e): tuple(epoch_order(50, s, e)) for s in range(4) for e in range(4)}
    assert len(set(orders.values())) == 16
    np.random.default_rng().permutation(50)
    for (seed, epoch), order in reversed(orders.items()):
        assert tuple(epoch_order(50, seed, epoch)) == order
        sampler = EpochSampler(50, seed, shuffle=True)
        sampler.set_epoch(epoch)
        assert tuple(indices(sampler)) == order


def test_a_resumed_sampler_goes_on_with_the_order_of_its_epoch() -> None:
    through = EpochSampler(20, seed=1, shuffle=True)
    seen = []
    for epoch in range(4):
        through.set_epoch(epoch)
        seen.append(list(through))
    resumed = EpochSampler(20, seed=1, shuffle=True)
    resumed.set_epoch(2)
    assert list(resumed) == seen[2]
    assert {epoch for epoch, _ in seen[2]} == {2}
    assert list(resumed) == seen[2]


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("done", [0, 1, 4, 9, 10])
def test_within_an_epoch_a_resumed_sampler_leaves_out_what_was_done_in_that_epoch_alone(
    done: int, world: int
) -> None:
    for rank in range(world):
        whole = EpochSampler(20, 1, True, multiple_of=world, rank=rank, world_size=world)
        resumed = EpochSampler(20, 1, True, multiple_of=world, rank=rank, world_size=world)
        resumed.resume(2, done)
        assert len(resumed) == len(whole)
        for epoch in (2, 3, 2, 1):
            whole.set_epoch(epoch)
            resumed.set_epoch(epoch)
            assert list(resumed) == list(whole)[done if epoch == 2 else 0 :]


def test_a_resumed_sampler_needs_no_call_to_know_its_epoch() -> None:
    whole, resumed = EpochSampler(8, 1, shuffle=True), EpochSampler(8, 1, shuffle=True)
    whole.set_epoch(5)
    resumed.resume(5, 3)
    assert list(resumed) == list(whole)[3:]


def test_without_shuffling_the_manifest_order_stays_in_every_epoch() -> None:
    sampler = EpochSampler(5, seed=9)
    sampler.set_epoch(3)
    assert list(sampler) == [(3, index) for index in range(5)]


@pytest.mark.parametrize(
    ("count", "multiple"), [(10, 4), (3, 8), (8, 8), (1, 5), (16, 1), (31, 12)]
)
def test_the_order_is_filled_up_from_its_own_head(count: int, multiple: int) -> None:
    order = epoch_order(count, 0, 0).tolist()
    sampler = EpochSampler(count, 0, shuffle=True, multiple_of=multiple)
    filled = indices(sampler)
    assert len(filled) == len(sampler) == -(-count // multiple) * multiple
    assert filled == [order[k % count] for k in range(len(filled))]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [5, 12, 23])
def test_ranks_share_an_epoch_without_overlap(count: int, world: int) -> None:
    def share(rank: int) -> EpochSampler:
        return EpochSampler(count, 4, True, world, rank, world)

    shares = [indices(share(rank)) for rank in range(world)]
    assert {len(one) for one in shares} == {len(share(0))} == {-(-count // world)}
    interleaved = [index for step in zip(*shares, strict=True) for index in step]
    assert interleaved == indices(EpochSampler(count, 4, True, multiple_of=world))
    assert sorted(interleaved[:count]) == list(range(count))


@pytest.mark.parametrize("world", [2, 3, 6])
def test_a_step_sees_the_same_images_on_any_number_of_devices(world: int) -> None:
    whole, local = 12, 12 // world
    alone = indices(EpochSampler(40, 2, True, multiple_of=whole))
    ranks = [indices(EpochSampler(40, 2, True, whole, rank, world)) for rank in range(world)]
    for step in range(len(alone) // whole):
        together = [i for rank in ranks for i in rank[step * local : (step + 1) * local]]
        assert sorted(together) == sorted(alone[step * whole : (step + 1) * whole])


def test_a_rank_without_work_is_empty_and_not_an_error() -> None:
    sampler = EpochSampler(2, rank=2, world_size=4)
    assert list(sampler) == [] and len(sampler) == 0
