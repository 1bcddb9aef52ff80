"""The authoritative history of a run: one line a number, flushed at once."""

import math
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only
from tqdm import tqdm

from common.errors import Exit, UserError, relative, visible
from common.storage import whole_file
from common.tables import from_csv, to_csv

HEADER = ("images_seen", "epoch", "step", "name", "value")
# What a clock says belongs to the machine, not to the run: left out when runs are compared.
CLOCK_METRICS = ("train/images_per_s",)


class MetricsCSV(Logger):
    """Appends `metrics.csv` in long form, so that a new metric needs no new column.

    Lightning's own CSV logger deletes the history of a run that is resumed.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.images_seen = 0
        self._warned: set[str] = set()

    @property
    def name(self) -> str:
        """Of the logger."""
        return "csv"

    @property
    def version(self) -> str:
        """None is kept: the run folder is the version."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Appends one line a metric; ``epoch`` is a column, not a metric.

        What is not finite is left out and warned of once.

        Raises:
            UserError: the file cannot be written.
        """
        epoch = int(metrics.get("epoch", -1))
        rows = [
            (self.images_seen, epoch, step, name, value)
            for name, value in sorted(finite(metrics).items())
            if name != "epoch"
        ]
        self._warn(metrics)
        if rows:
            self._append(rows)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any) -> None:
        """Nothing: `config.yaml` holds them."""

    def _append(self, rows: list[tuple[object, ...]]) -> None:
        try:
            new = not self.path.exists()
            with self.path.open("ab") as stream:
                stream.write(to_csv([HEADER, *rows] if new else rows))
        except OSError as error:
            raise UserError(
                Exit.STORAGE,
                relative(self.path),
                f"cannot be written ({error.strerror})",
                "free space or make the folder writable, then go on with --resume true",
            ) from error

    def _warn(self, metrics: Mapping[str, float]) -> None:
        for name in sorted(metrics.keys() - finite(metrics).keys() - self._warned):
            self._warned.add(name)
            value = f"{visible(name)} is {float(metrics[name])} after {self.images_seen} images"
            # Not print: it would end up in the line of the progress bar.
            tqdm.write(f"warning: {value}; it is left out of metrics.csv", file=sys.stderr)


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are numbers, without NaN and Inf."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


@rank_zero_only
def truncate(path: Path, images_seen: int) -> None:
    """Drops what was logged after ``images_seen``: a resumed run writes it again.

    A line that a full disk or a lost machine has cut short goes as well.

    Raises:
        UserError: the file is no table.
    """
    if not path.is_file():
        return
    data = path.read_bytes()
    try:
        _, *rows = from_csv(data[: data.rfind(b"\n") + 1]) or [[]]
    except ValueError as error:
        remedy = "mend it, or remove it to go on without the history"
        raise UserError(Exit.INPUT, relative(path), f"is no table ({error})", remedy) from error
    kept = [typed for row in rows if (typed := _typed(row)) and typed[0] <= images_seen]
    with whole_file(path) as stream:
        stream.write(to_csv([HEADER, *kept]))


def _typed(row: list[str]) -> tuple[int, int, int | str, str, float] | None:
    """Numbers as numbers: a text with a minus in front would be taken for a formula."""
    try:
        images_seen, epoch, step, name, value = row
        return int(images_seen), int(epoch), step and int(step), name, float(value)
    except ValueError:
        return None
