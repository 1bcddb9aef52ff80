"""Images that occur more than once: joined before a split is drawn, refused after it.

Everything goes by hash tables, so the cost grows with the number of images, not of pairs.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.data.augment import orient
from common.data.manifest import Sample
from common.data.splits import group_of
from common.errors import Exit, UserError, visible

_SHOWN = 3


@dataclass(frozen=True)
class Leak:
    """Two images that must not stand where they stand, or that were joined because of it.

    Attributes:
        kind: "same bytes", "same pixels" (in any flip or rotation), "derivative name",
            "same group", or "contradictory label": the same picture in two classes.
        first: name of the one file.
        second: name of the other.
        first_split: split of the one, "" while undecided.
        second_split: split of the other.
    """

    kind: str
    first: str
    second: str
    first_split: str = ""
    second_split: str = ""

    def __str__(self) -> str:
        first, second = _named(self.first, self.first_split), _named(self.second, self.second_split)
        return f"{self.kind}: {first} and {second}"


def pixels_digest(pixels: np.ndarray) -> str:
    """SHA-256 of decoded pixels, the same for all eight flips and rotations.

    Hashed is the orientation whose bytes come first in lexicographic order, among those that are
    not wider than high where the sides differ. Shape and type count, byte order does not. A grey
    image stored as RGB with equal channels has the digest of the grey one only if it was collapsed
    to one channel before.

    Args:
        pixels: [C, H, W], or [H, W], which counts as one channel.
    """
    planes = pixels.reshape(-1, *pixels.shape[-2:])
    planes = planes.astype(planes.dtype.newbyteorder("<"), copy=False)
    views = [orient(planes, element) for element in range(8)]
    upright = [view for view in views if view.shape[-1] <= view.shape[-2]]
    # The bytes begin with the first row, which mostly decides without copying whole images.
    first_rows = [view[0, 0].tobytes() for view in upright]
    smallest = min(first_rows)
    tied = [view for view, row in zip(upright, first_rows, strict=True) if row == smallest]
    digest = hashlib.sha256(f"{planes.dtype.str} {upright[0].shape}".encode())
    digest.update(min(view.tobytes() for view in tied))
    return digest.hexdigest()


def merge_duplicates(
    samples: Sequence[Sample], derivative_suffixes: Sequence[str]
) -> tuple[list[Sample], list[Leak]]:
    """Joins the groups of samples with the same bytes, pixels or original name.

    A split by group then cannot separate them.

    Args:
        samples: with group and hashes; an empty hash matches nothing.
        derivative_suffixes: as for `splits.group_of`.

    Returns:
        The samples in the order given, where joined groups carry the first of their names; and
        one finding for each join.
    """
    leader = {sample.group: sample.group for sample in samples}
    findings = []
    for kind, alike in _alike(samples, _duplicate_keys(derivative_suffixes)):
        for other in alike[1:]:
            ends = sorted((_root(leader, alike[0].group), _root(leader, other.group)))
            if ends[0] != ends[1]:
                leader[ends[1]] = ends[0]
                findings.append(Leak(kind, alike[0].name, other.name))
    return [replace(sample, group=_root(leader, sample.group)) for sample in samples], findings


def audit(samples: Sequence[Sample], derivative_suffixes: Sequence[str]) -> list[Leak]:
    """Everything that crosses from one split into another, and pictures with two labels.

    Args:
        samples: with split, group and hashes; an empty hash matches nothing.
        derivative_suffixes: as for `splits.group_of`.

    Returns:
        Each pair once, under the first kind that applies; of many alike, each one that lies in
        another split than the first of them.
    """
    duplicates = _duplicate_keys(derivative_suffixes)
    leaks: dict[tuple[str, str], Leak] = {}
    contradictions: dict[tuple[str, str], Leak] = {}
    for kind, alike in _alike(samples, duplicates | {"same group": lambda sample: sample.group}):
        first = alike[0]
        for other in alike[1:]:
            pair = (first.name, other.name)
            if first.split != other.split:
                leaks.setdefault(pair, Leak(kind, *pair, first.split, other.split))
            if first.label != other.label and kind in ("same bytes", "same pixels"):
                contradictory = Leak("contradictory label", *pair, first.split, other.split)
                contradictions.setdefault(pair, contradictory)
    return [*leaks.values(), *contradictions.values()]


def refuse_leaks(leaks: Sequence[Leak], report: str = "") -> None:
    """Raises if there is any leak; names the first few.

    Args:
        leaks: from `audit`.
        report: file that holds all of them, as messages show it.

    Raises:
        UserError: ``leaks`` is not empty.
    """
    if not leaks:
        return
    shown = "; ".join(str(leak) for leak in leaks[:_SHOWN])
    more = f"; and {len(leaks) - _SHOWN} more" if len(leaks) > _SHOWN else ""
    where = f" (all are in {report})" if report else ""
    count = "1 pair of images leaks" if len(leaks) == 1 else f"{len(leaks)} pairs of images leak"
    raise UserError(
        Exit.INPUT,
        leaks[0].second,
        f"{count} between splits or contradict each other: {shown}{more}",
        f"keep one of each pair{where}, correct its label, or name its `group` in the data card",
    )


def _named(name: str, split: str) -> str:
    return f"{visible(name)} ({split})" if split else visible(name)


def _duplicate_keys(suffixes: Sequence[str]) -> dict[str, Callable[[Sample], str]]:
    return {
        "same bytes": lambda sample: sample.sha256,
        "same pixels": lambda sample: sample.pixels_sha256,
        "derivative name": lambda sample: group_of(sample.name, None, suffixes),
    }


def _alike(
    samples: Sequence[Sample], keys: dict[str, Callable[[Sample], str]]
) -> Iterator[tuple[str, list[Sample]]]:
    """Samples of one key, sorted by name, wherever there are two or more."""
    ordered = sorted(samples, key=lambda sample: sample.name)
    for kind, key in keys.items():
        buckets: dict[str, list[Sample]] = defaultdict(list)
        for sample in ordered:
            buckets[key(sample)].append(sample)
        buckets.pop("", None)
        for alike in buckets.values():
            if len(alike) > 1 and (kind != "derivative name" or _has_copy(alike)):
                yield kind, alike


def _has_copy(alike: Sequence[Sample]) -> bool:
    """Whether a name was altered: equal numbers in two split folders alone prove nothing."""
    return len({group_of(sample.name, None, ()) for sample in alike}) > 1


def _root(leader: dict[str, str], group: str) -> str:
    while leader[group] != group:
        leader[group] = leader[leader[group]]
        group = leader[group]
    return group
