"""Writes the page that compares runs and prints its path."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from common import PROJECT
from common.errors import exit_on_user_error
from common.report.page import write_report
from common.report.runs import find_runs


def main(arguments: Sequence[str] | None = None) -> None:
    """Compares the chosen runs in ``<workspace>/reports/index.html``.

    Args:
        arguments: of the command line, the process's own by default.
    """
    options = _parser().parse_args(arguments)
    with exit_on_user_error():
        runs = find_runs(options.workspace, options.exp, options.runs)
        print(write_report(runs, options.workspace / "reports" / "index.html"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m common.report", description=__doc__)
    parser.add_argument("--exp", default="", metavar="NAME", help="this experiment only")
    parser.add_argument(
        "--runs", nargs="+", default=[], metavar="EXP/RUN", help="these runs only, in this order"
    )
    parser.add_argument(
        "--workspace",
        type=Path,
        default=PROJECT,
        metavar="DIR",
        help="the folder that holds runs/ and receives reports/ (default: the project)",
    )
    return parser


if __name__ == "__main__":
    main()
