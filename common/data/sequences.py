"""Moments in their order: numbers, gaps, and windows of consecutive ones."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from common.data.manifest import Sample


def usual_step(times: Sequence[Sequence[int]]) -> int:
    """The most frequent difference between neighbours in time, the smaller one of equals.

    Args:
        times: of each sequence, rising. Without any neighbours the step is 1.
    """
    steps = Counter(after - before for one in times for before, after in pairwise(one))
    return min(steps, key=lambda step: (-steps[step], step), default=1)


def numbered(times: Sequence[int], step: int) -> list[int]:
    """Numbers of moments from 0 on: one more after exactly one step, several more otherwise.

    Args:
        times: rising.
        step: from one moment to the next.
    """
    numbers = [0]
    for before, after in pairwise(times):
        apart = after - before
        numbers.append(numbers[-1] + (1 if apart == step else max(2, round(apart / step))))
    return numbers[: len(times)]


def windows_of(samples: Sequence[Sample], frames: int) -> np.ndarray:
    """Positions [N, frames] of all windows of consecutive moments, overlapping, in their order.

    A window lies within one sequence and one split, and its images have one size. Order is that
    of sequences by name, then of time.
    """
    rows = defaultdict(dict)
    for position, one in enumerate(samples):
        rows[(one.sequence, one.split, one.height, one.width)][one.moment] = position
    found = [
        [moments[first + k] for k in range(frames)]
        for _, moments in sorted(rows.items())
        for first in sorted(moments)
        if all(first + k in moments for k in range(frames))
    ]
    return np.array(found, np.int64).reshape(-1, frames)


def apart(windows: np.ndarray) -> np.ndarray:
    """Those of some windows [N, T] that share no moment with an earlier one that is taken."""
    taken: set[int] = set()
    chosen = []
    for number, rows in enumerate(windows.tolist()):
        if taken.isdisjoint(rows):
            taken.update(rows)
            chosen.append(number)
    return np.array(chosen, np.int64)


def describe(samples: Sequence[Sample], left_out: int) -> dict[str, int]:
    """Numbers of sequences, moments, gaps in time and files left out; empty without sequences.

    Args:
        samples: usable ones.
        left_out: files.
    """
    moments = defaultdict(list)
    for sample in samples:
        if sample.sequence:
            moments[sample.sequence].append(sample.moment)
    if not moments:
        return {}
    gaps = sum(
        after - before > 1 for m in moments.values() for before, after in pairwise(sorted(m))
    )
    count = sum(map(len, moments.values()))
    return {"sequences": len(moments), "moments": count, "gaps": gaps, "left_out": left_out}


def told(facts: Mapping[str, int]) -> str:
    """What `describe` found, in a line."""
    return (
        f"sequences: {facts['sequences']} of {facts['moments']} moments, "
        f"{facts['gaps']} gaps in time, {facts['left_out']} files left out"
    )
