"""Train, validation and test splits by group.

A group (patient, video, plate, or a file with its mirrored copies) is never split. The test set is
a function of the samples and the test fraction alone, so every seed and every validation fraction
is judged on the same images.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import PurePosixPath
from typing import NamedTuple

from common.data.manifest import SPLITS, Sample
from common.errors import Exit, UserError

# What people call the folders of a split that comes with the data, in lower case.
SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class _Group(NamedTuple):
    size: int
    stratum: tuple[str, ...]


def group_of(name: str, pattern: str | None, derivative_suffixes: Sequence[str]) -> str:
    """The group of a file, from its name.

    Args:
        name: path below the raw folder, with forward slashes.
        pattern: regular expression searched in ``name``; its group called ``group``, else its
            first one, is the key. Without a pattern the key is the path without its type and
            without folders such as ``train`` and ``test``.
        derivative_suffixes: regular expressions of endings that mark an altered copy; removed
            from the key as often as they occur, so a copy shares the group of its original.

    Raises:
        UserError: ``name`` does not match ``pattern``.
    """
    key = _key_of_path(name) if pattern is None else _key_of_pattern(name, pattern)
    return _ending(tuple(derivative_suffixes)).sub("", key)


def assign_splits(
    samples: Sequence[Sample], fractions: tuple[float, float], seed: int
) -> list[Sample]:
    """Gives every sample a split, by whole groups and stratified by label.

    Test takes ``round(fraction * images)`` images exactly when the group sizes allow it, else the
    nearest possible number; then validation does the same with the images that are left. Every
    split gets at least one group. The order of ``samples`` has no influence, and one more group
    moves few others. A split that comes with the data is kept; where it lacks validation, that is
    taken out of its training groups.

    Args:
        samples: with group and label; either all with a split or all without.
        fractions: validation as a share of the training images, test as a share of all images;
            both between 0 and 1, exclusive.
        seed: moves validation; the test set stays.

    Returns:
        The samples in the order given.

    Raises:
        UserError: too few groups, an incomplete given split, or a fraction out of range.
    """
    val_fraction, test_fraction = fractions
    _check_fraction("val_fraction", val_fraction)
    _check_fraction("test_fraction", test_fraction)
    if any(sample.split for sample in samples):
        return _complete(samples, val_fraction, seed)
    groups = _groups(samples)
    if len(groups) < len(SPLITS):
        raise _too_few(len(groups), "images", len(SPLITS))
    test = _draw(groups, test_fraction, "test", reserve=2)
    rest = {name: group for name, group in groups.items() if name not in test}
    val = _draw(rest, val_fraction, str(seed), reserve=1)
    split_of = dict.fromkeys(groups, "train") | dict.fromkeys(val, "val")
    split_of |= dict.fromkeys(test, "test")
    return [replace(sample, split=split_of[sample.group]) for sample in samples]


def _key_of_path(name: str) -> str:
    *folders, file = name.split("/")
    stem = PurePosixPath(file).stem.removesuffix(".ome")
    return "/".join([f for f in folders if f.lower() not in SPLIT_FOLDERS] + [stem])


def _key_of_pattern(name: str, pattern: str) -> str:
    match = re.search(pattern, name)
    key = match and (match["group"] if "group" in match.re.groupindex else match[1])
    if not key:
        raise UserError(
            Exit.INPUT,
            name,
            f"does not match the group pattern {pattern!r}",
            "mend `group` in the data card, or remove the file",
        )
    return key


@lru_cache
def _ending(suffixes: tuple[str, ...]) -> re.Pattern[str]:
    # (?<=[^/]): a file that is called `_mirrored` and nothing else keeps its name.
    any_suffix = "|".join(f"(?:{suffix})" for suffix in suffixes) or "(?!)"
    return re.compile(rf"(?<=[^/])(?:{any_suffix})+$", re.IGNORECASE)


def _check_fraction(name: str, fraction: float) -> None:
    if not 0 < fraction < 1:
        raise UserError(
            Exit.USAGE, name, f"{fraction} is not between 0 and 1", "give a share such as 0.2"
        )


def _complete(samples: Sequence[Sample], val_fraction: float, seed: int) -> list[Sample]:
    remedy = "name train, val or test for every image, or leave out all of them to have one drawn"
    for sample in samples:
        if sample.split not in SPLITS:
            problem = f"has the split {sample.split!r} where other images have one of {SPLITS}"
            raise UserError(Exit.INPUT, sample.name, problem, remedy)
    present = {sample.split for sample in samples}
    for split in sorted({"train", "test"} - present):
        problem = f"the split that comes with the data has no {split} images"
        raise UserError(Exit.INPUT, samples[0].name, problem, remedy)
    if "val" in present:
        return list(samples)
    groups = _groups([sample for sample in samples if sample.split == "train"])
    if len(groups) < 2:
        raise _too_few(len(groups), "training images", 2)
    val = _draw(groups, val_fraction, str(seed), reserve=1)
    return [
        replace(s, split="val") if s.split == "train" and s.group in val else s for s in samples
    ]


def _too_few(found: int, what: str, needed: int) -> UserError:
    return UserError(
        Exit.INPUT,
        "split",
        f"the {what} form {found} group{'s' * (found != 1)}, and {needed} are needed",
        "add data of further groups, such as videos; for images with a file each, a finer "
        "`group` in the data card helps, too",
    )


def _groups(samples: Sequence[Sample]) -> dict[str, _Group]:
    labels: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        labels[sample.group].add(sample.label)
    sizes = Counter(sample.group for sample in samples)
    return {name: _Group(sizes[name], tuple(sorted(labels[name]))) for name in labels}


def _draw(groups: Mapping[str, _Group], fraction: float, key: str, reserve: int) -> set[str]:
    """Groups that hold ``fraction`` of the images; at least ``reserve`` groups are left."""
    target = max(1, round(fraction * sum(group.size for group in groups.values())))
    order = _preference(groups, target, key)
    chosen = [order[k] for k in _fill([groups[name].size for name in order], target)]
    largest_first = sorted(chosen, key=lambda name: -groups[name].size)
    return set(largest_first[: len(groups) - reserve])


def _preference(groups: Mapping[str, _Group], target: int, key: str) -> list[str]:
    """All groups: those that fill the quota of their stratum, then the next of each stratum."""
    strata: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in sorted(groups, key=lambda name: _rank(key, name)):
        strata[groups[name].stratum].append(name)
    sizes = {s: sum(groups[name].size for name in strata[s]) for s in sorted(strata)}
    quota = _largest_remainder(sizes, target)
    within, beyond = [], []
    for stratum in sizes:
        left = []
        for name in strata[stratum]:
            if groups[name].size <= quota[stratum]:
                quota[stratum] -= groups[name].size
                within.append(name)
            else:
                left.append(name)
        beyond += [(place, -quota[stratum], _rank(key, name)) for place, name in enumerate(left)]
    return within + [name for _, _, (_, name) in sorted(beyond)]


def _rank(key: str, name: str) -> tuple[bytes, str]:
    return hashlib.sha256(f"{key}\n{name}".encode("utf-8", "surrogateescape")).digest(), name


def _largest_remainder(
    sizes: Mapping[tuple[str, ...], int], target: int
) -> dict[tuple[str, ...], int]:
    """Shares ``target`` out in proportion to ``sizes``, in whole numbers (Hamilton's method)."""
    total = sum(sizes.values())
    quota = {stratum: target * size // total for stratum, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda stratum: -(target * sizes[stratum] % total))
    for stratum in by_remainder[: target - sum(quota.values())]:
        quota[stratum] += 1
    return quota


def _fill(sizes: Sequence[int], target: int) -> list[int]:
    """Positions to take, each in turn if the rest can still make the total nearest to ``target``.

    Bit n of ``sums[k]`` says whether some of ``sizes[k:]`` add up to n.
    """
    limit = target + max(sizes)
    sums = [1]
    for size in reversed(sizes):
        extended = (sums[-1] | sums[-1] << size) & ((2 << limit) - 1)
        # The same object again: most of the list is saturated and would fill the memory.
        sums.append(sums[-1] if extended == sums[-1] else extended)
    sums.reverse()
    near = (total for step in range(limit) for total in (target - step, target + step))
    left = next(total for total in near if total > 0 and sums[0] >> total & 1)
    taken = []
    for k, size in enumerate(sizes):
        if size <= left and sums[k + 1] >> (left - size) & 1:
            taken.append(k)
            left -= size
    return taken
