"""The command line that all experiments share."""

import inspect
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from jsonargparse.typing import NonNegativeInt
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from common import PROJECT
from common.arguments import (
    IMPORTS,
    MAKES_A_RUN,
    ON_A_RUN,
    Parser,
    with_published,
    with_run_config,
)
from common.callbacks import ImagesSeen, PreviewGrid, RunConfig, configuration_yaml
from common.config_safety import safe_parsing
from common.data.cards import load_card
from common.data.datamodule import ImageDataModule
from common.data.planning import refuse_large_seeds
from common.errors import Exit, UserError, exit_on_user_error, quoted_error
from common.interrupts import Stopped, die_with_parent, interrupts
from common.progress import ImagesProgress
from common.runs import metrics_csv
from common.runs.changes import DATA, refuse_changes
from common.runs.checkpoints import (
    DurableCheckpointIO,
    batches_in,
    images_in,
    load_checkpoint,
    load_weights,
    nbytes,
    promote_previous,
)
from common.runs.claim import claim, refuse_used, refuse_vanished, sweep_samples
from common.runs.ema import EMA
from common.runs.folder import RunFolder, find_run, new_run_id
from common.runs.guard import FiniteGuard, Guard, RunLog, Watchdog
from common.runs.hardware import Hardware
from common.runs.layout import ChannelsLast
from common.runs.lock import SAMPLES, TRAINING, RunLock
from common.runs.ranks import RankTimeout, lost_ranks, watch_ranks_ourselves
from common.runs.resume import CarriedNumbers, SeededSteps, TypedSettingsWin
from common.runs.saving import BestCheckpoint, LastCheckpoint
from common.signposts import Signposts
from common.tracking.run import Tracking, make_loggers
from common.trainer import ExperimentTrainer
from common.untrusted_yaml import load_yaml

BASE_CONFIG = Path(__file__).parent / "configs/base.yaml"


class ExperimentCLI(Signposts, LightningCLI):
    """LightningCLI with the verbs, groups and forced callbacks of this project."""

    _resumed_from: str | None = None

    def __init__(
        self,
        model: type[pl.LightningModule],
        base: type[pl.LightningModule],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self._default_model = model
        super().__init__(base, *args, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds run, workspace and the groups, and links what must agree."""
        parser.add_argument("--run", type=str | None, default=None, help="name of the run")
        parser.add_argument(
            "--resume",
            type=bool | Literal["previous"],
            default=False,
            help="go on with --run, from its last checkpoint or from the one before",
        )
        parser.add_argument(
            "--allow-change",
            type=str,
            default="",
            help="keys, separated by commas, that may differ from those of the resumed run; "
            "data for another data set",
        )
        parser.add_argument(
            "--workspace", type=str, default=str(PROJECT), help="folder of data/ and runs/"
        )
        parser.add_argument(
            "--skip-bad",
            type=NonNegativeInt,
            default=0,
            help="go on without this many unusable files",
        )
        parser.add_argument("--hardware", type=Hardware, default=Hardware())
        parser.add_argument("--tracking", type=Tracking, default=Tracking())
        parser.add_argument("--guard", type=Guard, default=Guard())
        parser.add_lightning_class_args(ImagesSeen, "budget")
        parser.add_lightning_class_args(EMA, "ema")
        parser.add_lightning_class_args(PreviewGrid, "preview")
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.add_lightning_class_args(LastCheckpoint, "last")
        # Without it a configuration that changes nothing of the model would have to name it.
        path = f"{self._default_model.__module__}.{self._default_model.__qualname__}"
        card = self._datamodule_class.default_card
        parser.set_defaults({"model": {"class_path": path}, "data.card": card})
        parser.link_arguments("workspace", "data.workspace")
        parser.link_arguments("skip_bad", "data.skip_bad")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        self._link_model(parser)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """`validate` and `test` are missing: `fit` does the one, `evaluate` alone the other."""
        return {
            "fit": {
                *("model", "train_dataloaders", "val_dataloaders", "datamodule"),
                # A path of the user's would not pass our checks in every strategy.
                *("ckpt_path", "weights_only"),
            },
            IMPORTS: {"model", "datamodule"},
            "check": {"model", "datamodule"},
            "prepare": {"model", "datamodule"},
            "pipeline": {"model", "datamodule"},
            "generate": {"model", "datamodule"},
            "evaluate": {"model", "datamodule"},
            "utility": {"model", "datamodule"},
            "judge": {"model", "datamodule"},
            "continue": {"model", "datamodule"},
            "quiz": {"model", "datamodule"},
            "card": {"model", "datamodule"},
            "export": {"model", "datamodule"},
            "figures": {"model", "datamodule"},
        }

    def _parse_ckpt_path(self) -> None:
        """Nothing: the configuration is the truth, a checkpoint contributes weights."""

    def before_instantiate_classes(self) -> None:
        """Fixes the run's folder and the process's speed settings."""
        if rank_zero_only.rank:
            die_with_parent()
        config = self.config[self.subcommand]
        workspace = Path(config["workspace"]).resolve()
        if self.subcommand in MAKES_A_RUN:
            self.folder = RunFolder(workspace, self.experiment, config["run"] or new_run_id())
            refuse_used(self.folder, bool(config["resume"]))
        elif self.subcommand in ON_A_RUN:
            self.folder = find_run(workspace, self.experiment, config["run"])
        else:
            self.folder = RunFolder(workspace, self.experiment, "")
        # A run may be looked at while it is trained.
        name = TRAINING if self.subcommand == "fit" else SAMPLES
        self.lock = RunLock(self.folder.path, name)
        if config["data"]["root"]:
            config["data"]["root"] = os.path.realpath(config["data"]["root"])
        Hardware(**config["hardware"]).apply()

    def instantiate_classes(self) -> None:
        """A module may refuse its arguments; jsonargparse wraps that into a `ValueError`."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise quoted_error(str(error)) or error from error

    def instantiate_trainer(self, **kwargs: Any) -> ExperimentTrainer:
        """Adds what every run has: its folder, its callbacks, its loggers, its precision."""
        config = self.config_init[self.subcommand]
        fits = self.subcommand == "fit"
        self.save_config_kwargs = {"folder": self.folder}
        kwargs |= {
            "default_root_dir": str(self.folder.path),
            "logger": make_loggers(self.folder, config["tracking"]) if fits else False,
            "plugins": [*(config["trainer"]["plugins"] or []), DurableCheckpointIO()],
        }
        if config["trainer"]["precision"] is None:
            asked = config["hardware"].resolved_precision(config["trainer"]["accelerator"])
            kwargs["precision"] = asked if fits else "32-true"
        config["trainer"]["callbacks"] = [*(config["trainer"]["callbacks"] or []), *self._extra()]
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ModuleNotFoundError, ValueError) as error:
            problem = f"this machine cannot do that: {error}".splitlines()[0]
            raise UserError(Exit.USAGE, "--trainer", problem, "see make train HW=") from error
        self.datamodule.loader_timeout_s = config["guard"].loader_timeout_s
        trainer.folder = self.folder
        trainer.tracking = config["tracking"]
        trainer.image_budget = config["budget"].budget
        trainer.hardware = config["hardware"]
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            with lost_ranks(self.trainer):
                super()._run_subcommand(subcommand)
        finally:
            self.lock.release()
            for callback in self.trainer.callbacks:
                if isinstance(callback, Watchdog):
                    callback.stop()

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        found = super()._prepare_subcommand_kwargs(subcommand)
        return found | {"ckpt_path": self._resumed_from} if self._resumed_from else found

    def before_fit(self) -> None:
        """Prepares data before ranks are started, and finds the checkpoint to resume from."""
        config = self.config_init["fit"]
        refuse_large_seeds(config["preview"].seed, config["preview"].count, "--preview.seed")
        changed = self._refuse_changes(config["allow_change"]) if config["resume"] else []
        interrupts.is_first_rank = rank_zero_only.rank == 0
        watch_ranks_ourselves()
        if interrupts.is_first_rank:
            self.datamodule.prepare_data()
            self.lock.acquire()
            claim(self.folder, bool(config["resume"]), nbytes(self.model))
            shown = self.folder.shown(self.folder.path)
            print(f"run:  {shown} ({_device(self.trainer)})", flush=True)
        if config["resume"]:
            allow_data = DATA in _keys(config["allow_change"])
            self._resume(config["resume"] == "previous", allow_data, changed)
        # Last, for it may take minutes, which a run that is refused does not have to wait for.
        if interrupts.is_first_rank:
            self.datamodule.prepare_training()

    def _refuse_changes(self, allow: str) -> list[str]:
        """Accepted changes of the run's configuration; others end the command."""
        now = load_yaml(configuration_yaml(self._parser("fit"), self.config["fit"]))
        before = load_yaml(self.folder.config.read_text(encoding="utf-8"))
        allowed = _keys(allow)
        subject = self.folder.shown(self.folder.config)
        return refuse_changes(before, now, allowed, subject)

    def _resume(self, from_previous: bool, allow_data: bool, changed: list[str]) -> None:
        """Checks that the run can go on exactly where it was, and brings its history there."""
        last = self.folder.checkpoint("last")
        path = self.folder.checkpoint("previous") if from_previous else last
        checkpoint = load_checkpoint(path, to_resume=True)
        load_weights(self.model, checkpoint, path)
        # Not yet for training: what that makes of the data may take minutes.
        self.datamodule.setup("test")
        if self.datamodule.refuse_other_data(checkpoint, path, allow_data):
            changed = [*changed, DATA]
        seen, epoch = images_in(checkpoint), checkpoint["epoch"] + 1
        done = f"epoch {epoch}, batch {batches_in(checkpoint)}, {seen} images seen, checksum ok"
        changes = f"; changed: {', '.join(changed)}" if changed else ""
        if interrupts.is_first_rank:
            if from_previous:
                promote_previous(last)
            metrics_csv.truncate(self.folder.metrics, seen)
            print(f"resuming {self.folder.shown(path)}: {done}{changes}", flush=True)
        self._resumed_from = str(last)

    def after_fit(self) -> None:
        """Says where things are and what comes next."""
        if interrupts.pending is not None:
            raise Stopped(interrupts.pending)
        previews = sorted(self.folder.previews.glob("*.png"))
        measured = bool(self.config_init["fit"]["checkpoint"].best_model_path)
        saved = ("best", "last") if measured else ("last",)
        refuse_vanished(self.folder, saved)
        self.say("checkpoint", self.folder.checkpoint(saved[0]))
        if previews:
            self.say("preview", previews[-1])
        self.point_to("generate", "N=100")

    @rank_zero_only
    def before_generate(self) -> None:
        """No two of them write the same samples."""
        self.lock.acquire()
        sweep_samples(self.folder)

    # Nor do the files change that are read.
    before_card = before_evaluate = before_judge = before_quiz = before_utility = before_generate
    before_continue = before_generate

    @property
    def experiment(self) -> str:
        """Name of the experiment's folder."""
        return Path(inspect.getfile(self._datamodule_class)).parent.name

    def _link_model(self, parser: LightningArgumentParser) -> None:
        """Gives the module what the data fix, where it has such an argument."""
        arguments = inspect.signature(self._model_class.__init__).parameters
        default = self._datamodule_class.default_card

        def from_card(read: Any) -> Any:
            return lambda card: read(load_card(card or default))

        data = self._datamodule_class
        deciding = tuple(f"data.{name}" for name in data.channel_arguments)
        links = {
            "image_size": ("data.image_size", None),
            "num_channels": (deciding, lambda *values: len(data.channels_of(*values))),
            "classes": ("data.card", from_card(lambda card: list(card.classes))),
            "frames": ("data.frames", None),
        }
        for name, (source, compute) in links.items():
            if name in arguments:
                parser.link_arguments(source, f"model.init_args.{name}", compute_fn=compute)

    def _extra(self) -> list[pl.Callback]:
        if self.subcommand != "fit":
            return [ImagesProgress()]
        config = self.config_init["fit"]
        config["preview"].folder = self.folder
        config["checkpoint"].dirpath = str(self.folder.checkpoints)
        config["last"].path = self.folder.checkpoint("last")
        config["last"].every_n_epochs = config["trainer"]["check_val_every_n_epoch"] or 1
        return [
            ImagesProgress(),
            RunLog(self.folder.log),
            Watchdog(config["guard"].step_timeout_s),
            RankTimeout(config["guard"].rank_timeout_s),
            FiniteGuard(config["guard"].finite),
            SeededSteps(self.datamodule.seed),
            CarriedNumbers(),
            TypedSettingsWin(),
            ChannelsLast(config["hardware"].channels_last),
        ]


def run(
    model: type[pl.LightningModule],
    data: type[ImageDataModule],
    args: Sequence[str] | None = None,
    base: type[pl.LightningModule] | None = None,
) -> None:
    """Runs one experiment's command line; a user's mistake ends in one sentence.

    Args:
        model: module of the experiment, unless a configuration names another.
        data: data module of the experiment.
        args: instead of the process's own.
        base: a configuration may name its subclasses, and those of ``model`` without it.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    _quieten()
    with exit_on_user_error(), interrupts.listening(), safe_parsing(), _refused_by_lightning():
        arguments = with_published(arguments, model)
        arguments = with_run_config(arguments, Path(inspect.getfile(data)).parent.name)
        ExperimentCLI(
            model,
            base or model,
            data,
            save_config_callback=RunConfig,
            trainer_class=ExperimentTrainer,
            parser_class=Parser,
            seed_everything_default=0,
            parser_kwargs={
                verb: {"default_config_files": [str(BASE_CONFIG)]}
                for verb in ExperimentCLI.subcommands()
            },
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=arguments,
        )


@contextmanager
def _refused_by_lightning() -> Iterator[None]:
    """A setting that Lightning refuses is the user's to mend, wherever it finds out."""
    try:
        yield
    except MisconfigurationException as error:
        problem = " ".join(str(error).split())
        raise UserError(Exit.USAGE, "configuration", problem, "options: add --help") from error


def _quieten() -> None:
    """Advice to developers and advertisements would bury what a user has to read."""
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _keys(text: str) -> list[str]:
    return [key.strip() for key in text.split(",") if key.strip()]


def _device(trainer: ExperimentTrainer) -> str:
    device = trainer.strategy.root_device.type
    return f"{trainer.num_devices} x {device}, {trainer.precision}"
