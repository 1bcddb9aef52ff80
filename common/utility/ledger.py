"""The augmentation ledger: what a task model gains from synthetic images, and what from others.

Each line is a way to train, each model of it is tested on the same held-out real images. Models of
one seed share initial weights and the part of the real images, so lines can be subtracted: the
intervals of the differences are paired.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from scipy import stats

from common.metrics.evaluation import EvaluationContext
from common.metrics.names import UTILITY
from common.metrics.protocol import Record
from common.utility.pools import Pool, part

PERCENTS = (25, 50, 100)
# What a lab would do without any generator.
CLASSICAL = "d4+affine+photometric"
# An error estimated from fewer held-out groups says next to nothing.
FEWEST_GROUPS = 5
_RESAMPLES = 1000


class Task(Protocol):
    """What images are wanted for; `Classification` is one.

    Attributes:
        score: name of the mean that is reported, from 0 to 1.
    """

    score: str

    @property
    def rule(self) -> str:
        """One line that tells this judge from another."""
        ...

    def refuse(self, real: Pool, fake: Pool, test: Pool) -> None:
        """Raises `UserError` where the task cannot be learned from, or tested on, such images."""
        ...

    def chance(self, real: Pool) -> float:
        """Score of a model that was trained on these and learned nothing."""
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

    @property
    def without(self) -> "Line | None":
        """The line that lacks what this one is there to try; None where there is none."""
        if self.percent and self.synthetic:
            return replace(self, synthetic=False)
        return replace(self, classical=False) if self.classical else None


@dataclass(frozen=True)
class Outcome:
    """What the models of all lines got right.

    Attributes:
        hits: float64 [seeds, N_test] by line.
        test: what they were tested on.
        num_fake: synthetic images.
        chance: score of a model that learned nothing.
    """

    hits: Mapping[Line, np.ndarray]
    test: Pool
    num_fake: int
    chance: float


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
    return Outcome(hits, test, len(fake), task.chance(real))


def ledger_records(outcome: Outcome, task: Task, context: EvaluationContext) -> list[Record]:
    """The score of each line, and what synthetic images and classical augmentation add to it.

    Intervals are Student's t. The error has two parts: of the models, from the spread between
    them, and of the held-out images, from drawing their groups with replacement; the degrees of
    freedom are Welch's. The same draws serve all lines.

    Args:
        outcome: of `run_ledger`.
        task: its judge.
        context: what the records say about data and run.
    """
    scores = _scoring(outcome.test)
    by_model = {line: scores(hits) for line, hits in outcome.hits.items()}
    groups = len(np.unique(outcome.test.groups))

    def record(name: str, line: Line, found: np.ndarray, note: str) -> Record:
        seeds = f"{len(found)} model{'s' if len(found) > 1 else ''}"
        policy = CLASSICAL if line.classical else "no augmentation"
        return context.record(
            f"{UTILITY}{name}",
            **_summary(found, groups),
            unit=task.score,
            n_real=len(outcome.test),
            n_fake=outcome.num_fake if line.synthetic else 0,
            rule=f"{task.rule}; {policy}; real and synthetic in turn; {seeds}; {groups} groups",
            note=note,
        )

    chance = f"chance {outcome.chance:.3g}"
    records = [record(line.name, line, found, chance) for line, found in by_model.items()]
    for line, found in by_model.items():
        if line.without is not None:
            note = f"over {line.without.name}{_seen_by_the_generator(line)}"
            gained = found - by_model[line.without]
            records.append(record(f"gain/{line.name}", line, gained, note))
    return records


def _seen_by_the_generator(line: Line) -> str:
    """A generator that saw every real image brings more than the part that the line names."""
    if not line.synthetic or line.percent == 100:
        return ""
    return "; the generator was trained on all real images, the classifier saw the part alone"


def _scoring(test: Pool) -> Callable[[np.ndarray], np.ndarray]:
    """Scores [models, 1 + resamples] of hits [models, N]: as they are, then with groups redrawn.

    A score is the mean over classes of the mean success in the class; a class that a draw does not
    hold is left out of that draw.
    """
    groups = np.unique(test.groups, return_inverse=True)[1]
    rng = np.random.default_rng(0)
    of_class = np.eye(test.labels.max() + 1)[test.labels]
    count = groups.max() + 1
    weights = [np.ones(len(groups))]
    for _ in range(_RESAMPLES):
        times = np.bincount(rng.integers(0, count, count), minlength=count)
        weights.append(times[groups].astype(np.float64))
    drawn = np.stack(weights)
    totals = drawn @ of_class
    present = totals > 0

    def scores(hits: np.ndarray) -> np.ndarray:
        found = []
        for of_model in hits:
            right = drawn @ (of_class * of_model[:, None])
            share = np.divide(right, totals, out=np.zeros_like(right), where=present)
            found.append(share.sum(1) / present.sum(1))
        return np.stack(found)

    return scores


def _summary(found: np.ndarray, groups: int, level: float = 0.95) -> dict[str, Any]:
    """Mean of the models and its interval; none of one model, or of few groups."""
    models, value = len(found), float(found[:, 0].mean())
    if models < 2 or groups < FEWEST_GROUPS:
        return {"value": value}
    of_models = found[:, 0].var(ddof=1) / models
    of_groups = found[:, 1:].mean(0).var(ddof=1)
    total = of_models + of_groups
    if total == 0:
        return {"value": value, "low": value, "high": value}
    freedom = total**2 / (of_models**2 / (models - 1) + of_groups**2 / (groups - 1))
    reach = float(stats.t.ppf((1 + level) / 2, freedom) * total**0.5)
    return {"value": value, "low": value - reach, "high": value + reach}
