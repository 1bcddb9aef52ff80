"""Data cards: what a data set is, read from the head of `data_cards/<name>.md`."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from common import PROJECT
from common.errors import Exit, UserError, relative
from common.untrusted_yaml import load_yaml

SCHEMA = "data_cards/README.md"

Rule = str | tuple[float, float] | dict[str, tuple[float, float]]
Window = Rule | dict[str, Rule]


@dataclass(frozen=True)
class Card:
    """Facts about a data set that code needs; the schema is `data_cards/README.md`.

    Attributes:
        name: of the card's file and of the folder below `data/raw`.
        title: one line for people.
        url: where it is published or described.
        licence: of the images.
        channels: in the order of the files.
        pixel_size_um: micrometres per pixel, None where unknown or different from file to file.
        window: grey values that become -1 and 1: "dtype", (low, high), or
            {"percentiles": (low, high)} of the training split; or one of these for each channel,
            by its name.
        classes: label names; the position is the label's index. Empty without classes.
        group: regular expression for `splits.group_of`, None for the file itself.
        group_kind: what a group is, such as "patient" or "image"; with "video", each file of
            several frames is one.
        derivative_suffixes: regular expressions of name endings that mark an altered copy.
        collapse_grey: whether RGB files with equal channels are read as one channel.
    """

    name: str
    title: str
    url: str
    licence: str
    channels: tuple[str, ...]
    pixel_size_um: float | None
    window: Window
    classes: tuple[str, ...]
    group: str | None
    group_kind: str
    derivative_suffixes: tuple[str, ...]
    collapse_grey: bool

    @property
    def group_of_movies(self) -> str | None:
        """`group` for files of several frames: none where a group is a video, and so a file."""
        return None if self.group_kind == "video" else self.group


def load_card(name: str, folder: Path | None = None) -> Card:
    """Reads and checks one data card.

    Args:
        name: file name without `.md`, or the path of a card that lies elsewhere.
        folder: of the cards; by default the repository's `data_cards`.

    Raises:
        UserError: no such card, or a key is missing, unknown or malformed.
    """
    path = card_file(name, folder)
    name = path.stem if name.endswith(".md") else name
    known = sorted(other.stem for other in path.parent.glob("*.md") if other.stem != "README")
    if name not in known:
        problem = f"there is no such data card among {', '.join(known) or 'none'}"
        raise UserError(Exit.USAGE, relative(path), problem, f"choose one, or write it: {SCHEMA}")
    values = _front_matter(path)
    checked = {}
    for key, check in _CHECKS.items():
        if key not in values:
            raise _bad(path, f"lacks the key {key!r}")
        try:
            checked[key] = check(values[key])
        except ValueError as error:
            raise _bad(path, f"{key}: {error}") from error
    unknown = sorted(str(key) for key in values.keys() - _CHECKS.keys())
    if unknown:
        raise _bad(path, f"has the unknown key {unknown[0]!r}")
    rule = checked["window"]
    named = set(rule) if isinstance(rule, dict) and "percentiles" not in rule else None
    if named is not None and named != set(checked["channels"]):
        problem = f"{dict(rule)!r} is not dtype, [low, high] or {{percentiles: [low, high]}}"
        raise _bad(path, f"window: {problem}, nor one of these for each of `channels`")
    if checked["name"] != name:
        raise _bad(path, f"name: {checked['name']!r} is not the name of the file")
    return Card(**checked)


def card_file(name: str, folder: Path | None = None) -> Path:
    """Where a card lies; arguments as in `load_card`."""
    if name.endswith(".md"):
        return Path(name)
    return (folder or PROJECT / "data_cards") / f"{name}.md"


def _front_matter(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        head = re.match(r"---\n(.*?\n)---(\n|$)", text, re.DOTALL)
        values = load_yaml(head[1]) if head else None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 2})" if mark else ""
        raise _bad(path, f"is not valid YAML in UTF-8{line}") from error
    if not isinstance(values, dict):
        raise _bad(path, "does not begin with YAML keys between two lines of ---")
    return values


def _bad(path: Path, problem: str) -> UserError:
    return UserError(Exit.USAGE, relative(path), problem, f"{SCHEMA} lists the keys")


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is not text; put it in quotes")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is not a list such as [a, b]")
    texts = tuple(_text(item) for item in value)
    if len(set(texts)) < len(texts):
        raise ValueError("has an entry twice")
    return texts


def _channels(value: Any) -> tuple[str, ...]:
    channels = _texts(value)
    if not channels:
        raise ValueError("is empty; name at least one")
    return channels


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _pixel_size(value: Any) -> float | None:
    if value is None:
        return None
    if _number(value) <= 0:
        raise ValueError(f"{value!r} is not positive; write null where it is unknown")
    return float(value)


def _window(value: Any) -> Window:
    if value == "dtype":
        return "dtype"
    if isinstance(value, dict) and list(value) == ["percentiles"]:
        low, high = _interval(value["percentiles"])
        if low < 0 or high > 100:
            raise ValueError(f"percentiles {low:g} and {high:g} are not within 0 and 100")
        return {"percentiles": (low, high)}
    if isinstance(value, dict) and value and "percentiles" not in value:
        return {_text(name): _of_channel(rule) for name, rule in value.items()}
    return _interval(value)


def _of_channel(value: Any) -> Rule:
    if isinstance(value, dict) and "percentiles" not in value:
        raise ValueError(f"{value!r} of one channel names channels")
    return _window(value)


def _interval(value: Any) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{value!r} is not dtype, [low, high] or {{percentiles: [low, high]}}")
    low, high = _number(value[0]), _number(value[1])
    if low >= high:
        raise ValueError(f"{low:g} is not below {high:g}")
    return low, high


def _group(value: Any) -> str | None:
    if value is not None and _expression(value).groups == 0:
        raise ValueError(f"{value!r} has no parentheses around what names the group")
    return value


def _suffixes(value: Any) -> tuple[str, ...]:
    suffixes = _texts(value)
    for suffix in suffixes:
        _expression(suffix)
    return suffixes


def _expression(value: Any) -> re.Pattern[str]:
    try:
        return re.compile(_text(value))
    except re.error as error:
        raise ValueError(f"{value!r} is not a regular expression ({error})") from error


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is not true or false")
    return value


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "name": _text,
    "title": _text,
    "url": _text,
    "licence": _text,
    "channels": _channels,
    "pixel_size_um": _pixel_size,
    "window": _window,
    "classes": _texts,
    "group": _group,
    "group_kind": _text,
    "derivative_suffixes": _suffixes,
    "collapse_grey": _flag,
}
