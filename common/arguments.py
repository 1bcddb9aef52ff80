"""The command line as typed: what is put before it, and what is said of mistakes in it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pytorch_lightning.cli import LightningArgumentParser

from common import PROJECT
from common.errors import Exit, UserError, quoted_error
from common.runs.folder import find_run

# Verbs that work on a run that exists, with the configuration it was trained with.
ON_A_RUN = (
    *("generate", "evaluate", "utility", "judge", "continue", "quiz", "card", "export", "figures"),
)
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
    if (verb not in ON_A_RUN and not resumes) or "--help" in arguments or "-h" in arguments:
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
