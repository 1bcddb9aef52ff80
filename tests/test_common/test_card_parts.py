"""What cards say of a run, for the cases that a small run does not have."""

import io
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas
import pytest

from common.cards.croissant import is_guessed
from common.cards.evaluation import evaluation
from common.cards.origin import Origin
from common.cards.parts import command, copies, leaks, run_limits, stated
from common.metrics.bootstrap import nearer_interval
from common.metrics.memorization import CHANCE, THRESHOLD
from common.metrics.names import LEAKAGE
from common.metrics.protocol import Record
from common.runs.folder import RunFolder
from common.tables import to_csv

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
        "compared": Origin.GIVEN,
        "card": SimpleNamespace(group="(.+)/"),
        "facts": FACTS | {"classes": ["a"]},
        "records": [*(Record(name, 0.0) for name in LEAKAGE), copied(0, 1000)],
        "train_images": 3,
        "data_sets": 1,
        "readme": {},
        "samples": None,
    }
    return SimpleNamespace(**(given | changes))


def copied(count: int, of: int, **changes: object) -> Record:
    """As beside 1,000 held-out images."""
    low, high = nearer_interval(count, of, CHANCE, CHANCE * 1001, 1000)
    given = {"n_fake": of, "rule": f"3 training images; {THRESHOLD}", "note": "0.2 beside"}
    return Record("copied_share", count / of, low, high, **(given | changes))


@pytest.mark.parametrize(
    ("count", "of", "begins"),
    [
        (200, 1000, "MORE copies of training images than chance brings: 20.00% of 1,000 generated"),
        (22, 1000, "MORE copies"),
        # As many of an honest model may be chance, because another thousand held-out images would
        # put the threshold elsewhere.
        (19, 1000, "1,000 images are too few to tell"),
        (9, 1000, "No more copies of training images than twice what chance brings: 0.90%"),
        (0, 191, "No more copies"),
        (0, 40, "40 images are too few to tell whether training images come back: 0.00% of 40"),
        (1, 20, "20 images are too few to tell"),
        (2, 50, "50 images are too few to tell"),
        (0, 190, "190 images are too few to tell"),
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
    looked = [copied(0, 1000, rule=f"2 training images; {THRESHOLD}")]
    (some,) = copies(subject(records=looked))
    assert some.endswith("2 of the 3 training images; copies of others were not looked for.")
    (last,) = copies(subject(records=[copied(0, 1000)], data_sets=2))
    assert "3 of the 3 training images of the last data set; copies of others" in last
    (unknown,) = copies(subject(records=[copied(0, 1000, rule=THRESHOLD)]))
    assert f"Compared with: {THRESHOLD}" in unknown
    (no_interval,) = copies(subject(records=[replace(copied(0, 1000), low=None)]))
    assert no_interval.startswith("Without an interval nobody can tell")


def test_numbers_of_the_rule_that_took_chance_for_copies_accuse_nobody() -> None:
    (older,) = copies(subject(records=[copied(30, 1000, rule="3 training images")]))
    assert older.startswith("By an older rule, which takes chance for copies: 3.00% of 1,000")
    assert "make evaluate tells anew" in older and "MORE" not in older


def test_smooth_copies_are_told_beside_those_that_features_see() -> None:
    smooth = replace(copied(200, 1000), metric="coarse_copied_share")
    first, second = copies(subject(records=[copied(0, 1000), smooth]))
    assert first.startswith("No more copies")
    assert second.startswith("By what they show on the whole: MORE copies")


def test_copies_that_were_not_looked_for_are_told_so() -> None:
    assert copies(subject(records=[])) == []
    for records in ([Record("fid", 1.0)], [Record("copied_share", None, note="too few")]):
        (unknown,) = copies(subject(records=records))
        assert unknown == "Whether generated images repeat training images was not measured."


def test_limits_are_those_of_the_run_and_no_others() -> None:
    (only,) = run_limits(subject())
    assert only.startswith("No more copies")
    told = {
        "simulated images that were held out": {"compared": Origin.SIMULATED},
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
    both = subject(compared=Origin.SIMULATED, card=SimpleNamespace(group=None))
    assert "independent of each other" in " ".join(run_limits(both))


def test_an_evaluation_that_refused_everything_says_why() -> None:
    refused = [Record("a", None, note="Too few."), Record("b", None, note="Too few.")]
    page = "\n".join(evaluation(subject(records=refused)))
    assert "Every metric was refused." in page and "- `a`, `b`: Too few." in page
    assert "| metric |" not in page


def test_held_out_images_that_were_trained_on_are_a_limit() -> None:
    same, alike = (Record(name, 0.0) for name in LEAKAGE)
    assert leaks([]) == leaks([same, alike]) == []
    found = leaks([replace(same, value=2.0), replace(alike, value=3000.0)])
    assert [words[:16] for words in found] == ["LEAKED: 2 pairs ", "LEAKED: 3,000 pa"]
    assert leaks([Record("fid", 1.0)]) == [
        "Whether held-out images were trained on was not counted."
    ]
    assert found[0] in run_limits(subject(records=[replace(same, value=2.0)]))


def test_numbers_that_were_measured_differently_name_all_that_they_were_measured_by() -> None:
    one = Record("a", 1.0, split="test", data="d" * 64, preprocessing="canvas", commit="c1")
    records = [one, replace(one, metric="b", preprocessing="canvas 2", commit="c2")]
    page = "\n".join(evaluation(subject(records=records)))
    assert "both sides: canvas or canvas 2\n" in page
    assert "code that measured: commit `c1` or commit `c2`" in page
    assert f"real side: split `test`, fingerprint `{'d' * 16}`\n" in page


def test_what_images_are_worth_is_told_apart_from_how_they_compare() -> None:
    one = Record("a", 1.0, preprocessing="as drawn", extractor="network")
    gained = Record("utility/gain/real_50", -0.25, preprocessing="each class as often")
    refused = Record("utility/synthetic", None, note="Too few.")
    page = "\n".join(evaluation(subject(records=[one, gained, refused])))
    before, after = page.split("### What the images are worth to a task")
    assert "as drawn" in before and "`a`" in before and "utility" not in before
    assert "extractor" in before and "extractor" not in after
    assert "each class as often" in after and "| `utility/gain/real_50` | -0.25 |" in after
    assert "- `utility/synthetic`: Too few." in after
    rules = ["width 4; none; 2 models", "width 4; affine; 2 models"]
    pair = [replace(gained, metric=f"utility/{k}", rule=rule) for k, rule in enumerate(rules)]
    page = "\n".join(evaluation(subject(records=pair)))
    assert page.count("width 4") == 1 and "- all numbers: width 4; 2 models\n" in page
    assert "| none |" in page and "| affine |" in page
    of_class = [replace(gained, metric=f"utility/gain/real_50/recall/{k}") for k in range(3)]
    seen = Record("judge/balanced_accuracy", 0.5)
    page = "\n".join(evaluation(subject(records=[one, seen, gained, *of_class])))
    assert (
        "recall" not in page and "3 numbers of single classes or steps, in `records.jsonl`" in page
    )
    assert "What a judge" in page[: page.index("`judge/")] and page.count("### ") == 3
    alone = "\n".join(evaluation(subject(records=[gained])))
    assert "Against held-out images" not in alone


def test_a_readme_without_a_section_is_told_so() -> None:
    assert stated(subject(), "Limits") == "The experiment's README has no section `Limits`."
    assert stated(subject(readme={"Limits": "\n\n- few\n"}), "Limits") == "- few"


@pytest.mark.parametrize(
    "labels",
    [
        *(["None", "b"], ["NA", "b"], ["N/A", "b"], ["n/a", "b"], ["NaN", "b"], ["nan", "b"]),
        *(["null", "b"], ["NULL", "b"], ["<NA>", "b"], ["#N/A", "b"], ["#NA", "b"], ["none", "b"]),
        *(["1.#IND", "b"], ["-nan", "b"], ["01", "2"], ["01", "b"], ["-1", "2"], ["1e5"], ["inf"]),
        *([".5", "1"], ["1_0", "2"], ["１", "２"], ["0x1f"], ["1,000"], ["2026-01-31"], ["TRUE"]),
        *(["True", "false"], ["True", "b"], ["True", "NA"], ["yes", "no"], ["ODA", "IDA"]),
    ],
)
def test_labels_that_pandas_takes_for_something_else_are_known(labels: list[str]) -> None:
    table = to_csv([["label"], *([label] for label in labels)])
    read = pandas.read_csv(io.BytesIO(table)).label.tolist()
    kept = [isinstance(label, str) and label.removeprefix("'") for label in read] == labels
    assert is_guessed({*labels}) == (not kept)


@pytest.mark.parametrize("label", ["ODA", "No CP", "it's", 'a "b"', "$x `y`", "a\\b", "!x"])
def test_a_command_reaches_the_command_line_as_it_was_meant(label: str) -> None:
    typed = command(subject(), "generate", "N=1", args=["--labels", label])
    make, *words = shlex.split(typed)
    values = dict(word.split("=", 1) for word in words[1:])
    assert make == "make" and values["EXP"] == "blobs" and values["N"] == "1"
    # Make halves the dollar signs before its own shell splits the words.
    assert shlex.split(values["ARGS"].replace("$$", "$")) == ["--labels", label]
