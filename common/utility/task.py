"""What images are wanted for: a model is trained on some of them and tested on others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from common.utility.pools import Pool

Balance = Literal["classes", "effective", "none"]
# Shares of the real training images that the ledger tries.
PERCENTS = (25, 50, 100)
# What a lab would do without any generator.
CLASSICAL = "d4+affine+photometric"


@dataclass(frozen=True)
class Training:
    """How a task model is trained.

    Attributes:
        width: of the model.
        images_seen: training images of one model, repeats counted.
        balance: what is done about classes of unlike size, where there are classes: see
            `pools.class_shares`.
    """

    width: int
    images_seen: int
    balance: Balance = "classes"


# Of the models of the ledger, which are many, and of the judges, which are few and asked often.
LEDGER, JUDGE = Training(16, 12_000), Training(32, 60_000)
JUDGES = 3


class Score(NamedTuple):
    """One number of one model, from 0 to 1, for each draw of the test images.

    Attributes:
        values: float64 [D], of all images first, or [models, D] of several models; NaN where a
            draw holds none of the images that it is about.
        about: bool [N], the test images that it is about.
    """

    values: np.ndarray
    about: np.ndarray

    def over(self, other: "Score") -> "Score":
        """What it exceeds another one by, model by model and draw by draw."""
        return self._replace(values=self.values - other.values)


def of_models(scores: Sequence[Mapping[str, Score]]) -> dict[str, Score]:
    """Scores by name, of all models in one.

    Args:
        scores: of each model, by the same names, of the same images.
    """
    return {
        name: first._replace(values=np.stack([of_one[name].values for of_one in scores]))
        for name, first in scores[0].items()
    }


class Task(Protocol):
    """What images are wanted for; `Classification` is one."""

    @property
    def rule(self) -> str:
        """One line that tells this judge from another."""
        ...

    @property
    def code(self) -> Sequence[ModuleType]:
        """Modules whose text decides what a model becomes; what older text made is not reused."""
        ...

    def refuse(self, real: Pool, test: Pool, fake: Pool | None = None) -> None:
        """Raises `UserError` where the task cannot be learned from, or tested on, such images."""
        ...

    def chance(self, real: Pool, test: Pool) -> Mapping[str, float]:
        """Scores by name, of a model that was trained on ``real`` and learned nothing."""
        ...

    def train(
        self, pools: Sequence[Pool], policy: str, seed: int, seen: Callable[[int], object]
    ) -> Any:
        """Trains one model.

        Args:
            pools: to train on; each is drawn from equally often.
            policy: augmentation of the training images.
            seed: of the initial weights, of drawing and of augmentation.
            seen: told the number of images of each step.
        """
        ...

    def predict(self, model: Any, images: np.ndarray) -> np.ndarray:
        """What a model says of each image uint8 [N, C, S, S]: an array [N, ...]."""
        ...

    def scores(self, outcomes: np.ndarray, test: Pool, weights: np.ndarray) -> Mapping[str, Score]:
        """Named scores, the one to go by first; a pure function.

        Args:
            outcomes: [N, ...] of `predict`, for the images of ``test``.
            test: what is right.
            weights: float64 [D, N], how often each draw holds each image.
        """
        ...
