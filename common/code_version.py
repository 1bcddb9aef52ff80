"""Which code and which libraries made a result."""

import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version

from common.data.datamodule import PROJECT


def commit() -> str:
    """Of the code that runs, "-dirty" where it was changed; "" where there is no checkout."""
    if not (PROJECT / ".git").exists():
        return ""
    command = ["git", "-C", str(PROJECT), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def versions(names: Sequence[str]) -> dict[str, str]:
    """Of Python and of these distributions."""
    return {"python": platform.python_version()} | {name: version(name) for name in names}
