"""Records of biological scalars: how two sets of images agree in one, and how often it is there."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from common.metrics import bootstrap, distributions
from common.metrics.protocol import Measured, Record, attempt

# Share of images on which a biological scalar may be unmeasurable before it is refused.
MAX_LOST = 0.2


def measurable(real: Mapping[str, np.ndarray], fake: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Share of synthetic images on which the scalar that fails most often can be measured.

    Args:
        real: values by name of scalar; beside which the share is noted, where it has the scalar.
        fake: values by name of scalar, at least one.

    Returns:
        Fields of a record.
    """
    worst = min(fake, key=lambda name: np.isfinite(fake[name]).mean())
    seen = np.isfinite(fake[worst])
    low, high = bootstrap.share_interval(int(seen.sum()), len(seen))
    beside = f"; of the real images {np.isfinite(real[worst]).mean():.3f}" if worst in real else ""
    return {
        "value": float(seen.mean()),
        "low": low,
        "high": high,
        "note": f"lowest for {worst}{beside}",
    }


def biology_records(
    name: str,
    real: np.ndarray | None,
    fake: np.ndarray | None,
    unit: str,
    record: Callable[..., Record],
) -> list[Record]:
    """Wasserstein and Kolmogorov-Smirnov distance of one scalar, with a note on what was lost.

    Args:
        name: of the scalar.
        real: its values on the real images, None where it is not measured on them.
        fake: likewise.
        unit: of the scalar.
        record: makes a record of this evaluation.
    """
    measures = {
        f"wasserstein/{name}": (distributions.wasserstein, {"unit": unit}),
        f"kolmogorov_smirnov/{name}": (distributions.kolmogorov_smirnov, {}),
    }
    if real is None or fake is None:
        note = f"Measured on the {'synthetic' if real is None else 'real'} images only."
        return [record(key, value=None, note=note, **of) for key, (_, of) in measures.items()]
    (real, lost_real), (fake, lost_fake) = distributions.finite(real), distributions.finite(fake)
    counts = f"{len(real)} real and {len(fake)} synthetic values"
    note = f"{counts}, {lost_real} and {lost_fake} more not measurable"
    # What is left would be the best of a set, and its distance no statement about the set.
    selected = any(_is_selected(*side) for side in ((real, lost_real), (fake, lost_fake)))
    refused = Measured(None, note=f"Measurable on too few images: {note}.")
    records = []
    for key, (distance, of) in measures.items():
        found = refused if selected else attempt(_with_interval, distance, real, fake)
        records.append(record(key, **of, **found._replace(note=found.note or note)._asdict()))
    return records


def _is_selected(values: np.ndarray, lost: int) -> bool:
    return lost > MAX_LOST * (len(values) + lost)


def _with_interval(
    distance: distributions.Distance, real: np.ndarray, fake: np.ndarray
) -> Measured:
    return Measured(distance(real, fake), *distributions.interval(distance, real, fake))
