"""The only file that talks to W&B: what is sent, and what never is."""

import logging
import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

import numpy as np
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from common.errors import Exit, UserError
from common.runs.folder import RunFolder
from common.runs.metrics_csv import MetricsCSV

_SECRET = ("key", "token", "secret", "password")
# With a key but no network W&B waits for minutes otherwise.
_INIT_TIMEOUT_S = 30
# Folders of an absolute path, wherever in a text it stands; the last part stays.
_FOLDERS = re.compile(r"(?<![\w.~/\\])(?:~|[A-Za-z]:)?[/\\](?:[^/\\:;,'\"]+[/\\])+")


@dataclass(frozen=True)
class Tracking:
    """Where metrics go besides `metrics.csv`.

    Attributes:
        wandb: "offline" writes files that ``wandb sync`` can send later, "online" sends at once
            and needs a key, "disabled" does neither.
        tags: of the W&B run.
    """

    wandb: Literal["offline", "online", "disabled"] = "offline"
    tags: tuple[str, ...] = ()


def make_loggers(folder: RunFolder, tracking: Tracking) -> list[Logger]:
    """`metrics.csv` first, then W&B unless it is disabled.

    Raises:
        UserError: online was asked for without a key that works; W&B would prompt for one.
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
            init_timeout=_INIT_TIMEOUT_S,
        )
        folder.path.mkdir(parents=True, exist_ok=True)
        super().__init__(
            name=folder.run_id,
            id=folder.run_id,
            project=folder.experiment,
            save_dir=str(folder.path),
            offline=tracking.wandb == "offline",
            tags=list(tracking.tags),
            settings=settings,
            resume="allow" if tracking.wandb == "online" else None,
        )
        # Lightning passes it on unasked, and W&B warns that it has no effect.
        self._wandb_init.pop("anonymous", None)
        self.images_seen = 0

    @property
    def experiment(self) -> Any:
        """W&B's own run object, started when first asked for."""
        starts = self._experiment is None
        run = super().experiment
        if starts:
            run.define_metric("*", step_metric="images_seen")
        return run

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Against images seen, whatever Lightning counts."""
        self.experiment.log({**metrics, "images_seen": self.images_seen})

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any], *args: Any) -> None:
        """The configuration without paths and secrets."""
        self.experiment.config.update(public(params), allow_val_change=True)

    @rank_zero_only
    def log_grid(self, key: str, grid: np.ndarray) -> None:
        """A uint8 picture [H, W]: W&B turns floats black."""
        import wandb

        self.experiment.log({key: wandb.Image(grid), "images_seen": self.images_seen})


def public(value: Any, key: str = "") -> Any:
    """A configuration as others may see it: file names without folders, secrets masked."""
    if any(word in key.lower() for word in _SECRET) and value is not None:
        return "***"
    if isinstance(value, dict):
        return {name: public(item, str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [public(item) for item in value]
    if isinstance(value, (bool, int, float, type(None))):
        return value
    text = str(value)
    return PurePath(text).name if PurePath(text).is_absolute() else _FOLDERS.sub("", text)


def _has_key() -> bool:
    import wandb

    try:
        return wandb.login(prompt=False)
    except wandb.errors.Error:
        return False


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING
