"""Terms of variational bounds, in nats an image."""

import math

import torch
from torch import Tensor


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error [B] over the masked pixels of [B, C, H, W]; mask is [B, 1, H, W]."""
    error = (prediction - target).square().mul(mask).flatten(1).sum(1)
    return error / (mask.flatten(1).sum(1) * prediction.shape[1])


def masked_edge_mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error [B] of the differences of neighbouring pixels; arguments as above.

    Differences count where both pixels lie inside the mask.
    """
    error, total, count = prediction - target, 0, 0
    for axis in (2, 3):
        size = error.shape[axis] - 1
        steps = error.narrow(axis, 1, size) - error.narrow(axis, 0, size)
        inside = mask.narrow(axis, 1, size) * mask.narrow(axis, 0, size)
        total = total + (steps.square() * inside).flatten(1).sum(1)
        count = count + inside.flatten(1).sum(1) * error.shape[1]
    return total / count


def gaussian_nll(mse: Tensor, variance: Tensor, num_values: Tensor | int) -> Tensor:
    """-ln N(x; mean, variance) [B] of ``num_values`` values whose mean squared error is ``mse``."""
    return 0.5 * num_values * (torch.log(2 * math.pi * variance) + mse / variance)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) [B, D] (Kingma and Welling 2014, Appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


def gaussian_kl_between(
    mean: Tensor, log_variance: Tensor, prior_mean: Tensor, prior_log_variance: Tensor
) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(prior_mean, exp(prior_log_variance))), elementwise."""
    shift = (mean - prior_mean) * (-0.5 * prior_log_variance).exp()
    return gaussian_kl(shift, log_variance - prior_log_variance)


def free_bits(kl: Tensor, nats: float) -> Tensor:
    """KL [B] of units [B, D], none of which is pressed below ``nats`` on the mean of the batch.

    A unit that carries less than that costs ``nats`` and feels no pressure (Kingma et al. 2016,
    Eq. 15, with each unit as a group); 0 is the plain sum.
    """
    if nats <= 0:
        return kl.sum(1)
    return torch.where(kl.mean(0) > nats, kl, torch.full_like(kl, nats)).sum(1)


def warmup(images_seen: int, images: int) -> float:
    """Share of its weight that the KL term has: from 0 to 1 over so many images."""
    return min(1.0, images_seen / max(images, 1))


def bounded(x: Tensor, low: float, high: float) -> Tensor:
    """Maps any x smoothly into (low, high), near the identity in the middle.

    An unbounded log-variance lets one outlier blow a whole training up.
    """
    half, middle = (high - low) / 2, (high + low) / 2
    return middle + half * torch.tanh((x - middle) / half)
