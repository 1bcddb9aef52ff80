"""The authoritative history of a run: one line a number, flushed at once."""

import csv
import io
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from common.storage import whole_file

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
        """Appends one line a metric; ``epoch`` is a column, not a metric."""
        epoch = int(metrics.get("epoch", -1))
        rows = [
            (self.images_seen, epoch, step, name, repr(float(value)))
            for name, value in sorted(metrics.items())
            if name != "epoch"
        ]
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerows([HEADER, *rows] if new else rows)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any) -> None:
        """Nothing: `config.yaml` holds them."""


@rank_zero_only
def truncate(path: Path, images_seen: int) -> None:
    """Drops what was logged after ``images_seen``: a resumed run writes it again.

    A line that a full disk or a lost machine has cut short goes as well.
    """
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8", errors="replace") as stream:
        _, *lines = stream.readlines() or [""]
    kept = [row for line in lines if (row := _row(line)) and int(row[0]) <= images_seen]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([HEADER, *kept])
    with whole_file(path) as stream:
        stream.write(text.getvalue().encode())


def _row(line: str) -> list[str] | None:
    row = next(csv.reader([line]), [])
    whole = line.endswith("\n") and len(row) == len(HEADER) and row[0].isdecimal()
    return row if whole else None
