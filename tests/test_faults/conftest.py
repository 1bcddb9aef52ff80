"""What all fault tests share: subjects, prepared data, and the count of what was survived."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from faults import SUBJECTS, Victim, run_one
from running import ROOT, smoke
from tiny_run import TinyRun

# In the order of the plan.
GROUPS = tuple(
    "K1 K2 K3 K4 K5 C1 C2 C3 C4 D1 S1 P1 W1 N1 B1 B2 L1 Y1 X1 V1 E1 R1 M1".split()  # noqa: SIM905
)
REPORT = ROOT / "reports"


class Tally:
    """Cases passed, all cases, and cases that could not run here, by group of the fault plan."""

    def __init__(self) -> None:
        self.passed: Counter[str] = Counter()
        self.total: Counter[str] = Counter()
        self.skipped: dict[str, Counter[str]] = defaultdict(Counter)

    def __call__(self, group: str, passed: int, total: int) -> None:
        """Counts; to be called before anything is asserted."""
        assert group in GROUPS and 0 <= passed <= total
        self.passed[group] += passed
        self.total[group] += total

    def skip(self, group: str, count: int, reason: str) -> None:
        assert group in GROUPS
        self.skipped[group][reason] += count

    def lines(self) -> list[str]:
        """The report: groups, then letters, then what was not tried."""
        tried = [group for group in GROUPS if self.total[group]]
        groups = [f"{group} {self.passed[group]}/{self.total[group]}" for group in tried]
        sums = [
            f"{letter} {sum(self.passed[g] for g in same)}/{sum(self.total[g] for g in same)}"
            for letter in dict.fromkeys(group[0] for group in tried)
            if (same := [group for group in tried if group[0] == letter])
        ]
        missing = [group for group in GROUPS if not self.total[group] and group not in self.skipped]
        skipped = [
            f"{group} {count} ({reason})"
            for group in GROUPS
            for reason, count in self.skipped.get(group, {}).items()
        ]
        lines = [f"faults: {' '.join(groups)}", f"faults in all: {' '.join(sums)}"]
        lines += [f"faults skipped: {'; '.join(skipped)}"] * bool(skipped)
        return lines + [f"faults not tried this time: {' '.join(missing)}"] * bool(missing)


_TALLY = Tally()


@pytest.fixture(scope="session")
def tally() -> Tally:
    return _TALLY


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "subject" in metafunc.fixturenames:
        metafunc.parametrize("subject", SUBJECTS, scope="session")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of an experiment's prepared data, made once."""
    made: dict[str, Path] = {}

    def find(experiment: str) -> Path:
        if experiment not in made:
            workspace = tmp_path_factory.mktemp(f"data-{experiment}")
            args = ["prepare", *smoke(experiment), "--workspace", workspace]
            ended = run_one(Victim(experiment, args, timeout_s=120))
            assert ended.code == 0, ended.err
            (facts,) = workspace.glob("data/processed/*/dataset.json")
            made[experiment] = facts.parent
        return made[experiment]

    return find


@pytest.fixture
def tiny(prepared: Callable[[str], Path], tmp_path: Path) -> Callable[[str, str], TinyRun]:
    """Names a run of an experiment in this test's own workspace."""
    return lambda experiment, name: TinyRun(experiment, prepared(experiment), tmp_path, name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints and saves the count; a case that did not come to its count is a failed test."""
    failed = sum(len(terminalreporter.stats.get(kind, ())) for kind in ("failed", "error"))
    lines = _TALLY.lines() + [f"faults: {failed} tests failed"] * bool(failed)
    if not _TALLY.total and not _TALLY.skipped:
        return
    REPORT.mkdir(exist_ok=True)
    (REPORT / "faults.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    facts = {
        "passed": dict(_TALLY.passed),
        "total": dict(_TALLY.total),
        "skipped": {group: dict(reasons) for group, reasons in _TALLY.skipped.items()},
        "failed_tests": failed,
    }
    (REPORT / "faults.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    for line in lines:
        terminalreporter.write_line(line)
