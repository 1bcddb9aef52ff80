import re
from types import SimpleNamespace

import pytest
from read_cards import Shown, head_of

from common.cards.licence import licence
from common.cards.markdown import block, bullets, code, head, plain, prose, sections, table, text
from common.cards.origin import Origin, origin
from common.privacy import PRIVATE, without_paths

PAGE = """# Title

What it is, and
what it does.

## Known problems

- **No patient is named.** The group is the
  image; see `group` and [the card](../card.md).
- Second, 2 < 3.

After the list.

    indented = code

### Lower heading

| a | table |

## Another
"""
TRICKY = (
    *(
        "1. one",
        "10) x",
        "- one",
        "+ one",
        "* one",
        "> one",
        "# one",
        "=",
        "---",
        "--",
        "| --- |",
        "a|b",
    ),
    *("a * b * c", "_a_ b_c __d__", "~~a~~", "$a$", "``", "`a", "\\", "<b>", "&lt;b&gt; &#60;"),
    *("![a](b)", "[a]: b", "[a][b]", "a https://a.org b", "HTTPS://a.org", "WWW.a.org", "a@b.org"),
    "<a@b.org>",
)


def shown(markdown: str) -> Shown:
    return Shown(f"---\na: 1\n---\n\n{markdown}")


@pytest.mark.parametrize("words", TRICKY)
def test_a_text_shows_exactly_itself_wherever_it_stands(words: str) -> None:
    for write in (text, code):
        written = write(words)
        places = {
            written: words,
            f"Before {written}": f"Before {words}",
            bullets([written, written]): f"{words}{words}",
            table(("a", "b"), [(written, written)]): f"ab{words}{words}",
        }
        for markdown, expected in places.items():
            found = shown(markdown)
            seen = found.text.replace("\u200b", "").replace("\n", "")
            assert seen == expected, markdown
            inline = {"p", "ul", "li", "code", "table", "thead", "tbody", "tr", "th", "td"}
            assert set(found.tags) <= inline and not found.links, markdown


def test_a_name_is_shown_as_code_where_nothing_in_it_can_end_that() -> None:
    assert code("IDA_Disarranged") == "`IDA_Disarranged`"
    assert "`" not in code("a`b") and "`" not in code("a|b") and code("") == ""
    assert code("a\nb\x1b") == code("a b\\u001b")


def test_long_texts_are_cut_and_nothing_ends_a_block() -> None:
    assert len(text("x" * 1000)) == 301
    copied = block(["a\n\nb", "```", "<b>"])
    found = shown(f"Before:\n\n{copied}\n\nAfter.")
    assert found.tags == {"p": 2, "pre": 1, "code": 1}
    assert "a b\n```\n<b>" in found.text


def test_the_head_is_yaml_whatever_its_texts_are() -> None:
    values = {"license": "other", "tags": ["- a", "---", "{x: 1}", "a: b #c", "yes", "é"]}
    assert head_of(f"{head(values)}\n\ntext") == values


def test_prose_keeps_paragraphs_lists_bold_words_and_code_and_nothing_else() -> None:
    found = sections(PAGE)
    assert list(found) == ["", "Known problems", "Another"]
    assert prose(found[""]) == "What it is, and what it does."
    markdown = prose(found["Known problems"])
    assert markdown.splitlines()[:4] == [
        "- **No patient is named.** The group is the image; see `group` and the card.",
        "- Second, 2 &#60; 3.",
        "",
        "After the list.",
    ]
    assert shown(markdown).tags == {"ul": 1, "li": 2, "p": 2, "strong": 1, "code": 1}
    assert "indented" not in markdown and "Lower" not in markdown
    assert plain(found["Known problems"])[:2] == [
        "No patient is named. The group is the image; see group and the card.",
        "Second, 2 < 3.",
    ]
    assert prose("") == "" and plain("") == []


def test_every_entry_of_a_list_is_one_whatever_its_mark_and_its_depth() -> None:
    markdown = (
        "First:\n\n1. one\n   and a half\n2. **two**\n   - below\n     two\n      * deep\n"
        "10) ten\n\n    - after a gap\n\nIn\n1999. it was - and is - so.\n"
    )
    entries = ["1. one and a half", "2. two", "below two", "deep", "10) ten", "after a gap"]
    assert plain(markdown) == ["First:", *entries, "In 1999. it was - and is - so."]
    found = shown(prose(markdown))
    assert found.tags == {"p": 2, "ul": 1, "li": 6, "strong": 1}
    assert [line for line in found.text.splitlines() if line][1:7] == entries


@pytest.mark.parametrize(
    "words",
    ["/home/ann/x.png", "C:\\Users\\ann\\x", "//server/share/x", "(/data/raw)", "see /a/b/c, then",
     "file:///home/ann/x.png", "File://share/ann", "file:///ann", "file:/home/ann",
     "file:///C:/Users/ann", "root:/home/ann"],
)  # fmt: skip
def test_absolute_paths_are_left_out_of_texts(words: str) -> None:
    assert PRIVATE in without_paths(words)
    assert not {"ann", "share", "raw", "b"} & set(without_paths(words).replace("/", " ").split())


@pytest.mark.parametrize(
    "words",
    [
        "and/or",
        "1/2",
        "wasserstein/x",
        "https://a.org/b/c",
        "profile://a.org/b/c",
        "data_cards/a.md",
        "a / b",
        "/",
        "runs/a/b",
    ],
)
def test_what_is_no_absolute_path_stays(words: str) -> None:
    assert without_paths(words) == words


@pytest.mark.parametrize(
    ("root", "data_sets", "found"),
    [
        (None, 1, Origin.SIMULATED),
        (None, 2, Origin.UNKNOWN),
        ("/data/patients", 1, Origin.GIVEN),
        ("/data/patients", 2, Origin.UNKNOWN),
        ("/w/data/raw/blobs-simulated-60x48px-0123abcd", 1, Origin.UNKNOWN),
        ("/w/data/raw/blobs-simulated-60x48px-0123abcd.zip", 1, Origin.UNKNOWN),
        ("/w/data/processed/blobs-0123456789ab", 1, Origin.UNKNOWN),
        ("/w/scans-202401311200", 1, Origin.GIVEN),
    ],
)
def test_simulated_is_said_only_where_it_is_known(
    root: str | None, data_sets: int, found: Origin
) -> None:
    assert origin("blobs", root, data_sets) is found


@pytest.mark.parametrize("found", Origin)
def test_no_licence_of_a_data_set_is_taken_for_that_of_a_model(found: Origin) -> None:
    card = SimpleNamespace(name="cells", licence="CC-BY-4.0")
    words = licence(card, found)
    assert words.startswith("none was stated" if found is Origin.SIMULATED else "not known to")
    # The data card's is told, and of what it is.
    assert re.search(r"\(CC-BY-4\.0\) is of the (real images|data set that it describes)", words)
