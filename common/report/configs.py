"""Configurations of runs: flattened to dotted keys, and what differs between them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from common.privacy import PRIVATE, public
from common.report.text_files import damaged, read_text
from common.untrusted_yaml import load_yaml


@dataclass(frozen=True)
class Setting:
    """One value of a configuration as text.

    Attributes:
        value: in full, to tell runs apart.
        shown: what the page says, which tells nothing about the machine and its users.
    """

    value: str
    shown: str


def read_config(path: Path) -> dict[str, Setting]:
    """Flattens a nested YAML file to dotted keys.

    Raises:
        UserError: not YAML, or not a mapping.
    """
    try:
        tree = load_yaml(read_text(path))
        if isinstance(tree, dict):
            return dict(_flat(tree, ""))
    except (yaml.YAMLError, RecursionError, ValueError):
        pass
    raise damaged(path, "is no YAML mapping of keys to values")


def differing_keys(configs: Sequence[Mapping[str, Setting]]) -> list[str]:
    """Keys whose values are not the same in all configurations, or that some lack; sorted."""
    keys = sorted(set().union(*configs))
    return [key for key in keys if len({config.get(key) for config in configs}) > 1]


def data_set(config: Mapping[str, Setting]) -> str:
    """Name of the data card, and whether a folder of images was given instead of simulating."""
    card = config["data.card"].shown if "data.card" in config else ""
    given = "data.root" in config and config["data.root"].shown == PRIVATE
    return f"{card}: images of a folder" if given else card


def _flat(value: object, key: str) -> Iterator[tuple[str, Setting]]:
    nested = isinstance(value, list) and any(isinstance(v, dict | list) for v in value)
    if value and (isinstance(value, dict) or nested):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, child in items:
            yield from _flat(child, f"{key}.{public(str(name))}" if key else public(str(name)))
    else:
        yield key, Setting(_text(value), _text(public(value, key)))


def _text(value: object) -> str:
    if value and isinstance(value, str):
        return value
    return json.dumps(value, default=str, ensure_ascii=False)
