"""Whether a training is well: latent units in use, and a validation loss without spikes."""

import statistics
import sys
from collections import deque

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor

from common.data.datasets import Batch

# A unit whose posterior differs from the prior by less than this, on average, says nothing.
ACTIVE_NATS = 0.01
# Below this share of active units the decoder ignores z: posterior collapse.
FEWEST_ACTIVE = 0.1
# Above so many times the median of the last validations, a loss is a spike.
SPIKE, WINDOW = 3.0, 20


class LatentHealth(Callback):
    """Logs the units' KL at every validation, and warns of collapse and spikes.

    ``val/active_units`` is the share of units whose mean KL exceeds `ACTIVE_NATS`;
    ``val/kl_unit_median`` and ``val/kl_unit_max`` are nats of one unit; ``val/spike`` is the
    squared error over the median of those before, which stays below `SPIKE` in a sound training.
    The module's ``units`` gives the KL; without any, the spikes alone are watched: those of the
    loss where there is no ``mse``.
    """

    def __init__(self) -> None:
        self._kl: Tensor | None = None
        self._error: Tensor | float = 0.0
        self._count = 0
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def state_dict(self) -> dict[str, list[float]]:
        """Errors of the last validations: a resumed run has the same median."""
        return {"recent": list(self._recent)}

    def load_state_dict(self, state_dict: dict[str, list[float]]) -> None:
        """Restores them."""
        self._recent = deque(state_dict["recent"], maxlen=WINDOW)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets the last validation."""
        self._kl, self._error, self._count = None, 0.0, 0

    @torch.no_grad()
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: dict[str, Tensor],
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds up what one batch says."""
        kl = pl_module.units(batch)
        if kl is not None:
            self._kl = kl.sum(0) + (0 if self._kl is None else self._kl)
        count = len(batch["label"])
        self._error = self._error + count * outputs.get("mse", outputs["loss"])
        self._count += count

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs and warns."""
        if trainer.sanity_checking:
            # Before a resumed run goes on: an uninterrupted one has no such validation there.
            return

        def mean(total: Tensor) -> Tensor:
            return trainer.strategy.reduce(total / self._count, reduce_op="mean")

        found, warnings = self._judge_error(float(mean(self._error)))
        if self._kl is not None:
            of_units, more = _judge_units(mean(self._kl))
            found, warnings = found | of_units, warnings + more
        pl_module.log_dict({f"val/{name}": value for name, value in found.items()})
        for warning in warnings:
            _warn(warning)

    def _judge_error(self, error: float) -> tuple[dict[str, float], list[str]]:
        ratio = error / statistics.median(self._recent) if self._recent else 1.0
        self._recent.append(error)
        told = f"the validation error is {ratio:.1f} times the median of those before"
        return {"spike": ratio}, [told] if ratio > SPIKE else []


def _judge_units(kl: Tensor) -> tuple[dict[str, Tensor], list[str]]:
    active = (kl > ACTIVE_NATS).float().mean()
    told = (
        f"posterior collapse: {float(active):.0%} of {len(kl)} latent units say anything of the "
        "image; lower kl_weight, lengthen kl_warmup_images or set free_nats"
    )
    found = {"active_units": active, "kl_unit_median": kl.median(), "kl_unit_max": kl.max()}
    return found, [told] if active < FEWEST_ACTIVE else []


@rank_zero_only
def _warn(problem: str) -> None:
    print(f"warning: {problem}", file=sys.stderr, flush=True)
