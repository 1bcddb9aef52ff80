"""What a run folder holds: reads what is there, names what is missing, refuses what is damaged.

Records alone may be damaged: the page has all the rest, and says so.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import Exit, UserError, relative
from common.image_tables import AROUND, FOR_WHOM, NEAR_COPIES
from common.metrics.protocol import Record, read_records
from common.report.charts import LARGEST
from common.report.configs import Setting, read_config
from common.report.distributions import Scalars, read_scalars
from common.report.text_files import damaged, whole_rows
from common.tables import named_cells

MISSING = {
    "config.yaml": "settings and data set are unknown",
    "metrics.csv": "no training curves yet",
    "previews": "no fixed-seed grids yet",
    "samples": "make generate writes them",
    "samples/manifest.csv": "seeds and labels of the samples are unknown",
    "records.jsonl": "make evaluate writes it",
    "evaluation": "no distributions and no nearest images; make evaluate writes them",
}
_COLUMNS = ("images_seen", "epoch", "step", "name", "value")


@dataclass(frozen=True)
class Curve:
    """One logged quantity over training.

    Attributes:
        images: images seen, rising strictly.
        values: finite, one for each entry of `images`.
        dropped: how many logged values are left out, not finite or beyond 1e30 either way.
    """

    images: tuple[int, ...]
    values: tuple[float, ...]
    dropped: int


@dataclass(frozen=True)
class Sample:
    """One generated image; seed, label and checkpoint are "" where the manifest has none."""

    path: Path
    seed: str
    label: str
    checkpoint: str


@dataclass(frozen=True)
class Run:
    """All that the page says about one run.

    Attributes:
        experiment: folder above the run.
        name: the run's own folder.
        config: dotted key to value; None without ``config.yaml``.
        curves: logged name (``val/loss``) to its curve.
        previews: (images seen, file), rising.
        samples: generated images by file name.
        records: evaluation results in the order written.
        scalars: of single images, None before an evaluation.
        nearest: picture of the samples nearest to training images, None where there is none.
        notes: sentences on what is missing or left out.
    """

    experiment: str
    name: str
    config: Mapping[str, Setting] | None
    curves: Mapping[str, Curve]
    previews: tuple[tuple[int, Path], ...]
    samples: tuple[Sample, ...]
    records: tuple[Record, ...]
    scalars: Scalars | None
    nearest: Path | None
    notes: tuple[str, ...]


def find_runs(workspace: Path, experiment: str = "", chosen: Sequence[str] = ()) -> list[Run]:
    """Reads the runs to compare.

    Args:
        workspace: folder that holds ``runs/<experiment>/<run>``.
        experiment: only runs of this one; "" for all.
        chosen: ``experiment/run`` names, kept in this order; none for all runs, sorted.

    Raises:
        UserError: a name is malformed (usage), no run is there or a file is damaged (input).
    """
    runs = workspace / "runs"
    if chosen:
        folders = [_chosen_folder(runs, experiment, name) for name in dict.fromkeys(chosen)]
    else:
        folders = [f for f in _all_folders(runs) if experiment in ("", f.parent.name)]
    if not folders:
        what = f"holds no run of {experiment!r}" if experiment else "holds no run"
        remedy = "train one (`make train EXP=...`) or name another --workspace"
        raise UserError(Exit.INPUT, relative(runs), what, remedy)
    return [read_run(folder) for folder in folders]


def read_run(folder: Path) -> Run:
    """Reads one run folder, of which any file may still be missing.

    Args:
        folder: ``<workspace>/runs/<experiment>/<run>``.

    Raises:
        UserError: a file other than that of records is there and cannot be understood.
    """
    notes = [f"No {name}: {then}." for name, then in MISSING.items() if _lacks(folder, name)]
    config, metrics, records = (folder / n for n in ("config.yaml", "metrics.csv", "records.jsonl"))
    nearest = folder / "evaluation/nearest.png"
    if metrics.is_file() and not whole_rows(metrics)[1]:
        notes.append("metrics.csv ends in an unfinished line, which is left out.")
    found, damage = _whole_records(records) if records.is_file() else ((), [])
    notes += damage
    table = folder / "samples/manifest.csv"
    rows = _manifest_rows(table) if table.is_file() else None
    if any(row.get("origin") == AROUND for row in (rows or {}).values()):
        notes.append(f"Samples are {NEAR_COPIES}; {FOR_WHOM}.")
    if settings := sorted({record.settings for record in found} - {""}):
        notes.append(f"Sampled with settings other than in training: {' or '.join(settings)}")
    if imported := sorted({record.imported for record in found} - {""}):
        notes.append(f"The run began with weights of {' or '.join(imported)}.")
    return Run(
        experiment=folder.parent.name,
        name=folder.name,
        config=read_config(config) if config.is_file() else None,
        curves=read_curves(metrics) if metrics.is_file() else {},
        previews=tuple(sorted(_previews(folder / "previews"))),
        samples=tuple(_samples(folder / "samples", rows)),
        records=found,
        scalars=read_scalars(folder / "evaluation"),
        nearest=nearest if nearest.is_file() else None,
        notes=tuple(notes),
    )


def read_curves(path: Path) -> dict[str, Curve]:
    """Reads a tidy metrics table; where images seen repeat after a resume, the later line counts.

    Raises:
        UserError: unknown header, or a cell that is no number.
    """
    header, *rows = whole_rows(path)[0] or [_COLUMNS]
    if tuple(header) != _COLUMNS:
        raise damaged(path, f"line 1 cannot be read (the header is not {','.join(_COLUMNS)})")
    logged: dict[str, dict[int, float]] = {}
    for number, row in enumerate(rows, start=2):
        try:
            images, _, _, name, value = row
            logged.setdefault(name, {})[int(float(images))] = float(value)
        except (ValueError, OverflowError) as error:
            raise damaged(path, f"line {number} cannot be read ({error})") from error
    return {name: _curve(logged[name]) for name in sorted(logged)}


def _whole_records(path: Path) -> tuple[tuple[Record, ...], list[str]]:
    """The records, or none and what is wrong with them."""
    try:
        return tuple(read_records(path)), []
    except UserError as error:
        return (), [f"{path.name} {error.problem}: its numbers are left out; {error.remedy}."]


def _curve(points: Mapping[int, float]) -> Curve:
    finite = sorted((x, y) for x, y in points.items() if abs(y) <= LARGEST)
    images, values = zip(*finite, strict=True) if finite else ((), ())
    return Curve(images, values, len(points) - len(finite))


def _all_folders(runs: Path) -> list[Path]:
    """Run folders by name; links (such as one to the latest run) would show a run twice."""
    candidates = sorted(runs.glob("*/*")) if runs.is_dir() else []
    return [f for f in candidates if f.is_dir() and not f.is_symlink() and _is_run(f)]


def _chosen_folder(runs: Path, experiment: str, name: str) -> Path:
    parts = name.split("/")
    if len(parts) != 2 or not all(parts) or {".", ".."} & set(parts):
        remedy = "write it as --runs experiment/run-id"
        raise UserError(Exit.USAGE, name, "is no name of a run", remedy)
    if experiment not in ("", parts[0]):
        remedy = "drop --exp or choose other runs"
        raise UserError(Exit.USAGE, name, f"is no run of --exp {experiment}", remedy)
    folder = runs / parts[0] / parts[1]
    if not (folder.is_dir() and _is_run(folder)):
        remedy = f"choose one of the folders in {relative(runs)}"
        raise UserError(Exit.INPUT, relative(folder), "is no run folder", remedy)
    return folder


def _is_run(folder: Path) -> bool:
    return not all(_lacks(folder, name) for name in MISSING if "/" not in name)


def _lacks(folder: Path, name: str) -> bool:
    path = folder / name
    if name == "samples/manifest.csv":  # Without samples their manifest is not missed.
        return path.parent.is_dir() and not path.is_file()
    if name in ("previews", "samples"):
        return not any(path.rglob("*.png"))
    return not (any(path.glob("*.csv")) if name == "evaluation" else path.is_file())


def _previews(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.glob("*.png"):
        if path.is_file() and path.stem.isdecimal():
            yield int(path.stem), path


def _samples(folder: Path, rows: Mapping[str, Mapping[str, str]] | None) -> Iterator[Sample]:
    for path in sorted(p for p in folder.rglob("*.png") if p.is_file()):
        row = (rows or {}).get(path.relative_to(folder).as_posix(), {})
        # What a table does not name is no sample of the run.
        if rows is not None and not row:
            continue
        yield Sample(path, *(row.get(k, "") for k in ("seed", "label", "checkpoint_sha256")))


def _manifest_rows(path: Path) -> dict[str, dict[str, str]]:
    rows = named_cells(whole_rows(path)[0])
    return {row.get("name", ""): row for row in rows}
