"""What the comparison page is made of: files read, records set side by side, charts, pictures."""

import re
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from common.errors import Exit, UserError
from common.metrics.kinds import class_of
from common.metrics.protocol import PROTOCOL_FIELDS, Record
from common.report import charts
from common.report.configs import Setting, data_set, differing_keys, read_config
from common.report.page import unit_of
from common.report.pictures import Album, choose_samples, filmstrip
from common.report.records import comparable_rows, why_apart
from common.report.runs import Sample, find_runs, read_curves
from common.runs.metrics_csv import MetricsCSV


def test_a_key_that_one_run_lacks_differs() -> None:
    one, two = Setting("1", "1"), Setting("2", "2")
    assert differing_keys([{"a": one, "b": two}, {"a": one}]) == ["b"]
    assert differing_keys([{"a": one}]) == []


def test_values_that_are_not_shown_still_tell_runs_apart(tmp_path: Path) -> None:
    path, configs = tmp_path / "config.yaml", []
    for root in ("/home/ann/one", "/home/ann/two"):
        path.write_text(yaml.safe_dump({"data": {"root": root}}))
        configs.append(read_config(path))
    assert differing_keys(configs) == ["data.root"]
    assert {config["data.root"].shown for config in configs} == {"(private)"}


def test_configs_show_no_machine_path_and_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    tree = {
        "data": {"folder": str(tmp_path / "data" / "x"), "cards": ["/home/ann/deep/card.md"]},
        "logger": [{"api_key": "abc"}],
        "/home/ann": 1,
        "lr": 0.001,
        "ema": None,
        "name": "",
    }
    path.write_text(yaml.safe_dump(tree))
    assert {key: setting.shown for key, setting in read_config(path).items()} == {
        "data.folder": "(private)",
        "data.cards": '["(private)"]',
        "logger.0.api_key": "***",
        "(private)": "1",
        "lr": "0.001",
        "ema": "null",
        "name": '""',
    }


@pytest.mark.parametrize(
    ("card", "named"), [("cilia_tem", "cilia_tem"), ("/home/ann/cilia_tem.md", "(private)")]
)
def test_the_data_set_is_its_card_and_whether_a_folder_was_given(
    tmp_path: Path, card: str, named: str
) -> None:
    path = tmp_path / "config.yaml"
    shown = []
    for root in (None, "/home/ann/v1.2", "mine"):
        path.write_text(yaml.safe_dump({"data": {"root": root, "card": card}}))
        shown.append(data_set(read_config(path)))
    assert shown == [named, f"{named}: images of a folder", f"{named}: images of a folder"]
    assert data_set({}) == ""


def test_curves_have_the_names_that_were_logged(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path / "metrics.csv")
    names = ["=1+1", "'quoted", "two\nlines", "ends\r", "val/kl"]
    logger.log_metrics(dict.fromkeys(names, 0.5))
    assert set(read_curves(tmp_path / "metrics.csv")) == set(names)


def test_where_images_seen_repeat_after_a_resume_the_later_line_counts(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    lines = ["1,0,1,val/kl,5", "2,0,2,val/kl,6", "1,0,1,val/kl,7"]
    path.write_text("images_seen,epoch,step,name,value\n" + "\n".join(lines) + "\n")
    curve = read_curves(path)["val/kl"]
    assert (curve.images, curve.values, curve.dropped) == ((1, 2), (7.0, 6.0), 0)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.yaml", b"a: [1", "config.yaml: is no YAML mapping"),
        ("config.yaml", b"- 1\n", "config.yaml: is no YAML mapping"),
        ("config.yaml", b"&a [*a]\n", "config.yaml: is no YAML mapping"),
        ("config.yaml", b"a: \xff\n", "config.yaml: is not UTF-8"),
        ("metrics.csv", b"step,value\n1,2\n", "metrics.csv: line 1 cannot be read"),
        ("metrics.csv", b"images_seen,epoch,step,name,value\n1,0,1,a,b\n", "line 2 cannot"),
        ("metrics.csv", b"images_seen,epoch,step,name,value\ninf,0,1,a,1\n", "line 2 cannot"),
        ("metrics.csv", b"images_seen,epoch,step,name,value\n1,0,1\n", "line 2 cannot"),
    ],
)
def test_a_damaged_file_is_named_with_its_line_and_the_remedy(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    folder = tmp_path / "runs" / "x" / "r"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        find_runs(tmp_path)
    assert caught.value.code == Exit.INPUT
    assert said in str(caught.value) and "--runs" in str(caught.value)


KID = Record("kid", 0.1, extractor="cnn", n_real=50, n_fake=60, split="test", data="d")


def test_records_of_one_protocol_share_a_row_whoever_drew_the_images() -> None:
    other = replace(KID, value=0.2, seed=7, checkpoint_sha256="e", commit="f", note="n")
    rows = comparable_rows([[KID], [], [other]])
    assert [row.cells for row in rows] == [(KID, None, other)]
    assert why_apart(rows) == []


@pytest.mark.parametrize("name", PROTOCOL_FIELDS[1:])
def test_records_of_unlike_protocol_never_share_a_row_and_the_reason_is_given(name: str) -> None:
    other = replace(KID, **{name: 61 if name.startswith("n_") else "other"})
    rows = comparable_rows([[KID], [KID, other]])
    assert {row.cells for row in rows} == {(KID, KID), (None, other)}
    (sentence,) = why_apart(rows)
    assert "kid stands in 2 rows" in sentence
    assert re.search(rf"they differ in {name} \([^;]*(61|'other')[^;]*\)\.$", sentence)


def test_unlike_metrics_stand_apart_without_a_reason_in_the_order_they_were_written() -> None:
    rows = comparable_rows([[KID, replace(KID, metric="fid")]])
    assert [row.first.metric for row in rows] == ["kid", "fid"]
    assert why_apart(rows) == []


@pytest.mark.parametrize(
    ("values", "log"),
    [((1.0, 100.0), False), ((1.0, 101.0), True), ((0.0, 1e6), False), ((-1.0, 1e6), False)],
)
def test_a_log_axis_needs_positive_values_over_two_decades(
    values: tuple[float, float], log: bool
) -> None:
    assert charts.spans_decades(values) is log


def test_axes_put_values_where_the_formula_says() -> None:
    assert charts.Axis(0, 10, 100, 200)(2.5) == pytest.approx(125)
    assert charts.Axis(1, 1e4, 200, 0, log=True)(10) == pytest.approx(150)
    assert charts.Axis(0.001, 2000, 0, 1, log=True).ticks() == pytest.approx([1e-3, 1e-1, 1e1, 1e3])
    assert charts.Axis(-0.1, 1.05, 0, 1).ticks() == pytest.approx([0, 0.5, 1])


@pytest.mark.parametrize("value", [0.0, 1.0, -3e29, 5e-324, 1e30])
def test_a_constant_curve_is_drawn_in_the_middle(value: float) -> None:
    line = charts.Line(0, "a", True, [7, 9], [value, value])
    svg = charts.curve_chart([line], "t", "i")
    ys = {float(y) for y in re.findall(r'cy="([\d.]+)"', svg)}
    assert ys == {(10 + 240 - 38) / 2}


def test_a_long_curve_keeps_its_mean_and_its_extremes() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    values[500] = 40.0
    line = charts.Line(0, "a", False, range(1000), values.tolist())
    svg = charts.curve_chart([line], "t", "i")
    stroke, band = (re.search(rf'class="{c}" d="([^"]+)"', svg)[1] for c in ("stroke", "band"))
    heights = [float(pair.split()[1]) for pair in re.split("[ML]", stroke)[1:]]
    assert len(heights) == 143  # 1000 values in groups of ceil(1000 / 160) = 7
    top = min(float(pair.strip("Z").split()[1]) for pair in re.split("[ML]", band)[1:])
    y = charts.Axis(0, 1, 240 - 38, 10)
    low, span = values.min() - 0.06 * np.ptp(values), 1.12 * np.ptp(values)
    assert top == pytest.approx(y((40.0 - low) / span), abs=0.06)
    assert heights[0] == pytest.approx(y((values[:7].mean() - low) / span), abs=0.06)


def test_letters_of_curves_that_end_together_do_not_overlap() -> None:
    lines = [charts.Line(i, "a", True, [1, 2], [0.0, 1.0]) for i in range(4)]
    svg = charts.curve_chart(lines, "t", "i")
    heights = sorted(map(float, re.findall(r'class="letter[^"]*"[^>]* y="([\d.]+)"', svg)))
    assert len(heights) == 4 and np.allclose(np.diff(heights), 12)


def test_letters_and_units_and_numbers_are_short() -> None:
    assert [charts.letter(i) for i in (0, 25, 26, 53)] == ["A", "Z", "A1", "B2"]
    assert [unit_of(n) for n in ("images_per_s", "step_s", "kl")] == [
        "images/s",
        "s",
        "unit as logged",
    ]
    numbers = [charts.short_number(v) for v in (None, 12800, 0.123456, -2.0, 1e20)]
    assert numbers == ["—", "12\u202f800", "0.1235", "−2", "1e+20"]


def test_the_filmstrip_is_first_middle_and_last() -> None:
    previews = [(n, Path(str(n))) for n in range(7)]
    assert [n for n, _ in filmstrip(previews)] == [0, 3, 6]
    assert [n for n, _ in filmstrip(previews[:1])] == [0]
    assert filmstrip([]) == []


def test_at_most_twelve_samples_show_every_label() -> None:
    labels = ["a"] * 40 + ["b"] * 2
    samples = [Sample(Path(f"{n}.png"), str(n), label, "") for n, label in enumerate(labels)]
    assert [s.seed for s in choose_samples(samples)] == [*map(str, range(10)), "40", "41"]
    assert choose_samples(samples[:3]) == samples[:3]


def test_pictures_that_are_cut_or_no_png_or_too_many_are_named_instead(tmp_path: Path) -> None:
    size = struct.pack(">II", 16, 9)
    data = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + size + bytes(17) + b"IEND\xaeB`\x82"
    (tmp_path / "good.png").write_bytes(data)
    (tmp_path / "bomb.png").write_bytes(data.replace(size, struct.pack(">II", 2**16, 2**16)))
    (tmp_path / "cut.png").write_bytes(data[:-3])
    (tmp_path / "page.png").write_text("<svg onload=alert(1)>")
    album = Album(room=len(data))
    assert album.add(tmp_path / "cut.png").problem == "cut.png is no complete PNG file."
    assert album.add(tmp_path / "page.png").problem == "page.png is no complete PNG file."
    assert album.add(tmp_path / "gone.png").problem.startswith("gone.png cannot be read")
    assert "more than 67,108,864 pixels" in album.add(tmp_path / "bomb.png").problem
    good = album.add(tmp_path / "good.png")
    assert (good.width, good.height, good.problem) == (16, 9, "")
    assert good.uri.startswith("data:image/png;base64,")
    assert album.add(tmp_path / "good.png").problem == "good.png is left out: the page is full."


@pytest.mark.parametrize(
    ("metric", "family", "name"),
    [
        ("class_kernel_distance", "class_kernel_distance", ""),
        ("class_kernel_distance/CP 2", "class_kernel_distance", "CP 2"),
        ("kernel_distance/GFP", "kernel_distance/GFP", ""),
        ("wasserstein/ring", "wasserstein/ring", ""),
        ("judge/balanced_accuracy", "judge/balanced_accuracy", ""),
        ("judge/real_recall/a/b", "judge/real_recall", "a/b"),
        ("utility/real_50/macro_f1", "utility/real_50/macro_f1", ""),
        ("utility/real_50/recall/ODA", "utility/real_50/recall", "ODA"),
        ("utility/gain/real_50/macro_f1", "utility/gain/real_50/macro_f1", ""),
        ("utility/gain/real_50/recall/ODA", "utility/gain/real_50/recall", "ODA"),
        ("continuation/mae/GFP", "continuation/mae/GFP", ""),
        ("continuation/mae/a/b/step_12", "continuation/mae/a/b", "step_12"),
        ("continuation/mae/step_1/2", "continuation/mae/step_1/2", ""),
    ],
)
def test_a_number_of_one_class_or_step_is_known_by_its_name(
    metric: str, family: str, name: str
) -> None:
    assert class_of(metric) == (family, name)
