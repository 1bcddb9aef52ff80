"""Whether W&B can be asked at all, before it is: it would prompt, or wait for minutes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import Exit, UserError


def require_account(subject: str, otherwise: str = "") -> None:
    """Looks for a key, and only where there is one asks W&B whether it holds: ten seconds at most.

    Args:
        subject: what needs it, for the message.
        otherwise: what can be done without it.

    Raises:
        UserError: there is no key, or W&B does not answer to it.
    """
    if not _has_key():
        problem = "no W&B key is set, or W&B does not answer to it"
        remedy = f"run wandb login or set WANDB_API_KEY{otherwise}"
        raise UserError(Exit.USAGE, subject, problem, remedy)


def default_entity() -> str:
    """The user or team whose projects are meant: ``WANDB_ENTITY``, or what the account says."""
    import wandb

    return os.environ.get("WANDB_ENTITY") or wandb.Api().default_entity


@contextmanager
def answered(subject: str, kept: str = "") -> Iterator[None]:
    """Turns what W&B refuses, or does not answer in time, into a `UserError`."""
    import wandb

    try:
        yield
    except wandb.errors.Error as error:
        said = " ".join(str(error).split()) or type(error).__name__
        remedy = "look at https://status.wandb.com and your network, then run the same again"
        raise UserError(Exit.USAGE, subject, f"W&B says: {said}", remedy, kept) from error


def _has_key() -> bool:
    import wandb

    try:
        return wandb.login(prompt=False)
    except wandb.errors.Error:
        return False
    finally:
        # Its process would stay in the folder where it was started, and open relative paths there.
        wandb.teardown()
