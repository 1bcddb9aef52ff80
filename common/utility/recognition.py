"""How well classes are recognised, as pure functions of a table of asked and recognised class."""

from collections.abc import Sequence

import numpy as np


def confusions(
    asked: np.ndarray, recognised: np.ndarray, weights: np.ndarray, num_classes: int
) -> np.ndarray:
    """How often each class was recognised as each: float64 [D, asked, recognised].

    Args:
        asked: int64 [N], what is right.
        recognised: int64 [N], what was said.
        weights: float64 [D, N], how often each draw holds each image.
        num_classes: K.
    """
    pairs = asked * num_classes + recognised
    counts = [np.bincount(pairs, draw, num_classes**2) for draw in weights]
    return np.array(counts, np.float64).reshape(-1, num_classes, num_classes)


def recalls(table: np.ndarray) -> np.ndarray:
    """Share of each class that is recognised, [D, K]; NaN where a draw does not hold the class.

    Args:
        table: of `confusions`.
    """
    return _share(_right(table), table.sum(2))


def f1_scores(table: np.ndarray) -> np.ndarray:
    """F1 of each class, 2 TP / (2 TP + FP + FN), [D, K]; NaN as in `recalls`.

    Args:
        table: of `confusions`.
    """
    held = table.sum(2)
    return np.where(held > 0, _share(2 * _right(table), held + table.sum(1)), np.nan)


def balanced_accuracy(table: np.ndarray, classes: Sequence[int] | None = None) -> np.ndarray:
    """Mean recall [D] of the classes that a draw holds, each class alike.

    Args:
        table: of `confusions`.
        classes: those whose images count; what is recognised may be any. None for all.
    """
    of_classes = recalls(table)
    return _mean(of_classes if classes is None else of_classes[:, list(classes)])


def accuracy(table: np.ndarray) -> np.ndarray:
    """Share [D] of the images that are recognised, each image alike.

    Args:
        table: of `confusions`.
    """
    return _share(_right(table).sum(1), table.sum((1, 2)))


def macro_f1(table: np.ndarray) -> np.ndarray:
    """Mean F1 [D] of the classes that a draw holds, each class alike.

    Args:
        table: of `confusions`.
    """
    return _mean(f1_scores(table))


def _right(table: np.ndarray) -> np.ndarray:
    return np.diagonal(table, axis1=1, axis2=2)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def _mean(of_classes: np.ndarray) -> np.ndarray:
    return _share(np.nansum(of_classes, 1), (~np.isnan(of_classes)).sum(1))
