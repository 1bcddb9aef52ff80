"""Penalties on gradients, for discriminators that must stay smooth and generators that should.

All build a graph of the gradient, so that they can be minimised. The discriminator's operators must
have second derivatives: those of ``kernels`` have, uncompiled.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.runs.collective import sum_over_ranks
from kernels.precision import accumulation_dtype

# Share of the newest batch in the running mean of path lengths (Karras et al. 2020, Section 3.2).
_NEWEST = 0.01


def gradient_square(logits: Tensor, inputs: Tensor) -> Tensor:
    """|d logit / d input|^2, summed over the pixels of an image, mean over the batch.

    Times gamma / 2 it is R1 where ``inputs`` are real images and R2 where they are generated ones
    (Mescheder et al. 2018, Eq. 9 and 10).

    Args:
        logits: [B], or maps [B, 1, H, W], each of which counts as the mean of its pixels.
        inputs: [B, ...] that the logits were computed from; they require a gradient.

    Returns:
        A number >= 0 in float32 (float64 stays).
    """
    return _gradients(logits, inputs).square().flatten(1).sum(1).mean()


def mixed_pixels(maps: Tensor) -> Tensor:
    """Random sums of the pixels of maps [B, ..., H, W], one an image: [B, 1].

    Each pixel counts with a standard normal weight over the root of their number, so that the
    squared gradient of the sum is on average the mean of those of all pixels. That of their mean is
    smaller by their number where pixels depend on different inputs.
    """
    return (maps * torch.randn_like(maps)).flatten(1).sum(1, keepdim=True) / maps[0].numel() ** 0.5


def interpolation_penalty(
    discriminator: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    target: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """(|gradient| - target)^2 at random points between pairs (Gulrajani et al. 2017, Eq. 3).

    Args:
        discriminator: maps images [B, ...] to logits [B] or [B, 1, H, W].
        real: real images [B, ...]; they get no gradient.
        fake: generated images of the same shape; they get no gradient.
        target: length of the gradient, in logits per unit of distance between images.
        generator: of the points; the one of torch by default.

    Returns:
        The mean over the batch, a number >= 0.
    """
    where = generator.device if generator is not None else real.device
    share = torch.rand(len(real), generator=generator, device=where).to(real)
    share = share.view(-1, *[1] * (real.ndim - 1))
    between = torch.lerp(real.detach(), fake.detach().to(real), share).requires_grad_()
    lengths = torch.linalg.vector_norm(
        _gradients(discriminator(between), between).flatten(1), dim=1
    )
    return (lengths - target).square().mean()


def path_length(images: Tensor, styles: Tensor, noise: Tensor) -> Tensor:
    """|J^T y| [B]: how far an image moves when its styles do (Karras et al. 2020, Section 3.2).

    Args:
        images: [B, C, H, W] that the styles have made.
        styles: w, [B, D] or one for each layer [B, L, D]; they require a gradient.
        noise: standard normal, of the images' shape; y is this over the root of the pixel number.

    Returns:
        Lengths, of several layers the root of the mean square, with a graph.
    """
    pixels = images.shape[-2:].numel()
    moved = (images * noise).flatten(1).sum(1) / pixels**0.5
    gradients = _gradients(moved, styles)
    layers = gradients.shape[1:-1].numel()
    # Not the root of a sum: its slope at 0 is infinite, the norm's is 0.
    return torch.linalg.vector_norm(gradients.flatten(1), dim=1) / layers**0.5


class PathLengthPenalty(nn.Module):
    """(length - a)^2, with a the running mean of lengths (Karras et al. 2020, Eq. 4).

    The mean is a buffer: it is checkpointed with the module that holds this one.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, lengths: Tensor) -> Tensor:
        """Penalty, a number >= 0, of lengths [B]; in training they move the mean first."""
        if self.training:
            total, count = sum_over_ranks(
                torch.stack([lengths.sum(), lengths.new_full((), len(lengths))])
            )
            self.mean.lerp_((total / count).to(self.mean), _NEWEST)
        return (lengths - self.mean).square().mean()


def lazy_weight(step: int, every: int) -> float:
    """Factor of a penalty that is computed only every so many steps: ``every`` then, else 0.

    On average it weighs what it would weigh at each step (Karras et al. 2020, Appendix B).

    Args:
        step: counted from 0; the first is one with the penalty.
        every: at least 1; 1 is each step.
    """
    return float(every) if step % every == 0 else 0.0


def _gradients(outputs: Tensor, inputs: Tensor) -> Tensor:
    total = outputs.reshape(len(outputs), -1).mean(1).sum()
    (gradients,) = torch.autograd.grad(total, inputs, create_graph=True)
    return gradients.to(accumulation_dtype(gradients))
