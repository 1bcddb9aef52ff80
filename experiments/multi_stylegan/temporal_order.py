"""A small classifier that tells frames in their order from shuffled ones.

It judges whether time can be seen in sequences at all: trained on real ones, it should find as
much order in generated ones.
"""

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import Exit, UserError
from common.metrics.bootstrap import bootstrap_interval
from common.metrics.protocol import Measured, Record

# Of the records: training windows at most, how often each is seen, and the seed of all draws. More
# passes add little: held-out accuracy 0.82 after 24 passes over 100 windows, 0.87 after 96.
_WINDOWS, _PASSES, _SEED = 400, 24, 0
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
        seen = small(sequences)
        return torch.stack([seen[:, :, b] - seen[:, :, a] for a, b in self.pairs], 2)


def small(sequences: Tensor) -> Tensor:
    """Sequences [B, D, T, S, S] averaged down to 32 pixels; smaller ones as they are."""
    flat = F.adaptive_avg_pool2d(sequences.flatten(1, 2), min(_SIDE, sequences.shape[-1]))
    return flat.unflatten(1, sequences.shape[1:3])


def order_records(
    train: np.ndarray, real: np.ndarray, fake: np.ndarray, record: Callable[..., Record]
) -> list[Record]:
    """Whether a classifier that was trained on real sequences finds order in others.

    Args:
        train: floats [N, D, T, H, W] of the training split, of which 400 are drawn.
        real: likewise of the held-out split.
        fake: generated ones.
        record: makes a record of an evaluation.

    Returns:
        ``order_accuracy`` of the generated and ``order_accuracy_real`` of the held-out sequences:
        share of right answers, for each as it is and once shuffled. Refused where there is no
        order to see.
    """
    chosen = np.random.default_rng(_SEED).permutation(len(train))[:_WINDOWS]
    steps = math.ceil(_PASSES * len(chosen) / min(_BATCH, len(chosen)))
    rule = (
        f"trained on {len(chosen)} real windows, {steps} batches, seed {_SEED}; "
        f"width {_WIDTH}, side {_SIDE}, rate {_RATE:g}"
    )
    refusal = _refusal(train, real, fake)
    model = None if refusal else train_order_classifier(train[chosen], _SEED, steps)
    counts = {"order_accuracy": (0, len(fake)), "order_accuracy_real": (len(real), 0)}
    found = []
    for (name, (n_real, n_fake)), side in zip(counts.items(), (fake, real), strict=True):
        measured = Measured(None, note=refusal) if model is None else _measured(model, side)
        ends = measured._replace(rule=rule)._asdict()
        found.append(record(name, extractor="order", n_real=n_real, n_fake=n_fake, **ends))
    return found


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
def right_answers(model: OrderClassifier, sequences: np.ndarray, seed: int) -> np.ndarray:
    """Share of right answers [N] to each sequence as it is, and once shuffled; 0.5 is chance.

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
        pair = torch.stack([model(part) > 0, model(shuffled(part, rng)) <= 0])
        answers.append(pair.double().mean(0))
    return torch.cat(answers).numpy()


def shuffled(sequences: Tensor, rng: np.random.Generator) -> Tensor:
    """Each of [B, D, T, H, W] in an order of its own that is not the right one."""
    count, frames = len(sequences), sequences.shape[2]
    orders = np.stack([rng.permutation(frames) for _ in range(count)])
    kept = (orders == np.arange(frames)).all(axis=1)
    # Turned round by one frame it is no longer in order, whatever T.
    orders[kept] = np.roll(orders[kept], 1, axis=1)
    rows = torch.arange(count)[:, None]
    return sequences.transpose(1, 2)[rows, torch.from_numpy(orders)].transpose(1, 2)


def _refusal(train: np.ndarray, real: np.ndarray, fake: np.ndarray) -> str:
    """Why order cannot be looked for, or ""."""
    if train.shape[2] < 2:
        return "A sequence of one frame has no order."
    shapes = [side.shape[1:] for side in (train, real, fake)]
    if len(set(shapes)) > 1:
        return f"Sequences of unlike shape cannot be compared: {', '.join(map(str, shapes))}."
    return ""


def _measured(model: OrderClassifier, sequences: np.ndarray) -> Measured:
    """With an interval over sequences, whose two answers are not independent."""
    answers = right_answers(model, sequences, _SEED)
    value, note = float(answers.mean()), "chance 0.5; one classifier of one seed"
    if np.ptp(answers) == 0:
        return Measured(value, note=f"{note}; all sequences alike, so there is no interval")
    return Measured(value, *bootstrap_interval(np.mean, answers), note=note)


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
