"""What may differ between the start of a run and its resumption, and what may not."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from common.errors import Exit, UserError
from common.privacy import MASKED

# Where things are, how long the run lasts and how it is watched: the result does not depend on it.
_FREE = (
    "budget",
    "data.num_workers",
    "data.root",
    "data.skip_bad",
    "data.workspace",
    "guard",
    "last",
    "preview",
    "skip_bad",
    "tracking",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "trainer.max_epochs",
    "trainer.max_steps",
    "trainer.max_time",
)
DATA = "data"


def refuse_changes(
    before: Mapping[str, Any], now: Mapping[str, Any], allowed: Sequence[str], subject: str
) -> list[str]:
    """Compares the configuration of a run with the one it shall go on with.

    Args:
        before: the run's own.
        now: of this start.
        allowed: keys, or groups of keys, that may differ.
        subject: the run's configuration as messages name it.

    Returns:
        Keys that differ and are allowed to.

    Raises:
        UserError: lists every other key that differs, with both values.
    """
    changed = {
        key: f"{key} ({old} → {new})"
        for key, old, new in differences(before, now)
        if not _is_in(key, _FREE) and old != MASKED
    }
    refused = {key: text for key, text in changed.items() if not _is_in(key, allowed)}
    if refused:
        accept = f"--allow-change {','.join(refused)}"
        raise UserError(
            Exit.USAGE,
            subject,
            f"the run was trained with another configuration: {'; '.join(refused.values())}",
            f"leave the options out, train a new run, or accept it with {accept}",
            "nothing was changed",
        )
    return list(changed)


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yields (dotted key, old value, new value) wherever two nested mappings differ."""
    for name in sorted({*before, *now}):
        old, new, key = before.get(name), now.get(name), f"{prefix}{name}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{key}.")
        elif old != new:
            yield key, old, new


def _is_in(key: str, groups: Sequence[str]) -> bool:
    return any(key == group or key.startswith(f"{group}.") for group in groups)
