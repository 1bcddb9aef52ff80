"""Sums over the ranks of a run, and what each of them shall do."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.strategies import DDPStrategy

from common.adaptive_augment import AdaptiveProbability
from common.data.datasets import SeedDataset
from common.losses.penalties import PathLengthPenalty
from common.runs.collective import sum_over_ranks
from experiments.toy_blobs.datamodule import BlobsDataModule
from two_ranks import fork_rank


def test_a_run_of_one_process_keeps_its_numbers() -> None:
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    total = sum_over_ranks(value * 1)
    assert torch.equal(total, value) and not total.requires_grad


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
@pytest.mark.parametrize("body", ["_agrees", "_shares"])
def test_two_ranks_agree_on_what_steers_them_both(tmp_path: Path, body: str) -> None:
    ranks = [fork_rank(rank, tmp_path, globals()[body]) for rank in (0, 1)]
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in ranks] == [0, 0]


def _agrees(rank: int) -> int:
    """Each rank sees its own images; what it then holds must be that of both."""
    value = torch.tensor(float(rank + 1))
    correct = sum_over_ranks(value).item() == 3 and value.item() == rank + 1
    # Alone, the first rank would stay at 0, and the second one would reach the maximum.
    adaptive = AdaptiveProbability(images=1000, every=100)
    adaptive.update(torch.full((60,), -1.0 if rank == 0 else 1.0))
    correct &= adaptive.probability.item() == 0 and adaptive.seen.item() == 0
    adaptive.update(torch.ones(60))
    correct &= abs(adaptive.probability.item() - 0.12) < 1e-6
    penalty = PathLengthPenalty()
    penalty(torch.full((2 + rank,), 5.0 * (rank + 1)))
    correct &= abs(penalty.mean.item() - 0.01 * (2 * 5 + 3 * 10) / 5) < 1e-6
    return 0 if correct else 3


def _shares(rank: int) -> int:
    """The second rank has still seen what the first one then cleared away."""
    trainer = SimpleNamespace(global_rank=rank, world_size=2, strategy=DDPStrategy())
    data = BlobsDataModule()
    data.trainer, data.drawn = trainer, {1, 2} if rank == 0 else {1, 2, 5, 6, 7}
    data.plan = SeedDataset(range(9), [0] * 9, [(4, 4)] * 9, 4)
    shares = [[], []]
    torch.distributed.all_gather_object(shares, list(data.predict_dataloader().sampler))
    return 0 if shares == [[0, 4, 6, 8], [3, 5, 7]] else 3
