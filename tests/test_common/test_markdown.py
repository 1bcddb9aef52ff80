import pytest
from read_cards import Shown, head_of

from common.cards.licence import inherited
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


def test_a_licence_is_named_only_where_the_data_card_names_exactly_one() -> None:
    for words in ("CC-BY-4.0", "cc by 4.0", "CC BY-4.0"):
        known = inherited(words, simulated=False)
        assert known.head == {"license": "cc-by-4.0"}
        assert known.croissant == "https://spdx.org/licenses/CC-BY-4.0.html"
    other = inherited("CC BY 4.0 for most", simulated=False)
    assert other.head == {"license": "other", "license_name": "CC BY 4.0 for most"}
    assert other.croissant == {"@type": "sc:CreativeWork", "name": "CC BY 4.0 for most"}


def test_the_licence_of_real_images_is_not_that_of_simulated_ones() -> None:
    found = inherited("CC-BY-4.0", simulated=True)
    assert found.head == {"license": "unknown"} and found.spdx == ""
    assert "none was stated" in found.text and "(CC-BY-4.0)" in found.text
