"""Grey values that become -1 and 1: of all channels, of each of them, or of each sequence.

A window is (low, high), or one such pair a channel. Where every sequence is brought to its own
levels, these are kept in `levels.csv`, and the window of the data set is the median over the
training sequences: it gives generated images their grey values.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.data.manifest import SPLITS, Sample, of_split
from common.data.packing import Storage, percentiles, window
from common.tables import from_csv, named_cells, to_csv

Window = Sequence[float] | Sequence[Sequence[float]]
LEVELS = "levels.csv"
# Percent of a sequence's pixels in one channel: a hot pixel is not the white of all its frames.
_ENDS = (0.1, 99.9)


def is_per_channel(rule: Any) -> bool:
    """Whether a data card's window names channels."""
    return isinstance(rule, dict) and "percentiles" not in rule


def card_window(
    rule: Any, channels: Sequence[str], storage: Storage, training: Path
) -> tuple[float, float] | list[tuple[float, float]]:
    """The window of a data set by the card's rule, which may name channels; see `packing.window`.

    Args:
        rule: of the card.
        channels: of the packed pixels.
        storage: of the packed pixels.
        training: packed training split.

    Raises:
        UserError: a window comes down to one grey value.
    """
    if not is_per_channel(rule):
        return window(rule, storage, training)
    return [window(rule[name], storage, training, k) for k, name in enumerate(channels)]


def ends(chosen: Window, ndim: int = 3) -> tuple[Any, Any]:
    """Lower and upper end: two numbers, or float32 arrays [C, 1, ...] for images of ``ndim`` axes.

    Args:
        chosen: a window.
        ndim: axes of one image, channels first.
    """
    if np.ndim(chosen) == 1:
        low, high = chosen
        return low, high
    low, high = np.asarray(chosen, np.float32).T.reshape(2, -1, *[1] * (ndim - 1))
    return low, high


def text_of(chosen: Window, channels: Sequence[str]) -> str:
    """A window in words, such as "0 to 255", or "BF 90 to 4000, GFP 150 to 2350"."""
    if np.ndim(chosen) == 1:
        return "{:g} to {:g}".format(*chosen)
    pairs = zip(channels, chosen, strict=True)
    return ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in pairs)


def write_levels(folder: Path, samples: Sequence[Sample], storage: Storage) -> None:
    """Measures every sequence in the packed pixels of a folder and writes `levels.csv`.

    Args:
        folder: with `<split>.npy` [N, C, S, S].
        samples: of all splits, numbered.
        storage: of the packed pixels.
    """
    table: list[Sequence[object]] = [("split", "sequence", "channel", "low", "high")]
    for split in SPLITS:
        packed = np.load(folder / f"{split}.npy", mmap_mode="r")
        rows = defaultdict(list)
        for sample in of_split(samples, split):
            rows[sample.sequence].append(sample.index)
        for name, members in sorted(rows.items()):
            for channel in range(packed.shape[1]):
                found = percentiles(packed[members, channel], _ENDS)
                low, high = (value * storage.scale + storage.offset for value in found)
                # Of a sequence without contrast no grey value is the upper end.
                table.append((split, name, channel, low, high if high > low else low + 1))
    (folder / LEVELS).write_bytes(to_csv(table))


def read_levels(folder: Path, split: str) -> dict[str, np.ndarray]:
    """Lower and upper grey value of every channel, float32 [C, 2], by the name of the sequence."""
    found = defaultdict(list)
    for row in named_cells(from_csv((folder / LEVELS).read_bytes())):
        if row["split"] == split:
            found[row["sequence"]].append((float(row["low"]), float(row["high"])))
    return {name: np.array(pairs, np.float32) for name, pairs in found.items()}


def median_levels(folder: Path) -> list[tuple[float, float]]:
    """Of the training sequences: lower and upper grey value of each channel."""
    middle = np.median(np.stack([*read_levels(folder, "train").values()]).astype(np.float64), 0)
    return [(float(low), float(high)) for low, high in middle]
