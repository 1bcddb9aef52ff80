"""Which code and which libraries made a result."""

import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version

from common import PROJECT


def commit() -> str:
    """Of the code that runs, "-dirty" where it was changed; "" where there is no checkout."""
    if not (PROJECT / ".git").exists():
        return ""
    found = _git("rev-parse", "HEAD")
    # New files count: a new experiment is one.
    return f"{found}-dirty" if found and _git("status", "--porcelain") else found


def _git(*words: str) -> str:
    command = ["git", "-C", str(PROJECT), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def versions(names: Sequence[str]) -> dict[str, str]:
    """Of Python and of these distributions."""
    return {"python": platform.python_version()} | {name: version(name) for name in names}
