"""How far continued sequences are from what came, beside sequences that stand still.

Every sequence counts once: intervals are over sequences, whose frames are no independent draws.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from common.metrics.bootstrap import bootstrap_interval, parts_interval
from common.metrics.distributions import MIN_VALUES, finite
from common.metrics.kinds import CONTINUATION
from common.metrics.protocol import Measured, MetricRefused, Record, attempt

# Percentiles of training frames: lowest and highest are wider the more frames are looked at.
_CENTRAL = (2.5, 97.5)
# Of numbers about the last known frame, which is shown again and again; no model is in them.
REPEATED = "repeated_"
# Mean square of rounding to 8 bits, in units of the window: frames that agree better are alike.
_ROUNDING = 1 / 12 / 255**2


class Errors(NamedTuple):
    """Of N sequences, C channels and T steps; each [N, C, T].

    Attributes:
        mae: mean absolute error of a frame, in units of the window.
        psnr: in dB.
    """

    mae: np.ndarray
    psnr: np.ndarray


class Followed(NamedTuple):
    """One scalar of single frames; NaN where it cannot be measured.

    Attributes:
        known: of the first known frame of each sequence [N].
        added: of each added frame [N, A].
        true: of the frames that came [N, T].
        training: of training frames [M].
    """

    known: np.ndarray
    added: np.ndarray
    true: np.ndarray
    training: np.ndarray


def frame_errors(frames: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean absolute error and peak signal-to-noise ratio of each channel and frame, both [C, T].

    Args:
        frames: floats [C, T, H, W] in [0, 1] of the window, or one frame [C, 1, H, W] for all.
        truth: [C, T, H, W].

    Returns:
        The error in units of the window, and the ratio in dB for a peak of 1; it is at most 58.9,
        as of frames that differ by rounding to 8 bits.
    """
    off = frames.astype(np.float64) - truth
    square = np.maximum((off**2).mean((2, 3)), _ROUNDING)
    return np.abs(off).mean((2, 3)), -10 * np.log10(square)


def error_records(
    made: Errors, repeated: Errors, channels: Sequence[str], record: Callable[..., Record]
) -> list[Record]:
    """Errors of both, and how much smaller those of the model are; of all steps, then of each.

    Args:
        made: of the continued sequences.
        repeated: of the last known frame against the same frames.
        channels: their names.
        record: makes a record of a name, whether the model is in it, a unit and what was measured.
    """
    found = {}
    for name, unit, sign in (("mae", "", -1), ("psnr", "dB", 1)):
        own, other = getattr(made, name), getattr(repeated, name)
        found |= {name: (True, unit, own), f"{REPEATED}{name}": (False, unit, other)}
        found[f"{name}_gain"] = (True, unit, sign * (own - other))
    steps = [("", slice(None)), *((f"/step_{k + 1}", [k]) for k in range(made.mae.shape[2]))]
    return [
        record(f"{CONTINUATION}{name}/{channel}{step}", ours, unit=unit, **measured._asdict())
        for step, chosen in steps
        for name, (ours, unit, values) in found.items()
        for k, channel in enumerate(channels)
        for measured in [attempt(mean, values[:, k, chosen].mean(1))]
    ]


def followed_records(
    name: str, unit: str, seen: Followed, training: str, record: Callable[..., Record]
) -> list[Record]:
    """Where a scalar begins and where it ends, and whether it stays where training frames are.

    Args:
        name: of the scalar.
        unit: of its values.
        seen: these.
        training: which frames its range is that of, in words.
        record: makes a record of a name, whether the model is in it, a unit and what was measured.

    Returns:
        Medians of the first known and of the last added frame, and the share of added frames
        within the central 95 % of training ones; what cannot be measured is outside.
    """
    shown = seen.true.shape[1] == seen.added.shape[1]
    true = finite(seen.true[:, -1])[0] if shown else np.empty(0)
    beside = f"of the true frames {np.median(true):.4g}" if len(true) else ""
    found = {
        "first_known": (False, unit, attempt(_median, seen.known, "")),
        "last_added": (True, unit, attempt(_median, seen.added[:, -1], beside)),
        "within_training": (True, "", attempt(_within, seen, training)),
    }
    return [
        record(f"{CONTINUATION}{name}/{key}", ours, unit=of, **measured._asdict())
        for key, (ours, of, measured) in found.items()
    ]


def mean(values: np.ndarray, note: str = "") -> Measured:
    """Mean of sequences with Student's t interval; none of one, or where all are alike.

    Args:
        values: one number a sequence [N].
        note: what is to be said besides.

    Raises:
        MetricRefused: some are no numbers: the mean of the others would be that of the best.
    """
    if lost := finite(values)[1]:
        raise MetricRefused(f"{lost} of {len(values)} sequences have values that are no numbers.")
    value, deviation = float(values.mean()), float(values.std())
    if len(values) < 2 or deviation < 1e-12:
        return Measured(value, note=note)
    return Measured(value, *parts_interval(value, deviation, len(values)), note=note)


def _median(values: np.ndarray, note: str) -> Measured:
    """With an interval where there are values enough to draw from again."""
    kept, lost = finite(values)
    if not len(kept):
        raise MetricRefused(f"Measurable in none of {lost} frames.")
    note = "; ".join(filter(None, [note, f"{lost} more not measurable" if lost else ""]))
    if len(kept) < MIN_VALUES:
        return Measured(float(np.median(kept)), note=note)
    return Measured(float(np.median(kept)), *bootstrap_interval(np.median, kept), note=note)


def _within(seen: Followed, training: str) -> Measured:
    kept = finite(seen.training)[0]
    if not len(kept):
        raise MetricRefused(f"Measurable in none of {training}.")
    low, high = np.percentile(kept, _CENTRAL)

    def share(values: np.ndarray) -> np.ndarray:
        return ((values >= low) & (values <= high)).mean(1)

    true = f"; of the true frames {share(seen.true).mean():.3f}"
    found = mean(share(seen.added), f"{low:.4g} to {high:.4g}{true}")
    found = found._replace(rule=f"range of the central 95 % of {training}")
    if found.low is None:
        return found
    return found._replace(low=max(0.0, found.low), high=min(1.0, found.high))
