"""The smallest library that can be compiled."""

from pathlib import Path

from kernels.build import Library, Unit

# Notes that it ran, and what it was asked for; then writes its output file.
COMPILES = """
echo "$@" >> "$0.ran"
while [ "$1" != -o ]; do shift; done
echo library > "$2"
"""


def operator(namespace: str) -> str:
    """C++ of ``torch.ops.<namespace>.twice``."""
    return f"""
#include <torch/csrc/stable/library.h>
static int64_t twice(int64_t x) {{ return 2 * x; }}
STABLE_TORCH_LIBRARY({namespace}, m) {{ m.def("twice(int x) -> int"); }}
STABLE_TORCH_LIBRARY_IMPL({namespace}, CompositeExplicitAutograd, m) {{
  m.impl("twice", TORCH_BOX(&twice));
}}
"""


def library(folder: Path, *flags: str, **others: object) -> Library:
    """Every C++ file of a folder; by default under the name ``operators``."""
    return Library(**{"name": "operators", "folder": folder, "units": _units(flags), **others})


def compiler(path: Path, script: str = COMPILES, version: str = "fake 1.0") -> Path:
    """A shell script that takes a compiler's place."""
    path.parent.mkdir(exist_ok=True)
    asked = f'[ "$1" = --version ] && echo "{version}" && exit 0'
    path.write_text(f"#!/bin/sh\n{asked}\n{script}")
    path.chmod(0o755)
    return path


def ran(path: Path) -> list[str]:
    """What a `compiler` was asked for each time, apart from its version."""
    noted = path.with_name(f"{path.name}.ran")
    return noted.read_text().splitlines() if noted.exists() else []


def _units(flags: tuple[str, ...]) -> tuple[Unit, ...]:
    return (Unit("*.cpp", flags),)
