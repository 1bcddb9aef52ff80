"""Whether each image shows what its class stands for, as a biologist would check it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from common.metrics.bootstrap import share_interval
from common.metrics.protocol import Record
from common.metrics.sides import Side

STRUCTURE = "structure/"
# Of a label and what was measured of one image: what is as it should be, by name.
Checks = Callable[[str, Mapping[str, float]], Mapping[str, bool]]


def structure_records(
    real: Side, fake: Side, checks: Checks, record: Callable[..., Record]
) -> list[Record]:
    """Share of synthetic images that pass each check, of all and of each class.

    An image on which a scalar cannot be measured fails. What held-out images pass is noted: no
    check can ask for more than it finds there.

    Args:
        real: held-out images with their labels.
        fake: synthetic ones, with the labels that they were asked to be.
        checks: of one image.
        record: gives a record of the evaluation.

    Returns:
        For each check its share of all images, then those of the classes, by name.
    """
    of_real, of_fake = (_passed(side, checks) for side in (real, fake))
    names = sorted({check for label, found in of_fake for check in found})
    labels = sorted({label for label, _ in of_fake})
    found = []
    for name in names:
        for label in ["", *(labels if len(labels) > 1 else [])]:
            passed, beside = (_of(rows, name, label) for rows in (of_fake, of_real))
            if len(passed):
                where = f"{STRUCTURE}{name}{f'/{label}' if label else ''}"
                found.append(record(where, **_share(passed, beside)))
    return found


def _passed(side: Side, checks: Checks) -> list[tuple[str, Mapping[str, bool]]]:
    rows = []
    for index, label in enumerate(side.labels):
        measured = {name: float(values[index]) for name, values in side.biology.items()}
        rows.append((label, checks(label, measured)))
    return rows


def _of(rows: Sequence[tuple[str, Mapping[str, bool]]], name: str, label: str) -> np.ndarray:
    """Verdicts of one check on the images of one class, or of all, that have it."""
    chosen = [found[name] for own, found in rows if name in found and label in ("", own)]
    return np.array(chosen, bool)


def _share(passed: np.ndarray, beside: np.ndarray) -> dict[str, Any]:
    low, high = share_interval(int(passed.sum()), len(passed))
    note = f"of the held-out images {beside.mean():.3f}" if len(beside) else ""
    return {
        "value": float(passed.mean()),
        "low": low,
        "high": high,
        "n_real": len(beside),
        "n_fake": len(passed),
        "note": note,
    }
