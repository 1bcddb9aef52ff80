"""From frames back to styles, and on from there: what may come next in a sequence.

A generator of T frames continues a sequence without further training: styles are looked for whose
first T - 1 frames are the last ones known, and the T-th tells how the last of them changes. Then
all move on by one.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from common.sampling import in_chunks
from experiments.multi_stylegan.networks import Generator

# Of Adam on the styles, and of how strongly they are held among those that the mapping network
# makes; free ones fit known frames better and say nothing of the next.
_LR, _HOLD = 0.1, 1e-3
# Compared at these sides relative to the full one: coarse ones first lead to the right place.
_SCALES = (1, 2, 4)
# Samples of which the nearest begins the search, how many at once, and styles whose spread counts.
_STARTS, _AT_ONCE, _MAPPED = 256, 32, 4096
# Least variance along an axis relative to the largest one: places are in units of the spread.
_FLAT = 1e-6


def invert(
    generator: Generator, target: Tensor, steps: int = 200, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Styles whose first frames are given ones.

    The search moves along the principal axes of the mapped styles, in units of their spread (Zhu et
    al. 2020, Improved StyleGAN embedding), which keeps it among styles that samples have.

    Args:
        generator: in evaluation mode; not changed. Its own noise is used.
        target: sequences [B, D, K, S, S] in [-1, 1] of K frames, at most as many as it makes.
        steps: of the search.
        start: styles [B, num_styles, style_dim] to begin with; without them those of the sample
            that is the nearest of some hundred.

    Returns:
        Styles [B, num_styles, style_dim], and the mean square by which each sequence is missed [B].

    Raises:
        ValueError: there are more frames than the generator makes.
    """
    frames = generator.num_frames
    known = target.shape[2]
    if known > frames:
        raise ValueError(f"{known} frames are more than the {frames} that are generated")
    mean, axes, spread = _spread(generator)
    start = _nearest(generator, target) if start is None else start
    place = ((start - mean) @ axes.T / spread).requires_grad_()
    optimizer = torch.optim.Adam([place], _LR)
    for step in range(steps + 1):
        styles = mean + (place * spread) @ axes
        found = generator.synthesize(styles)[:, :, :known]
        if step == steps:
            break
        loss = _distances(found, target).sum()
        loss = loss + _HOLD * place.square().mean((1, 2)).sum()
        (place.grad,) = torch.autograd.grad(loss, place)
        optimizer.step()
    missed = (found - target).square().mean((1, 2, 3, 4))
    return styles.detach(), missed.detach()


def estimated_shrinkage(generator: Generator, examples: Tensor, steps: int = 200) -> Tensor:
    """By how much changes that the generator draws are to be shrunk, in each domain: [D] in [0, 1].

    The least squares of the change to the last frame of recordings on the one that is drawn from
    the frames before it. Where the two have nothing to do with each other it is about 0, and what
    goes on by it stands still. It is that of a first step, behind recorded frames; behind its own
    ones the generator hardly deserves more.

    Args:
        generator: of at least two frames, in evaluation mode.
        examples: sequences [N, D, T, S, S] in [-1, 1] of as many frames as it makes, which it was
            not trained on: by those it knows it would be believed too much.
        steps: of each search.
    """

    def drawn_after(known: Tensor) -> Tensor:
        styles, _ = invert(generator, known, steps)
        return _change(generator, styles)

    drawn = in_chunks(drawn_after, examples[:, :, :-1])
    true = examples[:, :, -1] - examples[:, :, -2]
    products, squares = ((drawn * x).sum((0, 2, 3)) for x in (true, drawn))
    slopes = products / squares.clamp(min=torch.finfo(squares.dtype).tiny)
    return slopes.nan_to_num(0).clamp(0, 1)


def continued(
    generator: Generator, known: Tensor, count: int, steps: int, shrinkage: Tensor
) -> Tensor:
    """Known sequences with what may follow them; arguments and errors as of `following`.

    Returns:
        [B, D, K + count, S, S], of which the first K frames are the given ones.
    """
    added = [frame.unsqueeze(2) for frame in following(generator, known, count, steps, shrinkage)]
    return torch.cat([known, *added], 2)


def following(
    generator: Generator, known: Tensor, count: int, steps: int, shrinkage: Tensor
) -> Iterator[Tensor]:
    """Frames that may follow known ones, one after the other.

    Each is the one before it and a part of what the generator changes from there: what it cannot
    draw of a recording stays as it was.

    Args:
        generator: of at least two frames, in evaluation mode.
        known: sequences [B, D, K, S, S] in [-1, 1]; K is at least one less than it makes.
        count: frames to add.
        steps: of each search; those after the first begin where the last one ended.
        shrinkage: the part in each domain [D], see `estimated_shrinkage`.

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
        change = shrinkage[:, None, None] * _change(generator, styles)
        added = (last[:, :, -1] + change).clamp(-1, 1)
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


@torch.no_grad()
def _change(generator: Generator, styles: Tensor) -> Tensor:
    """From the last frame but one to the last [B, D, S, S]."""
    before, after = generator.synthesize(styles)[:, :, -2:].unbind(2)
    return after - before


@torch.no_grad()
def _spread(generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of the mapped styles [style_dim], principal axes as rows, and the spread along each."""
    w = _mapped(generator, _MAPPED)[:, 0]
    mean = w.mean(0)
    values, vectors = torch.linalg.eigh((w - mean).T.cov())
    return mean, vectors.T, values.clamp(min=_FLAT * values.max()).sqrt()


@torch.no_grad()
def _nearest(generator: Generator, target: Tensor) -> Tensor:
    """Styles [B, num_styles, style_dim] of the sample that is nearest to each sequence."""
    styles, distances = _mapped(generator, _STARTS), []
    for part in styles.split(_AT_ONCE):
        found = generator.synthesize(part)[:, :, : target.shape[2]]
        distances.append(torch.stack([_distances(found, one[None]) for one in target], 1))
    return styles[torch.cat(distances).argmin(0)]


def _mapped(generator: Generator, count: int) -> Tensor:
    """Styles of z that are the same each time."""
    mapping = generator.mapping
    size = mapping.layers[0].weight.shape[1]
    z = torch.randn(count, size, generator=torch.Generator().manual_seed(0))
    return mapping(z.to(mapping.average))


def _distances(found: Tensor, target: Tensor) -> Tensor:
    """Mean square of each sequence [B], of pixels and of squares of them."""
    first, second = found.flatten(1, 2), target.flatten(1, 2)
    return sum(
        (F.avg_pool2d(first, scale) - F.avg_pool2d(second, scale)).square().mean((1, 2, 3))
        for scale in _SCALES
    )
