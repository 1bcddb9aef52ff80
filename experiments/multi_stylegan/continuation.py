"""From frames back to styles, and on from there: what may come next in a sequence.

A generator of T frames continues a sequence without further training: styles are looked for whose
first T - 1 frames are the last ones known, and the T-th is the next. Then all move on by one.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.multi_stylegan.networks import Generator

# Of Adam on the styles, and of how strongly they are held near their average (Karras et al. 2020,
# Appendix D, start there, too).
_LR, _HOLD = 0.05, 1e-3
# Compared at these sides relative to the full one: coarse ones first lead to the right place.
_SCALES = (1, 2, 4)


def invert(
    generator: Generator, target: Tensor, steps: int = 200, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Styles whose first frames are given ones.

    Args:
        generator: in evaluation mode; not changed. Its own noise is used.
        target: sequences [B, D, K, S, S] in [-1, 1] of K frames, at most as many as it makes.
        steps: of the search.
        start: styles [B, num_styles, style_dim] to begin with; their average without them.

    Returns:
        Styles [B, num_styles, style_dim], and the mean square by which each sequence is missed [B].

    Raises:
        ValueError: there are more frames than the generator makes.
    """
    frames = generator.num_frames
    known = target.shape[2]
    if known > frames:
        raise ValueError(f"{known} frames are more than the {frames} that are generated")
    average = generator.mapping.average.expand(len(target), generator.num_styles, -1)
    styles = (average if start is None else start).detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([styles], _LR)
    for step in range(steps + 1):
        found = generator.synthesize(styles)[:, :, :known]
        if step == steps:
            break
        loss = sum(_distance(found, target, scale).sum() for scale in _SCALES)
        loss = loss + _HOLD * (styles - average).square().mean((1, 2)).sum()
        (styles.grad,) = torch.autograd.grad(loss, styles)
        optimizer.step()
    return styles.detach(), _distance(found, target, 1).detach()


def continued(generator: Generator, known: Tensor, count: int, steps: int = 200) -> Tensor:
    """Known sequences with what may follow them; arguments and errors as of `following`.

    Returns:
        [B, D, K + count, S, S], of which the first K frames are the given ones.
    """
    added = [frame.unsqueeze(2) for frame in following(generator, known, count, steps)]
    return torch.cat([known, *added], 2)


def following(
    generator: Generator, known: Tensor, count: int, steps: int = 200
) -> Iterator[Tensor]:
    """Frames that may follow known ones, one after the other.

    Args:
        generator: of at least two frames, in evaluation mode.
        known: sequences [B, D, K, S, S] in [-1, 1]; K is at least one less than it makes.
        count: frames to add.
        steps: of each search; those after the first begin where the last one ended.

    Yields:
        The next frame of each sequence, [B, D, S, S] in [-1, 1].

    Raises:
        ValueError: one frame alone is generated, or too few are known.
    """
    frames = generator.num_frames
    if frames < 2 or known.shape[2] < frames - 1:
        problem = f"{known.shape[2]} frames are known and {frames} generated"
        raise ValueError(f"{problem}; at least two have to be generated, all but one known")
    styles, last = None, known[:, :, known.shape[2] - frames + 1 :]
    for _ in range(count):
        styles, _ = invert(generator, last, steps, styles)
        with torch.no_grad():
            added = generator.synthesize(styles)[:, :, -1].clamp(-1, 1)
        last = torch.cat([last[:, :, 1:], added.unsqueeze(2)], 2)
        yield added


def between(styles: Tensor, count: int) -> Tensor:
    """Styles on straight lines from one to the next and back to the first.

    Args:
        styles: [N, num_styles, style_dim].
        count: from each to the next.

    Returns:
        [N * count, num_styles, style_dim].
    """
    shares = torch.arange(count, device=styles.device) / count
    following = styles.roll(-1, 0)
    return torch.lerp(styles[:, None], following[:, None], shares[:, None, None]).flatten(0, 1)


def _distance(found: Tensor, target: Tensor, scale: int) -> Tensor:
    """Mean square of each sequence [B], of pixels or of squares of them."""
    pair = (F.avg_pool2d(x.flatten(1, 2), scale) for x in (found, target))
    first, second = pair
    return (first - second).square().mean((1, 2, 3))
