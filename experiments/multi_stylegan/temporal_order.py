"""A small classifier that tells frames in their order from shuffled ones.

It judges whether time can be seen in sequences at all: trained on real ones, it should find as
much order in generated ones.
"""

from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import Exit, UserError

_WIDTH, _BATCH, _RATE = 16, 32, 3e-3
# Frames are averaged down to this side: order shows in cells and light, not in grain.
_SIDE = 32


class OrderClassifier(nn.Module):
    """Convolutions over what changes between every two frames, averaged over the field.

    Changes that only turn the time round differ in sign, so that both senses can be told apart.

    Args:
        domains: D.
        frames: T, >= 2.
    """

    def __init__(self, domains: int, frames: int) -> None:
        super().__init__()
        self.pairs = tuple(combinations(range(frames), 2))
        channels = domains * len(self.pairs)
        # Standard deviation of each domain's changes in training.
        self.register_buffer("scale", torch.ones(domains, 1, 1))
        self.features = nn.Sequential(
            nn.Conv2d(channels, _WIDTH, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(_WIDTH, _WIDTH, 3, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        )
        self.head = nn.Linear(2 * _WIDTH, 1)

    def forward(self, sequences: Tensor) -> Tensor:
        """Logits [B], above 0 for the right order, of sequences [B, D, T, H, W]."""
        changes = self.changes(sequences) / self.scale[:, None]
        features = self.features(changes.flatten(1, 2))
        spread = features.std(dim=(2, 3))
        return self.head(torch.cat([features.mean(dim=(2, 3)), spread], 1))[:, 0]

    def changes(self, sequences: Tensor) -> Tensor:
        """Later minus earlier frame of every pair, [B, D, pairs, h, w]."""
        flat = F.adaptive_avg_pool2d(sequences.flatten(1, 2), min(_SIDE, sequences.shape[-1]))
        small = flat.unflatten(1, sequences.shape[1:3])
        return torch.stack([small[:, :, b] - small[:, :, a] for a, b in self.pairs], 2)


def train_order_classifier(sequences: np.ndarray, seed: int, steps: int = 300) -> OrderClassifier:
    """Trains on the CPU: half of each batch keeps its order, half is shuffled.

    Args:
        sequences: floats [N, D, T, H, W], T >= 2, N >= 2.
        seed: of weights, batches and shuffles; the same one gives the same classifier.
        steps: batches of at most 32 sequences.

    Raises:
        UserError: sequences of one frame have no order.
    """
    data = _checked(sequences)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = OrderClassifier(data.shape[1], data.shape[2])
        model.scale.copy_(model.changes(data).std(dim=(0, 2, 3, 4)).clamp_min(1e-6)[:, None, None])
        optimiser = torch.optim.Adam(model.parameters(), lr=_RATE)
        rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
        rng = np.random.default_rng(seed)
        for _ in range(steps):
            chosen = torch.from_numpy(rng.integers(0, len(data), min(_BATCH, len(data))))
            right = _mirrored(data[chosen], rng)
            both = torch.cat([right, shuffled(right, rng)])
            target = torch.cat([torch.ones(len(right)), torch.zeros(len(right))])
            loss = F.binary_cross_entropy_with_logits(model(both), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rates.step()
    return model.eval()


@torch.no_grad()
def order_accuracy(model: OrderClassifier, sequences: np.ndarray, seed: int) -> float:
    """Share of right answers for each sequence as it is, and once shuffled; 0.5 is chance.

    Args:
        model: trained on sequences of as many domains and frames.
        sequences: floats [N, D, T, H, W].
        seed: of the shuffles.

    Raises:
        UserError: sequences of one frame have no order.
    """
    data, rng = _checked(sequences), np.random.default_rng(seed)
    answers = []
    for part in data.split(256):
        answers += [model(part) > 0, model(shuffled(part, rng)) <= 0]
    return float(torch.cat(answers).float().mean())


def shuffled(sequences: Tensor, rng: np.random.Generator) -> Tensor:
    """Each of [B, D, T, H, W] in an order of its own that is not the right one."""
    count, frames = len(sequences), sequences.shape[2]
    orders = np.stack([rng.permutation(frames) for _ in range(count)])
    kept = (orders == np.arange(frames)).all(axis=1)
    # Turned round by one frame it is no longer in order, whatever T.
    orders[kept] = np.roll(orders[kept], 1, axis=1)
    rows = torch.arange(count)[:, None]
    return sequences.transpose(1, 2)[rows, torch.from_numpy(orders)].transpose(1, 2)


def _mirrored(sequences: Tensor, rng: np.random.Generator) -> Tensor:
    """Left and right exchanged in every second sequence; the trap is symmetric."""
    flip = torch.from_numpy(rng.random(len(sequences)) < 0.5)[:, None, None, None, None]
    return torch.where(flip, sequences.flip(-1), sequences)


def _checked(sequences: np.ndarray) -> Tensor:
    if sequences.ndim != 5:
        raise ValueError(f"sequences of shape {sequences.shape} are not [N, D, T, H, W]")
    if sequences.shape[2] < 2:
        problem, remedy = "has no order", "use two frames or more"
        raise UserError(Exit.USAGE, f"a sequence of {sequences.shape[2]} frame", problem, remedy)
    return torch.from_numpy(np.ascontiguousarray(sequences, np.float32))
