"""Hostile names through the four doors: tables, the page, JSON, W&B."""

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import wandb
import yaml
from PIL import Image

from common.data.cards import Card
from common.data.findings import Findings
from common.data.image_io import write_png
from common.data.manifest import Sample
from common.data.preparation import Recipe
from common.data.prepare import prepare
from common.data.prepared import Prepared
from common.errors import visible
from common.generation import COLUMNS, read_samples_manifest
from common.metrics.protocol import Record, read_records, write_records
from common.privacy import PRIVATE, public
from common.report.page import render, write_report
from common.report.runs import find_runs
from common.runs.folder import RunFolder
from common.runs.metrics_csv import MetricsCSV, truncate
from common.tables import to_csv
from common.tracking.run import Tracking, WandbRun
from wandb_log import WandbRecord, records_of

pytestmark = pytest.mark.faults

HOSTILE = (
    "<script>alert(1)</script>",
    "</script></style></title><svg onload=alert(2)>",
    '"><img src=x onerror=alert(3)>',
    "' autofocus onfocus='alert(4)",
    '=HYPERLINK("http://x.example";"y")',
    "-2+3|cmd",
    "\t=1+1",
    "'@SUM(1)",
    "\x1b[2J\x07\u202egnp\u2066",
    'two\r\nlines,and;"quotes"',
    os.fsdecode(b"\xff\xfe\x80"),
    "x" * 5000,
    "{{7*7}}{% if 1 %}${7*7}",
    "../../etc/passwd",
)
FORMULA = tuple("=+-@\t\r")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
Tally = Callable[[str, int, int], None]


def survive(tally: Tally, check: Callable[[Path, str], None], folder: Path) -> None:
    """Counts the names that a door has treated as they should be."""
    failures = {}
    for index, name in enumerate(HOSTILE):
        place = folder / f"{index:02d}"
        place.mkdir()
        try:
            check(place, name)
        except Exception as error:  # a door that breaks has failed as well
            failures[name[:40]] = repr(error)[:2000]
    tally("X1", len(HOSTILE) - len(failures), len(HOSTILE))
    assert not failures


def of_a_file(name: str) -> str:
    """As much of the name as a file can have."""
    return (
        name.replace("/", "|")
        .encode(errors="surrogateescape")[:200]
        .decode(errors="surrogateescape")
    )


def prepared(place: Path, name: str) -> Prepared:
    """A data set of which class, folder and files are called so."""
    root, samples = place / "raw", []
    for k in range(10):
        file = Path(of_a_file(name)) / f"{of_a_file(name)}{k}.png"
        (root / file.parent).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(k).integers(0, 256, (16, 16), np.uint8)
        write_png(root / file, pixels)
        samples.append(Sample(file.as_posix(), f"{name}{k}", name))
    card = Card(name, name, "", "", (name,), None, "dtype", (name,), None, "image", (), True)
    prepare(root, place / "prepared", samples, Recipe("exp", card, 16, 0.2, 0.2, 0))
    return Prepared.open(place / "prepared")


def test_no_name_becomes_a_formula_and_every_table_reads_back(tmp_path: Path, tally: Tally) -> None:
    survive(tally, check_tables, tmp_path)


def check_tables(place: Path, name: str) -> None:
    found = prepared(place, name)
    assert {sample.label for sample in found.manifest} == {name}
    assert {sample.group for sample in found.manifest} == {f"{name}{k}" for k in range(10)}
    files = {f"{of_a_file(name)}/{of_a_file(name)}{k}.png" for k in range(10)}
    assert {sample.name for sample in found.manifest} == files

    folder = RunFolder(place, "exp", "first")
    folder.samples.mkdir(parents=True)
    row = ("000000.png", 7, name, name, "canvas", "sampled", name, "ab" * 32, "cd" * 32)
    (folder.samples / "manifest.csv").write_bytes(to_csv([COLUMNS, row]))
    assert tuple(read_samples_manifest(folder)[0].values()) == tuple(map(str, row))

    logger = MetricsCSV(folder.metrics)
    logger.log_metrics({name: -0.5, f"val/{name}": 0.5})
    truncate(folder.metrics, 0)
    (run,) = find_runs(place)
    assert {key: curve.values for key, curve in run.curves.items()} == {
        name: (-0.5,), f"val/{name}": (0.5,)
    }  # fmt: skip
    assert run.samples == ()
    for path in (place / "prepared/manifest.csv", folder.samples / "manifest.csv", folder.metrics):
        assert not [cell for cell in cells(path) if cell.startswith(FORMULA)], path.name


def cells(path: Path) -> Iterator[str]:
    """Cells as a spreadsheet reads them, without those that are numbers."""
    text = path.read_bytes().decode(errors="surrogateescape")
    for row in csv.reader(io.StringIO(text, newline="")):
        yield from (cell for cell in row if not re.fullmatch(r"-?\d+(\.\d+)?", cell))


def test_no_name_leaves_its_place_on_the_page(tmp_path: Path, tally: Tally) -> None:
    survive(tally, check_page, tmp_path)


def check_page(place: Path, name: str) -> None:
    harmless, page = (Page(written_page(place / n, text)) for n, text in (("a", "b"), ("c", name)))
    assert not page.tags & {"iframe", "object", "embed", "link", "base", "form"}
    # The page's own, which the policy knows by its hash.
    assert page.scripts == harmless.scripts == 1
    assert page.tags <= harmless.tags
    # A long value is cut, and whole in a title.
    assert {name for name, _ in page.attributes} <= {n for n, _ in harmless.attributes} | {"title"}
    links = [value for key, value in page.attributes if key in ("src", "href", "action")]
    assert links and all(link.startswith(("#e", "data:image/png;base64,")) for link in links)
    assert not CONTROL.search(page.text.replace("\n", ""))
    assert page.text.count(visible(name)[:150].split(".")[0]) >= 8
    assert "49" not in page.text
    (policy,) = (value for _, value in page.attributes if "default-src" in value)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy and policy.count("script-src 'sha256-") == 1


def written_page(workspace: Path, name: str) -> str:
    """The page of two runs, in which every text that a user or a file can set is the name."""
    for number in (1, 2):
        folder = workspace / "runs" / of_a_file(name) / f"{number}{of_a_file(name)}"
        (folder / "samples").mkdir(parents=True)
        image = Image.fromarray(np.zeros((8, 8), np.uint8))
        image.save(folder / "samples/000000.png")
        row = ("000000.png", *[name] * (len(COLUMNS) - 1))
        (folder / "samples/manifest.csv").write_bytes(to_csv([COLUMNS, row]))
        # Longer values, and what is no Unicode, no configuration can hold.
        typed = name[:2000].encode(errors="replace").decode()
        settings = {"data": {"card": typed}, "a": f"{typed}{number}", typed: typed, "b": [typed]}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        MetricsCSV(folder / "metrics.csv").log_metrics({f"val/{name}": 0.5, name: 1.0})
        texts = dict.fromkeys(("metric", "unit", "extractor", "split", "note"), name)
        records = [Record(value=1.5, data=f"{name}{number}", **texts), Record(value=None, **texts)]
        write_records(folder / "records.jsonl", records)
    path = write_report(find_runs(workspace), workspace / "reports/index.html")
    assert render(find_runs(workspace)) == path.read_text(encoding="utf-8")
    return path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags, attributes and text as a browser would take them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.scripts = 0
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        self.tags.add(tag)
        self.scripts += tag == "script"
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += "" if self._open in ("style", "script") else data


def test_every_name_reads_back_from_json_that_is_ascii(tmp_path: Path, tally: Tally) -> None:
    survive(tally, check_json, tmp_path)


def check_json(place: Path, name: str) -> None:
    facts = prepared(place, name).facts
    assert (facts["card"], facts["classes"], facts["channels"]) == (name, [name], [name])
    assert facts["counts"]["test"] == {name: 2}
    Findings(1, {name: name}).write(place / "findings.json")
    assert json.loads((place / "findings.json").read_text())["bad_files"] == [
        {"name": name, "problem": name}
    ]
    records = [Record(name, 0.5, unit=name, extractor=name, note=name)]
    write_records(place / "records.jsonl", records)
    assert read_records(place / "records.jsonl") == records
    for path in ("prepared/dataset.json", "exp-report.json", "findings.json", "records.jsonl"):
        text = (place / path).read_bytes()
        assert text.isascii() and not CONTROL.search(text.decode().replace("\n", ""))


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> list[WandbRecord]:
    """What an offline W&B run keeps of all the names, as settings, metrics and tags."""
    workspace = tmp_path_factory.mktemp("sent")
    tags = tuple(name for name in HOSTILE if len(public(name)) <= 64)
    run = WandbRun(RunFolder(workspace, "exp", "first"), Tracking(tags=tags))
    run.log_hyperparams({f"n{k:02d}": {"x": [name]} for k, name in enumerate(HOSTILE)})
    run.log_hyperparams({f"k{k:02d}": {name: k} for k, name in enumerate(HOSTILE)})
    run.log_metrics({name: k for k, name in enumerate(HOSTILE)})
    wandb.finish()
    wandb.teardown()
    (path,) = workspace.rglob("*.wandb")
    return [WandbRecord.FromString(record) for record in records_of(path)]


def test_no_name_harms_who_looks_at_the_run_in_wandb(
    tmp_path: Path, sent: list[WandbRecord], tally: Tally
) -> None:
    settings, logged, tags = {}, {}, set()
    for record in sent:
        settings |= {u.key: json.loads(u.value_json) for u in record.config.update}
        logged |= {i.nested_key[-1]: i.value_json for i in record.history.item if i.nested_key}
        tags |= set(record.run.tags)

    def check(place: Path, name: str) -> None:
        index = HOSTILE.index(name)
        assert settings[f"n{index:02d}"] == {"x": [public(name)]}
        assert settings[f"k{index:02d}"] == {public(name): index}
        assert logged[visible(name)] == str(index)
        assert len(public(name)) > 64 or public(name) in tags
        assert public(name) == (PRIVATE if set(name) & set("/@") else visible(name))
        assert not CONTROL.search(public(name) + visible(name))

    survive(tally, check, tmp_path)
