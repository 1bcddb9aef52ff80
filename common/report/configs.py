"""Configurations of runs: flattened to dotted keys, and what differs between them."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from common.report.text_files import damaged, read_text

_SECRET = re.compile(r"(^|[._])(api_key|token|secret|password)$")


def read_config(path: Path, workspace: Path) -> dict[str, str]:
    """Flattens a nested YAML file to dotted keys with their values as text.

    Args:
        path: the YAML file.
        workspace: paths below it become relative to it; of other paths the last two parts stay,
            so that the page tells nothing about the machine.

    Raises:
        UserError: not YAML, or not a mapping.
    """
    try:
        tree = yaml.safe_load(read_text(path))
        if isinstance(tree, dict):
            return dict(_flat(tree, "", workspace.resolve()))
    except (yaml.YAMLError, RecursionError, ValueError):
        pass
    raise damaged(path, "is no YAML mapping of keys to values")


def differing_keys(configs: Sequence[Mapping[str, str]]) -> list[str]:
    """Keys whose values are not the same in all configurations, or that some lack; sorted."""
    keys = sorted(set().union(*configs))
    return [key for key in keys if len({config.get(key) for config in configs}) > 1]


def data_set(config: Mapping[str, str]) -> str:
    """Name of the data card, and of the user's folder unless the data are simulated."""
    card = Path(config.get("data.card", "")).name.removesuffix(".md")
    root = config.get("data.root", "null")
    return card if root == "null" else f"{card}: {Path(root).name}"


def _flat(value: object, key: str, workspace: Path) -> Iterator[tuple[str, str]]:
    nested = isinstance(value, list) and any(isinstance(v, dict | list) for v in value)
    if value and (isinstance(value, dict) or nested):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, child in items:
            yield from _flat(child, f"{key}.{name}" if key else str(name), workspace)
    elif _SECRET.search(key):
        yield key, "(hidden)"
    elif isinstance(value, list):
        items = [_portable(item, workspace) for item in value]
        yield key, json.dumps(items, default=str, ensure_ascii=False)
    else:
        shown = _portable(value, workspace)
        yield key, shown if shown and isinstance(shown, str) else json.dumps(shown, default=str)


def _portable(value: object, workspace: Path) -> object:
    """The value; of an absolute path, what means something on another machine."""
    path = Path(value) if isinstance(value, str) else Path()
    if not path.is_absolute():
        return value
    if path.is_relative_to(workspace):
        return str(path.relative_to(workspace))
    return str(Path("…", *path.parts[1:][-2:]))
