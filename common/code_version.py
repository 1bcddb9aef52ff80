"""Which code and which libraries made a result."""

import hashlib
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version

from common import PROJECT

_ROOMS = ("common", "experiments", "kernels")
# What runs, and what is compiled to run.
_SOURCES = (".py", ".h", ".cpp", ".cu")


def commit() -> str:
    """Of the code that runs, "-dirty" where it was changed; "" where there is no checkout."""
    if not (PROJECT / ".git").exists():
        return ""
    found = _git("rev-parse", "HEAD")
    # New files count: a new experiment is one.
    return f"{found}-dirty" if found and _git("status", "--porcelain") else found


def source_sha256() -> str:
    """Of the code as it is now, whether it was committed or not."""
    found = (path for room in _ROOMS for path in (PROJECT / room).rglob("*"))
    digest = hashlib.sha256()
    for path in sorted(path for path in found if path.suffix in _SOURCES):
        # Digests are of one length: no content passes for the name that follows it.
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{content} {path.relative_to(PROJECT).as_posix()}\n".encode())
    return digest.hexdigest()


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
