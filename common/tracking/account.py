"""Whether W&B can be asked at all, before it is: it would prompt, or wait for minutes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from common.errors import Exit, UserError

# W&B's own limits are 10 to 20 s a question.
PATIENCE_S = 5
_TIMEOUT = "WANDB_HTTP_TIMEOUT"


def require_account(subject: str, otherwise: str = "") -> None:
    """Looks for a key, and only where there is one asks W&B whether it holds.

    W&B is given `PATIENCE_S` to answer, or what ``WANDB_HTTP_TIMEOUT`` says; its process then needs
    up to two seconds more to end.

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


def asked() -> Any:
    """W&B's interface for questions, each of which has `PATIENCE_S`."""
    import wandb

    return wandb.Api(timeout=_patience())


def default_entity() -> str:
    """The user or team whose projects are meant: ``WANDB_ENTITY``, or what the account says."""
    return os.environ.get("WANDB_ENTITY") or asked().default_entity


@contextmanager
def answered(subject: str, kept: str = "") -> Iterator[None]:
    """Turns what W&B refuses, or does not answer in time, into a `UserError`."""
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    try:
        yield
    # The second is none of W&B's errors; the rest come from the line to its own process.
    except (wandb.errors.Error, WandbApiFailedError, ConnectionError, TimeoutError) as error:
        said = " ".join(str(error).split()) or type(error).__name__
        remedy = "look at https://status.wandb.com and your network, then run the same again"
        raise UserError(Exit.USAGE, subject, f"W&B says: {said}", remedy, kept) from error


def _has_key() -> bool:
    import wandb

    try:
        with _hurried():
            return wandb.login(prompt=False)
    except wandb.errors.Error:
        return False
    finally:
        # Its process would stay in the folder where it was started, and open relative paths there.
        wandb.teardown()


def _patience() -> int:
    return int(os.environ.get(_TIMEOUT, PATIENCE_S))


@contextmanager
def _hurried() -> Iterator[None]:
    """Makes `wandb.login` ask one question, and not for the name of the account to greet it."""
    before = {name: os.environ.get(name) for name in (_TIMEOUT, "WANDB_SILENT")}
    os.environ |= {_TIMEOUT: str(_patience()), "WANDB_SILENT": "true"}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
