"""The task of telling classes apart, as a judge of images."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common.errors import Exit, UserError
from common.networks.classifier import Classifier
from common.utility.pools import Pool, batches

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
        width: channels of the first of four stages.
        images_seen: training images of one model, repeats counted.
        batch_size: images a step.
        lr: highest learning rate of AdamW.
    """

    classes: Sequence[str]
    device: torch.device
    width: int = 16
    images_seen: int = 12_000
    batch_size: int = 32
    lr: float = 3e-3

    # What the score is a mean of: the share of a class that is recognised, each class alike.
    score = "balanced_accuracy"

    @property
    def rule(self) -> str:
        """One line that tells the judge from another."""
        return (
            f"classifier width {self.width}, {self.images_seen} images, "
            f"batch {self.batch_size}, AdamW {self.lr:g} decay {_WEIGHT_DECAY:g}"
        )

    def refuse(self, real: Pool, fake: Pool, test: Pool) -> None:
        """Two classes at least, and each of them among the synthetic images.

        Raises:
            UserError: that is not so.
        """
        known, asked = set(real.labels.tolist()), set(test.labels.tolist())
        if min(len(known), len(asked)) < 2:
            problem = "hold one class, so there are none to tell apart"
            raise UserError(Exit.INPUT, "the held-out images", problem, "add images of another")
        if missing := [self.classes[k] for k in sorted(known - set(fake.labels.tolist()))]:
            problem = f"hold no image of class {', '.join(missing)}"
            remedy = f"run make generate N={len(real)}, or more"
            raise UserError(Exit.INPUT, "the generated images", problem, remedy)

    def chance(self, real: Pool) -> float:
        """One of the classes that it was trained on is right."""
        return 1 / len(np.unique(real.labels))

    def hits(
        self,
        pools: Sequence[Pool],
        test: Pool,
        policy: str,
        seed: int,
        seen: Callable[[int], object],
    ) -> np.ndarray:
        """Trains one model and tests it.

        Args:
            pools: to train on; each is drawn from equally often.
            test: to test on.
            policy: augmentation of the training images.
            seed: of the initial weights, of drawing and of augmentation.
            seen: told the number of images of each step.

        Returns:
            float64 [N_test]: 1 where the class was recognised, else 0.
        """
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            channels = test.images.shape[1]
            model = Classifier(len(self.classes), channels, self.width).to(self.device)
        model = model.to(memory_format=torch.channels_last).train()
        data = batches(pools, policy, seed, self.images_seen, self.batch_size)
        self._train(model, data, seen)
        model.eval()
        right = []
        with torch.no_grad():
            for start in range(0, len(test), _TESTED_AT_ONCE):
                chunk = torch.from_numpy(test.images[start : start + _TESTED_AT_ONCE])
                right.append(model(self._input(chunk)).argmax(1).cpu().numpy())
        return (np.concatenate(right) == test.labels).astype(np.float64)

    def _train(
        self,
        model: Classifier,
        data: Iterator[tuple[Tensor, Tensor]],
        seen: Callable[[int], object],
    ) -> None:
        optimizer = torch.optim.AdamW(model.parameters(), self.lr, weight_decay=_WEIGHT_DECAY)
        total = -(-self.images_seen // self.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / total))
        for images, labels in data:
            loss = F.cross_entropy(model(self._input(images)), labels.to(self.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            seen(len(images))

    def _input(self, images: Tensor) -> Tensor:
        images = images.to(self.device).float().div_(127.5).sub_(1)
        return images.contiguous(memory_format=torch.channels_last)


def _rate(done: float) -> float:
    """Share of the highest learning rate when this share of the training is done."""
    return min((done + 0.01) / _WARMUP, 1.0) * (1 + math.cos(math.pi * done)) / 2
