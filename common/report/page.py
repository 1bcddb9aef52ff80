"""The page: what the template shows, gathered from runs; rendering and writing."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from common.metrics.kinds import SINGLE, class_of
from common.report import charts
from common.report.configs import data_set, differing_keys
from common.report.distributions import distributions
from common.report.pictures import Album, Picture, choose_samples, filmstrip
from common.report.records import Row, comparable_rows, why_apart
from common.report.runs import Run
from common.storage import whole_file
from common.web_page import page_template, source, style_with

_HERE = Path(__file__).parent
_MOST_IMAGE_BYTES = 64 * 2**20
_UNITS = {"s": "s", "um": "µm", "px": "px", "gib": "GiB", "db": "dB", "nats": "nats"}


@dataclass(frozen=True)
class Column:
    """One run as the page names it: its place, which gives colour and letter, and its facts.

    Attributes:
        images_seen: largest count logged, None before the first line.
        val_loss: last ``val/loss``, None without one.
        speed: median of ``train/images_per_s``, None without one.
        data_set: name of the data set, "" where the configuration names none.
    """

    place: int
    run: Run
    images_seen: int | None
    val_loss: float | None
    speed: float | None
    data_set: str

    @property
    def letter(self) -> str:
        """The run's letter in charts and tables."""
        return charts.letter(self.place)

    @property
    def colour(self) -> str:
        """The run's colour as a style class."""
        return f"c{self.place % charts.COLOURS}"


@dataclass(frozen=True)
class Panel:
    """One chart with what its caption says; `dropped` values are not drawn."""

    family: str
    unit: str
    log: bool
    dropped: int
    svg: Markup


def write_report(runs: Sequence[Run], path: Path) -> Path:
    """Writes the page, whole or not at all.

    Raises:
        UserError: the folder cannot be written (storage).
    """
    page = render(runs)
    remedy = "make room or give a --workspace that can be written"
    with whole_file(path, remedy, parents=True) as stream:
        stream.write(page.encode())
    return path


def render(runs: Sequence[Run]) -> str:
    """The page as HTML: the same runs give the same text."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.experiment, []).append(run)
    album = Album(_MOST_IMAGE_BYTES)
    style = style_with(_HERE / "style.css")
    script = (_HERE / "sort.js").read_text(encoding="utf-8")
    experiments = [
        _experiment(name, f"e{index}", group, album)
        for index, (name, group) in enumerate(groups.items(), start=1)
    ]
    template = _HERE / "template.html.j2"
    return page_template(template, number=charts.short_number, of=_counted).render(
        style=Markup(style),
        style_source=source(style),
        script=Markup(script),
        script_source=source(script),
        num_runs=len(runs),
        experiments=experiments,
    )


def unit_of(quantity: str) -> str:
    """Unit as the last word of a logged name tells it (``images_per_s``), else "unit as logged"."""
    counted, per, time = quantity.rpartition("_per_")
    if per:
        return f"{counted}/{time}"
    return _UNITS.get(quantity.rpartition("_")[2], "unit as logged")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _experiment(name: str, identity: str, runs: Sequence[Run], album: Album) -> dict[str, object]:
    columns = [_column(place, run) for place, run in enumerate(runs)]
    configs = [run.config for run in runs if run.config is not None]
    differing = differing_keys(configs) if configs else []
    common = configs[0] if configs else {}
    rows = comparable_rows([run.records for run in runs])
    plots = [_interval_plot(row, f"{identity}-i{i}") for i, row in enumerate(rows)]
    plotted = list(zip(rows, plots, strict=True))
    return {
        "name": name,
        "identity": identity,
        "columns": columns,
        "differing": differing,
        "equal": [(key, common[key].shown) for key in sorted(common) if key not in set(differing)],
        "panels": _panels(columns, identity),
        "grids": [(column, _grids(column.run, album)) for column in columns],
        "strips": [(column, _strip(column.run, album)) for column in columns],
        "distributions": distributions([(run.name, run.scalars) for run in runs], identity),
        "nearest": [(c, album.add(c.run.nearest)) for c in columns if c.run.nearest],
        "rows": plotted,
        "tables": [(title, of) for title, of in _tables(plotted) if of],
        "plotted": any(plots),
        "apart": why_apart(rows),
    }


def _column(place: int, run: Run) -> Column:
    speeds = run.curves["train/images_per_s"].values if "train/images_per_s" in run.curves else ()
    losses = run.curves["val/loss"].values if "val/loss" in run.curves else ()
    return Column(
        place=place,
        run=run,
        images_seen=max((c.images[-1] for c in run.curves.values() if c.images), default=None),
        val_loss=losses[-1] if losses else None,
        speed=statistics.median(speeds) if speeds else None,
        data_set=data_set(run.config or {}),
    )


def _panels(columns: Sequence[Column], identity: str) -> list[Panel]:
    """One chart a quantity: ``train/loss`` and ``val/loss`` are both of the loss."""
    families = {_family(key) for column in columns for key in column.run.curves}
    found = [
        _panel(family, columns, f"{identity}-f{index}")
        for index, family in enumerate(sorted(families, key=lambda f: (f != "loss", f)))
    ]
    return [panel for panel in found if panel]


def _panel(family: str, columns: Sequence[Column], identity: str) -> Panel | None:
    lines, dropped = [], 0
    for column in columns:
        for key, curve in column.run.curves.items():
            if _family(key) != family:
                continue
            dropped += curve.dropped
            if curve.images:
                name, main = f"{column.letter} {column.run.name} {key}", key.startswith("val/")
                lines.append(charts.Line(column.place, name, main, curve.images, curve.values))
    if not lines:
        return None
    ends = [f"{line.name} ends at {charts.short_number(line.values[-1])}" for line in lines]
    title = f"{family} ({unit_of(family)}) against images seen: {'; '.join(ends)}"
    return Panel(
        family=family,
        unit=unit_of(family),
        log=charts.spans_decades([value for line in lines for value in line.values]),
        dropped=dropped,
        svg=charts.curve_chart(lines, title, identity),
    )


def _family(key: str) -> str:
    return key.partition("/")[2] or key


def _grids(run: Run, album: Album) -> list[tuple[int, Picture]]:
    return [(images, album.add(path)) for images, path in filmstrip(run.previews)]


def _strip(run: Run, album: Album) -> list[tuple[object, Picture]]:
    return [(sample, album.add(sample.path)) for sample in choose_samples(run.samples)]


def _tables(rows: Sequence[tuple[Row, Markup | None]]) -> list[tuple[str, list[object]]]:
    """What is of all images stands open; what is of one class alone would push it out of sight."""
    of_all = [row for row in rows if not class_of(row[0].first.metric)[1]]
    of_classes = [row for row in rows if class_of(row[0].first.metric)[1]]
    return [("", of_all), (f"{_counted(len(of_classes), 'number')} of {SINGLE}", of_classes)]


def _interval_plot(row: Row, identity: str) -> Markup | None:
    """Values of one row on one axis, where at least two runs have one."""
    points = []
    for place, record in enumerate(row.cells):
        if record and record.value is not None:
            low, high = (record.value if v is None else v for v in (record.low, record.high))
            if max(abs(low), abs(record.value), abs(high)) <= charts.LARGEST:
                points.append((place, record.value, low, high))
    if len(points) < 2:
        return None
    told = "; ".join(
        f"{charts.letter(place)} {charts.short_number(value)}" for place, value, *_ in points
    )
    return charts.interval_chart(points, f"{row.first.metric} with intervals: {told}", identity)
