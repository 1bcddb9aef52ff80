"""Prints the configuration that suits this machine: `default` with an accelerator, else `cpu`."""

import sys
from pathlib import Path

import torch


def main(experiment: str) -> None:
    """Prints the path for the Makefile, and on stderr why."""
    name = "default" if torch.accelerator.is_available() else "cpu"
    found = "an accelerator was found" if name == "default" else "no accelerator was found"
    print(f"CONFIG={name}: {found}", file=sys.stderr)
    print(Path("experiments") / experiment / "configs" / f"{name}.yaml")


if __name__ == "__main__":
    main(sys.argv[1])
