"""Networks without training whose features differ from image to image."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def calibrated(network: nn.Module, *images: Tensor) -> nn.Module:
    """Fits each normalisation to these images; with the initial ones deep features vanish."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d)]
    for norm in norms:
        norm.momentum = None
        norm.train()
    network(*images)
    return network.eval()
