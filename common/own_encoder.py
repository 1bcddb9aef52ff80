"""A run's own encoder as a feature extractor."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from common.errors import Exit, UserError
from common.metrics.features import OWN, Extractor, own


class _Embedding(nn.Module):
    def __init__(self, model: pl.LightningModule) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.embed(images.float() / 127.5 - 1)


def own_encoder(model: pl.LightningModule, sha256: str, facts: Mapping[str, Any]) -> Extractor:
    """Features from the module's ``embed``: [B, C, H, W] in [-1, 1] -> [B, D].

    Args:
        model: with the weights of a checkpoint.
        sha256: of the checkpoint.
        facts: of the training data: channels and image size.

    Raises:
        UserError: the module has no ``embed``.
    """
    if not hasattr(model, "embed"):
        problem = f"{type(model).__name__} has no encoder of its own"
        raise UserError(Exit.USAGE, f"--extractor {OWN}", problem, "choose another extractor")
    network = _Embedding(model).eval()
    size = facts["image_size"]
    with torch.no_grad():
        dim = network(torch.zeros(1, len(facts["channels"]), size, size)).shape[1]
    return own(network, sha256, dim)
