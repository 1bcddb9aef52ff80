"""What `generate` draws: label, aspect ratio and size of each image, by its seed alone."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from common.data.canvas import extent_of_aspect
from common.data.datasets import PackedDataset, SeedDataset, SourcedDataset
from common.errors import Exit, UserError
from common.sampling import DETAIL_SEED

# Standard deviations: an extreme aspect ratio or size is no specimen anybody has seen.
_WIDEST = 2.0


def refuse_large_seeds(seed: int, count: int = 1, option: str = "--seed") -> None:
    """Of 2 ** 32 seeds, which is all that noise knows, the upper half is for details of images.

    Args:
        seed: the first one.
        count: seeds from that on.
        option: that names it.

    Raises:
        UserError: one of them would draw noise that another image has.
    """
    if seed + count > DETAIL_SEED:
        seeds = f"{count} seed{'s' * (count > 1)}"
        problem = f"leaves no room for {seeds} below {DETAIL_SEED}, where noise comes again"
        raise UserError(Exit.USAGE, f"{option} {seed}", problem, "choose a lower one")


def plan_seeds(facts: dict[str, Any], seeds: Sequence[int], labels: str) -> SeedDataset:
    """One image a seed.

    Args:
        facts: of the training data.
        seeds: one an image.
        labels: "data" (class frequencies of the training split), "balanced" (the classes in turn),
            or one class.

    Raises:
        UserError: there is no such class.
    """
    chosen = [_label(facts, seed, labels) for seed in seeds]
    size = int(facts["image_size"])
    return SeedDataset(seeds, chosen, [_extent(facts, seed, size) for seed in seeds], size)


def plan_sources(plan: SeedDataset, sources: PackedDataset) -> SourcedDataset:
    """The same seeds and labels, each image made from one of its class, which its seed draws.

    Args:
        plan: of `plan_seeds`.
        sources: images to make others from; each class of the plan is among them.
    """
    labels = sources.labels.numpy()
    rows = [
        int(_generator(seed, "source").choice(np.flatnonzero(labels == label)))
        for seed, label in zip(plan.seeds, plan.labels, strict=True)
    ]
    return SourcedDataset(plan.seeds, sources, rows)


def native_shapes(facts: dict[str, Any], plan: SeedDataset) -> list[tuple[int, int]]:
    """Height and width in pixels of a training image as each seed of a plan draws it.

    The size is log-normal as the training images' is; the aspect ratio is that of the mask.

    Raises:
        UserError: the facts come from a time when sizes were not noted.
    """
    if facts["log_size"] is None:
        problem = "needs the sizes of the training images, which this run does not know"
        raise UserError(Exit.USAGE, "--size native", problem, "train again, or leave it out")
    shapes = []
    for seed, (rows, columns) in zip(plan.seeds, plan.extents, strict=True):
        size, ratio = _drawn(facts, "log_size", seed, "size"), math.log(columns / rows) / 2
        shapes.append((_pixels(size - ratio), _pixels(size + ratio)))
    return shapes


def _label(facts: dict[str, Any], seed: int, labels: str) -> int:
    counts, classes = facts["counts"]["train"], facts["classes"]
    present = [name for name in classes if counts.get(name)]
    if labels not in ("data", "balanced", *present):
        raise UserError(
            Exit.USAGE,
            f"--labels {labels}",
            "is neither data, balanced nor a class that the model was trained on",
            f"choose from {', '.join(['data', 'balanced', *present])}",
        )
    if not present:
        return 0
    if labels in present:
        return classes.index(labels)
    if labels == "balanced":
        return classes.index(present[seed % len(present)])
    weights = np.array([counts[name] for name in present], float)
    chosen = _generator(seed, "label").choice(len(present), p=weights / weights.sum())
    return classes.index(present[chosen])


def _extent(facts: dict[str, Any], seed: int, size: int) -> tuple[int, int]:
    if facts["fit"] == "squash":
        return size, size
    return extent_of_aspect(_log_aspect(facts, seed), size)


def _log_aspect(facts: dict[str, Any], seed: int) -> float:
    return _drawn(facts, "log_aspect", seed, "aspect")


def _drawn(facts: dict[str, Any], name: str, seed: int, purpose: str) -> float:
    mean, deviation = facts[name]
    drawn = float(np.clip(_generator(seed, purpose).normal(), -_WIDEST, _WIDEST))
    return mean + deviation * drawn


def _pixels(log_length: float) -> int:
    return max(1, round(math.exp(log_length)))


def _generator(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng([seed, *purpose.encode()])
