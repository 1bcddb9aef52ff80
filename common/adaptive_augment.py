"""Augmentation of what a discriminator sees, on the device and differentiable.

Real and generated images go through the same `Augment`. With a probability below about 0.8 each
transformation is invertible as a change of the distribution, so that none of them leaks into what
is generated (Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data",
Section 2.2). `AdaptiveProbability` finds the probability; a fixed one of 1 with the policy
``diffaugment`` is Zhao et al. 2020.

A policy is one step or several joined by "+", applied in this order:

- ``flip``: mirrored along x or not. ``turn``: by 0, 90, 180 or 270 degrees, where sides differ by
  0 or 180. The two together give all orientations of a square.
- ``translate``: by whole pixels, up to 1/8 of each side, reflected at the border.
- ``affine``: rotation up to 15 degrees and, apart from it, scale 0.9 to 1.1; bicubic, reflected.
- ``brightness``: adds N(0, 0.2). ``contrast``: times 2^N(0, 0.5) about the mean of the image.
- ``noise``: adds N(0, s^2) to each pixel, s = |N(0, 0.1)|.
- ``cutout``: 0 in a rectangle of half the sides around any point of the image.

Images are in about [-1, 1]. There is no change of colour and no blur: both are what microscopy
measures.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from common.errors import Exit, UserError
from common.runs.collective import sum_over_ranks
from common.warp import rotated_and_scaled, shifted

NONE = "none"
POLICIES = {
    NONE: "",
    "orientation": "flip+turn",
    "microscopy": "flip+turn+translate+affine+brightness+contrast",
    "diffaugment": "brightness+contrast+translate+cutout",
}
# Standard deviations and sizes of Karras et al. 2020, Appendix B.
_BRIGHTNESS, _CONTRAST, _NOISE = 0.2, 0.5, 0.1
_SHIFT, _CUTOUT = 0.125, 0.5
# As in the augmentation of training data.
_DEGREES, _SCALE = 15.0, 0.1


class Augment:
    """Each step of a policy with a probability of its own draw, alike for all channels and frames.

    Args:
        policy: steps or names of `POLICIES`, joined by "+".
        photometric_channels: those that brightness, contrast and noise change, all unless told; a
            mask that is generated as a channel is none of them.

    Attributes:
        moves: whether pixels may come to lie elsewhere, or be covered.

    Raises:
        UserError: an unknown step.
    """

    def __init__(self, policy: str, photometric_channels: Sequence[int] | None = None) -> None:
        self.steps = list(_steps(policy))
        self.moves = any(step in _MOVING for step in self.steps)
        self.photometric_channels = photometric_channels

    def __call__(
        self, images: Tensor, probability: Tensor | float, generator: torch.Generator | None = None
    ) -> Tensor:
        """Augmented images, of the same shape; derivatives of any order exist.

        What is drawn does not depend on the probability.

        Args:
            images: [B, C, H, W] or [B, C, T, H, W]; not changed.
            probability: of each step for each image, in [0, 1].
            generator: of all draws; the one of torch on the images' device by default, which the
                trainer seeds for each step.
        """
        if not self.steps:
            return images
        draws = _Draws(images, probability, generator)
        x = images.reshape(*images.shape[:2], -1, *images.shape[-2:])
        graded = self._graded(x)
        for step in self.steps:
            x = step(x, draws, graded)
        return x.reshape(images.shape)

    def _graded(self, x: Tensor) -> Tensor:
        # Made on the device: a step that is captured as a CUDA graph copies nothing from the host.
        every = self.photometric_channels is None
        graded = torch.full((1, x.shape[1], 1, 1, 1), every, device=x.device)
        for channel in self.photometric_channels or ():
            graded[:, channel] = True
        return graded


class AdaptiveProbability(nn.Module):
    """Probability of augmentation that follows how far the discriminator overfits.

    The heuristic is r = E[sign(logit of real images)], Karras et al. 2020 (limited data), Eq. 1: 0
    of a discriminator that knows nothing, 1 of one that knows all training images by heart. Above
    the target the probability rises, below it falls. All state is in buffers, so that a resumed
    run goes on with it; no device is waited for.

    Args:
        target: of r.
        images: real images in which the probability can go from 0 to 1.
        maximum: of the probability; beyond about 0.8 augmentations leak.
        every: real images between two adjustments.
    """

    probability: Tensor
    signs: Tensor
    seen: Tensor

    def __init__(
        self,
        target: float = 0.6,
        images: int = 500_000,
        maximum: float = 0.8,
        every: int = 256,
    ) -> None:
        super().__init__()
        self.target = target
        self.images = images
        self.maximum = maximum
        self.every = every
        for name in ("probability", "signs", "seen"):
            self.register_buffer(name, torch.zeros(()))

    @torch.no_grad()
    def update(self, real_logits: Tensor) -> None:
        """Counts logits [B] or [B, 1, H, W] of augmented real images, never of generated ones.

        Some losses leave the zero of the logits open, so that their sign means nothing: take what
        `common.losses.adversarial.zero_of` gives from them first.
        """
        signs = real_logits.to(self.signs).sign().reshape(len(real_logits), -1).mean(1)
        signs, seen = sum_over_ranks(torch.stack([signs.sum(), signs.new_full((), len(signs))]))
        signs, seen = self.signs + signs, self.seen + seen
        direction = (signs / seen - self.target).sign()
        moved = (self.probability + direction * seen / self.images).clamp(0, self.maximum)
        due = seen >= self.every
        self.probability.copy_(torch.where(due, moved, self.probability))
        self.signs.copy_(torch.where(due, 0, signs))
        self.seen.copy_(torch.where(due, 0, seen))


class _Draws:
    """Random numbers, one for each image, shaped [B, 1, 1, 1, 1]."""

    def __init__(
        self, images: Tensor, probability: Tensor | float, generator: torch.Generator | None
    ) -> None:
        self.like = images
        self.probability = probability
        self.generator = generator
        self.device = images.device if generator is None else generator.device

    def active(self) -> Tensor:
        return self.uniform() < self.probability

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        drawn = torch.rand(len(self.like), generator=self.generator, device=self.device)
        return low + (high - low) * drawn.to(self.like.device).view(-1, 1, 1, 1, 1)

    def one_of(self, count: int) -> Tensor:
        return (count * self.uniform()).long()

    def normal(self, deviation: float, *shape: int) -> Tensor:
        shape = (len(self.like), *(shape or (1, 1, 1, 1)))
        drawn = torch.randn(shape, generator=self.generator, device=self.device)
        return deviation * drawn.to(self.like.device)


def _flip(x: Tensor, draws: _Draws, _: Tensor) -> Tensor:
    mirrored = draws.active() & (draws.one_of(2) == 1)
    return torch.where(mirrored, x.flip(-1), x)


def _turn(x: Tensor, draws: _Draws, _: Tensor) -> Tensor:
    active, quarters = draws.active(), draws.one_of(4)
    if x.shape[-1] == x.shape[-2]:
        x = torch.where(active & (quarters % 2 == 1), x.rot90(1, (-2, -1)), x)
    return torch.where(active & (quarters >= 2), x.flip((-2, -1)), x)


def _translate(x: Tensor, draws: _Draws, _: Tensor) -> Tensor:
    active = draws.active()
    for axis in (-2, -1):
        pixels = (draws.uniform(-_SHIFT, _SHIFT) * x.shape[axis]).round().long()
        x = shifted(x, torch.where(active, pixels, 0).flatten(), axis)
    return x


def _affine(x: Tensor, draws: _Draws, _: Tensor) -> Tensor:
    turns, scales = draws.active(), draws.active()
    degrees = torch.where(turns, draws.uniform(-_DEGREES, _DEGREES), 0)
    scale = torch.where(scales, draws.uniform(1 - _SCALE, 1 + _SCALE), 1)
    moved = rotated_and_scaled(x.flatten(1, 2), degrees.flatten().deg2rad(), scale.flatten())
    # Interpolation at the pixels themselves is not exact.
    return torch.where(turns | scales, moved.view_as(x), x)


def _brightness(x: Tensor, draws: _Draws, graded: Tensor) -> Tensor:
    added = torch.where(draws.active(), draws.normal(_BRIGHTNESS), 0)
    return x + torch.where(graded, added, 0).to(x.dtype)


def _contrast(x: Tensor, draws: _Draws, graded: Tensor) -> Tensor:
    active, factor = draws.active(), draws.normal(_CONTRAST).exp2()
    values = graded.sum() * x[0, 0].numel()
    mean = torch.where(graded, x, 0).sum((1, 2, 3, 4), keepdim=True) / values
    changed = mean + (x - mean) * factor.to(x.dtype)
    return torch.where(active & graded, changed, x)


def _noise(x: Tensor, draws: _Draws, graded: Tensor) -> Tensor:
    deviation = torch.where(draws.active(), draws.normal(_NOISE).abs(), 0)
    added = deviation * draws.normal(1.0, *x.shape[1:])
    return x + torch.where(graded, added, 0).to(x.dtype)


def _cutout(x: Tensor, draws: _Draws, _: Tensor) -> Tensor:
    inside = draws.active()
    for axis in (-2, -1):
        length = x.shape[axis]
        shape = (-1, 1) if axis == -2 else (-1,)
        pixels = (torch.arange(length, device=x.device) + 0.5).view(shape)
        inside = inside & ((pixels - draws.uniform(0, length)).abs() < _CUTOUT / 2 * length)
    return torch.where(inside, 0, x)


Step = Callable[[Tensor, _Draws, Tensor], Tensor]
_STEPS: dict[str, Step] = {
    "flip": _flip,
    "turn": _turn,
    "translate": _translate,
    "affine": _affine,
    "brightness": _brightness,
    "contrast": _contrast,
    "noise": _noise,
    "cutout": _cutout,
}

_MOVING = (_flip, _turn, _translate, _affine, _cutout)


def _steps(policy: str) -> Iterator[Step]:
    names = "+".join(POLICIES.get(name, name) for name in policy.split("+"))
    for name in filter(None, names.split("+")):
        if name not in _STEPS:
            problem = f"{name!r} is no step and no policy"
            remedy = f"choose {', '.join(POLICIES)}, or steps of {', '.join(_STEPS)} joined by +"
            raise UserError(Exit.USAGE, f"augmentation {policy}", problem, remedy)
        yield _STEPS[name]
