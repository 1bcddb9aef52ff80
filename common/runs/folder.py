"""The folder of one run and the names of what is in it."""

import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from common.errors import Exit, UserError

# Set once by the first process, so that the ranks it starts write into the same run.
_RUN_ID = "SYNTHETIC_MICROSCOPY_RUN"
# Empty for verbs that work on no run.
_RUN_NAME = re.compile(r"(\w[\w.-]{0,99})?")


@dataclass(frozen=True)
class RunFolder:
    """``<workspace>/runs/<experiment>/<run_id>``."""

    workspace: Path
    experiment: str
    run_id: str

    def __post_init__(self) -> None:
        """Refuses a name that leads elsewhere, or that W&B would not take.

        Raises:
            UserError: ``run_id`` is not the name of one folder.
        """
        if not _RUN_NAME.fullmatch(self.run_id):
            problem = "is no name for a run"
            remedy = "use at most 100 letters, digits, - _ and ."
            raise UserError(Exit.USAGE, f"--run {self.run_id}", problem, remedy)

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self.workspace / "runs" / self.experiment / self.run_id

    @property
    def config(self) -> Path:
        """Configuration that repeats the run."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """Every logged number, in long form."""
        return self.path / "metrics.csv"

    @property
    def checkpoints(self) -> Path:
        """`last.ckpt`, `previous.ckpt` and `best.ckpt`, each with its digest."""
        return self.path / "checkpoints"

    def checkpoint(self, name: str) -> Path:
        """One of them: "last", "previous" or "best"."""
        return self.checkpoints / f"{name}.ckpt"

    @property
    def previews(self) -> Path:
        """Grids on fixed seeds, named by images seen."""
        return self.path / "previews"

    @property
    def samples(self) -> Path:
        """What `generate` wrote."""
        return self.path / "samples"

    @property
    def records(self) -> Path:
        """What `evaluate`, `judge`, `utility` and `continue` measured."""
        return self.path / "records.jsonl"

    @property
    def evaluation(self) -> Path:
        """What `evaluate` saw of each image, and the nearest ones side by side."""
        return self.path / "evaluation"

    @property
    def confusion(self) -> Path:
        """What `judge` recognised, by what was asked for."""
        return self.path / "judge/confusion.csv"

    @property
    def continuation(self) -> Path:
        """What `continue` made of held-out recordings, and how far each of its frames is off."""
        return self.path / "continuation"

    @property
    def quiz(self) -> Path:
        """Page on which people judge `samples` beside held-out images."""
        return self.path / "quiz/index.html"

    @property
    def card(self) -> Path:
        """What `card` wrote: cards for people and machines, and the archive they describe."""
        return self.path / "card"

    @property
    def figures(self) -> Path:
        """What `figures` drew of the model."""
        return self.path / "figures"

    @property
    def export(self) -> Path:
        """What `export` wrote: the trained model for use elsewhere."""
        return self.path / "export"

    @property
    def log(self) -> Path:
        """Tracebacks of what went wrong; may hold paths of this machine."""
        return self.path / "run.log"

    def shown(self, path: Path) -> str:
        """A path in the run as messages name it: from the workspace on."""
        return path.relative_to(self.workspace).as_posix()


def new_run_id() -> str:
    """Time of the start, a sweep's trial or a scheduler's job; the same in every rank of a run.

    Raises:
        UserError: torchrun has started the ranks, and has nothing that they share.
    """
    slurm = [os.environ[k] for k in ("SLURM_JOB_ID", "SLURM_STEP_ID") if k in os.environ]
    stamp = f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"
    scheduled = sweep_run_id() or "-".join(slurm) or _torchrun_id(stamp)
    return os.environ.setdefault(_RUN_ID, scheduled or stamp)


def _torchrun_id(stamp: str) -> str | None:
    """Id that torchrun was given, or the stamp of the first rank that asks; None without it."""
    given = os.environ.get("TORCHELASTIC_RUN_ID")
    if given != "none":
        return given
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        problem = "was started without an id that all ranks share"
        raise UserError(Exit.USAGE, "torchrun", problem, "name the run with --run")
    # Only here: a report is made without torch.
    from torch.distributed import TCPStore

    where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(*where, is_master=False, wait_for_workers=False)
    return store.compare_set(_RUN_ID, "", stamp).decode()


def sweep_run_id() -> str | None:
    """Id that W&B has given to this trial of a sweep; None outside of one."""
    return os.environ.get("WANDB_RUN_ID") if "WANDB_SWEEP_ID" in os.environ else None


def find_run(workspace: Path, experiment: str, run_id: str | None) -> RunFolder:
    """The run of that name, or the one trained last.

    Raises:
        UserError: there is none.
    """
    runs = workspace / "runs" / experiment
    trained = [p.parent for p in runs.glob("*/config.yaml")]
    if run_id is None and trained:
        run_id = max(trained, key=lambda p: (p / "config.yaml").stat().st_mtime_ns).name
    folder = RunFolder(workspace, experiment, run_id or "")
    if run_id is None or not folder.config.is_file():
        known = ", ".join(sorted(p.name for p in trained)) or "none"
        raise UserError(
            Exit.USAGE,
            f"runs/{experiment}/{run_id or ''}",
            "no such run",
            f"train one with make train EXP={experiment}; there are: {known}",
        )
    return folder
