import pytest
import torch
from torch import Tensor, nn

from common.data.planning import refuse_large_seeds
from common.errors import UserError
from common.sampling import CHUNK, DETAIL_SEED, in_chunks, seeded_noise


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 128),
        nn.Unflatten(1, (8, 4, 4)),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(8, 5, 3, padding=1),
    ).requires_grad_(False)


def test_row_k_of_the_noise_is_a_function_of_seed_k() -> None:
    seeds = torch.tensor([5, 0, 7, 5, 2**32 - 1])
    noise = seeded_noise(seeds, 3, 4)
    assert noise.shape == (5, 3, 4) and noise.dtype == torch.float32
    for row, seed in zip(noise, seeds, strict=True):
        assert torch.equal(row, seeded_noise(seed[None], 3, 4)[0])
        torch.manual_seed(int(seed))
        assert torch.equal(row, torch.randn(3, 4))
    assert len({tuple(row.flatten().tolist()) for row in noise}) == 4


def test_the_last_seed_that_is_drawn_is_the_last_whose_noise_is_its_own() -> None:
    last = torch.tensor([DETAIL_SEED - 1])
    refuse_large_seeds(int(last))
    drawn = [seeded_noise(seeds, 9) for seeds in (last, last + DETAIL_SEED, last + 2 * DETAIL_SEED)]
    assert not torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])
    # Its z would be the details of image 0.
    for seed, count in ((int(last) + 1, 1), (int(last), 2)):
        with pytest.raises(UserError, match=f"--seed {seed}: leaves no room for {count} seed"):
            refuse_large_seeds(seed, count)


def test_the_noise_is_standard_normal_and_leaves_the_global_state_alone() -> None:
    state = torch.get_rng_state()
    noise = seeded_noise(torch.arange(500), 40)
    assert torch.equal(torch.get_rng_state(), state)
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03
    between_seeds = torch.corrcoef(noise.T[:, :50])
    assert between_seeds.fill_diagonal_(0).abs().max() < 0.7


@pytest.mark.parametrize("split", [1, 2, 3, CHUNK, CHUNK + 1, 19])
def test_a_row_has_the_same_bits_whatever_batch_it_comes_in(network: nn.Module, split: int) -> None:
    z = seeded_noise(torch.arange(19), 6)
    whole = in_chunks(network, z)
    assert whole.shape == (19, 5, 8, 8)
    parts = torch.cat([in_chunks(network, part) for part in z.split(split)])
    assert torch.equal(parts, whole)


def test_chunks_give_what_the_function_gives(network: nn.Module) -> None:
    z, shift = seeded_noise(torch.arange(11), 6), torch.arange(11.0)

    def shifted(z: Tensor, shift: Tensor) -> Tensor:
        return network(z) + shift[:, None, None, None]

    torch.testing.assert_close(in_chunks(shifted, z, shift), shifted(z, shift))


def test_every_call_has_the_same_number_of_rows() -> None:
    lengths = []

    def record(x: Tensor) -> Tensor:
        lengths.append(len(x))
        return x

    x = torch.arange(2.0 * CHUNK + 3)
    assert torch.equal(in_chunks(record, x), x)
    assert lengths == [CHUNK, CHUNK, CHUNK]


def test_chunks_are_computed_in_float32_within_autocast(network: nn.Module) -> None:
    z = seeded_noise(torch.arange(3), 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(z).dtype == torch.bfloat16
        within = in_chunks(network, z)
    assert within.dtype == torch.float32
    assert torch.equal(within, in_chunks(network, z))
