"""What the page shows of an evaluation's single images, and that its table can be sorted."""

import re
from pathlib import Path

import pytest

from browsing import LAPTOP, PHONE, visit
from common.errors import UserError
from common.metrics.protocol import Record, read_records, write_records
from common.report.distributions import bins, distributions, read_scalars, shares
from common.report.page import render, write_report
from common.report.runs import find_runs, read_run
from plausible_runs import HOSTILE, Page, hostile_run, plausible_run, write_evaluation


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Three runs of one experiment; the widest is neither the first nor the last by name."""
    for seed, (name, width) in enumerate((("b", 64), ("a", 256), ("c", 128))):
        plausible_run(tmp_path / "runs/any" / name, seed, width, 0.03)
    return tmp_path


def test_whole_numbers_get_a_bin_each_and_others_equal_ones() -> None:
    assert bins([9.0] * 5 + [7.0, 10.0]) == [6.5, 7.5, 8.5, 9.5, 10.5]
    edges = bins([k / 1000 for k in range(1001)])
    assert len(edges) == 25
    assert edges[0] == pytest.approx(0.005, abs=1e-3) and edges[-1] == pytest.approx(
        0.995, abs=2e-3
    )
    constant = bins([0.25, 0.25])
    assert constant[0] < 0.25 < constant[-1]


def test_shares_add_up_and_outliers_stand_in_the_outermost_bins() -> None:
    found = shares([-100.0, 0.5, 1.5, 1.6, 100.0], [0.0, 1.0, 2.0, 3.0])
    assert found == [0.4, 0.4, 0.2]


def test_runs_share_a_chart_only_where_the_same_images_judged_them(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        write_evaluation(tmp_path / name, seed)
    scalars = [("one", read_scalars(tmp_path / "one")), ("two", read_scalars(tmp_path / "two"))]
    together = distributions(scalars, "e")
    assert [chart.runs for chart in together] == [[0, 1], [0, 1]]
    table = tmp_path / "two/held_out.csv"
    table.write_bytes(table.read_bytes() + b"x.tif,cell,5.0,9\r\n")
    apart = distributions([scalars[0], ("two", read_scalars(tmp_path / "two"))], "e")
    assert sorted(chart.runs for chart in apart) == [[0], [0], [1], [1]]
    assert distributions([("one", scalars[0][1]), ("three", None)], "e")[0].runs == [0]


def test_names_seeds_and_what_was_not_measured_are_no_values(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "one", 1)
    path = tmp_path / "one/generated.csv"
    path.write_bytes(path.read_bytes() + b"x.png,40,cell,,,y.tif,\r\n")
    found = read_scalars(tmp_path / "one")
    assert set(found.held_out) == {"area of cell", "count"}
    assert set(found.generated) == {"area of cell", "count", "distance_to_training"}
    assert [len(values) for values in found.generated.values()] == [40, 40, 40]


def test_a_damaged_table_is_named_with_its_line(tmp_path: Path) -> None:
    write_evaluation(tmp_path / "one", 1)
    path = tmp_path / "one/held_out.csv"
    path.write_bytes(path.read_bytes() + b"x.tif,cell,many,9\r\n")
    with pytest.raises(UserError, match=r"held_out\.csv: line 62 cannot be read"):
        read_scalars(tmp_path / "one")


def test_every_scalar_has_its_chart_and_every_run_its_nearest_images(workspace: Path) -> None:
    page = Page(render(find_runs(workspace)))
    assert "area of cell" in page.text and "count" in page.text
    # Distances to training images are no scalars of held-out ones.
    assert "distance_to_training: median" not in page.text
    pictures = [value for name, value in page.attributes if name == "alt" and "nearest" in value]
    assert len(pictures) == 3
    titles = re.findall(
        r"area of cell: median of held-out images (\S+); A (\S+); B (\S+)", page.text
    )
    assert len(titles) == 1
    real, a, b = (float(text.rstrip(";")) for text in titles[0])
    # By name: run a was written with seed 1, run b with seed 0, each its mean at 5 + seed.
    assert abs(real - 5) < 0.5 and abs(a - 6) < 0.5 and abs(b - 5) < 0.5


def test_numbers_of_single_classes_stand_in_a_closed_table_of_their_own(workspace: Path) -> None:
    before = render(find_runs(workspace))
    path = workspace / "runs/any/a/records.jsonl"
    of_classes = [Record(f"membership_auc/{name}", 0.5) for name in ("cell", "pair")]
    write_records(path, [*of_classes, *read_records(path)])
    text = render(find_runs(workspace))
    table, closed = text.split("<details><summary>2 numbers of single classes or steps</summary>")
    assert "membership_auc" not in table and "<b>kid</b>" in table
    assert closed.split("</details>")[0].count("<b>membership_auc/") == 2
    assert "of single classes" not in before


def test_a_run_without_an_evaluation_says_so(workspace: Path) -> None:
    folder = workspace / "runs/any/a"
    for path in (folder / "evaluation").iterdir():
        path.unlink()
    notes = " ".join(read_run(folder).notes)
    assert "No evaluation: no distributions and no nearest images" in notes


def test_hostile_names_of_scalars_stay_text(tmp_path: Path) -> None:
    hostile_run(tmp_path)
    page = Page(render(find_runs(tmp_path)))
    assert f"area of {HOSTILE}" in page.text
    assert page.count("script") == 1


@pytest.mark.parametrize("size", [LAPTOP, PHONE])
def test_a_browser_sorts_the_runs_and_shows_all_of_the_page(
    workspace: Path, chromium: str, size: tuple[int, int]
) -> None:
    hostile_run(workspace)
    path = write_report(find_runs(workspace), workspace / "index.html")
    with visit(chromium, path, size) as seen:
        table = seen.page.locator("table.runs").nth(1)
        names = table.locator("tbody th .name")

        def press(head: str) -> list[str]:
            table.get_by_role("button", name=head).click()
            return names.all_text_contents()

        assert names.all_text_contents() == ["a", "b", "c"]
        assert press("model.width") == ["b", "c", "a"]
        assert press("model.width") == ["a", "c", "b"]
        heads = table.locator("thead th[aria-sort]")
        assert heads.count() == 1 and heads.get_attribute("aria-sort") == "descending"
        assert press("run") == ["a", "b", "c"]
        wide = seen.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= size[0]
        broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        assert seen.page.evaluate(broken) == 0
        assert seen.complaints == []
        assert seen.requests == [path.as_uri()]
