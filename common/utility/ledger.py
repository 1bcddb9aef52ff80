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
from common.utility.intervals import group_draws, over_models
from common.utility.pools import Pool, part
from common.utility.task import CLASSICAL, Task

PERCENTS = (25, 50, 100)


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
    by_line: dict[Line, list[np.ndarray]] = {}
    for (line, _), outcome in outcomes.items():
        by_line.setdefault(line, []).append(outcome)
    scored = {
        line: [task.scores(outcome, test, weights) for outcome in of_line]
        for line, of_line in by_line.items()
    }
    # [models, draws] by line and name.
    found = {
        line: {name: np.stack([scores[name].values for scores in models]) for name in models[0]}
        for line, models in scored.items()
    }
    about = {name: score.about for name, score in next(iter(scored.values()))[0].items()}

    def record(start: str, line: Line, name: str, values: np.ndarray, note: str) -> Record:
        groups = len(np.unique(test.groups[about[name]]))
        measured = over_models(values, groups, lowest=-1.0 if start else 0.0)
        return context.record(
            f"{UTILITY}{start}{line.name}/{name}",
            value=measured.value,
            low=measured.low,
            high=measured.high,
            n_real=int(about[name].sum()),
            n_fake=len(ledger.fake) if line.synthetic else 0,
            rule=_rule(task, line, len(values), groups),
            note="; ".join(filter(None, [note, measured.note])),
        )

    chance = task.chance(ledger.real, test)
    records = [
        record("", line, name, values, f"chance {chance[name]:.3g}")
        for line, of_line in found.items()
        for name, values in of_line.items()
    ]
    for line, of_line in found.items():
        if line.without is not None:
            note = f"over {line.without.name}{_seen_by_the_generator(line)}"
            base = found[line.without]
            records += [
                record("gain/", line, name, values - base[name], note)
                for name, values in of_line.items()
            ]
    return records


def _rule(task: Task, line: Line, models: int, groups: int) -> str:
    policy = CLASSICAL if line.classical else "no augmentation"
    seeds = f"{models} model{'s' if models > 1 else ''}"
    return f"{task.rule}; {policy}; real and synthetic in turn; {seeds}; {groups} groups"


def _seen_by_the_generator(line: Line) -> str:
    """A generator that saw every real image brings more than the part that the line names."""
    if not line.synthetic or line.percent == 100:
        return ""
    return "; the generator was trained on all real images, the classifier saw the part alone"
