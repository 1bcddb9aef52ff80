"""Every configuration file parses, and so does every overlay on top of another."""

from pathlib import Path

import pytest
import yaml

from running import EXPERIMENTS, ROOT, Cli, smoke

# A search is no configuration of a run: tests/test_wandb.py reads it.
OWN = [
    path
    for name in EXPERIMENTS
    for path in sorted((ROOT / f"experiments/{name}/configs").iterdir())
    if path.name != "sweep.yaml"
]
MACHINES = sorted(p for p in (ROOT / "common/configs").glob("*.yaml") if p.stem != "base")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", OWN, ids=_name)
def test_a_config_of_an_experiment_parses(path: Path, cli: Cli) -> None:
    experiment = path.parent.parent.name
    result = cli(experiment, "fit", *smoke(experiment), "--config", path, "--print_config")
    assert result.code == 0, result.err
    printed = yaml.safe_load(result.out)
    for group, values in yaml.safe_load(path.read_text()).items():
        if group in ("data", "budget"):
            assert _holds(printed[group], values)


@pytest.mark.parametrize("path", MACHINES, ids=_name)
def test_a_machine_overlay_parses_on_every_experiment(
    path: Path, experiment: str, cli: Cli
) -> None:
    result = cli(experiment, "fit", *smoke(experiment), "--config", path, "--print_config")
    assert result.code == 0, result.err


def test_a_shipped_config_of_every_size_says_its_compute(experiment: str) -> None:
    for size in ("smoke", "cpu", "default"):
        head = (ROOT / "experiments" / experiment / f"configs/{size}.yaml").read_text()
        assert head.startswith(f"# make train EXP={experiment} CONFIG={size}\n# Compute: ")
        assert "Expected:" in head.split("\n\n")[0]
        assert "TBD" not in head


def _holds(found: object, values: object) -> bool:
    """Whether all that was asked for is there; what was not asked for may be beside it."""
    if isinstance(values, dict) and isinstance(found, dict):
        return all(key in found and _holds(found[key], value) for key, value in values.items())
    return found == values
