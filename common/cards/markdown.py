"""Markdown in which a text from a file or a user stays a text.

What has a meaning in Markdown or HTML is written as a character reference, which no reader takes
for structure. Absolute paths are left out.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from common.errors import visible
from common.privacy import without_paths

# Longer texts are cut; a name that long is no name.
_LONGEST = 300
# Dollar signs enclose formulas.
_MEANING = re.compile(r"[&<>\[\]`*|\\#~$]|(?<![^\W_])_|_(?![^\W_])")
# What becomes a link without any brackets, references or not; a space without width prevents it.
_LINKED = re.compile(r":(?=//)|@|(?i:(?<=www)(?=\.))")
_AT_START = re.compile(r"^(?:[-+=]|\d+[.)])(?=[-=\s]|$)")
_PLAIN = re.compile(r"[^`|\\<>&]+")
_CODE, _BOLD, _LINK = r"`([^`]+)`", r"\*\*([^*]+)\*\*", r"\[([^\]]+)\]\([^)\s]*\)"
_INLINE = re.compile(rf"{_CODE}|{_BOLD}|{_LINK}")
# How a list entry begins, however deep in other lists. Longer numbers are years.
_MARK = r" *(?:[-*+]|\d{1,2}[.)]) +"


def one_line(value: object, longest: int = _LONGEST) -> str:
    """A text of one line without control characters and absolute paths; not yet Markdown."""
    line = without_paths(visible(" ".join(str(value).split())))
    return line if len(line) <= longest else f"{line[:longest]}…"


def text(value: object, longest: int = _LONGEST) -> str:
    """The value as Markdown that shows exactly this."""
    return _escaped(one_line(value, longest))


def code(value: object) -> str:
    """The value as a span of code, or as text where it could leave one."""
    line = one_line(value)
    return f"`{line}`" if _PLAIN.fullmatch(line) else text(line)


def block(lines: Iterable[object]) -> str:
    """Lines to be copied, indented: nothing in them can end the block."""
    return "\n".join(f"    {one_line(line, 1000)}" for line in lines)


def bullets(items: Iterable[str]) -> str:
    """A list of Markdown texts."""
    return "\n".join(f"- {item}" for item in items)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown cells."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def head(values: Mapping[str, Any]) -> str:
    """The YAML at the beginning of a card."""
    written = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{written}---"


def page(parts: Iterable[str]) -> str:
    """The parts with a blank line between them; empty ones are left out."""
    return "\n\n".join(part for part in parts if part) + "\n"


def sections(markdown: str) -> dict[str, str]:
    """What stands below each heading ``##``; "" is what stands before the first one."""
    found = re.split(r"^## +(.+?) *$", f"\n{markdown}", flags=re.MULTILINE)
    return {"": found[0], **dict(zip(found[1::2], found[2::2], strict=True))}


def paragraphs(markdown: str) -> list[tuple[bool, str]]:
    """Its paragraphs and list entries in one line each, and whether it is an entry.

    Entries of a list in a list become entries like others, numbers stay in front of theirs.
    Headings and indented or fenced lines are left out. Tables are not understood.
    """
    found: list[tuple[bool, str]] = []
    for chunk in re.split(rf"\n\s*\n|\n(?={_MARK})", markdown):
        line, entry = " ".join(chunk.split()), re.match(rf"\n*{_MARK}", chunk) is not None
        if entry:
            found.append((True, re.sub(r"^[-*+] ", "", line)))
        elif line and not chunk.lstrip("\n").startswith(("    ", "#", "```", "![")):
            found.append((False, line))
    return found


def prose(markdown: str) -> str:
    """Somebody's Markdown with its paragraphs, lists, bold words and code, and nothing else."""
    written, in_list = "", False
    for entry, line in paragraphs(markdown):
        written += "\n" if entry and in_list else "\n\n"
        written += f"- {inline(line)}" if entry else inline(line)
        in_list = entry
    return written.strip()


def plain(markdown: str) -> list[str]:
    """The same paragraphs without any mark-up, for places that are not Markdown."""
    return [
        one_line(_INLINE.sub(lambda m: m[1] or m[2] or m[3], line), 2000)
        for _, line in paragraphs(markdown)
    ]


def inline(line: str) -> str:
    """One of them with its bold words and code, and nothing else."""
    line, parts, end = one_line(line, 5000), [], 0
    for match in _INLINE.finditer(line):
        parts.append(_escaped(line[end : match.start()]))
        inner = _escaped(match[1] or match[2] or match[3])
        parts.append(code(match[1]) if match[1] else f"**{inner}**" if match[2] else inner)
        end = match.end()
    return "".join([*parts, _escaped(line[end:])])


def _escaped(line: str) -> str:
    line = _LINKED.sub(r"\g<0>&#8203;", _MEANING.sub(_last_as_reference, line))
    return _AT_START.sub(_last_as_reference, line)


def _last_as_reference(match: re.Match[str]) -> str:
    return f"{match[0][:-1]}&#{ord(match[0][-1])};"
