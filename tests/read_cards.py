"""Cards as others read them: Markdown in a browser, Croissant in MLCommons' own library."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token


class Shown(HTMLParser):
    """A card as GitHub shows it.

    Attributes:
        text: without any mark-up.
        tags: how often each occurs.
        links: what they lead to.
    """

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: Counter[str] = Counter()
        reader = MarkdownIt("gfm-like", {"html": True})
        body = without_head(markdown)
        self.links = [href for token in reader.parse(body) for href in _links(token)]
        self.feed(reader.render(body))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1

    def handle_data(self, data: str) -> None:
        self.text += data


def _links(token: Token) -> Iterator[str]:
    """A bare domain is a link to this library and not to GitHub, which wants a scheme or www."""
    for opened, shown in pairwise(token.children or []):
        if opened.type == "link_open":
            bare = opened.markup == "linkify" and not re.match(r"(\w+:)|www\.|.+@", shown.content)
            yield from [] if bare else [str(opened.attrs["href"])]


def head_of(markdown: str) -> dict[str, Any]:
    """The YAML before the text."""
    return yaml.safe_load(markdown.split("---\n")[1])


def without_head(markdown: str) -> str:
    return markdown.split("\n---\n", 1)[1]


@cache
def mlcroissant(cache_folder: Path) -> ModuleType:
    """The library; what it unpacks goes to the folder of the first call."""
    os.environ["CROISSANT_CACHE"] = str(cache_folder)
    import mlcroissant

    return mlcroissant
