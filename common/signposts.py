"""What a verb says at its end: where things are, and the command that comes next."""

import os
import shlex
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from common import PROJECT
from common.runs.folder import RunFolder


class Signposts:
    """Part of the command line; it has the run's folder and the parsed configuration.

    Attributes:
        experiment: name of the experiment's folder.
        folder: of the run.
        subcommand: the verb.
        config: by verb.
    """

    experiment: str
    folder: RunFolder
    subcommand: str
    config: Any

    def after_check(self) -> None:
        """Says what comes next."""
        self.point_to("prepare", *self._data_words())

    def after_prepare(self) -> None:
        """Says what comes next."""
        self.point_to("train", *self._data_words())

    def after_import_published(self) -> None:
        """Says where the checkpoint is and what comes next."""
        self.say("checkpoint", self.folder.checkpoint("best"))
        self.point_to("generate", "N=100")

    def after_generate(self) -> None:
        """Says where the images are and what comes next."""
        self.say("samples", self.folder.samples)
        if self.config[self.subcommand]["around_training"]:
            print("note:       each is a near copy of a training image; the manifest says so")
        self.point_to("evaluate")

    def after_evaluate(self) -> None:
        """Says where the numbers are and what comes next."""
        self.say("records", self.folder.records)
        self.point_to("report")

    after_utility = after_evaluate

    def after_judge(self) -> None:
        """Says where the numbers are, what was taken for what, and what comes next."""
        self.say("confusion", self.folder.confusion)
        self.after_evaluate()

    def after_continue(self) -> None:
        """Says where films, tables and numbers are, and what comes next."""
        self.say("continued", self.folder.continuation)
        self.after_evaluate()

    def after_quiz(self) -> None:
        """Says where the page is and what to do with it."""
        self.say("quiz", self.folder.quiz)
        print("next:       open it in a browser; make quiz-score FILES=... reads what it saves")

    def after_card(self) -> None:
        """Says where the cards are."""
        self.say("cards", self.folder.card)

    def after_figures(self) -> None:
        """Says where the pictures are."""
        self.say("figures", self.folder.figures)

    def after_export(self) -> None:
        """Says where the model is."""
        self.say("export", self.folder.export)

    @rank_zero_only
    def say(self, noun: str, path: Path) -> None:
        """One line: what lies where."""
        print(f"{noun + ':':12}{self.folder.shown(path)}", flush=True)

    @rank_zero_only
    def point_to(self, verb: str, *words: str) -> None:
        """One line: the next command as it can be typed."""
        run = [f"RUN={self.folder.run_id}"] if self.folder.run_id and verb != "report" else []
        elsewhere = self.folder.workspace != PROJECT
        args = [f'ARGS="--workspace {self.folder.workspace}"'] if elsewhere else []
        target = ["report"] if verb == "report" else [verb, f"EXP={self.experiment}"]
        print(f"{'next:':12}make {' '.join([*target, *run, *words, *args])}", flush=True)

    def _data_words(self) -> list[str]:
        """Without them the next command would simulate other data."""
        root = self.config[self.subcommand]["data"]["root"]
        return [f"DATA={shlex.quote(os.path.relpath(root))}"] if root else []
