"""What of a configuration may be written down, and what others may see of it."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from common.errors import visible

MASKED = "***"
PRIVATE = "(private)"
_SECRET = re.compile(r"(?:^|[_.-])(?:api)?(?:key|token|secret|password)(s?)$", re.IGNORECASE)
# Every path, URL and e-mail address holds one of these; only names of metrics do as well.
_TELLING = re.compile(r"[/\\~@]|\.md$")
# In a sentence a single slash between letters is a word such as "area/cubic" or "nats/pixel".
_TELLING_WORD = re.compile(r"\S*(?:[\\~@]|/\S*/|(?<!\S)/|\.md\b)\S*")
_METRIC = re.compile(r"(train|val|test)/\w+")
_STEP = r"(?:[/\\]+[^\s/\\:;,'\"()<>]+)"
# Two names at least: a lone slash is a division. What a URL holds behind its host is none, unless
# the URL is a file's.
_ABSOLUTE = re.compile(rf"(?i:\bfile:){_STEP}+|(?<![\w/.])(?!(?<=:)//)(?:[A-Za-z]:)?{_STEP}{{2,}}")


def masked(value: Any, key: str = "") -> Any:
    """The value without its secrets: what stands under a key that is called like one.

    Args:
        value: nested mappings and sequences, as YAML knows them.
        key: under which it stands.
    """
    if isinstance(value, bool) or value is None or value == "":
        return value
    secret = _SECRET.search(key)
    # A number of tokens is none.
    if secret and not (secret[1] and isinstance(value, int | float)):
        return MASKED
    if isinstance(value, dict):
        return {name: masked(item, str(name)) for name, item in value.items()}
    return [masked(item) for item in value] if isinstance(value, list | tuple) else value


def public(value: Any, key: str = "") -> Any:
    r"""The value as it may leave this machine.

    Secrets are masked. A text that holds a slash, a backslash, ``~`` or ``@`` may be a path, an
    address or a URL and is left out as a whole, its file name too, which may name a patient; so is
    a card that is a file, and whatever stands under ``root``. Names of metrics such as
    ``val/loss`` stay. No control character and no NaN is left. Keys that would become one are
    numbered.
    """
    value = masked(value, key)
    if isinstance(value, dict):
        keys = _numbered(public(str(name)) for name in value)
        return {key: public(value[name], str(name)) for key, name in zip(keys, value, strict=True)}
    if isinstance(value, list | tuple):
        return [public(item) for item in value]
    if value is None or isinstance(value, int | float):
        return value if value is None or math.isfinite(value) else str(value)
    text = str(value)
    told = key.rpartition(".")[2] == "root" or _TELLING.search(text)
    return PRIVATE if told and not _METRIC.fullmatch(text) else visible(text)


def _numbered(names: Iterable[str]) -> Iterator[str]:
    times: Counter[str] = Counter()
    for name in names:
        times[name] += 1
        yield name if times[name] == 1 else f"{name} {times[name]}"


def without_paths(text: str) -> str:
    """The text with ``(private)`` in the place of every absolute path."""
    return _ABSOLUTE.sub(PRIVATE, text)


def public_sentence(text: str) -> str:
    """A sentence without the words in it that may be a path or an address."""
    return visible(_TELLING_WORD.sub(PRIVATE, text))
