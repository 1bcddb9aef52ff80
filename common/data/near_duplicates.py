"""Pictures that look the same although their pixels differ: saved again, brighter, cut by a little.

Each image becomes 255 numbers, the lower frequencies of its cosine transform, which leave out its
brightness, its contrast and the finest grain. They are measured against the spread of the whole
set, so what all images of a set have in common makes no two of them alike. A flip only changes
signs, a turn by 90 degrees also exchanges rows and columns, so all eight orientations are
compared: first the signs of the 64 lowest frequencies, which is quick, then all numbers of pairs
with almost the same signs, by their cosine.

Measured on simulated cross-sections of cilia, which all look much alike:

- independent images: none of 72 million pairs reaches `THRESHOLD`, the highest 0.68. The signs
  alone take 1 pair in 240 for alike. Nor do any of 5,000 noisy images of one round spot each;
- copies: 1000 of 1000 are found each time after JPEG of quality 50, 25 grey levels more, a gain of
  1.2, a gamma of 0.8, noise of 20 grey levels, at half the size, and cut by up to 2 %, turned,
  noisy and saved as JPEG all at once; 998 with exactly 2 % cut off at every edge. Of those cut by
  up to 5 % at each edge half are, with exactly 5 % none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from common.data.manifest import SPLITS, Sample
from common.errors import visible
from common.preprocess.geometry import resize

THRESHOLD = 0.72
_SIDE = 32
# (down, across), without that of the brightness.
_FREQUENCIES = np.array([(u, v) for u in range(16) for v in range(16) if u + v])
_TRANSPOSED = np.array([_FREQUENCIES.tolist().index([v, u]) for u, v in _FREQUENCIES])
# The 64 lowest, without the one that would be the 65th: its transposed is itself.
_LOWEST = np.array([u + v <= 10 and (u, v) != (5, 5) for u, v in _FREQUENCIES])
_COSINES = np.cos(np.pi / _SIDE * np.outer(np.arange(16), np.arange(_SIDE) + 0.5))
# Of the 64 signs, those that may differ before two images are compared in full.
_CLOSE = 16
# Images of one block of pairs, and pairs that are compared in full at once.
_ROWS, _COLUMNS, _PAIRS = 64, 512, 8192


@dataclass(frozen=True)
class NearDuplicate:
    """Two images of different splits that look the same.

    Attributes:
        first: name of the one file.
        second: name of the other.
        first_split: split of the one.
        second_split: split of the other.
        similarity: cosine of their descriptors, `THRESHOLD` to 1.
    """

    first: str
    second: str
    first_split: str
    second_split: str
    similarity: float

    def __str__(self) -> str:
        first, second = visible(self.first), visible(self.second)
        return f"{first} ({self.first_split}) and {second} ({self.second_split})"


def descriptor(pixels: np.ndarray) -> np.ndarray:
    """255 numbers of length 1, float32, that say what an image [..., H, W] shows on the whole."""
    mean = pixels.mean(tuple(range(pixels.ndim - 2)), dtype=np.float64)
    small = resize(mean[None], _SIDE, _SIDE)[0]
    spectrum = _COSINES @ small @ _COSINES.T
    return _unit(spectrum[tuple(_FREQUENCIES.T)]).astype(np.float32)


def standardised(descriptors: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Descriptors in units of the spread of a set and its orientations, again of length 1.

    Args:
        descriptors: [N, 255].
        known: [M, 255], of the set that is not empty.

    Returns:
        [N, 255] float32.
    """
    mean = orientations(known.mean(0, keepdims=True)).mean(0)
    square = (known.astype(np.float64) ** 2).mean(0)
    variance = np.maximum((square + square[_TRANSPOSED]) / 2 - mean[0] ** 2, 1e-12)
    return _unit((descriptors - mean) / np.sqrt(variance)).astype(np.float32)


def orientations(descriptors: np.ndarray) -> np.ndarray:
    """[N, 255] as [8, N, 255]: all flips and rotations of the images, without the images."""
    down, across = np.where(_FREQUENCIES % 2, -1, 1).astype(descriptors.dtype).T
    flips = [descriptors * signs for signs in (down * down, down, across, down * across)]
    return np.stack(flips + [flip[:, _TRANSPOSED] for flip in flips])


def across_splits(
    samples: Sequence[Sample], descriptors: np.ndarray, most: int = 1000
) -> tuple[int, list[NearDuplicate]]:
    """Pairs of images that look the same in any flip or rotation and lie in different splits.

    Files with equal pixels are left out: `leakage` has them. 5,000 images take 0.3 s and 100,000
    70 s on one core.

    Args:
        samples: with split and hash of the pixels.
        descriptors: [N, 255], of the samples in their order.
        most: pairs that are returned; the most similar ones where there are more.

    Returns:
        How many pairs there are, and the most similar of them, most similar first.
    """
    standard = standardised(descriptors, descriptors) if len(descriptors) else descriptors
    pictures = np.unique([sample.pixels_sha256 for sample in samples], return_inverse=True)[1]
    splits = np.array([sample.split for sample in samples])
    count, closest = 0, np.empty((0, 3))
    for one, other in combinations(SPLITS, 2):
        rows, columns = np.flatnonzero(splits == one), np.flatnonzero(splits == other)
        for top, left, similarity in _alike(standard[rows], standard[columns]):
            pairs = np.stack([rows[top], columns[left], similarity], 1)
            pairs = pairs[pictures[rows[top]] != pictures[columns[left]]]
            count += len(pairs)
            closest = np.concatenate([closest, pairs])
            closest = closest[np.argsort(-closest[:, 2], kind="stable")[:most]]
    return count, [_pair(samples[int(i)], samples[int(j)], float(x)) for i, j, x in closest]


def _pair(first: Sample, second: Sample, similarity: float) -> NearDuplicate:
    splits = first.split, second.split
    return NearDuplicate(first.name, second.name, *splits, round(min(similarity, 1.0), 2))


def _alike(
    rows: np.ndarray, columns: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Positions and similarities of the pairs, block by block; blocks without any are left out."""
    row_signs = _signs(rows)
    for left in range(0, len(columns), _COLUMNS):
        views = orientations(columns[left : left + _COLUMNS])
        signs = _signs(views)[:, None]
        for top in range(0, len(rows), _ROWS):
            block = row_signs[top : top + _ROWS, None]
            # One orientation after the other: a block then stays in the cache.
            close = [np.bitwise_count(block ^ turned) <= _CLOSE for turned in signs]
            if any(map(np.any, close)):
                view, first, second = np.nonzero(close)
                similarity = _cosines(rows, views, first + top, (view, second))
                yield _once(first + top, second + left, similarity)


def _cosines(
    rows: np.ndarray, views: np.ndarray, first: np.ndarray, second: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    parts = [np.empty(0, np.float32)]
    for start in range(0, len(first), _PAIRS):
        here = slice(start, start + _PAIRS)
        turned = views[second[0][here], second[1][here]]
        parts.append(np.einsum("nk,nk->n", rows[first[here]], turned))
    return np.concatenate(parts)


def _once(
    first: np.ndarray, second: np.ndarray, similarity: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Those that reach the threshold, each pair in its best orientation."""
    order = np.flatnonzero(similarity >= THRESHOLD)
    order = order[np.argsort(-similarity[order], kind="stable")]
    order = order[np.unique(np.stack([first, second], 1)[order], axis=0, return_index=True)[1]]
    return first[order], second[order], similarity[order]


def _signs(descriptors: np.ndarray) -> np.ndarray:
    """Of the 64 lowest frequencies: [..., 255] as [...] of uint64."""
    bits = np.packbits(descriptors[..., _LOWEST] > 0, axis=-1)
    return np.ascontiguousarray(bits).view(np.uint64)[..., 0]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
