"""What a configuration may make the command line do: no foreign code, no YAML without limits."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import jsonargparse
import yaml
from jsonargparse import _loaders_dumpers, set_parsing_settings

from common.errors import Exit, UserError, relative
from common.untrusted_yaml import Limits, read_text

# What they define; what they import counts as where it was defined.
_OURS = ("common", "experiments")
# Single classes: with them come none that call whatever they are given.
_LIGHTNING = {
    "pytorch_lightning.callbacks": (
        "DeviceStatsMonitor",
        "EarlyStopping",
        "GradientAccumulationScheduler",
        "LearningRateMonitor",
        "ModelCheckpoint",
        "ModelSummary",
        "ThroughputMonitor",
        "Timer",
    ),
    "pytorch_lightning.strategies": ("DDPStrategy", "FSDPStrategy", "SingleDeviceStrategy"),
    "pytorch_lightning.profilers": ("AdvancedProfiler", "SimpleProfiler"),
    "pytorch_lightning.plugins.environments": (
        "LightningEnvironment",
        "SLURMEnvironment",
        "TorchElasticEnvironment",
    ),
}
_DENIED = re.compile(r"Importing '(.+?)' is not allowed")
_UNSAFE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
_FALSE = ("", "0", "false", "n", "no", "off")
_read_standard_input = jsonargparse.Path.read_text


@contextmanager
def safe_parsing() -> Iterator[None]:
    """Within it, a parser may be built and read configurations of any origin.

    Raises:
        UserError: a configuration names what it may not, or the environment makes torch run what
            a checkpoint says.
    """
    refuse_unsafe_environment()
    restrict_imports()
    limit_yaml()
    try:
        yield
    # The parser refuses in its own words, of some groups not as an error of the command line.
    except (UserError, ValueError) as error:
        denied = _DENIED.search(str(error))
        if denied is None:
            raise
        subject = error.subject if isinstance(error, UserError) else "configuration"
        problem = f"{denied[1]} may not be named in a configuration"
        remedy = f"use what {' or '.join(_OURS)} defines, or a class of common/config_safety.py"
        raise UserError(Exit.USAGE, subject, problem, remedy) from error


def refuse_unsafe_environment() -> None:
    """Refuses the switch by which torch loads checkpoints as programs.

    Raises:
        UserError: it is on.
    """
    if os.environ.get(_UNSAFE, "").lower() not in _FALSE:
        problem = "is set, which lets a checkpoint run code"
        raise UserError(Exit.USAGE, _UNSAFE, problem, f"unset {_UNSAFE}")


def restrict_imports() -> None:
    """Lets configurations name our own objects and single classes of Lightning, nothing else."""
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=[*_OURS, *_lightning_paths()],
        instantiate_subclass_spec_in_any=False,
    )


def limit_yaml() -> None:
    """Puts limits on every file that a parser reads and on every text that it takes as YAML."""
    # `set_loader` would miss numbers in lists, which are read by this class directly.
    _loaders_dumpers.yaml_default_loader = _ConfigLoader
    jsonargparse.Path.read_text = _read_config


class _ConfigLoader(Limits, _loaders_dumpers.get_yaml_default_loader()):
    pass


def _read_config(file: jsonargparse.Path) -> str:
    """Checks here already, because only here the name of the file is known."""
    if str(file) == "-":
        return _read_standard_input(file)
    try:
        text = read_text(Path(file))
        yaml.load(text, _ConfigLoader)
    except OSError as error:
        raise _unusable(file, f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise _unusable(file, str(error)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise _unusable(file, f"is refused as YAML: {problem}{line}") from error
    return text


def _unusable(file: jsonargparse.Path, problem: str) -> UserError:
    return UserError(Exit.USAGE, relative(str(file)), problem, "mend it or name another file")


def _lightning_paths() -> list[str]:
    """Each class by the name that people use and by those that the parser makes of it."""
    paths = []
    for package, names in _LIGHTNING.items():
        for name in names:
            parts = getattr(import_module(package), name).__module__.split(".")
            modules = [".".join(parts[: n + 1]) for n in range(len(parts))]
            paths += [f"{module}.{name}" for module in (package, *modules)]
    return paths
