"""One set of images or clips as an evaluation sees it: features, not pixels."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from common.metrics.features import Embedder, embed
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
        labels: class of each image; empty where there are none.
    """

    count: int
    shape: tuple[int, ...]
    features: Tensor | None
    biology: Mapping[str, np.ndarray]
    refusal: str = ""
    logits: Tensor | None = None
    labels: Sequence[str] = ()

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
    shapes, scalars = [], []

    def pixels() -> Iterator[np.ndarray]:
        for image, measured in images:
            shapes.append(image.shape)
            scalars.append(measured)
            yield image

    stream = pixels()
    features, logits, refusal = None, None, ""
    try:
        features, logits = embed(stream, extractor, device)
    except MetricRefused as refused:
        refusal = sentence(refused)
        for _ in stream:
            pass
    if len(labels) not in (0, len(shapes)):
        raise ValueError(f"there are {len(labels)} labels of {len(shapes)} images")
    names = scalars[0] if scalars else {}
    biology = {name: np.array([row[name] for row in scalars]) for name in names}
    shape = shapes[0] if shapes else ()
    return Side(len(shapes), shape, features, biology, refusal, logits, labels)


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
