"""Two ranks that share a batch train multi_stylegan as one process with the whole batch does."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader

from common.adaptive_augment import AdaptiveProbability
from common.callbacks import ImagesSeen
from common.interrupts import interrupts
from common.trainer import ExperimentTrainer
from experiments.multi_stylegan import module
from experiments.multi_stylegan.module import MultiStyleGAN
from two_ranks import fork_rank

RANKS, BATCH, STEPS = 2, 4, 3
SETTINGS = {
    **{"image_size": 16, "latent_dim": 8, "style_dim": 8, "width": 4, "max_width": 8},
    **{"mapping_layers": 2, "d_width": 8, "d_levels": 3, "r1_every": 2, "path_length_every": 2},
    **{"adaptive_images": 20, "cutmix_images": BATCH, "cutmix_prob": 0.9, "mixing_prob": 0.9},
    # Which sequences these take is decided within a rank.
    **{"order_share": 0.0, "top_k_share": 1.0},
}
QUIET = {
    **{"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "max_epochs": 1},
    **{"enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0},
    "use_distributed_sampler": False,
}
STEERING = ("adaptive.probability", "path_length.mean")
TERMS = ("d_loss", "g_loss", "r1", "path_length", "cutmix", "consistency", "real_logit")


class Share(TorchFunctionMode):
    """Draws for all ranks, in the order of one process, and gives each rank its share."""

    def __init__(self, rank: int, ranks: int) -> None:
        super().__init__()
        self.rank, self.ranks = rank, ranks

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.randn_like:
            function, args = torch.randn, (tuple(args[0].shape),)
        elif function not in (torch.rand, torch.randn, torch.randint):
            return function(*args, **kwargs)
        first = () if isinstance(args[-1], int) else args[:-1]
        size = list(args if isinstance(args[-1], int) else args[-1])
        # Both z whose styles are mixed are drawn at once.
        axis = 1 if len(size) == 3 else 0
        size[axis] *= self.ranks
        mine = torch.arange(self.rank, size[axis], self.ranks)
        return function(*first, tuple(size), **kwargs).index_select(axis, mine)


class Step(Callback):
    """Keeps what each step logs, and the gradients of the first one."""

    def __init__(self) -> None:
        self.terms: list[Tensor] = []
        self.gradients: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning may have seeded the ranks anew.
        torch.manual_seed(1)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        found = trainer.callback_metrics
        self.terms.append(torch.stack([found[f"train/{name}"] for name in TERMS]))
        if not self.gradients:
            named = pl_module.named_parameters()
            self.gradients = {k: p.grad.clone() for k, p in named if p.grad is not None}


def trained(rank: int, ranks: int, **how: Any) -> dict[str, Any]:
    """What one rank sees of a few steps of training."""
    torch.manual_seed(0)
    model = MultiStyleGAN(**SETTINGS)
    for block in model.discriminator.encoder:
        # Sequences of a group are batch / size apart, as are those of a rank.
        block.group_size = BATCH // RANKS
    # Else it would be measured in data that this training has none of.
    model.camera.strengths.fill_(0.05)
    sequences = torch.randn(STEPS * BATCH, 2, 3, 16, 16).clamp(-1, 1)
    batches = [{"image": part[rank::ranks]} for part in sequences.split(BATCH)]
    step = Step()
    trainer = ExperimentTrainer(**QUIET, **how, callbacks=[ImagesSeen(), step])
    with interrupts.listening(), Share(rank, ranks):
        trainer.fit(model, DataLoader(batches, batch_size=None))
    state = {name: value for name, value in model.state_dict().items() if name in STEERING}
    return {"terms": torch.stack(step.terms), "gradients": step.gradients, "state": state}


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
@pytest.mark.skipif(torch.cuda.is_available(), reason="autograd cannot be forked beside a GPU")
def test_two_ranks_train_as_one_process_does(
    tmp_path: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With orders and top-k off, and deviations within groups that lie in one rank each."""
    often = partial(AdaptiveProbability, target=-2.0, every=BATCH)
    monkeypatch.setattr(module, "AdaptiveProbability", often)
    whole = trained(0, 1)

    def body(rank: int) -> int:
        os.environ["LOCAL_RANK"] = str(rank)
        ddp = {"devices": RANKS, "strategy": "ddp_find_unused_parameters_true"}
        torch.save(trained(rank, RANKS, **ddp), tmp_path / f"{rank}.pt")
        return 0

    started = [fork_rank(rank, tmp_path, body) for rank in range(RANKS)]
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in started] == [0, 0]
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS)]
    mean = torch.stack([part["terms"] for part in parts]).mean(0)
    torch.testing.assert_close(mean, whole["terms"], rtol=1e-4, atol=1e-5)
    for part in parts:
        torch.testing.assert_close(part["state"], whole["state"])
        assert part["gradients"].keys() == whole["gradients"].keys()
        for name, expected in whole["gradients"].items():
            error = (part["gradients"][name] - expected).abs().max()
            assert error <= 1e-3 * expected.abs().max(), name
