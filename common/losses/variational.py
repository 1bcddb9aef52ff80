"""Terms of variational bounds, in nats an image."""

import math

import torch
from torch import Tensor


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error [B] over the masked pixels of [B, C, H, W]; mask is [B, 1, H, W]."""
    error = (prediction - target).square().mul(mask).flatten(1).sum(1)
    return error / (mask.flatten(1).sum(1) * prediction.shape[1])


def gaussian_nll(mse: Tensor, variance: Tensor, num_values: Tensor | int) -> Tensor:
    """-ln N(x; mean, variance) [B] of ``num_values`` values whose mean squared error is ``mse``."""
    return 0.5 * num_values * (torch.log(2 * math.pi * variance) + mse / variance)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) [B, D] (Kingma and Welling 2014, Appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def bounded(x: Tensor, low: float, high: float) -> Tensor:
    """Maps any x smoothly into (low, high), near the identity in the middle.

    An unbounded log-variance lets one outlier blow a whole training up.
    """
    half, middle = (high - low) / 2, (high + low) / 2
    return middle + half * torch.tanh((x - middle) / half)
