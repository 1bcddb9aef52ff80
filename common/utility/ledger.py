"""The augmentation ledger: what a task model gains from synthetic images, and what from others.

Each line is a way to train, each model of it is tested on the same held-out real images. Models of
one seed share initial weights and the part of the real images, so lines can be subtracted: the
intervals of the differences are paired.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from common.metrics.evaluation import EvaluationContext
from common.metrics.kinds import UTILITY
from common.metrics.protocol import Record
from common.utility.cache import Cache, digest
from common.utility.intervals import group_draws, summarize
from common.utility.pools import Pool, part
from common.utility.task import CLASSICAL, PERCENTS, Score, Task, of_models


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
    def policy(self) -> str:
        """Augmentation of its training images."""
        return CLASSICAL if self.classical else "none"

    @property
    def without(self) -> "Line | None":
        """The line that lacks what this one is there to try; None where there is none."""
        if self.percent and self.synthetic:
            return replace(self, synthetic=False)
        return replace(self, classical=False) if self.classical else None


# A line and a seed.
Model = tuple[Line, int]


def lines(percents: Iterable[int] = PERCENTS) -> list[Line]:
    """Synthetic images alone, then for each share of real ones: without, with one, with both."""
    kinds = [(False, False), (True, False), (False, True), (True, True)]
    shares = sorted(set(percents))
    return [Line(0, synthetic=True), *(Line(p, *kind) for p in shares for kind in kinds)]


@dataclass(frozen=True)
class Ledger:
    """What models are trained and tested on.

    Attributes:
        task: the judge.
        real: training images; parts of them are drawn.
        fake: synthetic images, all of them used.
        test: held-out real images.
        cache: of what models without synthetic images have said.
    """

    task: Task
    real: Pool
    fake: Pool
    test: Pool
    cache: Cache

    def known(self, models: Iterable[Model]) -> dict[Model, np.ndarray]:
        """Outcomes [N_test, ...] of those models that need not be trained again."""
        shared = {model: self._key(*model) for model in models if not model[0].synthetic}
        found = {model: self.cache.read(key) for model, key in shared.items()}
        return {model: outcomes for model, outcomes in found.items() if outcomes is not None}

    def train(
        self, models: Iterable[Model], seen: Callable[[int], object]
    ) -> dict[Model, np.ndarray]:
        """Trains and tests models, and keeps what other runs can use.

        Args:
            models: which.
            seen: told the number of training images of each step.

        Returns:
            Outcomes [N_test, ...] of each.
        """
        found = {}
        for line, seed in models:
            model = self.task.train(self._pools(line, seed), line.policy, seed, seen)
            outcomes = self.task.predict(model, self.test.images)
            if not line.synthetic:
                self.cache.keep(self._key(line, seed), outcomes)
            found[line, seed] = outcomes
        return found

    def _pools(self, line: Line, seed: int) -> list[Pool]:
        real = [part(self.real, line.percent, seed)] if line.percent else []
        return [*real, self.fake] if line.synthetic else real

    def _key(self, line: Line, seed: int) -> str:
        return digest(self.task, line.policy, seed, [*self._pools(line, seed), self.test])


def ledger_records(
    ledger: Ledger, outcomes: Mapping[Model, np.ndarray], context: EvaluationContext
) -> list[Record]:
    """The scores of each line, and what synthetic images and classical augmentation add to them.

    Intervals are those of `over_models`; the same draws of held-out groups serve all lines.

    Args:
        ledger: what was trained and tested.
        outcomes: of all models; each line has the same seeds.
        context: what the records say about data and run.
    """
    task, test = ledger.task, ledger.test
    weights = group_draws(test.groups)
    of_line: dict[Line, list[Mapping[str, Score]]] = {}
    for (line, _), outcome in outcomes.items():
        of_line.setdefault(line, []).append(task.scores(outcome, test, weights))
    scores = {line: of_models(models) for line, models in of_line.items()}

    def record(kind: str, line: Line, name: str, score: Score, note: str) -> Record:
        found = summarize(score, test.groups, note, lowest=-1.0 if kind else 0.0)
        return context.record(
            f"{UTILITY}{kind}{line.name}/{name}",
            **found.ends,
            n_real=found.images,
            n_fake=len(ledger.fake) if line.synthetic else 0,
            rule=_rule(task, line, len(score.values), found.groups),
            note=found.note,
        )

    chance = task.chance(ledger.real, test)
    records = [
        record("", line, name, score, f"chance {chance[name]:.3g}")
        for line, named in scores.items()
        for name, score in named.items()
    ]
    tried = {line: line.without for line in scores if line.without is not None}
    return records + [
        record("gain/", line, name, score.over(scores[base][name]), _over(line, base))
        for line, base in tried.items()
        for name, score in scores[line].items()
    ]


def _rule(task: Task, line: Line, models: int, groups: int) -> str:
    policy = CLASSICAL if line.classical else "no augmentation"
    seeds = f"{models} model{'s' if models > 1 else ''}"
    return f"{task.rule}; {policy}; real and synthetic in turn; {seeds}; {groups} groups"


def _over(line: Line, base: Line) -> str:
    """A generator that saw every real image brings more than the part that the line names."""
    saw_more = line.synthetic and line.percent < 100
    told = "; the generator was trained on all real images, the classifier saw the part alone"
    return f"over {base.name}{told if saw_more else ''}"
