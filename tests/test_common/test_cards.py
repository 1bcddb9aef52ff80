import re
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import yaml

import common
from common.data.cards import Card, load_card
from common.data.splits import group_of
from common.errors import Exit, UserError

CARDS = Path(common.__file__).parent.parent / "data_cards"
VALID = {
    "name": "yeast",
    "title": "Yeast",
    "url": "https://example.org",
    "licence": "CC0",
    "channels": ["bright field", "GFP"],
    "pixel_size_um": 0.1,
    "window": "dtype",
    "classes": [],
    "group": r"position(\d+)",
    "group_kind": "position",
    "derivative_suffixes": ["_mirrored"],
    "collapse_grey": False,
}


def write(folder: Path, file: str = "yeast.md", **changes: object) -> None:
    head = {k: v for k, v in (VALID | changes).items() if v != "absent"}
    (folder / file).write_text(f"---\n{yaml.safe_dump(head)}---\n\n# Text\n---\nrule\n")


@pytest.mark.parametrize("name", [p.stem for p in CARDS.glob("*.md") if p.stem != "README"])
def test_every_card_of_the_repository_loads_and_has_its_human_part(name: str) -> None:
    assert load_card(name).name == name
    text = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    for heading in ("## Known problems", "## How to get it", "## How to cite"):
        assert heading in text


def test_the_cilia_card_holds_the_ten_classes_in_their_published_order() -> None:
    card = load_card("cilia_tem")
    assert ", ".join(card.classes) == (
        "CP 2, Disarranged, IDA, IDA_Disarranged, Microtub Abnorm, No CP, Normal, ODA, ODA_IDA,"
        " Subtle CP"
    )
    assert (card.channels, card.pixel_size_um, card.collapse_grey) == (("tem",), None, True)
    copy, original = "Normal/Normal_0030_mirrored.jpg", "Normal/Normal_0030.png"
    suffixes = card.derivative_suffixes
    assert group_of(copy, card.group, suffixes) == group_of(original, card.group, suffixes)


def test_the_schema_lists_exactly_the_keys_of_a_card() -> None:
    text = (CARDS / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)`", text, re.MULTILINE) == [f.name for f in fields(Card)]


def test_a_card_comes_back_typed_and_frozen(tmp_path: Path) -> None:
    write(tmp_path)
    card = load_card("yeast", tmp_path)
    assert asdict(card) == VALID | {
        "channels": ("bright field", "GFP"),
        "classes": (),
        "derivative_suffixes": ("_mirrored",),
    }
    with pytest.raises(AttributeError):
        card.name = "other"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("dtype", "dtype"),
        ([100, 4095], (100.0, 4095.0)),
        ({"percentiles": [0.1, 99.9]}, {"percentiles": (0.1, 99.9)}),
    ],
)
def test_the_three_kinds_of_window(tmp_path: Path, written: object, read: object) -> None:
    write(tmp_path, window=written)
    assert load_card("yeast", tmp_path).window == read


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("licence", "absent", "lacks the key 'licence'"),
        ("license", "MIT", "unknown key 'license'"),
        ("name", "other", "name: 'other' is not the name of the file"),
        ("title", 3, "title: 3 is not text"),
        ("url", "", "url: '' is not text"),
        ("channels", [], "channels: is empty"),
        ("channels", "GFP", "channels: 'GFP' is not a list"),
        ("classes", ["IDA", False], "classes: False is not text; put it in quotes"),
        ("classes", ["IDA", "IDA"], "classes: has an entry twice"),
        ("pixel_size_um", 0, "pixel_size_um: 0 is not positive; write null"),
        ("pixel_size_um", "0.1", "pixel_size_um: '0.1' is not a number"),
        ("pixel_size_um", float("nan"), "pixel_size_um: nan is not a number"),
        ("window", "auto", "window: 'auto' is not dtype"),
        ("window", [4095, 0], "window: 4095 is not below 0"),
        ("window", {"percentiles": [1, 101]}, "window: percentiles 1 and 101"),
        ("window", {"percentile": [1, 99]}, "window: .* is not dtype"),
        ("group", "position\\d+", "group: .* no parentheses"),
        ("group", "position(", "group: .* not a regular expression"),
        ("derivative_suffixes", ["_rot("], "derivative_suffixes: .* not a regular expression"),
        ("collapse_grey", "yes", "collapse_grey: 'yes' is not true or false"),
    ],
)
def test_a_faulty_card_is_named_with_its_key_and_the_schema(
    tmp_path: Path, key: str, value: object, message: str
) -> None:
    write(tmp_path, **{key: value})
    with pytest.raises(UserError, match=f"yeast.md: .*{message}") as caught:
        load_card("yeast", tmp_path)
    assert caught.value.code == Exit.USAGE
    assert "data_cards/README.md" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# No head\n", "does not begin with YAML keys"),
        (b"---\nname: a\nno end\n", "does not begin with YAML keys"),
        (b"---\n\n---\n", "does not begin with YAML keys"),
        (b"---\n- a\n---\n", "does not begin with YAML keys"),
        (b"---\nname: a\n\tb: [\n---\n", r"not valid YAML in UTF-8 \(line 3\)"),
        (b"---\nname: !!python/object/apply:os.getcwd []\n---\n", "not valid YAML"),
        (b"---\nname: \xff\n---\n", "not valid YAML in UTF-8"),
    ],
)
def test_a_card_that_is_not_yaml_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "yeast.md").write_bytes(content)
    with pytest.raises(UserError, match=f"yeast.md: .*{message}") as caught:
        load_card("yeast", tmp_path)
    assert caught.value.code == Exit.USAGE


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "yeast.md"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_card("yeast", tmp_path).name == "yeast"


def test_an_unknown_card_lists_those_that_exist(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, "axon.md", name="axon")
    with pytest.raises(UserError, match=r"yeats\.md: .* axon, yeast") as caught:
        load_card("yeats", tmp_path)
    assert caught.value.code == Exit.USAGE


def test_a_name_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    inner = tmp_path / "cards"
    inner.mkdir()
    write(tmp_path)
    with pytest.raises(UserError, match="no such data card"):
        load_card("../yeast", inner)
