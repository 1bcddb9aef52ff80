"""What the discriminator is shown, and what the generator learns from, besides real and generated.

Pure functions of tensors; when each of them begins, `schedule` tells.
"""

from functools import cache
from itertools import permutations
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from common.networks.discriminator import group_of

# Others of `common.losses.adversarial` compare pairs, which not all that is judged here has.
Loss = Literal["non_saturating", "hinge", "wasserstein"]

# CutMix: the least and the most of a side that is cut (Schönfeld et al. 2020 cut any rectangle).
_LEAST, _MOST = 0.1, 0.9


def number_of(share: float, count: int) -> int:
    """How many of so many a share is, rounded; at least one."""
    return max(1, round(share * count))


def boxes(like: Tensor, probability: Tensor | float) -> Tensor:
    """Masks of CutMix, one a sequence, the same for all its domains and frames.

    Args:
        like: sequences [B, D, T, H, W].
        probability: of a sequence to be mixed at all.

    Returns:
        Float [B, 1, 1, H, W]: 0 in a rectangle whose sides are 0.1 to 0.9 of the image's, 1
        elsewhere; 1 everywhere in what is not mixed.
    """
    count, device = len(like), like.device
    active = torch.rand(count, device=device) < probability
    outside = ~active.view(-1, 1, 1, 1, 1)
    for axis, shape in ((-2, (1, 1, -1, 1)), (-1, (1, 1, 1, -1))):
        side = like.shape[axis]
        length = side * (_LEAST + (_MOST - _LEAST) * torch.rand(count, device=device))
        start = (side - length) * torch.rand(count, device=device)
        place = (torch.arange(side, device=device) + 0.5).view(shape)[None]
        start, length = (v.view(-1, 1, 1, 1, 1) for v in (start, length))
        outside = outside | (place < start) | (place >= start + length)
    return outside.to(like.dtype)


def mixed(real: Tensor, fake: Tensor, mask: Tensor) -> Tensor:
    """Real where the mask is 1 and generated where it is 0, [B, D, T, H, W]."""
    return real * mask + fake * (1 - mask)


def cutmix_loss(kind: Loss, logit: Tensor, pixel_logit: Tensor, mask: Tensor) -> Tensor:
    """What the discriminator minimises on mixed sequences (Schönfeld et al. 2020, Section 3.2).

    A mixed sequence is generated as a whole, and each of its pixels is what it came from. What
    was not mixed counts nothing: as real it would outweigh the generated ones, and whoever sees no
    difference would call everything real.

    Args:
        kind: of the loss, as on all other sequences.
        logit: [B, 1].
        pixel_logit: [B, 1, 1, H, W].
        mask: of `boxes`.

    Returns:
        The mean over all B sequences, so that the weight is that of their mixed share.
    """
    cut = 1 - mask.flatten(1).amin(1)
    losses = (
        _targeted(kind, one * sign).flatten(1).mean(1)
        for one, sign in ((logit, -1), (pixel_logit, 2 * mask - 1))
    )
    return (cut * sum(losses)).mean()


def consistency(pixel_logit: Tensor, real: Tensor, fake: Tensor, mask: Tensor) -> Tensor:
    """Mean square by which logits of mixed sequences differ from mixed logits (Eq. 7 there).

    Args:
        pixel_logit: of the mixed sequences [B, 1, 1, H, W].
        real: of the real ones.
        fake: of the generated ones.
        mask: of `boxes`.
    """
    return (pixel_logit - mixed(real, fake, mask)).square().mean()


def hardest(logits: Tensor, share: float) -> Tensor:
    """The largest logits, a share of the batch (Sinha et al. 2020, top-k training).

    Args:
        logits: [B, 1]; large ones are of the most realistic samples.
        share: of samples, in (0, 1]; at least one is kept.

    Returns:
        Their positions.
    """
    return logits.detach().flatten().topk(number_of(share, len(logits))).indices


def number_wrong(share: float, count: int, group_size: int) -> int:
    """How many sequences of a batch are shown in a wrong order: whole groups of them.

    A group is what the discriminator compares to see how much a batch varies; of one of another
    size it would know by that alone that something is wrong.

    Args:
        share: of the batch, to come near to; 0 is none.
        count: sequences of the batch.
        group_size: as `minibatch_deviation` takes it; 0 is the whole batch.
    """
    if not share:
        return 0
    if not group_size:
        return count
    group = group_of(count, group_size)
    fitting = [n for n in range(group, count + 1, group) if group_of(n, group_size) == group]
    return min(fitting, key=lambda n: abs(n - share * count))


def order_loss(kind: Loss, wrong: Tensor, fake: Tensor, share: float) -> Tensor:
    """What the discriminator's loss changes by when some of what is generated is in a wrong order.

    Args:
        kind: of the loss.
        wrong: logits [N, 1] of sequences in a wrong order; as real as any by their pixels.
        fake: logits [B, 1] of generated ones, whose loss counts already.
        share: how many times as much the former count as the latter, together.
    """
    return share / (1 + share) * (_targeted(kind, -wrong).mean() - _targeted(kind, -fake).mean())


def reordered(sequences: Tensor) -> Tensor:
    """Frames in a wrong order, the same in all domains; never in the right one.

    Args:
        sequences: [B, D, T, H, W] of at least two frames.

    Raises:
        ValueError: there is one frame alone.
    """
    frames = sequences.shape[2]
    if frames < 2:
        raise ValueError("one frame has no order")
    orders = _wrong_orders(frames, sequences.device)
    chosen = orders[torch.randint(len(orders), (len(sequences),), device=sequences.device)]
    index = chosen[:, None, :, None, None].expand_as(sequences)
    return sequences.gather(2, index)


@cache
def _wrong_orders(frames: int, device: torch.device) -> Tensor:
    """Kept: a step that is captured as a CUDA graph copies nothing from the host."""
    return torch.tensor(list(permutations(range(frames)))[1:], device=device)


def _targeted(kind: Loss, signed: Tensor) -> Tensor:
    """Loss of each logit that should be large, in float32."""
    signed = signed.float()
    if kind == "wasserstein":
        return -signed
    return F.relu(1 - signed) if kind == "hinge" else F.softplus(-signed)
