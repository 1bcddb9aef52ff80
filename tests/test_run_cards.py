"""`make card` on real runs: what the cards say, and that others can read them."""

import csv
import getpass
import hashlib
import json
import platform
import re
import shlex
import shutil
import socket
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageSequence
from read_cards import Shown, head_of, mlcroissant

from common.cards import write
from common.cards.markdown import one_line, plain, sections
from common.cards.origin import Origin
from common.cards.samples import MANIFEST
from common.cards.subject import (
    INTENDED,
    KNOWN_PROBLEMS,
    LIMITS,
    OUT_OF_SCOPE,
    Subject,
    read_subject,
)
from common.data.cards import card_file, load_card
from common.data.image_io import read_image, write_ome_tiff, write_png
from common.metrics.kinds import class_of
from common.metrics.protocol import Record, read_records, write_records
from common.report.configs import Setting
from common.runs.checkpoints import sha256_of
from common.runs.lock import SAMPLES as SAMPLES_LOCK
from common.runs.lock import RunLock
from common.tables import to_csv
from running import ROOT, Cli, at, call_cli, folder, refuses, run_folder, smoke

pytestmark = pytest.mark.one_experiment

SAMPLES = 7


@pytest.fixture(scope="session")
def described(trained: Path, experiment: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained workspace, generated, evaluated and with its cards; tests copy it."""
    workspace = tmp_path_factory.mktemp("described") / "workspace"
    shutil.copytree(trained, workspace, symlinks=True)
    where = at(workspace, "first")
    assert call_cli(experiment, "generate", *where, "--n", str(SAMPLES), "--seed", "3") == 0
    assert call_cli(experiment, "evaluate", *where) == 0
    assert call_cli(experiment, "card", *where) == 0
    return workspace


@pytest.fixture
def copy(described: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return shutil.copytree(described, tmp_path / "copy", symlinks=True)


@pytest.fixture(scope="session")
def mlc(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    return mlcroissant(tmp_path_factory.mktemp("croissant"))


def cards(workspace: Path, experiment: str) -> Path:
    return run_folder(workspace, experiment, "first") / "card"


def model_card(workspace: Path, experiment: str) -> str:
    return (cards(workspace, experiment) / "model_card.md").read_text(encoding="utf-8")


def rows_of(workspace: Path, experiment: str) -> list[dict[str, str]]:
    path = run_folder(workspace, experiment, "first") / "samples/manifest.csv"
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a folder, and what its archives hold."""
    found = {file.name: file.read_bytes() for file in sorted(path.iterdir())}
    for archive in path.glob("*.zip"):
        with zipfile.ZipFile(archive) as opened:
            found |= {f"{archive.name}:{n}": opened.read(n) for n in opened.namelist()}
    return found


def tables(markdown: str) -> list[set[int]]:
    """Of each table, how many cells its rows have."""
    found = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
    return [{line.count("|") for line in table.splitlines()} for table in found]


def unlike_prose(markdown: str) -> list[str]:
    """Lines of what cards do not repeat: tables, code, quotes, images, lower headings, HTML."""
    block = r"^(?:\||```|~~~|>|#|!\[|<|(?<=\n\n) {4,}(?! *(?:[-*+]|\d{1,2}[.)]) )).*"
    return re.findall(block, markdown, re.MULTILINE)


def test_every_experiment_states_its_use_and_its_limits_as_paragraphs_and_lists(
    experiment: str,
) -> None:
    path = folder(experiment) / "README.md"
    found = sections(path.read_text(encoding="utf-8"))
    for heading in (INTENDED, OUT_OF_SCOPE, LIMITS):
        where = f"experiments/{experiment}/README.md, section ## {heading}"
        assert plain(found.get(heading, "")), f"{where} is missing or says nothing"
        lines = unlike_prose(found[heading])
        assert not lines, f"{where}: cards repeat paragraphs and lists alone, not {lines[0]!r}"


def test_every_data_card_states_its_known_problems_as_paragraphs_and_lists() -> None:
    for path in ROOT.glob("data_cards/*.md"):
        problems = sections(path.read_text(encoding="utf-8")).get(KNOWN_PROBLEMS, "")
        lines = unlike_prose(problems)
        assert not lines, f"{path.name}: cards repeat paragraphs and lists alone, not {lines[0]!r}"


@pytest.mark.parametrize(
    "line", ["| a | b |", "```", "> said", "### Lower", "![a](b.png)", "<b>", "    code = 1"]
)
def test_a_section_that_cards_cannot_repeat_is_noticed(line: str) -> None:
    assert unlike_prose(f"\n\nWords.\n\n{line}\n") == [line]
    harmless = "Words, a | b\n    and more.\n\n1. one\n    - below\n\n    - after a gap\n"
    assert unlike_prose(harmless) == []


def test_the_model_card_says_first_that_its_data_were_simulated(
    described: Path, experiment: str
) -> None:
    markdown = model_card(described, experiment)
    shown = Shown(markdown)
    assert Origin.SIMULATED.value in shown.text[:400]
    assert "simulated-training-data" in head_of(markdown)["tags"]
    assert f"python {platform.python_version()}, torch {torch.__version__}" in shown.text
    assert head_of(markdown)["license"] == "unknown"
    assert "of which none was used" in shown.text
    for heading in (INTENDED, OUT_OF_SCOPE, LIMITS):
        own = (folder(experiment) / "README.md").read_text().split(f"## {heading}\n")[1]
        words = own.split("\n## ")[0].split()[1:6]
        assert " ".join(words) in shown.text


def test_the_model_card_holds_every_number_with_its_protocol_and_every_refusal(
    described: Path, experiment: str
) -> None:
    markdown = model_card(described, experiment)
    run = run_folder(described, experiment, "first")
    records = read_records(run / "records.jsonl")
    rows = [line for line in markdown.splitlines() if line.startswith("| `")]
    of_all = [record for record in records if not class_of(record.metric)[1]]
    if left := len(records) - len(of_all):
        assert f"{left} numbers of single classes, in `records.jsonl`" in markdown
    for record in of_all:
        if record.value is None:
            (line,) = (x for x in markdown.splitlines() if x.startswith("- `") and record.note in x)
            assert f"`{record.metric}`" in line
            continue
        (row,) = (row for row in rows if f"`{record.protocol}`" in row)
        for part in (record.metric, f"{record.value:.4g}", f"{record.n_real} / {record.n_fake}"):
            assert part in row
        if record.low is not None:
            assert f"{record.low:.4g} to {record.high:.4g}" in row
    (index,) = head_of(markdown)["model-index"]
    assert [r["dataset"]["type"] for r in index["results"]] == [f"{experiment}-simulated"]
    listed = {m["type"]: m["value"] for result in index["results"] for m in result["metrics"]}
    assert listed == {r.metric: r.value for r in records if r.value is not None}


def test_the_model_card_names_data_settings_and_checkpoint(
    described: Path, experiment: str
) -> None:
    markdown = model_card(described, experiment)
    run = run_folder(described, experiment, "first")
    config = yaml.safe_load((run / "config.yaml").read_text())
    for name, value in config["model"]["init_args"].items():
        shown = value if isinstance(value, str) else json.dumps(value)
        assert f"| `model.init_args.{name}` | `{shown}` |" in markdown
    assert f"| `budget.images_seen` | `{config['budget']['images_seen']}` |" in markdown
    checkpoint = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    (state,) = (checkpoint[key] for key in checkpoint if key.endswith("DataModule"))
    counts = state["facts"]["counts"]
    totals = [sum(counts[split].values()) for split in ("train", "val", "test")]
    assert f"| `all` | {' | '.join(map(str, totals))} |" in markdown.replace("| all |", "| `all` |")
    assert f"{checkpoint['callbacks']['ImagesSeen']['count']:,} images seen" in markdown
    digest = hashlib.sha256((run / "checkpoints/best.ckpt").read_bytes()).hexdigest()
    for text in (digest, state["facts"]["manifest_sha256"]):
        assert f"`{text}`" in markdown
    sections = card_file(config["data"]["card"]).read_text().split(f"## {KNOWN_PROBLEMS}\n")[1:]
    assert all(section.split()[1].strip("*") in Shown(markdown).text for section in sections)


def test_the_data_card_counts_what_lies_in_the_archive(described: Path, experiment: str) -> None:
    rows = rows_of(described, experiment)
    path = cards(described, experiment)
    markdown = (path / "data_card.md").read_text(encoding="utf-8")
    shown = Shown(markdown)
    assert "SYNTHETIC" in shown.text[:120] and Origin.SIMULATED.value in shown.text[:400]
    assert f"{SAMPLES} images in" in shown.text and "seeds: 3 to 9" in shown.text
    for label in {row["label"] for row in rows} - {""}:
        assert f"| `{label}` | {sum(row['label'] == label for row in rows)} |" in markdown
    (archive,) = path.glob("samples-*.zip")
    assert archive.name in markdown
    samples = run_folder(described, experiment, "first") / "samples"
    with zipfile.ZipFile(archive) as opened:
        packed = {name: opened.read(name) for name in opened.namelist()}
    assert packed == {file.name: file.read_bytes() for file in samples.iterdir()}


def test_mlcroissant_finds_no_error_and_reads_the_records(
    described: Path, experiment: str, mlc: ModuleType
) -> None:
    path = cards(described, experiment)
    # As the data card says it.
    assert '.Dataset("croissant.json").records("images")' in (path / "data_card.md").read_text()
    data = mlc.Dataset(path / "croissant.json")
    issues = data.metadata.ctx.issues
    assert not issues.errors
    # Nobody has published them.
    assert [w.partition('"')[2].partition('"')[0] for w in issues.warnings] == [
        "https://schema.org/datePublished"
    ]
    rows, records = rows_of(described, experiment), list(data.records("images"))
    assert [r["images/name"].decode() for r in records] == [row["name"] for row in rows]
    assert [r["images/seed"] for r in records] == [int(row["seed"]) for row in rows]
    samples = run_folder(described, experiment, "first") / "samples"
    for row, record in zip(rows, records, strict=True):
        assert record.get("images/label", b"").decode() == row["label"]
        expected = read_image(samples / row["name"]).pixels
        frames = [np.array(frame) for frame in ImageSequence.Iterator(record["images/image"])]
        assert (np.stack(frames).reshape(expected.shape) == expected).all()


def test_who_names_publisher_and_day_leaves_nothing_for_mlcroissant_to_ask(
    copy: Path, experiment: str, mlc: ModuleType, cli: Cli
) -> None:
    stated = ["--creator", "Lab <b>A</b>", "--published", "2026-01-31"]
    assert cli(experiment, "card", *at(copy, "first"), *stated).code == 0
    path = cards(copy, experiment)
    found = mlc.Dataset(jsonld=path / "croissant.json").metadata
    assert not found.ctx.issues.errors and not found.ctx.issues.warnings
    assert found.creators[0].name == "Lab <b>A</b>" and found.date_published.year == 2026
    shown = Shown((path / "data_card.md").read_text(encoding="utf-8"))
    assert "published by: Lab <b>A</b> on 2026-01-31" in shown.text and not shown.tags["b"]
    assert cli(experiment, "card", *at(copy, "first"), *stated[2:]).code == 0
    assert "- published on: 2026-01-31\n" in (path / "data_card.md").read_text(encoding="utf-8")
    for day in ("31.1.2026", "2026-13-01", "20260131"):
        refuses(cli(experiment, "card", *at(copy, "first"), "--published", day), 2, "is no day")


def test_croissant_says_synthetic_to_programs_too(described: Path, experiment: str) -> None:
    found = json.loads((cards(described, experiment) / "croissant.json").read_text())
    assert found["rai:hasSyntheticData"] is True
    assert found["digitalSourceType"]["@id"] == "sc:TrainedAlgorithmicMediaDigitalSource"
    assert found["description"].startswith("SYNTHETIC")
    source = found["prov:wasDerivedFrom"]["prov:label"]
    assert source.startswith("simulated by this repository's code, a stand-in for: ")
    assert found["rai:dataUseCases"] and found["rai:dataLimitations"]


def test_the_cards_name_nothing_of_this_machine(described: Path, experiment: str) -> None:
    words = {str(described), str(ROOT), str(Path.home()), socket.gethostname(), getpass.getuser()}
    for name, content in contents(cards(described, experiment)).items():
        text = content.decode(errors="replace")
        if name.endswith((".md", ".json")):
            found = [word for word in words if len(word) > 4 and word in text]
            assert not found, name
            assert not re.search(r"(?<![\w:/.])/(tmp|home|root|Users|work|var|mnt|data)/", text), (
                name
            )
        else:
            assert str(described).encode() not in content


def test_two_runs_of_the_verb_give_the_same_bytes(copy: Path, experiment: str, cli: Cli) -> None:
    before = contents(cards(copy, experiment))
    assert cli(experiment, "card", *at(copy, "first")).code == 0
    assert contents(cards(copy, experiment)) == before


def test_the_commands_of_the_cards_make_the_same_images(
    copy: Path, experiment: str, cli: Cli
) -> None:
    samples = run_folder(copy, experiment, "first") / "samples"
    before = {path.name: path.read_bytes() for path in samples.iterdir()}
    one, every = re.findall(r"^ {4}make generate (.*)$", model_card(copy, experiment), re.MULTILINE)

    def typed(command: str) -> list[str]:
        words = dict(word.partition("=")[::2] for word in shlex.split(command))
        assert (words["EXP"], words["RUN"]) == (experiment, "first")
        return ["--n", words["N"], *shlex.split(words.get("ARGS", "").replace(" k", " 5"))]

    assert cli(experiment, "generate", *at(copy, "first"), *typed(every)).code == 0
    assert {path.name: path.read_bytes() for path in samples.iterdir()} == before
    assert cli(experiment, "generate", *at(copy, "first"), *typed(one)).code == 0
    (made,) = (path for path in samples.iterdir() if path.suffix != ".csv")
    assert made.read_bytes() == before[made.name.replace("000000", "000002")]


def test_the_checkpoint_that_drew_the_samples_is_the_one_described(
    copy: Path, experiment: str, cli: Cli
) -> None:
    more = ["--resume", "true", "--budget.images_seen", "160"]
    assert cli(experiment, "fit", *at(copy, "first"), *more).code == 0
    chosen = ["--n", "2", "--weights", "last", "--labels", "balanced"]
    assert cli(experiment, "generate", *at(copy, "first"), *chosen).code == 0
    assert not cards(copy, experiment).exists()
    assert cli(experiment, "card", *at(copy, "first")).code == 0
    path = run_folder(copy, experiment, "first") / "checkpoints/last.ckpt"
    markdown = model_card(copy, experiment)
    assert hashlib.sha256(path.read_bytes()).hexdigest() in markdown
    assert "160 images seen" in markdown
    assert 'ARGS="--seed k --weights last --labels balanced"' in markdown


def test_without_samples_the_model_card_stands_alone_and_says_what_measures(
    workspace: Path, experiment: str, cli: Cli
) -> None:
    result = cli(experiment, "card", *at(workspace, "first"))
    assert result.code == 0, result.err
    assert "the model card alone; make generate" in result.out
    assert [p.name for p in cards(workspace, experiment).iterdir()] == ["model_card.md"]
    markdown = model_card(workspace, experiment)
    assert "Nothing was measured." in markdown
    for verb in ("generate", "evaluate"):
        assert f"    make {verb} EXP={experiment} RUN=first" in markdown
    assert "model-index" not in head_of(markdown)


def test_samples_that_are_not_those_of_their_table_get_no_card(
    copy: Path, experiment: str, cli: Cli
) -> None:
    samples, before = run_folder(copy, experiment, "first") / "samples", cards(copy, experiment)
    kept = contents(before)
    table = (samples / "manifest.csv").read_bytes()
    first, second, *_ = sorted(p for p in samples.iterdir() if p.suffix != ".csv")
    card = [experiment, "card", *at(copy, "first")]
    pixels = first.read_bytes()

    def changed(*words: str) -> None:
        refuses(cli(*card), 3, *words)
        assert contents(before) == kept
        (samples / "manifest.csv").write_bytes(table)
        first.write_bytes(pixels)

    first.unlink()
    changed(f"lacks {first.name}, which its manifest.csv names", "make generate")
    extra = first.with_name(f"extra{''.join(first.suffixes)}")
    extra.write_bytes(pixels)
    changed(f"holds {extra.name}, which its manifest.csv does not name")
    extra.unlink()
    first.write_bytes(pixels[: len(pixels) // 2])
    changed(first.name)
    (samples / "manifest.csv").write_bytes(table.replace(second.name.encode(), first.name.encode()))
    second.rename(copy / "away")
    changed("its manifest.csv names twice")
    (copy / "away").rename(second)
    (samples / "manifest.csv").write_bytes(table.replace(b".png,4,", b".png,x,").replace(
        b".tiff,4,", b".tiff,x,"
    ))  # fmt: skip
    changed("line 3 is not what make generate writes")
    (samples / "manifest.csv").write_bytes(table.replace(b",data,", b",whatever,"))
    changed("names no rule by which labels are chosen")


def test_an_image_of_other_channels_or_another_type_gets_no_card(
    copy: Path, experiment: str, cli: Cli
) -> None:
    samples = run_folder(copy, experiment, "first") / "samples"
    first = min(path for path in samples.iterdir() if path.suffix != ".csv")
    card = [experiment, "card", *at(copy, "first")]
    image = read_image(first)
    save = write_png if first.suffix == ".png" else partial(write_ome_tiff, axes=image.axes)
    other = np.uint8 if image.pixels.dtype == np.uint16 else np.uint16
    table = first.with_name("manifest.csv")
    digests = [hashlib.sha256(first.read_bytes()).hexdigest()]

    def vouch() -> None:
        """Makes the table name what lies there now."""
        digests.append(hashlib.sha256(first.read_bytes()).hexdigest())
        table.write_text(table.read_text().replace(*digests[-2:]))

    save(first, image.pixels.astype(other))
    refuses(cli(*card), 3, first.name, "is not the image that was generated")
    vouch()
    refuses(cli(*card), 3, "samples", "mixes pixel types uint16, uint8")
    colours = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    Image.fromarray(colours).save(first, format="PNG" if first.suffix == ".png" else "TIFF")
    vouch()
    refuses(cli(*card), 3, first.name, "has 3 channels")


def test_records_and_samples_of_other_checkpoints_get_no_card(
    copy: Path, experiment: str, cli: Cli
) -> None:
    run = run_folder(copy, experiment, "first")
    card = [experiment, "card", *at(copy, "first")]
    table = run / "samples/manifest.csv"
    digest = rows_of(copy, experiment)[0]["checkpoint_sha256"].encode()
    table.write_bytes(table.read_bytes().replace(digest, b"0" * 64))
    refuses(cli(*card), 3, "records.jsonl", "another checkpoint", "make evaluate")
    table.write_bytes(table.read_bytes().replace(b"0" * 64, digest))
    other = Record("continuation/mae/BF", 0.5, checkpoint_sha256="0" * 64)
    write_records(run / "records.jsonl", [*read_records(run / "records.jsonl"), other])
    remedy = f'run make continue EXP={experiment} RUN=first ARGS="--weights best"'
    refuses(cli(*card), 3, "records.jsonl", "another checkpoint", remedy)
    table.write_bytes(table.read_bytes().replace(digest, b"0" * 64))
    (run / "records.jsonl").unlink()
    refuses(cli(*card), 4, "no longer holds the checkpoint", "make generate")
    shutil.rmtree(run / "samples")
    shutil.rmtree(run / "checkpoints")
    refuses(cli(*card), 4, "best.ckpt", "does not exist")


def test_the_card_of_another_data_set_is_refused(
    copy: Path, experiment: str, tmp_path: Path, cli: Cli
) -> None:
    config = yaml.safe_load((run_folder(copy, experiment, "first") / "config.yaml").read_text())
    source = card_file(config["data"]["card"])
    other = tmp_path / "other.md"
    text = source.read_text().replace(f"name: {source.stem}\n", "name: other\n")
    other.write_text(text)
    result = cli(experiment, "card", *at(copy, "first"), "--data.card", other)
    refuses(result, 2, "--data.card other", f"({source.stem})")


def test_an_older_card_stays_until_the_new_one_is_whole(
    copy: Path, experiment: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = contents(cards(copy, experiment))

    def full(*args: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "write_archive", full)
    refuses(cli(experiment, "card", *at(copy, "first")), 5, "card", "No space left")
    assert contents(cards(copy, experiment)) == kept
    assert not [p for p in cards(copy, experiment).parent.glob(".card.*")]


def test_samples_that_are_being_written_are_not_described(
    copy: Path, experiment: str, cli: Cli
) -> None:
    lock = RunLock(run_folder(copy, experiment, "first"), SAMPLES_LOCK)
    lock.acquire()
    refuses(cli(experiment, "card", *at(copy, "first")), 5, "first")
    lock.release()
    assert cli(experiment, "card", *at(copy, "first")).code == 0


def test_images_that_were_given_are_never_called_simulated(
    trained: Path, experiment: str, tmp_path: Path, cli: Cli
) -> None:
    (raw,) = trained.glob("data/raw/*")
    given = shutil.copytree(raw, tmp_path / "micrographs")
    told = {}
    for name, root in (("given", given), ("ours", raw)):
        fit = ["fit", *smoke(experiment), *at(tmp_path, name), "--data.root", root]
        assert cli(experiment, *fit).code == 0
        assert cli(experiment, "generate", *at(tmp_path, name), "--n", "2").code == 0
        assert cli(experiment, "card", *at(tmp_path, name)).code == 0
        told[name] = (run_folder(tmp_path, experiment, name) / "card/model_card.md").read_text()
        assert str(tmp_path) not in told[name] and "micrographs`" not in told[name]
        knows_no_source(tmp_path, experiment, name)
    assert Origin.GIVEN.value in told["given"]
    assert "simulated-training-data" not in told["given"] and "SIMULATED" not in told["given"]
    assert Origin.UNKNOWN.value in told["ours"] and "SIMULATED" not in told["ours"]


def knows_no_source(workspace: Path, experiment: str, run: str) -> None:
    """Neither licence nor address of the data card's data set is stated of other images."""
    path = run_folder(workspace, experiment, run)
    config = yaml.safe_load((path / "config.yaml").read_text())
    card = load_card(config["data"]["card"])
    described = json.loads((path / "card/croissant.json").read_text())
    assert described["license"]["name"].startswith("not known to this project")
    source = described["prov:wasDerivedFrom"]
    assert {*source} == {"@type", "prov:label", "sc:identifier"}
    assert "in the layout of: " in source["prov:label"]
    for kind in ("model_card.md", "data_card.md"):
        markdown = (path / "card" / kind).read_text(encoding="utf-8")
        assert head_of(markdown)["license"] == "unknown"
        assert "licence: not known to this project" in Shown(markdown).text
        assert card.url not in markdown.replace("`", "") or "that it describes is found" in markdown


def test_a_run_that_went_on_with_other_data_does_not_know_its_origin(
    workspace: Path, experiment: str, cli: Cli
) -> None:
    changed = ["--data.test_fraction", "0.4", "--allow-change", "data", "--resume", "true"]
    more = ["--budget.images_seen", "200", *changed]
    assert cli(experiment, "fit", *at(workspace, "first"), *more).code == 0
    generate = ["--n", "2", "--weights", "last"]
    assert cli(experiment, "generate", *at(workspace, "first"), *generate).code == 0
    assert cli(experiment, "card", *at(workspace, "first")).code == 0
    markdown = model_card(workspace, experiment)
    assert Origin.UNKNOWN.value in markdown and Origin.SIMULATED.value not in markdown
    assert "trained on 2 data sets" in markdown


HOSTILE = (
    "<script>alert(1)</script>",
    "a | b | c",
    "`x` <img src=x onerror=alert(2)>",
    "[click](https://evil.org/x) ![p](https://evil.org/p.png)",
    "https://evil.org www.evil.org ann@evil.org",
    "two\r\n\r\n# lines\n| and | a |\n|---|---|",
    "=HYPERLINK(1)",
    "-2+3 **bold** _it_ ~~no~~ $x$",
    "\x1b[2J\u202egnp\\",
    "x" * 5000,
    "at /home/ann/patients/7.png and C:\\Users\\ann\\7.png",
    "---\nlicense: mit\n---",
    "{{7*7}}{% raw %}",
)
# A reader that guesses types makes numbers or nothing of these; `x` and `x2` are in one column.
GUESSED = ("None", "NA", "n/a", "01", "1e5", ".5")


def called(subject: Subject, name: str) -> Subject:
    """A run in which every text that a file or a user can set is the name, and its table too."""
    records = [replace(r, **dict.fromkeys(("metric", "unit", "extractor", "note", "rule"), name))
               for r in subject.records]  # fmt: skip
    card = replace(subject.card, title=name, licence=name, url=name, group_kind=name)
    classes = [name, f"{name}2"]
    facts = {
        **subject.facts,
        "classes": classes,
        "counts": {split: {name: 3} for split in ("train", "val", "test")},
        "channels": [name for _ in subject.facts["channels"]],
    }
    samples = subject.folder.samples
    rows = [{**row, "label": classes[k % 2], "labels": name}
            for k, row in enumerate(subject.samples.rows)]  # fmt: skip
    (samples / "manifest.csv").write_bytes(to_csv([rows[0], *(row.values() for row in rows)]))
    # Paragraphs are a README's to make.
    line = " ".join(name.split())
    settings = {key: Setting(name, name) for key in ("model.class_path", "model.init_args.x")}
    return replace(
        subject,
        card=card,
        card_name=name,
        problems=f"- {line}\n- {line}",
        readme={"": line, INTENDED: line, OUT_OF_SCOPE: f"- {line}", LIMITS: f"- {line}"},
        records=records,
        facts=facts,
        config={**subject.config, **settings},
        samples=replace(subject.samples, rows=rows, manifest_sha256=sha256_of(samples / MANIFEST)),
    )


def test_no_text_of_a_file_or_a_user_becomes_more_than_text(
    copy: Path, experiment: str, mlc: ModuleType, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Subject] = []
    monkeypatch.setattr(write, "read_subject", lambda *a: read.append(read_subject(*a)) or read[0])
    assert cli(experiment, "card", *at(copy, "first")).code == 0
    seen: dict[str, list[Shown]] = {}
    for name in ("harmless", *HOSTILE, *GUESSED):
        subject = called(read[0], name)
        monkeypatch.setattr(write, "read_subject", lambda *a, found=subject: found)
        assert write.write_cards(subject.folder, None, creator=name)
        path = cards(copy, experiment)
        kinds = ("model_card.md", "data_card.md")
        texts = [(path / kind).read_text(encoding="utf-8") for kind in kinds]
        assert all(isinstance(head_of(text)["tags"], list) for text in texts)
        assert not [text for text in texts if any(len(widths) > 1 for widths in tables(text))]
        described = (path / "croissant.json").read_text()
        assert "&#" not in described and not re.search(r"[\x00-\x09\x0b-\x1f]", described)
        everything = "".join([*texts, described])
        assert "/ann/" not in everything and "Users" not in everything
        seen[name] = [Shown(text) for text in texts]
        records = list(mlc.Dataset(jsonld=path / "croissant.json").records("images"))
        same = [record["images/label"] for record in records] == [
            row["label"].encode() for row in subject.samples.rows
        ]
        assert same == (name not in GUESSED), name
        assert ("Readers that guess types" in described) == (name in GUESSED)
    for name in HOSTILE:
        for shown, harmless in zip(seen[name], seen["harmless"], strict=True):
            tags = {*shown.tags, *harmless.tags} - {"a"}
            unlike = {tag for tag in tags if shown.tags[tag] != harmless.tags[tag]}
            # A README may set words in bold or as code, and such a name is no span of code.
            assert unlike <= {"code", "strong"}, (name, unlike)
            assert shown.links == []
            assert one_line(name)[:40] in shown.text.replace("\u200b", "")
