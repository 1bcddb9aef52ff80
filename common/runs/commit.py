"""Which code this is."""

import subprocess

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
