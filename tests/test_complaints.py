"""The table of known complaints names tests that exist."""

import re

from running import ROOT

ROWS = re.findall(r"^\| (\d+) \|.*\|$", (ROOT / "tests/README.md").read_text(), re.MULTILINE)


def test_every_complaint_has_its_row() -> None:
    assert [int(number) for number in ROWS] == list(range(1, 26))


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", (ROOT / "tests/README.md").read_text()))
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"^def (test_[a-z0-9_]+)\(", sources, re.MULTILINE))
    assert len(named) > 40
    assert sorted(named - defined) == []
