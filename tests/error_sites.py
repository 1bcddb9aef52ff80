"""Watches every error that the tests provoke: each has its form, and no place is left untried.

A plugin: it checks the form of all errors. With ``--every-error`` the session also fails when a
place in the product that makes a `UserError` was reached by no test of this process, or of the
processes that pytest-xdist has started for it.
"""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from common.errors import UserError
from running import ROOT

ROOMS = ("common", "experiments")
# Places that this process cannot reach, by file and function, with the test that does.
ELSEWHERE = {
    "common/runs/guard.py:_give_up": "it ends its process; tests/test_common/test_guard.py: "
    "test_a_run_that_does_nothing_any_more_ends_with_all_its_ranks",
}


class Place(NamedTuple):
    """Where a `UserError` is made."""

    file: str
    function: str
    lines: set[int]

    @property
    def name(self) -> str:
        """Without the lines, which change."""
        return f"{self.file}:{self.function}"


_original = UserError.__init__
_raised: dict[Path, set[int]] = {}
_faults: set[str] = set()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--every-error",
        action="store_true",
        help="fail when a place that makes a UserError is reached by no test",
    )


def pytest_configure(config: pytest.Config) -> None:
    UserError.__init__ = _recording
    if config.getoption("--every-error"):
        # Now: an editor may move the lines while the tests run.
        places()


def pytest_unconfigure() -> None:
    UserError.__init__ = _original


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Adds up what a process of pytest-xdist has seen."""
    seen = getattr(node, "workeroutput", {}).get("errors", {"raised": {}, "faults": []})
    for path, lines in seen["raised"].items():
        _raised.setdefault(Path(path), set()).update(lines)
    _faults.update(seen["faults"])


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        raised = {str(path): sorted(lines) for path, lines in _raised.items()}
        output["errors"] = {"raised": raised, "faults": sorted(_faults)}
    elif session.exitstatus == pytest.ExitCode.OK and _complaints(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    complaints = _complaints(config)
    if complaints:
        terminalreporter.section("errors of the product")
        for line in complaints:
            terminalreporter.line(line, red=True)


def _complaints(config: pytest.Config) -> list[str]:
    missing = untried(_raised) if config.getoption("--every-error") else []
    return sorted(_faults) + [f"{place}: no test provokes this error" for place in missing]


def _recording(self: UserError, *args: Any, **kwargs: Any) -> None:
    _original(self, *args, **kwargs)
    caller = sys._getframe(1)
    path = Path(caller.f_code.co_filename)
    if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ROOMS:
        _raised.setdefault(path, set()).add(caller.f_lineno)
        place = f"{path.relative_to(ROOT)}:{caller.f_lineno}"
        # Collected, not raised here: the product may catch what is raised.
        _faults.update(f"{place}: {fault}" for fault in faults_of(self))


def faults_of(error: UserError) -> list[str]:
    """What is wrong with the form of an error."""
    parts = {name: getattr(error, name) for name in ("subject", "problem", "remedy")}
    found = [f"has no {name}" for name, text in parts.items() if not text.strip()]
    found += [f"shows {error!s}"] * (not str(error).isprintable())
    # Ours alone: a subject or a problem may quote a user's text, which is escaped when shown.
    ours = f"{error.remedy}{error.kept}"
    found += [f"has more than one line: {ours!r}"] * (len(ours.splitlines()) > 1)
    found += [f"names the folder of this machine: {error!s}"] * (str(ROOT) in error.subject)
    return found


def untried(raised: dict[Path, set[int]]) -> list[str]:
    """Places that are neither in ``raised`` nor tested elsewhere, as file:line (function)."""
    return [
        f"{place.file}:{min(place.lines)} ({place.function})"
        for place in places()
        if place.name not in ELSEWHERE
        if not raised.get(ROOT / place.file, set()) & place.lines
    ]


@cache
def places() -> list[Place]:
    """Every place of the product that makes a `UserError`."""
    return [
        Place(path.relative_to(ROOT).as_posix(), function, lines)
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        for function, lines in _calls(ast.parse(path.read_text(encoding="utf-8")), "")
    ]


def _calls(node: ast.AST, function: str) -> Iterator[tuple[str, set[int]]]:
    """The function around each call of `UserError`, and the lines of the call."""
    if isinstance(node, ast.FunctionDef):
        function = node.name
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == UserError.__name__:
        yield function, set(range(node.lineno, node.end_lineno + 1))
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, function)
