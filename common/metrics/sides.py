"""One set of images or clips as an evaluation sees it: features, not pixels."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.metrics.features import Embedder, Embedding
from common.metrics.protocol import MetricRefused, sentence


@dataclass(frozen=True)
class Side:
    """One set of images as it was seen; the images themselves are not kept.

    Attributes:
        count: images.
        shape: [C, H, W] of each, or [T, C, H, W] of clips.
        features: [N, D], None where there can be none, and `refusal` says why.
        biology: biological scalars by name, one value an image.
        refusal: one sentence, or "".
        logits: [N, C * classes], None where the extractor has no classes.
        labels: class of each image; empty where there are none, as of frames.
        frames: consecutive images that are those of one sequence.
    """

    count: int
    shape: tuple[int, ...]
    features: Tensor | None
    biology: Mapping[str, np.ndarray]
    refusal: str = ""
    logits: Tensor | None = None
    labels: Sequence[str] = ()
    frames: int = 1

    @property
    def sequences(self) -> int:
        """How many there are, or images where each stands for itself."""
        return self.count // self.frames

    def of_class(self, name: str) -> "Side":
        """What was seen of the images of one class; there must be features."""
        rows = where(self.labels, name)
        return replace(
            self,
            count=int(rows.sum()),
            features=self.features[rows],
            biology={scalar: values[rows.numpy()] for scalar, values in self.biology.items()},
            logits=None if self.logits is None else self.logits[rows],
            labels=[name] * int(rows.sum()),
        )


def where(labels: Sequence[str], name: str) -> Tensor:
    """Which images are of a class: bool [N]."""
    return torch.tensor([label == name for label in labels], dtype=torch.bool)


def look(
    images: Iterable[tuple[np.ndarray, Mapping[str, float]]],
    extractor: Embedder,
    labels: Sequence[str] = (),
    device: torch.device | str = "cpu",
) -> Side:
    """Takes in images one by one.

    Args:
        images: uint8 [C, H, W] of one shape, each with its biological scalars.
        extractor: what turns them into features.
        labels: class of each image, or none at all.
        device: where the extractor looks.

    Raises:
        ValueError: there are more or fewer labels than images.
    """
    looking = Looking(extractor, device)
    for image, measured in images:
        looking.add(image, measured)
    return looking.side(labels)


def look_at_clips(
    clips: Iterable[np.ndarray], extractor: Embedder, device: torch.device | str = "cpu"
) -> Side:
    """Takes in clips one by one.

    Args:
        clips: uint8 [T, C, H, W] of one shape.
        extractor: a `clip_features.ClipExtractor`.
        device: where it looks.
    """
    return look(((clip, {}) for clip in clips), extractor, device=device)


class Looking:
    """As `look`, for images or clips that are handed over one by one.

    Args:
        extractor: what turns them into features.
        device: where it looks.
    """

    def __init__(self, extractor: Embedder, device: torch.device | str = "cpu") -> None:
        self._embedding = Embedding(extractor, device)
        self._shape: tuple[int, ...] = ()
        self._scalars: list[Mapping[str, float]] = []
        self._refusal = ""

    def add(self, image: np.ndarray, measured: Mapping[str, float] = MappingProxyType({})) -> None:
        """Takes in one image, uint8, with its biological scalars."""
        self._shape = self._shape or image.shape
        self._scalars.append(measured)
        # What is refused once is not looked at again, and still counted.
        if not self._refusal:
            self._attempt(lambda: self._embedding.add(image))

    def side(self, labels: Sequence[str] = (), frames: int = 1) -> Side:
        """All that was seen.

        Args:
            labels: as of `look`, and so the error.
            frames: consecutive images that are those of one sequence.
        """
        count = len(self._scalars)
        if len(labels) not in (0, count):
            raise ValueError(f"there are {len(labels)} labels of {count} images")
        found = None if self._refusal else self._attempt(self._embedding.result)
        features, logits = found or (None, None)
        names = self._scalars[0] if self._scalars else {}
        biology = {name: np.array([row[name] for row in self._scalars]) for name in names}
        return Side(count, self._shape, features, biology, self._refusal, logits, labels, frames)

    def _attempt(self, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except MetricRefused as refused:
            self._refusal = sentence(refused)
            return None
