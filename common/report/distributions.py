"""How scalars of each image are distributed, held-out beside generated, as `evaluate` saw them."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from common.image_tables import NAMING
from common.report import charts
from common.report.text_files import damaged, whole_rows

_BINS = 24
# Few whole numbers, such as counts, get a bin each.
_MOST_WHOLE = 40
# Values beyond these shares are drawn in the first and the last bin.
_SHOWN = (0.005, 0.995)


@dataclass(frozen=True)
class Scalars:
    """Scalars of the images of both sides of one evaluation.

    Attributes:
        held_out: finite values by name.
        generated: the same.
        of: digest of the held-out file, the same for runs that were judged by the same images.
    """

    held_out: Mapping[str, Sequence[float]]
    generated: Mapping[str, Sequence[float]]
    of: str


@dataclass(frozen=True)
class Distribution:
    """One chart: a scalar of the held-out images and of the runs that were judged by them."""

    name: str
    runs: Sequence[int]
    svg: Markup


def read_scalars(folder: Path) -> Scalars | None:
    """Reads the tables of one evaluation; None where there is none.

    Raises:
        UserError: a table is damaged.
    """
    held_out, generated = folder / "held_out.csv", folder / "generated.csv"
    if not (held_out.is_file() and generated.is_file()):
        return None
    digest = hashlib.sha256(held_out.read_bytes()).hexdigest()
    return Scalars(_columns(held_out), _columns(generated), digest)


def distributions(runs: Sequence[tuple[str, Scalars | None]], identity: str) -> list[Distribution]:
    """One chart for each scalar and each set of held-out images.

    Args:
        runs: name and scalars of each; the place is the run's.
        identity: unique on the page, for ids.
    """
    by_set: dict[tuple[str, str], list[int]] = {}
    for place, (_, scalars) in enumerate(runs):
        for name in scalars.held_out if scalars else ():
            if scalars.held_out[name] and scalars.generated.get(name):
                by_set.setdefault((name, scalars.of), []).append(place)
    return [
        Distribution(name, places, _chart(name, places, runs, f"{identity}-d{index}"))
        for index, ((name, _), places) in enumerate(sorted(by_set.items()))
    ]


def bins(values: Sequence[float]) -> list[float]:
    """Edges of equal bins: around each whole number where there are few, else 24 of the bulk."""
    ordered = sorted(values)
    low, high = (ordered[min(int(q * len(ordered)), len(ordered) - 1)] for q in _SHOWN)
    if high - low < _MOST_WHOLE and all(value.is_integer() for value in ordered):
        return [low - 0.5 + step for step in range(int(high - low) + 2)]
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-30):
        margin = abs(low) / 2 or 0.5
        low, high = low - margin, high + margin
    return [low + (high - low) * step / _BINS for step in range(_BINS + 1)]


def shares(values: Sequence[float], edges: Sequence[float]) -> list[float]:
    """Share of the values in each bin, those beyond the ends in the outermost ones."""
    last = len(edges) - 2
    width = (edges[-1] - edges[0]) / (last + 1)
    counts = [0] * (last + 1)
    for value in values:
        counts[min(max(math.floor((value - edges[0]) / width), 0), last)] += 1
    return [count / len(values) for count in counts]


def _chart(
    name: str, places: Sequence[int], runs: Sequence[tuple[str, Scalars]], identity: str
) -> Markup:
    real = runs[places[0]][1].held_out[name]
    fakes = [(place, runs[place][0], runs[place][1].generated[name]) for place in places]
    edges = bins([*real, *(value for _, _, values in fakes for value in values)])
    outlines = [
        (place, f"{charts.letter(place)} {run} {name}", shares(values, edges))
        for place, run, values in fakes
    ]
    told = "; ".join(
        f"{charts.letter(place)} {charts.short_number(_median(values))}"
        for place, _, values in fakes
    )
    title = f"{name}: median of held-out images {charts.short_number(_median(real))}; {told}"
    return charts.histogram_chart(edges, shares(real, edges), outlines, title, identity)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _columns(path: Path) -> dict[str, list[float]]:
    header, *rows = whole_rows(path)[0] or [[]]
    columns: dict[str, list[float]] = {name: [] for name in header if name not in NAMING}
    for number, row in enumerate(rows, start=2):
        for name, cell in zip(header, row, strict=False):
            if name in columns and cell:
                try:
                    value = float(cell)
                except ValueError as error:
                    raise damaged(path, f"line {number} cannot be read ({error})") from error
                if abs(value) <= charts.LARGEST:
                    columns[name].append(value)
    return columns
