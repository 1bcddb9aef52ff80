"""The task of telling classes apart, as a judge of images."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common.errors import Exit, UserError
from common.networks import classifier
from common.networks.classifier import Classifier
from common.runs.hardware import has_native_bf16
from common.utility import recognition
from common.utility.pools import Pool, batches
from common.utility.task import Score, Training

# Share of the training over which the rate rises; then it falls to zero by a cosine.
_WARMUP = 0.1
_WEIGHT_DECAY = 0.05
_TESTED_AT_ONCE = 128


@dataclass(frozen=True)
class Classification:
    """A residual classifier, trained from scratch.

    Every model sees equally many images and takes equally many steps, whatever it is trained on;
    its last weights are scored, so no split is needed to choose among them.

    Attributes:
        classes: names; index = label.
        device: where it runs.
        training: width of the first of four stages, images, and how rare classes are drawn.
        batch_size: images a step.
        lr: highest learning rate of AdamW.
    """

    classes: Sequence[str]
    device: torch.device
    training: Training
    batch_size: int = 32
    lr: float = 3e-3

    @property
    def rule(self) -> str:
        """One line that tells the judge from another."""
        how = self.training
        precision = "bfloat16" if self._in_bfloat16 else "float32"
        return (
            f"classifier of {len(self.classes)} classes, width {how.width}, "
            f"{how.images_seen} images, balance {how.balance}, batch {self.batch_size}, "
            f"AdamW {self.lr:g} decay {_WEIGHT_DECAY:g}, {precision}"
        )

    @property
    def code(self) -> Sequence[ModuleType]:
        """This module and the network's."""
        return sys.modules[__name__], classifier

    def refuse(self, real: Pool, test: Pool, fake: Pool | None = None) -> None:
        """Two classes at least, and each of them among the synthetic images.

        Raises:
            UserError: that is not so.
        """
        known, asked = set(real.labels.tolist()), set(test.labels.tolist())
        if min(len(known), len(asked)) < 2:
            problem = "hold one class in a split, so there are none to tell apart"
            raise UserError(Exit.INPUT, "the real images", problem, "add images of another")
        made = known if fake is None else set(fake.labels.tolist())
        if missing := [self.classes[k] for k in sorted(known - made)]:
            problem = f"hold no image of class {', '.join(missing)}"
            remedy = f"run make generate N={len(real)}, or more"
            raise UserError(Exit.INPUT, "the generated images", problem, remedy)

    def chance(self, real: Pool, test: Pool) -> Mapping[str, float]:
        """Each class that it was trained on is said equally often, whatever the image."""
        said = np.isin(np.arange(len(self.classes)), real.labels)
        asked = np.bincount(test.labels, minlength=len(self.classes))
        table = np.outer(asked, said / said.sum())[None]
        return {name: float(score.values[0]) for name, score in self._named(table, test).items()}

    def train(
        self, pools: Sequence[Pool], policy: str, seed: int, seen: Callable[[int], object]
    ) -> Classifier:
        """Trains one model; see `Task.train`."""
        model = self.untrained(pools[0].images.shape[1], seed)
        model = model.to(memory_format=torch.channels_last).train()
        how = self.training
        self._fit(
            model,
            batches(pools, policy, seed, how.images_seen, self.batch_size, how.balance),
            seen,
        )
        return model.eval()

    def untrained(self, num_channels: int, seed: int = 0) -> Classifier:
        """A model before its training.

        Args:
            num_channels: of the images.
            seed: of the weights.
        """
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return Classifier(len(self.classes), num_channels, self.training.width).to(self.device)

    def predict(self, model: Classifier, images: np.ndarray) -> np.ndarray:
        """The most probable class of each image: int64 [N], index into the classes."""
        return self.probabilities(model, images).argmax(1)

    @torch.no_grad()
    def probabilities(self, model: Classifier, images: np.ndarray) -> np.ndarray:
        """Of each class, float32 [N, classes], for uint8 images [N, C, S, S]."""
        parts = [
            model(self._input(chunk)).softmax(1).cpu()
            for chunk in torch.from_numpy(images).split(_TESTED_AT_ONCE)
        ]
        return torch.cat(parts).numpy()

    def scores(self, outcomes: np.ndarray, test: Pool, weights: np.ndarray) -> Mapping[str, Score]:
        """Macro-F1, balanced accuracy and the recall of each class that is held out."""
        table = recognition.confusions(test.labels, outcomes, weights, len(self.classes))
        return self._named(table, test)

    def _named(self, table: np.ndarray, test: Pool) -> dict[str, Score]:
        whole = np.ones(len(test), bool)
        found = {
            "macro_f1": Score(recognition.macro_f1(table), whole),
            "balanced_accuracy": Score(recognition.balanced_accuracy(table), whole),
        }
        of_classes = recognition.recalls(table)
        for label in np.unique(test.labels):
            name = f"recall/{self.classes[label]}"
            found[name] = Score(of_classes[:, label], test.labels == label)
        return found

    def _fit(
        self,
        model: Classifier,
        data: Iterator[tuple[Tensor, Tensor]],
        seen: Callable[[int], object],
    ) -> None:
        optimizer = torch.optim.AdamW(
            model.parameters(), self.lr, weight_decay=_WEIGHT_DECAY, fused=True
        )
        total = -(-self.training.images_seen // self.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / total))
        for images, labels in data:
            with torch.autocast(self.device.type, torch.bfloat16, self._in_bfloat16):
                logits = model(self._input(images))
            loss = F.cross_entropy(logits.float(), labels.to(self.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            seen(len(images))

    @property
    def _in_bfloat16(self) -> bool:
        return has_native_bf16(self.device.type)

    def _input(self, images: Tensor) -> Tensor:
        images = images.to(self.device).float().div_(127.5).sub_(1)
        return images.contiguous(memory_format=torch.channels_last)


def _rate(done: float) -> float:
    """Share of the highest learning rate when this share of the training is done."""
    return min((done + 0.01) / _WARMUP, 1.0) * (1 + math.cos(math.pi * done)) / 2
