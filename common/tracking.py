"""The only file that talks to W&B: what is sent, and what never is."""

import logging
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from common.errors import Exit, UserError, visible
from common.privacy import public
from common.runs.folder import RunFolder
from common.runs.metrics_csv import MetricsCSV, finite

# With a key but no network W&B waits for minutes otherwise.
_INIT_TIMEOUT_S = 30
# W&B's own limit.
_LONGEST_TAG = 64


@dataclass(frozen=True)
class Tracking:
    """Where metrics go besides `metrics.csv`.

    Attributes:
        wandb: "offline" writes files that ``wandb sync`` can send later, "online" sends at once
            and needs a key, "disabled" does neither.
        tags: of the W&B run; they are sent as typed, but for paths and addresses.
    """

    wandb: Literal["offline", "online", "disabled"] = "offline"
    tags: tuple[str, ...] = ()


def make_loggers(folder: RunFolder, tracking: Tracking) -> list[Logger]:
    """`metrics.csv` first, then W&B unless it is disabled.

    Raises:
        UserError: online was asked for without a key that works, for which W&B would prompt; or a
            tag is empty or too long.
    """
    loggers: list[Logger] = [MetricsCSV(folder.metrics)]
    if tracking.wandb == "disabled":
        return loggers
    if tracking.wandb == "online" and not _has_key():
        raise UserError(
            Exit.USAGE,
            "--tracking.wandb online",
            "no W&B key is set, or W&B does not answer to it",
            "run wandb login or set WANDB_API_KEY, or leave it offline and run wandb sync later",
        )
    for tag in tracking.tags:
        if not 0 < len(public(tag)) <= _LONGEST_TAG:
            problem = f"is not between 1 and {_LONGEST_TAG} characters long"
            raise UserError(Exit.USAGE, f"--tracking.tags {tag}", problem, "choose another tag")
    return [*loggers, WandbRun(folder, tracking)]


class WandbRun(WandbLogger):
    """W&B run of an experiment's project, without host, command line, paths or git remote."""

    def __init__(self, folder: RunFolder, tracking: Tracking) -> None:
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
            resume="allow" if tracking.wandb == "online" else None,
        )
        # Lightning passes it on unasked, and W&B warns that it has no effect.
        self._wandb_init.pop("anonymous", None)
        self._folder = folder
        self.images_seen = 0

    @property
    def experiment(self) -> Any:
        """W&B's own run object, started when first asked for."""
        starts = self._experiment is None
        run = super().experiment
        if starts:
            run.define_metric("*", step_metric="images_seen")
            # A link to a log of W&B's own, by a path through the home folder.
            for link in self._folder.path.glob("wandb/*/logs/debug-core.log"):
                link.unlink(missing_ok=True)
        return run

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Against images seen, whatever Lightning counts; what is not finite is left out."""
        shown = {visible(name): value for name, value in finite(metrics).items()}
        if shown:
            self.experiment.log({**shown, "images_seen": self.images_seen})

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any], *args: Any) -> None:
        """The configuration without paths and secrets."""
        self.experiment.config.update(public(params), allow_val_change=True)

    @rank_zero_only
    def log_grid(self, key: str, grid: np.ndarray) -> None:
        """A uint8 picture [H, W]: W&B turns floats black."""
        import wandb

        self.experiment.log({key: wandb.Image(grid), "images_seen": self.images_seen})


def _has_key() -> bool:
    import wandb

    try:
        return wandb.login(prompt=False)
    except wandb.errors.Error:
        return False


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING
