"""Time-lapse recordings with a file for each channel of each moment: names to moments.

Layout of the published recordings (TUdatalib 2880): `<root>/<PosNN>/*.tif`, 16 bits, one file a
trap, focal plane, time and channel.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from common.data.manifest import SPLITS, Sample, partners_of
from common.data.sequences import numbered, usual_step
from common.data.splits import SPLIT_FOLDERS
from common.errors import Exit, UserError

# Of names such as img_000000012_02-GFP_001_trap_003.tif, as far as the published parser shows them.
FILE_PATTERN = (
    r"img_(?P<time>\d+)_\d+-(?P<channel>[A-Za-z]+)\d*_(?P<z>\d+)_trap_(?P<trap>\d+)\.tiff?$"
)
# Positions of the published recordings and the split that their authors once used.
OFFICIAL = {
    **dict.fromkeys((f"Pos{k}" for k in (18, 20, 21, 22, 24, 25, 26, 28, 30)), "train"),
    **{"Pos27": "val", "Pos29": "test"},
}


class Key(NamedTuple):
    """What names one moment: files that agree in it are its channels."""

    position: str
    trap: str
    z: str
    time: int

    @property
    def place(self) -> str:
        """Position and trap."""
        return f"{self.position or '-'}/{self.trap or '-'}"

    @property
    def sequence(self) -> str:
        """What moments follow one another in."""
        return f"{self.place}/{self.z or '-'}"


@dataclass
class Scanned:
    """What names of files say.

    Attributes:
        samples: one a moment, by sequence and time.
        left_out: files of moments that lack a channel, and which one.
    """

    samples: list[Sample] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def compiled(pattern: str, channels: Sequence[str]) -> re.Pattern[str]:
    """An expression for names of files, with all the groups that it has to have.

    Args:
        pattern: groups `time` (digits) and `channel`, or in place of the latter a group named as
            each channel; where there are such things, `position`, `z` and `trap`.
        channels: of the data card.

    Raises:
        UserError: it is no regular expression, or lacks a group.
    """
    subject, remedy = f"--data.file_pattern {pattern}", "see data_cards/yeast_traps.md"
    try:
        found = re.compile(pattern)
    except re.error as error:
        problem = f"is not a regular expression ({error})"
        raise UserError(Exit.USAGE, subject, problem, remedy) from error
    known = found.groupindex
    if "channel" not in known and not all(name in known for name in channels):
        raise UserError(Exit.USAGE, subject, "has no group named channel", remedy)
    if "time" not in known:
        raise UserError(Exit.USAGE, subject, "has no group named time", remedy)
    return found


def scan(
    names: Iterable[str], pattern: re.Pattern[str], channels: Sequence[str], block: int = 0
) -> Scanned:
    """Joins files by position, trap, focal plane and time.

    Args:
        names: paths below the raw folder.
        pattern: of `compiled`, searched in each; what it is not found in is passed over.
        channels: of the data card, in their order; files of other channels are passed over.
        block: moments of one group; 0 makes each position a group.

    Raises:
        UserError: two files are the same channel of one moment, or a time is no number.
    """
    files: dict[Key, dict[str, str]] = defaultdict(dict)
    for name in names:
        match = pattern.search(name)
        channel = match and _channel(match, channels)
        if not channel:
            continue
        of_moment = files[_key(match, name)]
        if channel in of_moment:
            problem = f"is the channel {channel} of the same moment as {of_moment[channel]}"
            remedy = "remove one of them, or tell them apart in --data.file_pattern"
            raise UserError(Exit.INPUT, name, problem, remedy)
        of_moment[channel] = name
    return _joined(files, channels, block)


def split_of_folders(samples: Sequence[Sample]) -> list[str]:
    """Split that the first folder of each sample tells, such as ``train``; "" where it is none."""
    folders = [sample.name.split("/") for sample in samples]
    return [SPLIT_FOLDERS.get(first.lower(), "") if more else "" for first, *more in folders]


def official_split(samples: Sequence[Sample]) -> list[str]:
    """Split of each sample where all official positions are there, else "" for all of them.

    Positions beyond those are trained on. A position is the last folder of the group's name.
    """
    positions = [sample.group.rsplit("/", 1)[-1] for sample in samples]
    if not OFFICIAL.keys() <= set(positions):
        return [""] * len(samples)
    return [OFFICIAL.get(position, SPLITS[0]) for position in positions]


def _key(match: re.Match[str], name: str) -> Key:
    found = match.groupdict()
    position = found.get("position") or name.rpartition("/")[0]
    try:
        time = int(found["time"])
    except (TypeError, ValueError) as error:
        remedy = "let the group `time` of --data.file_pattern match digits alone"
        problem = f"has the time {found['time']!r}, which is no number"
        raise UserError(Exit.INPUT, name, problem, remedy) from error
    return Key(position, found.get("trap") or "", found.get("z") or "", time)


def _channel(match: re.Match[str], channels: Sequence[str]) -> str:
    """The card's channel that a file shows, "" where it shows another one."""
    found = match.groupdict()
    if "channel" not in found:
        return next((name for name in channels if found[name] is not None), "")
    token = (found["channel"] or "").rstrip("0123456789").lower()
    return next((name for name in channels if name.lower() == token), "")


def _joined(files: Mapping[Key, Mapping[str, str]], channels: Sequence[str], block: int) -> Scanned:
    scanned, moments = Scanned(), defaultdict(list)
    for key, of_moment in sorted(files.items()):
        missing = [name for name in channels if name not in of_moment]
        if missing:
            why = f"its moment has no {' and no '.join(missing)} file"
            scanned.left_out |= dict.fromkeys(of_moment.values(), why)
        else:
            moments[key.sequence].append(key)
    step = usual_step([[key.time for key in keys] for keys in moments.values()])
    pieces = _Pieces([key.time for keys in moments.values() for key in keys], step, block)
    for sequence, keys in moments.items():
        for key, number in zip(keys, numbered([key.time for key in keys], step), strict=True):
            first, *more = (files[key][name] for name in channels)
            group = f"{key.place}@{pieces.of(key.time):04d}" if block else key.position or "-"
            partners = partners_of(more)
            sample = Sample(first, group, partners=partners, sequence=sequence, moment=number)
            scanned.samples.append(sample)
    return scanned


@dataclass(frozen=True)
class _Pieces:
    """Time cut into pieces of ``block`` steps, the same for all; what is left joins the last."""

    times: Sequence[int]
    step: int
    block: int

    def of(self, time: int) -> int:
        start, end = min(self.times), max(self.times)
        whole = ((end - start) // self.step + 1) // self.block
        return min((time - start) // self.step // self.block, max(whole - 1, 0))
