"""What cards say of a run, for the cases that a small run does not have."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.cards.origin import Origin
from common.cards.parts import command, copies, evaluation, run_limits, stated
from common.metrics.bootstrap import share_interval
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
        "records": [Record("fid", 1.0), copied(0, 1000)],
        "train_images": 3,
        "data_sets": 1,
        "readme": {},
        "samples": None,
    }
    return SimpleNamespace(**(given | changes))


def copied(count: int, of: int, **changes: object) -> Record:
    low, high = share_interval(count, of)
    given = {"n_fake": of, "rule": "3 training images", "note": "0.2 beside"}
    return Record("copied_share", count / of, low, high, **(given | changes))


@pytest.mark.parametrize(
    ("count", "of", "begins"),
    [
        (200, 1000, "MORE copies of training images than chance brings: 20.00% of 1,000 generated"),
        (19, 1000, "MORE copies"),
        # One of a hundred is chance.
        (10, 1000, "No more copies of training images than twice what chance brings: 1.00%"),
        (0, 184, "No more copies"),
        (0, 40, "40 images are too few to tell whether training images come back: 0.00% of 40"),
        (1, 20, "20 images are too few to tell"),
        (2, 50, "50 images are too few to tell"),
        (0, 182, "182 images are too few to tell"),
    ],
)
def test_copies_are_more_than_chance_or_no_more_or_the_images_are_too_few(
    count: int, of: int, begins: str
) -> None:
    found = copied(count, of)
    (sentence,) = copies(subject(records=[Record("fid", 1.0), found]))
    assert sentence.startswith(begins)
    assert f"(95 % interval {found.low:.2%} to {found.high:.2%})" in sentence
    # What as many other images do tells copies from images that are all alike.
    assert ("0.2 beside" in sentence) == begins.startswith("MORE")
    assert sentence.endswith("Compared with all 3 training images.")


def test_copies_of_images_that_were_not_looked_at_are_not_denied() -> None:
    looked = [copied(0, 1000, rule="2 training images")]
    (some,) = copies(subject(records=looked))
    assert some.endswith("2 of the 3 training images; copies of others were not looked for.")
    (last,) = copies(subject(records=[copied(0, 1000)], data_sets=2))
    assert "3 of the 3 training images of the last data set; copies of others" in last
    (unknown,) = copies(subject(records=[copied(0, 1000, rule="")]))
    assert "it is not known how many" in unknown
    (no_interval,) = copies(subject(records=[Record("copied_share", 0.0, n_fake=1000)]))
    assert no_interval.startswith("Without an interval nobody can tell")


def test_copies_that_were_not_looked_for_are_told_so() -> None:
    assert copies(subject(records=[])) == []
    for records in ([Record("fid", 1.0)], [Record("copied_share", None, note="too few")]):
        (unknown,) = copies(subject(records=records))
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
