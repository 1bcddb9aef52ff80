"""The augmentation ledger: what a task model gains from synthetic images, and what from others.

Each line is a way to train, each model of it is tested on the same held-out real images. Models of
one seed share initial weights and the part of the real images, so lines can be subtracted: the
intervals of the differences are paired.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from common.evaluate import UTILITY
from common.metrics.evaluation import EvaluationContext
from common.metrics.protocol import Record
from common.utility.pools import Pool, part

PERCENTS = (25, 50, 100)
# What a lab would do without any generator.
CLASSICAL = "d4+affine+photometric"
_RESAMPLES = 1000


class Task(Protocol):
    """What images are wanted for; `Classification` is one.

    Attributes:
        score: name of the mean that is reported, from 0 to 1.
    """

    score: str

    @property
    def chance(self) -> float:
        """Score of a model that knows nothing."""
        ...

    @property
    def rule(self) -> str:
        """One line that tells this judge from another."""
        ...

    def hits(
        self,
        pools: Sequence[Pool],
        test: Pool,
        policy: str,
        seed: int,
        seen: Callable[[int], object],
    ) -> np.ndarray:
        """Trains a model on ``pools``; its success [N_test] on each image of ``test``, 0 to 1."""
        ...


@dataclass(frozen=True)
class Line:
    """One way to train.

    Attributes:
        percent: of the real training images; 0 for none.
        classical: whether images are augmented as they would be without a generator.
        synthetic: whether synthetic images are added.
    """

    percent: int
    classical: bool = False
    synthetic: bool = False

    @property
    def name(self) -> str:
        """Such as ``real_synthetic_25``; the number is the percentage of real images."""
        if not self.percent:
            return "synthetic"
        parts = ["real", *["classical"] * self.classical, *["synthetic"] * self.synthetic]
        return f"{'_'.join(parts)}_{self.percent}"


@dataclass(frozen=True)
class Outcome:
    """What the models of all lines got right.

    Attributes:
        hits: float64 [seeds, N_test] by line.
        test: what they were tested on.
    """

    hits: Mapping[Line, np.ndarray]
    test: Pool


def lines() -> list[Line]:
    """Synthetic images alone, then for each share of real ones: without, with one, with both."""
    kinds = [(False, False), (True, False), (False, True), (True, True)]
    return [Line(0, synthetic=True), *(Line(p, *kind) for p in PERCENTS for kind in kinds)]


def run_ledger(
    task: Task, real: Pool, fake: Pool, test: Pool, seeds: int, seen: Callable[[int], object]
) -> Outcome:
    """Trains one model for each line and seed.

    Args:
        task: the judge.
        real: training images; parts of them are drawn.
        fake: synthetic images, all of them used.
        test: held-out real images.
        seeds: models of a line.
        seen: told the number of training images of each step.
    """
    hits = {}
    for line in lines():
        rows = []
        for seed in range(seeds):
            pools = [part(real, line.percent, seed)] if line.percent else []
            pools += [fake] if line.synthetic else []
            policy = CLASSICAL if line.classical else "none"
            rows.append(task.hits(pools, test, policy, seed, seen))
        hits[line] = np.stack(rows)
    return Outcome(hits, test)


def ledger_records(
    outcome: Outcome, task: Task, num_fake: int, context: EvaluationContext
) -> list[Record]:
    """The score of each line and what is gained over real images alone, with 95 % intervals.

    The interval is over models and held-out groups together: both are drawn with replacement, the
    same for all lines.

    Args:
        outcome: of `run_ledger`.
        task: its judge.
        num_fake: synthetic images.
        context: what the records say about data and run.
    """
    draw = _resampled(outcome)
    drawn = {line: draw(hits) for line, hits in outcome.hits.items()}
    seeds = len(next(iter(outcome.hits.values())))
    record = partial(
        context.record,
        unit=task.score,
        n_real=len(outcome.test),
        n_fake=num_fake,
        rule=f"{task.rule}; {seeds} models",
    )
    records = []
    for line, scores in drawn.items():
        note = f"chance {task.chance:.3g}"
        records.append(record(f"{UTILITY}{line.name}", **_summary(scores), note=note))
    for line, scores in drawn.items():
        alone = Line(line.percent)
        if line.percent and line != alone:
            gain = _summary(scores - drawn[alone])
            name = f"{UTILITY}gain/{line.name}"
            records.append(record(name, **gain, note=_seen_by_the_generator(line)))
    return records


def _seen_by_the_generator(line: Line) -> str:
    """A generator that saw every real image brings more than the part that the line names."""
    if not line.synthetic or line.percent == 100:
        return ""
    return "the generator was trained on all real images, the classifier saw the part alone"


def _resampled(outcome: Outcome) -> Callable[[np.ndarray], np.ndarray]:
    """Scores [1 + resamples] of hits [seeds, N]: first as they are, then redrawn alike each time.

    The score is the mean over classes of the mean success in the class; a class that a draw does
    not hold is left out of that draw.
    """
    labels, groups = outcome.test.labels, np.unique(outcome.test.groups, return_inverse=True)[1]
    seeds = len(next(iter(outcome.hits.values())))
    rng = np.random.default_rng(0)
    of_class = np.eye(labels.max() + 1)[labels]
    num_groups = groups.max() + 1
    weights = [np.ones(len(labels))]
    models = [np.full(seeds, 1 / seeds)]
    for _ in range(_RESAMPLES):
        times = np.bincount(rng.integers(0, num_groups, num_groups), minlength=num_groups)
        weights.append(times[groups])
        models.append(np.bincount(rng.integers(0, seeds, seeds), minlength=seeds) / seeds)
    weights, models = np.stack(weights).astype(np.float64), np.stack(models)
    totals = weights @ of_class
    present = totals > 0

    def scores(hits: np.ndarray) -> np.ndarray:
        by_model = []
        for of_model in hits:
            right = weights @ (of_class * of_model[:, None])
            share = np.divide(right, totals, out=np.zeros_like(right), where=present)
            by_model.append(share.sum(1) / present.sum(1))
        return (np.stack(by_model, 1) * models).sum(1)

    return scores


def _summary(scores: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(scores[1:], [0.025, 0.975])
    return {"value": float(scores[0]), "low": float(low), "high": float(high)}
