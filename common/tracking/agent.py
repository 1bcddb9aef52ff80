"""W&B's agent, which asks for trials and starts them, without the name of this machine."""

import socket
import sys

from wandb.cli.cli import cli


def main(path: str, count: str) -> None:
    """Works on a sweep and ends the process.

    Args:
        path: of the sweep, ``entity/project/id``.
        count: of trials.
    """
    # The agent registers itself under it.
    socket.gethostname = lambda: "host"
    # A stopped agent lets its trial save.
    cli(["agent", "--forward-signals", "--count", count, path])


if __name__ == "__main__":
    main(*sys.argv[1:])
