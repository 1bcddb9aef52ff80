"""The command line as typed: what is put around it, and what is said of mistakes in it."""

import json
import re
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NoReturn

import pytorch_lightning as pl
from pytorch_lightning.cli import LightningArgumentParser

from common import PROJECT
from common.errors import Exit, UserError, quoted_error
from common.runs.folder import find_run

# Verbs that work on a run that exists, with the configuration it was trained with.
ON_A_RUN = (
    *("generate", "evaluate", "utility", "judge", "continue", "quiz", "card", "export", "figures"),
)
# The verb as it is typed, and as the trainer has it.
IMPORT, IMPORTS = "import-published", "import_published"
# Verbs that make a run, which therefore must not be there.
MAKES_A_RUN = ("fit", IMPORTS)
_NO = ("false", "no", "off", "n", "0")
# Characters of a refused value that a message repeats.
_SHOWN = 600


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
        subject = key[1] if key else "command line"
        raise UserError(Exit.USAGE, subject, problem.strip()[:_SHOWN], remedy)


def with_run_config(arguments: list[str], experiment: str) -> list[str]:
    """Puts the run's own configuration before what was typed, which therefore wins."""
    verb = arguments[0] if arguments else ""
    resumes = verb == "fit" and (_value(arguments, "--resume") or "no").lower() not in _NO
    if (verb not in ON_A_RUN and not resumes) or _asks_for_help(arguments):
        return arguments
    workspace = Path(_value(arguments, "--workspace") or PROJECT).resolve()
    folder = find_run(workspace, experiment, _value(arguments, "--run"))
    return [verb, "--config", str(folder.config), *arguments[1:], "--run", folder.run_id]


def with_published(arguments: list[str], model: type[pl.LightningModule]) -> list[str]:
    """Puts what a file of released weights asks for behind what was typed, and thereby wins.

    Args:
        arguments: of the command line.
        model: of the experiment; its ``published_options`` reads such files, if it has one.

    Raises:
        UserError: the verb is `import-published`, and the experiment reads no such files, none is
            named, or it is not one of them.
    """
    if arguments[:1] not in ([IMPORT], [IMPORTS]):
        return arguments
    arguments = [IMPORTS, *arguments[1:]]
    if not hasattr(model, "published_options"):
        problem = f"{model.__name__} reads no released weights"
        raise UserError(Exit.USAGE, IMPORT, problem, "choose another experiment with EXP=")
    if _asks_for_help(arguments):
        return arguments
    weights = _value(arguments, "--weights")
    if not weights:
        remedy = "name the file with WEIGHTS= or --weights"
        raise UserError(Exit.USAGE, IMPORT, "needs a file of released weights", remedy)
    options = model.published_options(Path(weights))
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in options.items()}
    return [*arguments, *(f"--{name}={text}" for name, text in texts.items())]


def _asks_for_help(arguments: Sequence[str]) -> bool:
    return "--help" in arguments or "-h" in arguments


def _value(arguments: Sequence[str], option: str) -> str | None:
    """Of an option given twice the last value counts, as for the parser."""
    value = None
    for argument, after in zip_longest(arguments, arguments[1:]):
        if argument == option:
            value = after
        elif argument.startswith(f"{option}="):
            value = argument.split("=", 1)[1]
    return value
