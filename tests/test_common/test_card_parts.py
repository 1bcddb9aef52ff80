"""What cards say of a run, for the cases that a small run does not have."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.cards.origin import Origin
from common.cards.parts import command, copies, evaluation, run_limits, stated
from common.metrics.protocol import Record
from common.runs.folder import RunFolder

FOLDER = RunFolder(Path("w"), "blobs", "first")
FACTS = {
    "classes": ["a", "b"],
    "counts": {"train": {"a": 3}, "val": {}, "test": {}},
    "skipped": 0,
    "pixel_size_um": 0.5,
}


def subject(**changes: object) -> SimpleNamespace:
    given = {
        "folder": FOLDER,
        "origin": Origin.GIVEN,
        "card": SimpleNamespace(group="(.+)/"),
        "facts": FACTS | {"classes": ["a"]},
        "records": [Record("fid", 1.0), Record("copied_share", 0.0, 0.0, 0.01)],
        "readme": {},
        "samples": None,
    }
    return SimpleNamespace(**(given | changes))


def test_copies_are_told_as_found_not_found_or_not_looked_for() -> None:
    assert copies([]) == []
    (found,) = copies([Record("copied_share", 0.2, 0.15, 0.26)])
    assert found.startswith("COPIES were found: 20.00% of the generated images")
    # As many held-out images are as near.
    (chance,) = copies([Record("copied_share", 0.012, 0.004, 0.03)])
    assert chance.startswith("No more copies") and "1.20%" in chance and "1%" in chance
    for records in ([Record("fid", 1.0)], [Record("copied_share", None, note="too few")]):
        (unknown,) = copies(records)
        assert unknown == "Whether generated images repeat training images was not measured."


def test_limits_are_those_of_the_run_and_no_others() -> None:
    (only,) = run_limits(subject())
    assert only.startswith("No more copies")
    told = {
        "simulated images that were held out": {"origin": Origin.SIMULATED},
        "is the single image: images of one specimen": {"card": SimpleNamespace(group=None)},
        "No image of class b was trained on": {"facts": FACTS},
        "2 unusable files": {"facts": FACTS | {"classes": ["a"], "skipped": 2}},
        "pixel size is unknown": {"facts": FACTS | {"classes": ["a"], "pixel_size_um": None}},
        "Nothing was measured": {"records": []},
        "1 of 2 metrics were refused": {"records": [Record("a", None), Record("b", 1.0)]},
    }
    for words, changes in told.items():
        assert words in " ".join(run_limits(subject(**changes))), words
        assert words not in " ".join(run_limits(subject()))
    both = subject(origin=Origin.SIMULATED, card=SimpleNamespace(group=None))
    assert "independent of each other" in " ".join(run_limits(both))


def test_an_evaluation_that_refused_everything_says_why() -> None:
    refused = [Record("a", None, note="Too few."), Record("b", None, note="Too few.")]
    page = "\n".join(evaluation(subject(records=refused)))
    assert "Every metric was refused." in page and "- `a`, `b`: Too few." in page
    assert "| metric |" not in page


def test_a_readme_without_a_section_is_told_so() -> None:
    assert stated(subject(), "Limits") == "The experiment's README has no section `Limits`."
    assert stated(subject(readme={"Limits": "\n\n- few\n"}), "Limits") == "- few"


@pytest.mark.parametrize("label", ["ODA", "No CP", "it's", 'a "b"', "$x `y`", "a\\b", "!x"])
def test_a_command_reaches_the_command_line_as_it_was_meant(label: str) -> None:
    typed = command(subject(), "generate", "N=1", args=["--labels", label])
    make, *words = shlex.split(typed)
    values = dict(word.split("=", 1) for word in words[1:])
    assert make == "make" and values["EXP"] == "blobs" and values["N"] == "1"
    # Make halves the dollar signs before its own shell splits the words.
    assert shlex.split(values["ARGS"].replace("$$", "$")) == ["--labels", label]
