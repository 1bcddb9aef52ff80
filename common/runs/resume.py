"""What Lightning leaves out when it resumes: random states, and the say of the configuration."""

import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback


class ExactResume(Callback):
    """Continues as if the run had never stopped.

    Stores the states of all random generators as plain numbers and tensors, which the safe loader
    accepts, and puts them back once the loaders exist. Optimizer settings come from the
    configuration of this start, not from the checkpoint: what is typed now wins.
    """

    def __init__(self) -> None:
        self._random: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """States of the random generators of torch, CUDA, NumPy and Python."""
        kind, keys, position, has_gauss, cached = np.random.get_state()
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": [kind, keys.tolist(), int(position), int(has_gauss), float(cached)],
            "python": random.getstate(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps them until training starts."""
        self._random = state_dict

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Applies the configured optimizer settings and restores the random states."""
        if self._random is None:
            return
        configured = pl_module.configure_optimizers()
        for loaded, fresh in zip(trainer.optimizers, _as_list(configured), strict=True):
            for old, new in zip(loaded.param_groups, fresh.param_groups, strict=True):
                old.update({key: value for key, value in new.items() if key != "params"})
        state, self._random = self._random, None
        torch.set_rng_state(state["torch"])
        if state["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])
        kind, keys, *rest = state["numpy"]
        np.random.set_state((kind, np.array(keys, np.uint32), *rest))
        random.setstate(state["python"])


def _as_list(configured: Any) -> list[torch.optim.Optimizer]:
    return list(configured) if isinstance(configured, (list, tuple)) else [configured]
