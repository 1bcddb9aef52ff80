"""YAML that somebody else may have written: read as data, and within limits.

PyYAML has none: 400 bytes of nested aliases take gigabytes, and deep brackets crash the process.
"""

import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1_000_000
# Five times a whole configuration; an alias counts as all that it stands for.
MAX_VALUES = 1_000
MAX_LEVELS = 50
# Shorter than a whole number, hexadecimal at worst, that Python no longer prints (4300 digits).
MAX_SCALAR = 3_000
# Each declared tag is compared with all others.
MAX_DECLARED_TAGS = 10
_SURROGATE = re.compile("[\ud800-\udfff]")
_PYTHON = "tag:yaml.org,2002:python/"
_Events = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Limits:
    """First base of a PyYAML loader class that shall keep the limits."""

    def __init__(self, text: str) -> None:
        """Looks through ``text`` before anything is built.

        Raises:
            YAMLError: malformed, or beyond a limit.
        """
        refuse_bombs(text)
        super().__init__(text)

    def get_single_data(self) -> Any:
        """The document as plain Python values.

        Raises:
            YAMLError: a value does not fit its tag.
        """
        try:
            return super().get_single_data()
        except yaml.YAMLError:
            raise
        except Exception as error:  # `!!int x`, `!!bool x`, `!!timestamp x` each raise another
            raise yaml.YAMLError(f"a value does not fit its type ({error})") from error


class _Loader(Limits, yaml.SafeLoader):
    pass


def load_yaml(text: str) -> Any:
    """Reads one document.

    Raises:
        YAMLError: malformed, or beyond a limit.
    """
    return yaml.load(text, _Loader)


def read_text(path: Path) -> str:
    """Reads a text file of at most `MAX_BYTES`.

    Raises:
        OSError: it cannot be read.
        ValueError: no regular file, too large, or not UTF-8; it says which.
    """
    # Asked before opening, which waits for ever at a pipe that nobody writes to.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("is no regular file")
    with path.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"has more than {MAX_BYTES} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError("is not UTF-8 text") from error


def refuse_bombs(text: str) -> None:
    """Parses ``text`` into events, which takes little memory whatever the aliases stand for.

    Raises:
        YAMLError: malformed, or beyond a limit.
    """
    try:
        _refuse_above(MAX_BYTES, len(text.encode()), "bytes")
    except UnicodeEncodeError as error:  # how Python holds an argument that is no text
        raise yaml.YAMLError("not Unicode text") from error
    _refuse_above(MAX_DECLARED_TAGS, text.count("%TAG"), "declared tags")
    size = _Size()
    for event in yaml.parse(text, _Events):
        size.add(event)
        _refuse_above(MAX_VALUES, size.values, "values, those behind aliases included")
        _refuse_above(MAX_LEVELS, size.levels, "levels of nesting")
        value = getattr(event, "value", "")
        _refuse_above(MAX_SCALAR, len(value), "characters in one value")
        # No path can hold the one, no file the other.
        if "\0" in value or _SURROGATE.search(value):
            raise yaml.YAMLError("a character that is no text")
        if (getattr(event, "tag", None) or "").startswith(_PYTHON):
            raise yaml.YAMLError("a tag asks for a Python object")


class _Size:
    """Values and levels of a document so far, every alias replaced by what it stands for."""

    def __init__(self) -> None:
        self.values = 0
        self.levels = 0
        self._opened: list[_Collection] = []
        self._anchored: dict[str | None, tuple[int, int]] = {}

    def add(self, event: yaml.Event) -> None:
        values, levels = int(isinstance(event, yaml.NodeEvent)), 0
        if isinstance(event, yaml.AliasEvent):
            values, levels = self._anchored.get(event.anchor, (1, 0))
        elif isinstance(event, yaml.CollectionStartEvent):
            level = len(self._opened) + 1
            self._opened.append(_Collection(event.anchor, self.values, level, level))
            # An alias within what it stands for has no end.
            self._anchored[event.anchor] = (MAX_VALUES, 0)
        elif isinstance(event, yaml.CollectionEndEvent):
            done = self._opened.pop()
            self._anchored[done.anchor] = (self.values - done.before, done.deepest - done.level + 1)
        self.values += values
        self.levels = len(self._opened) + levels
        for collection in self._opened:
            collection.deepest = max(collection.deepest, self.levels)


@dataclass
class _Collection:
    anchor: str | None
    before: int
    level: int
    deepest: int


def _refuse_above(limit: int, number: int, what: str) -> None:
    if number > limit:
        raise yaml.YAMLError(f"more than {limit} {what}")
