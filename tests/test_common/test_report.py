"""The comparison page: what stands on it, that it is safe, and what it says about damage."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.report.__main__ import main
from common.report.page import render
from common.report.runs import find_runs, read_run
from common.tables import from_csv, named_cells, to_csv
from plausible_runs import (
    Page,
    hostile_run,
    plausible_run,
    write_metrics,
)
from running import open_page


def test_the_page_compares_all_runs_by_experiment(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--workspace", str(workspace)])
    path = Path(capsys.readouterr().out.strip())
    assert path == workspace / "reports" / "index.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert "3 runs of 2 experiments" in page.text
    for name in ("multi_stylegan", "cilia_cvae", "base-s0", "wide-s0", "kl-s1"):
        assert name in page.text
    assert not (workspace / "reports" / "index.part").exists()


def test_only_differing_keys_head_the_table_and_equal_ones_are_folded(workspace: Path) -> None:
    html = render(find_runs(workspace, "multi_stylegan"))
    table, folded = html.split("equal in all runs</summary>")
    assert "model.width" in Page(table).text.replace(" ", "")
    assert "model.mapping_layers" not in Page(table).text.replace(" ", "")
    assert "model.mapping_layers" in Page(folded).text.replace(" ", "")


def test_facts_of_a_run_are_the_last_loss_and_the_median_speed(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "x" / "r"
    folder.mkdir(parents=True)
    rows = [(0, "val/loss", 9), (200, "val/loss", 0.25)]
    rows += [(n, "train/images_per_s", v) for n, v in ((100, 1), (200, 50), (300, 52))]
    write_metrics(folder / "metrics.csv", rows)
    cells = Page(render(find_runs(tmp_path))).cells
    assert cells[:3] == ["300", "0.25", "50"]


def test_values_that_are_not_finite_are_counted_and_not_drawn(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "x" / "r"
    folder.mkdir(parents=True)
    rows = [(1, "train/loss", "nan"), (2, "train/loss", 2.0), (3, "train/loss", "-inf")]
    write_metrics(folder / "metrics.csv", rows)
    html = render(find_runs(tmp_path))
    assert "2 values not drawn" in html
    assert not re.search(r'd="[^"]*(nan|inf)', html)


def test_near_copies_of_training_images_are_marked(workspace: Path) -> None:
    table = workspace / "runs/multi_stylegan/base-s0/samples/manifest.csv"
    rows = named_cells(from_csv(table.read_bytes()))
    told = []
    for origin in ("sampled", "around training images"):
        marked = [{**row, "origin": origin} for row in rows]
        table.write_bytes(to_csv([marked[0], *(row.values() for row in marked)]))
        text = Page(render(find_runs(workspace))).text
        told.append("Samples are drawn around training images, one each, and near copies" in text)
    assert told == [False, True]


def test_a_line_still_being_written_is_left_out_and_said(workspace: Path) -> None:
    folder = workspace / "runs" / "multi_stylegan" / "base-s0"
    whole = read_run(folder)
    path = folder / "metrics.csv"
    text = path.read_text()
    path.write_text(text + text.splitlines()[1][:-1])
    cut = read_run(folder)
    assert cut.curves == whole.curves
    assert "metrics.csv ends in an unfinished line" in " ".join(cut.notes)


@pytest.mark.parametrize(
    "name", ["config.yaml", "metrics.csv", "previews", "samples", "records.jsonl", "evaluation"]
)
def test_a_missing_file_is_named_and_the_rest_is_shown(workspace: Path, name: str) -> None:
    path = workspace / "runs" / "multi_stylegan" / "wide-s0" / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = Page(render(find_runs(workspace))).text
    assert f"No {name}:" in text
    assert "wide-s0" in text and "kl-s1" in text


def test_a_run_with_one_file_alone_is_shown(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "x" / "fresh"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 1\n")
    text = Page(render(find_runs(tmp_path))).text
    for sentence in ("No run has logged a number yet", "No grid yet", "No run has been evaluated"):
        assert sentence in text


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--runs", "../../etc"], 2),
        (["--runs", "multi_stylegan/.."], 2),
        (["--exp", "cilia_cvae", "--runs", "multi_stylegan/base-s0"], 2),
        (["--sort"], 2),
        (["--runs", "multi_stylegan/none"], 3),
        (["--exp", "none"], 3),
    ],
)
def test_wrong_arguments_exit_2_and_absent_runs_exit_3(
    workspace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--workspace", str(workspace)])
    assert caught.value.code == code
    assert "error" in capsys.readouterr().err
    assert not (workspace / "reports").exists()


def test_a_workspace_without_runs_exits_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--workspace", str(tmp_path / "none")])
    assert caught.value.code == 3
    assert "holds no run" in capsys.readouterr().err


def test_chosen_runs_keep_their_order_and_links_and_other_folders_are_no_runs(
    workspace: Path,
) -> None:
    folder = workspace / "runs" / "multi_stylegan"
    (folder / "wandb").mkdir()
    (folder / "latest").symlink_to(folder / "base-s0")
    assert [run.name for run in find_runs(workspace, "multi_stylegan")] == ["base-s0", "wide-s0"]
    chosen = ["multi_stylegan/wide-s0", "multi_stylegan/base-s0", "multi_stylegan/wide-s0"]
    assert [run.name for run in find_runs(workspace, "", chosen)] == ["wide-s0", "base-s0"]


def test_a_changed_record_is_named_with_its_line_and_the_remedy_and_the_rest_is_shown(
    workspace: Path,
) -> None:
    path = workspace / "runs" / "multi_stylegan" / "base-s0" / "records.jsonl"
    path.write_text(path.read_text().replace('"n_real": 512', '"n_real": 513'))
    main(["--workspace", str(workspace)])
    text = Page((workspace / "reports/index.html").read_text(encoding="utf-8")).text
    assert "records.jsonl line 1 was changed after it was written: its numbers are left" in text
    assert "out; run `make evaluate`" in text
    assert "0.032 [0.027, 0.037]" in text and "0.041 [0.036, 0.046]" not in text
    assert "kl-s1" in text and path.is_file()


def test_the_report_needs_no_torch() -> None:
    code = "import common.report.__main__, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_refused_metric_stands_with_its_sentence(workspace: Path) -> None:
    text = Page(render(find_runs(workspace))).text
    assert re.search(r"refused \d+ real, \d+ generated, seed 0 Weights of the named", text)


def test_a_hostile_run_is_text_everywhere(tmp_path: Path) -> None:
    hostile_run(tmp_path)
    page = Page(render(find_runs(tmp_path)))
    assert page.tags.isdisjoint({"iframe", "object", "link", "base", "form"})
    assert page.count("script") == 1
    assert {name for name, _ in page.attributes if name.startswith("on")} == set()
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert sources and all(s.startswith(("data:image/png;base64,", "#e")) for s in sources)
    assert page.text.count("<script>alert(1)") >= 12
    assert "\u202e" not in page.text and "\\u202e" in page.text


def test_the_policy_allows_one_style_sheet_and_one_script_and_nothing_else(
    workspace: Path,
) -> None:
    page = Page(render(find_runs(workspace)))
    policies = [value for _, value in page.attributes if "default-src" in value]
    assert len(policies) == 1
    allowed = r"default-src 'none'; img-src data:; style-src 'sha256-\S+'; script-src 'sha256-\S+';"
    assert re.match(allowed, policies[0])
    assert "unsafe" not in policies[0]
    assert "style" not in {name for name, _ in page.attributes}


def test_ids_are_unique_and_every_chart_and_image_has_words(workspace: Path) -> None:
    page = Page(render(find_runs(workspace)))
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for name, value in page.attributes:
        if name in ("aria-labelledby", "alt"):
            assert value in ids if name == "aria-labelledby" else value


def test_the_same_runs_give_the_same_page(workspace: Path) -> None:
    assert render(find_runs(workspace)) == render(find_runs(workspace))


def test_train_and_val_of_all_runs_share_one_chart_on_a_log_axis_where_decades_are_spanned(
    workspace: Path,
) -> None:
    html = render(find_runs(workspace, "multi_stylegan"))
    captions = re.findall(r"<b>(\w+)</b> <span class=\"quiet\">([^<]*)</span></figcaption>", html)
    assert captions[:3] == [
        ("loss", "unit as logged, log axis"),
        ("images_per_s", "images/s"),
        ("kid", "unit as logged"),
    ]
    loss = html[html.index('id="e1-f0"') :].split("</svg>")[0]
    for line in ("A base-s0 train", "A base-s0 val", "B wide-s0 train", "B wide-s0 val"):
        assert f"<title>{line}/loss</title>" in loss


def test_a_browser_shows_the_page_without_a_complaint(
    workspace: Path, tmp_path: Path, chromium: str
) -> None:
    hostile_run(workspace)
    main(["--workspace", str(workspace)])
    page = workspace / "reports" / "index.html"
    dom, complaints = open_page(chromium, page, tmp_path / "profile")
    assert complaints == []
    shown = Page(dom)
    assert "model.width" in shown.text.replace(" ", "")
    assert shown.count("script") == 1
    for name in ("base-s0", "wide-s0"):
        assert ("alt", f"Samples on fixed seeds of run {name}") in shown.attributes
    for value in ("0.041 [0.036, 0.046]", "0.032 [0.027, 0.037]"):
        assert value in shown.text


@pytest.fixture
def workspace(tmp_path: Path, plausible: Path) -> Path:
    """A copy of the plausible runs that a test may change."""
    return Path(shutil.copytree(plausible, tmp_path / "workspace"))


@pytest.fixture(scope="module")
def plausible(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one experiment and one of another, as the commands leave them."""
    root = tmp_path_factory.mktemp("plausible")
    plausible_run(root / "runs/multi_stylegan/base-s0", seed=0, width=64, kid_value=0.041)
    plausible_run(root / "runs/multi_stylegan/wide-s0", seed=1, width=128, kid_value=0.032)
    plausible_run(root / "runs/cilia_cvae/kl-s1", seed=2, width=32, kid_value=0.058)
    return root
