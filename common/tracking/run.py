"""The W&B run of a run folder: what is sent, and what never is."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from common.errors import Exit, UserError, visible
from common.metrics.protocol import read_records
from common.privacy import public
from common.report.runs import read_curves
from common.runs.folder import RunFolder, sweep_run_id
from common.runs.metrics_csv import MetricsCSV, finite
from common.tracking.account import answered, require_account
from common.tracking.names import X_AXIS, evaluation_scalars

# Where it stops to answer after it took the key, W&B waits for minutes otherwise.
_INIT_TIMEOUT_S = 30
# W&B's own limit.
_LONGEST_TAG = 64


@dataclass(frozen=True)
class Tracking:
    """Where metrics go besides `metrics.csv`.

    Attributes:
        wandb: "offline" writes files that ``make sync`` can send later, "online" sends at once and
            needs a key, "disabled" does neither.
        tags: of the W&B run; they are sent as typed, but for paths and addresses.
    """

    wandb: Literal["offline", "online", "disabled"] = "offline"
    tags: tuple[str, ...] = ()


def make_loggers(folder: RunFolder, tracking: Tracking) -> list[Logger]:
    """`metrics.csv` first, then W&B unless it is disabled; says what W&B cannot do on a resume.

    Raises:
        UserError: as `refuse_tracking`.
    """
    refuse_tracking(folder, tracking)
    loggers: list[Logger] = [MetricsCSV(folder.metrics)]
    if tracking.wandb == "disabled":
        return loggers
    if folder.metrics.is_file():
        _tell_of_resume()
    return [*loggers, WandbRun(folder, tracking)]


@rank_zero_only
def _tell_of_resume() -> None:
    print("note: W&B cannot take back what was logged beyond the checkpoint; metrics.csv counts")


def refuse_tracking(folder: RunFolder, tracking: Tracking) -> None:
    """Says now what W&B would say after the work is done, or by waiting for an answer.

    Raises:
        UserError: online was asked for without a key that works; a tag is empty or too long; or a
            trial of a sweep was given another name than W&B's.
    """
    if tracking.wandb == "disabled":
        return
    if tracking.wandb == "online":
        require_account("--tracking.wandb online", ", or leave it offline and run make sync later")
    for tag in tracking.tags:
        if not 0 < len(public(tag)) <= _LONGEST_TAG:
            problem = f"is not between 1 and {_LONGEST_TAG} characters long"
            raise UserError(Exit.USAGE, f"--tracking.tags {tag}", problem, "choose another tag")
    if (trial := sweep_run_id()) and trial != folder.run_id:
        problem = f"this is trial {trial} of a W&B sweep, and runs are named after their trial"
        raise UserError(Exit.USAGE, f"--run {folder.run_id}", problem, "leave --run out")


class WandbRun(WandbLogger):
    """W&B run of an experiment's project, without host, command line, paths or git remote.

    Args:
        folder: of the run.
        tracking: of the run.
        kept: what is safe, should W&B refuse the run.
    """

    def __init__(self, folder: RunFolder, tracking: Tracking, kept: str = "") -> None:
        import wandb

        # Its debug log would hold this machine's paths.
        logging.getLogger("wandb").addFilter(_is_warning)
        settings = wandb.Settings(
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            console="off",
            host="host",
            # Else the path of the script that was started.
            program="cli.py",
            silent=True,
            symlink=False,
            init_timeout=_INIT_TIMEOUT_S,
        )
        folder.path.mkdir(parents=True, exist_ok=True)
        super().__init__(
            name=folder.run_id,
            id=folder.run_id,
            project=folder.experiment,
            save_dir=str(folder.path),
            offline=tracking.wandb == "offline",
            tags=public(tracking.tags),
            settings=settings,
            # Offline it makes the upload of a further segment append instead of overwrite.
            resume="allow",
        )
        # Lightning passes it on unasked, and W&B warns that it has no effect.
        self._wandb_init.pop("anonymous", None)
        self._folder = folder
        self._answered = partial(answered, f"--tracking.wandb {tracking.wandb}", kept)
        self.images_seen = 0

    @property
    def experiment(self) -> Any:
        """W&B's own run object, started when first asked for.

        Raises:
            UserError: W&B refuses the run, or does not answer within `_INIT_TIMEOUT_S`.
        """
        starts = self._experiment is None and rank_zero_only.rank == 0
        with self._answered():
            run = super().experiment
        if starts:
            run.define_metric("*", step_metric=X_AXIS)
            # The summary of a segment that is uploaded later replaces that of the one before.
            run.summary.update(_known(self._folder))
            # A link to a log of W&B's own, by a path through the home folder.
            for link in self._folder.path.glob("wandb/*/logs/debug-core.log"):
                link.unlink(missing_ok=True)
        return run

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Against images seen, whatever Lightning counts; what is not finite is left out."""
        shown = {visible(name): value for name, value in finite(metrics).items()}
        if shown:
            self._log(shown)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any], *args: Any) -> None:
        """The configuration without paths and secrets."""
        self.experiment.config.update(public(params), allow_val_change=True)

    @rank_zero_only
    def log_grid(self, key: str, grid: np.ndarray) -> None:
        """A uint8 picture [H, W]: W&B turns floats black."""
        import wandb

        self._log({key: wandb.Image(grid)})

    def _log(self, values: Mapping[str, Any]) -> None:
        # Images seen are the step, too: W&B's own count would start again in every segment.
        row = {**values, X_AXIS: self.images_seen}
        self.experiment.log(row, step=self.images_seen)


def _known(folder: RunFolder) -> dict[str, float]:
    """What the run folder holds already, as W&B's summary has it: the last of each number."""
    known: dict[str, float] = {}
    # A damaged file is the matter of whoever needs it.
    with suppress(UserError):
        if folder.metrics.is_file():
            curves = {visible(k): c for k, c in read_curves(folder.metrics).items() if c.values}
            known |= {name: curve.values[-1] for name, curve in curves.items()}
            known |= {X_AXIS: max((curve.images[-1] for curve in curves.values()), default=0)}
        if folder.records.is_file():
            for record in read_records(folder.records):
                known |= evaluation_scalars(record)
    return known


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING
