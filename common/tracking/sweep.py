"""A search over settings that W&B steers: registered from a file, worked off by agents.

Each trial is a run like any other, with its own folder, named as W&B names it.
"""

import argparse
import io
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import yaml

from common import PROJECT
from common.errors import Exit, UserError, exit_on_user_error, quoted_error, relative
from common.tracking.account import answered, default_entity, require_account
from common.untrusted_yaml import load_yaml, read_text

# Validations before a trial is compared with others and may be stopped.
_FIRST_LOOK = 3
# A learning rate is searched this many times below and above what the configuration says.
_RATE_RANGE = 10


def configuration(experiment: str, config: Path) -> dict[str, Any]:
    """What W&B is told: the search, and the command of a trial.

    Args:
        experiment: its own `configs/sweep.yaml` is taken, else `default_search`.
        config: of the trials, on which the searched settings come.

    Raises:
        UserError: the file is no search, the configuration lies outside of the project (its path
            would be sent), or the command line does not take one of the settings.
    """
    config = _inside(config)
    script = f"experiments/{experiment}/cli.py"
    own = PROJECT / "experiments" / experiment / "configs/sweep.yaml"
    fit = ["fit", "--config", config]
    if own.is_file():
        search = _read(own)
    else:
        search = default_search(load_yaml(_accepted([script, *fit], config)))
    _accepted([script, *fit, *one_trial(search["parameters"])], relative(own))
    # W&B replaces what stands in braces: the agent's Python, and --key=value of each setting.
    command = ["${interpreter}", script, *fit, "--tracking.wandb", "online", "${args}"]
    return search | {"name": f"{experiment}, {Path(config).stem}", "program": script,
                     "command": command}  # fmt: skip


def default_search(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Learning rates and batch size around what a configuration says.

    Args:
        settings: of a run, as `config.yaml` holds them; what is monitored there is the goal.
    """
    arguments = settings["model"]["init_args"]
    rates = [name for name in arguments if name == "lr" or name.endswith("_lr")]
    parameters: dict[str, Any] = {
        f"model.{name}": {
            "distribution": "log_uniform_values",
            "min": arguments[name] / _RATE_RANGE,
            "max": arguments[name] * _RATE_RANGE,
        }
        for name in rates
    }
    size = settings["data"]["batch_size"]
    parameters["data.batch_size"] = {"values": sorted({max(1, size // 2), size, size * 2})}
    checkpoint = settings["checkpoint"]
    goal = "maximize" if checkpoint["mode"] == "max" else "minimize"
    return {
        "method": "bayes",
        "metric": {"name": checkpoint["monitor"], "goal": goal},
        "parameters": parameters,
        "early_terminate": {"type": "hyperband", "min_iter": _FIRST_LOOK},
    }


def one_trial(parameters: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Arguments of a trial that W&B may draw."""
    return [f"--{name}={_drawn(parameter)}" for name, parameter in parameters.items()]


def register(entity: str, experiment: str, sweep: dict[str, Any]) -> str:
    """Makes the sweep known to W&B; its path, ``entity/project/id``."""
    import wandb

    with redirect_stdout(io.StringIO()):
        name = wandb.sweep(sweep, entity=entity, project=experiment)
    return f"{entity}/{experiment}/{name}"


def work(path: str, count: int) -> int:
    """Runs so many trials here, one after the other; the exit code of W&B's agent."""
    scratch = PROJECT / "build"
    scratch.mkdir(exist_ok=True)
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "common.tracking.agent", path, str(count)],
        cwd=PROJECT,
        env=os.environ | {"PATH": here, "WANDB_DIR": str(scratch)},
        check=False,
    ).returncode


def _inside(config: Path) -> str:
    try:
        return config.resolve().relative_to(PROJECT).as_posix()
    except ValueError:
        problem = "lies outside of the project, and its path would be sent to W&B"
        raise UserError(Exit.USAGE, f"--config {relative(config)}", problem, "copy it in") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        search = load_yaml(read_text(path))
    except (OSError, ValueError, yaml.YAMLError) as error:
        search = error
    parameters = search.get("parameters") if isinstance(search, dict) else None
    mappings = isinstance(parameters, dict) and all(map(_is_drawable, parameters.values()))
    if not (mappings and {"method", "metric"} <= search.keys()):
        remedy = "give method, metric and parameters as W&B documents them"
        raise UserError(Exit.USAGE, relative(path), "is no configuration of a sweep", remedy)
    return search


def _is_drawable(parameter: object) -> bool:
    known = parameter.keys() if isinstance(parameter, dict) else ()
    return bool({"values", "value"} & set(known)) or {"min", "max"} <= set(known)


def _drawn(parameter: Mapping[str, Any]) -> Any:
    """The value of a parameter, its last one, or the middle of its range."""
    if "values" in parameter:
        return parameter["values"][-1]
    if "value" in parameter:
        return parameter["value"]
    low, high = parameter["min"], parameter["max"]
    if str(parameter.get("distribution", "")).startswith("log_uniform_values"):
        return math.sqrt(low * high)
    whole = isinstance(low, int) and isinstance(high, int)
    return (low + high) // 2 if whole else (low + high) / 2


def _accepted(command: Sequence[str], subject: str) -> str:
    """What the experiment's own command line makes of it; nothing is trained.

    Raises:
        UserError: it refuses.
    """
    done = subprocess.run(
        [sys.executable, *command, "--print_config"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it ended without a word"]
        remedy = "try it with make train"
        raise quoted_error(done.stderr) or UserError(Exit.USAGE, subject, said[-1], remedy)
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> None:
    """Registers a sweep or joins one, and works it off where trials are asked for.

    Args:
        arguments: of the command line, the process's own by default.
    """
    options = _parser().parse_args(arguments)
    with exit_on_user_error():
        if options.print:
            print(yaml.safe_dump(configuration(options.experiment, options.config)), end="")
            return
        require_account("make sweep", "; ARGS=--print shows the sweep without an account")
        path = options.sweep
        if path is None:
            sweep = configuration(options.experiment, options.config)
            with answered("make sweep"):
                path = register(default_entity(), options.experiment, sweep)
            print(f"{'sweep:':12}{path}", flush=True)
        if options.count:
            sys.exit(work(path, options.count))
        print(f"{'next:':12}make sweep EXP={options.experiment} SWEEP={path} COUNT=10")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m common.tracking.sweep", description=__doc__)
    parser.add_argument("experiment", help="whose settings are searched")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="of the trials")
    parser.add_argument("--count", type=int, default=0, metavar="N", help="trials to run here")
    parser.add_argument("--sweep", metavar="ENTITY/PROJECT/ID", help="one that is registered")
    parser.add_argument("--print", action="store_true", help="print it and register nothing")
    return parser


if __name__ == "__main__":
    main()
