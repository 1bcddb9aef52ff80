"""What `prepare` found, in full, as a file; a message on the terminal names only the first few."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from common.data.leakage import Leak
from common.errors import Exit, UserError, relative, visible

_SHOWN = 3


def write_findings(
    path: Path, bad: Mapping[str, str], leaks: Sequence[Leak] = (), joined: Sequence[Leak] = ()
) -> None:
    """Writes the report; the same findings give the same bytes.

    Args:
        path: a JSON file; what an earlier command wrote there is replaced.
        bad: what is wrong with a file, by its name below the raw folder.
        leaks: pairs that the split must not hold.
        joined: duplicates that were brought into one group.
    """
    findings = {
        "bad_files": [{"name": name, "problem": problem} for name, problem in bad.items()],
        "leaks": [asdict(leak) for leak in leaks],
        "joined": [asdict(leak) for leak in joined],
    }
    path.write_text(json.dumps(findings, indent=1) + "\n", encoding="ascii")


def refuse_bad_files(bad: Mapping[str, str], root: Path, total: int, report: Path) -> None:
    """Raises if there is any bad file.

    Raises:
        UserError: ``bad`` is not empty; names the first few and the report.
    """
    if not bad:
        return
    shown = [f"{visible(name)} {problem}" for name, problem in list(bad.items())[:_SHOWN]]
    raise UserError(
        Exit.INPUT,
        relative(root),
        f"{len(bad)} of {total} images cannot be used: {'; '.join(shown)}{_more(bad)}",
        f"mend or remove them (all are in {relative(report)}), then run the same command again",
        "nothing was prepared",
    )


def remarks(joined: Sequence[Leak], report: Path) -> list[str]:
    """One sentence a pair of joined duplicates, for the first few, and where all of them are."""
    if not joined:
        return []
    shown = [f"{leak} were kept in one split" for leak in joined[:_SHOWN]]
    where = f"{len(joined)} pairs in all were kept in one split; {relative(report)} lists them"
    return [*shown, where] if _more(joined) else shown


def _more(findings: Mapping[str, str] | Sequence[Leak]) -> str:
    return f"; and {len(findings) - _SHOWN} more" if len(findings) > _SHOWN else ""
