"""The command line that all experiments share."""

import inspect
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from common.callbacks import ImagesSeen, PreviewGrid, RunConfig
from common.data.cards import load_card
from common.data.datamodule import PROJECT, ImageDataModule
from common.errors import Exit, UserError, exit_on_user_error, quoted_error
from common.progress import ImagesProgress
from common.runs import metrics_csv
from common.runs.checkpoints import (
    DurableCheckpointIO,
    LastCheckpoint,
    load_checkpoint,
    load_weights,
)
from common.runs.ema import EMA
from common.runs.folder import RunFolder, find_run, new_run_id
from common.runs.guard import FiniteGuard
from common.runs.hardware import Hardware
from common.runs.layout import ChannelsLast
from common.runs.resume import SeededSteps, TypedSettingsWin
from common.tracking import Tracking, make_loggers
from common.trainer import ExperimentTrainer

BASE_CONFIG = Path(__file__).parent / "configs/base.yaml"
# Verbs that work on a run that exists, with the configuration it was trained with.
_ON_A_RUN = ("generate", "evaluate")


class Parser(LightningArgumentParser):
    """Says what is wrong with an argument in one sentence instead of two screens of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises `UserError` with the lines of the message that name the mistake."""
        inner = quoted_error(message)
        if inner:
            raise inner
        key = re.search(r"Parser key \"([^\"]+)\"", message)
        problem = " ".join(message.split()).removeprefix(f'Parser key "{key[1]}":' if key else "")
        remedy = "give --config experiments/<name>/configs/<size>.yaml; options: add --help"
        raise UserError(Exit.USAGE, key[1] if key else "command line", problem.strip(), remedy)


class ExperimentCLI(LightningCLI):
    """LightningCLI with the verbs, groups and forced callbacks of this project."""

    folder: RunFolder

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds run, workspace and the groups, and links what must agree."""
        parser.add_argument("--run", type=str | None, default=None, help="name of the run")
        parser.add_argument("--resume", type=bool, default=False, help="go on with --run")
        parser.add_argument(
            "--workspace", type=str, default=str(PROJECT), help="folder of data/ and runs/"
        )
        parser.add_argument("--hardware", type=Hardware, default=Hardware())
        parser.add_argument("--tracking", type=Tracking, default=Tracking())
        parser.add_lightning_class_args(ImagesSeen, "budget")
        parser.add_lightning_class_args(EMA, "ema")
        parser.add_lightning_class_args(PreviewGrid, "preview")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        # Without it a configuration that changes nothing of the model would have to name it.
        path = f"{self._model_class.__module__}.{self._model_class.__qualname__}"
        card = self._datamodule_class.default_card
        parser.set_defaults({"model": {"class_path": path}, "data.card": card})
        parser.link_arguments("workspace", "data.workspace")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        self._link_model(parser)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """`validate` and `test` are missing: `fit` does the one, `evaluate` alone the other."""
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
            "prepare": {"model", "datamodule"},
            "generate": {"model", "datamodule"},
            "evaluate": {"model", "datamodule"},
        }

    def _parse_ckpt_path(self) -> None:
        """Nothing: the configuration is the truth, a checkpoint contributes weights."""

    def before_instantiate_classes(self) -> None:
        """Fixes the run's folder and the process's speed settings."""
        config = self.config[self.subcommand]
        workspace = Path(config["workspace"]).resolve()
        if self.subcommand == "fit":
            self.folder = RunFolder(workspace, self.experiment, config["run"] or new_run_id())
            _refuse_used(self.folder, config["resume"])
        elif self.subcommand in _ON_A_RUN:
            self.folder = find_run(workspace, self.experiment, config["run"])
        else:
            self.folder = RunFolder(workspace, self.experiment, "")
        if config["data"]["root"]:
            config["data"]["root"] = str(Path(config["data"]["root"]).resolve())
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
            kind = _accelerator(config["trainer"]["accelerator"])
            kwargs["precision"] = config["hardware"].resolved_precision(kind) if fits else "32-true"
        config["trainer"]["callbacks"] = [*(config["trainer"]["callbacks"] or []), *self._extra()]
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ModuleNotFoundError, ValueError) as error:
            problem = f"this machine cannot do that: {error}".splitlines()[0]
            raise UserError(Exit.USAGE, "--trainer", problem, "see make train HW=") from error
        trainer.folder = self.folder
        trainer.image_budget = config["budget"].budget
        trainer.fused_optimizers = config["hardware"].fused_optimizer
        return trainer

    def before_fit(self) -> None:
        """Prepares data before ranks are started, and finds the checkpoint to resume from."""
        config = self.config_init["fit"]
        if rank_zero_only.rank == 0:
            self.datamodule.prepare_data()
            _claim(self.folder)
            shown = self.folder.shown(self.folder.path)
            print(f"run:  {shown} ({_device(self.trainer)})", flush=True)
        if config["resume"]:
            path = self.folder.checkpoints / "last.ckpt"
            checkpoint = load_checkpoint(path)
            load_weights(self.model, checkpoint, path)
            self.datamodule.setup("fit")
            self.datamodule.refuse_other_data(checkpoint)
            seen = checkpoint["callbacks"]["ImagesSeen"]["count"]
            metrics_csv.truncate(self.folder.metrics, seen)
            done = f"epoch {checkpoint['epoch'] + 1}, {seen} images seen"
            print(f"resuming {self.folder.shown(path)}: {done}")
            config["ckpt_path"] = str(path)

    def after_fit(self) -> None:
        """Says where things are and what comes next."""
        previews = sorted(self.folder.previews.glob("*.png"))
        self._say("checkpoint", self.folder.checkpoints / "best.ckpt")
        if previews:
            self._say("preview", previews[-1])
        self._next("generate", "N=100")

    def after_generate(self) -> None:
        """Says where the images are and what comes next."""
        self._say("samples", self.folder.samples)
        self._next("evaluate")

    def after_evaluate(self) -> None:
        """Says where the numbers are and what comes next."""
        self._say("records", self.folder.records)
        self._next("report")

    def after_prepare(self) -> None:
        """Says what comes next."""
        self._next("train")

    @property
    def experiment(self) -> str:
        """Name of the experiment's folder."""
        return Path(inspect.getfile(self._datamodule_class)).parent.name

    @rank_zero_only
    def _say(self, noun: str, path: Path) -> None:
        print(f"{noun + ':':12}{self.folder.shown(path)}", flush=True)

    @rank_zero_only
    def _next(self, verb: str, *words: str) -> None:
        run = [f"RUN={self.folder.run_id}"] if self.folder.run_id and verb != "report" else []
        elsewhere = self.folder.workspace != PROJECT
        args = [f'ARGS="--workspace {self.folder.workspace}"'] if elsewhere else []
        target = ["report"] if verb == "report" else [verb, f"EXP={self.experiment}"]
        print(f"{'next:':12}make {' '.join([*target, *run, *words, *args])}", flush=True)

    def _link_model(self, parser: LightningArgumentParser) -> None:
        """Gives the module what the data fix, where it has such an argument."""
        arguments = inspect.signature(self._model_class.__init__).parameters
        default = self._datamodule_class.default_card

        def from_card(read: Any) -> Any:
            return lambda card: read(load_card(card or default))

        links = {
            "image_size": ("data.image_size", None),
            "num_channels": ("data.card", from_card(lambda card: len(card.channels))),
            "classes": ("data.card", from_card(lambda card: list(card.classes))),
        }
        for name, (source, compute) in links.items():
            if name in arguments:
                parser.link_arguments(source, f"model.init_args.{name}", compute_fn=compute)

    def _extra(self) -> list[pl.Callback]:
        if self.subcommand != "fit":
            return [ImagesProgress()]
        config = self.config_init["fit"]
        config["preview"].folder = self.folder
        best = config["checkpoint"]
        best.dirpath = str(self.folder.checkpoints)
        every = config["trainer"]["check_val_every_n_epoch"] or 1
        return [
            ImagesProgress(),
            FiniteGuard(),
            SeededSteps(self.datamodule.seed),
            TypedSettingsWin(),
            ChannelsLast(config["hardware"].channels_last),
            LastCheckpoint(self.folder.checkpoints, every),
        ]


def run(
    model: type[pl.LightningModule],
    data: type[ImageDataModule],
    args: Sequence[str] | None = None,
) -> None:
    """Runs one experiment's command line; a user's mistake ends in one sentence.

    Args:
        model: module of the experiment; a configuration may name a subclass of it.
        data: data module of the experiment.
        args: instead of the process's own.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    _quieten()
    with exit_on_user_error(), _refused_by_lightning():
        arguments = _with_run_config(arguments, Path(inspect.getfile(data)).parent.name)
        ExperimentCLI(
            model,
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


def _with_run_config(arguments: list[str], experiment: str) -> list[str]:
    """Puts the run's own configuration before what was typed, which therefore wins."""
    verb = arguments[0] if arguments else ""
    resumes = verb == "fit" and _value(arguments, "--resume") in ("true", "True")
    if (verb not in _ON_A_RUN and not resumes) or "--help" in arguments or "-h" in arguments:
        return arguments
    workspace = Path(_value(arguments, "--workspace") or PROJECT).resolve()
    folder = find_run(workspace, experiment, _value(arguments, "--run"))
    return [verb, "--config", str(folder.config), *arguments[1:], "--run", folder.run_id]


def _value(arguments: Sequence[str], option: str) -> str | None:
    for position, argument in enumerate(arguments):
        if argument == option and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(f"{option}="):
            return argument.split("=", 1)[1]
    return None


@rank_zero_only
def _refuse_used(folder: RunFolder, resume: bool) -> None:
    if folder.path.exists() and any(folder.path.iterdir()) and not resume:
        raise UserError(
            Exit.STORAGE,
            folder.shown(folder.path),
            "holds a run already",
            "choose another RUN= or go on with --resume true",
            "nothing was changed",
        )


def _claim(folder: RunFolder) -> None:
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        probe = folder.path / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            Exit.STORAGE,
            folder.shown(folder.path),
            f"cannot be written to ({error.strerror})",
            "choose another --workspace",
        ) from error


def _device(trainer: ExperimentTrainer) -> str:
    device = trainer.strategy.root_device.type
    return f"{trainer.num_devices} x {device}, {trainer.precision}"


def _accelerator(name: str) -> str:
    import torch

    if name in ("auto", "gpu", "cuda"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    return os.fspath(name)
