"""The scheme of names (the table in `common.tracking`), as a pattern and as functions."""

import hashlib
import math
import re

from common.metrics.kinds import class_of
from common.metrics.protocol import Record
from common.privacy import PRIVATE, public

X_AXIS = "images_seen"
PREVIEW = "preview"
RECORDS = "eval/records"
SAMPLES = "eval/samples"
# As many as the report shows.
PROTOCOL_DIGITS = 8
_HASH_DIGITS = 8

_NAME = r"\w+(?:/\w+)*"
_PLAIN = re.compile(_NAME)
_KEY = re.compile(
    rf"(?:train|val)/{_NAME}|{X_AXIS}|epoch|{PREVIEW}|{RECORDS}|{SAMPLES}"
    rf"|eval/{_NAME}/[0-9a-f]{{{PROTOCOL_DIGITS}}}"
)


def obeys(key: str) -> bool:
    """Whether a key that was logged is one of the scheme."""
    return _KEY.fullmatch(key) is not None


def metric_name(metric: str) -> str:
    """A metric as W&B sees it: one that holds a channel's or a scalar's name may be any text.

    A character that no key may hold becomes ``_``, a name that may be a path or an address is left
    out; the beginning of a hash then tells it from others that look the same.
    """
    if _PLAIN.fullmatch(metric):
        return metric
    kind, given = class_of(metric)
    if not given:
        kind, _, given = metric.partition("/")
    shown = "private" if public(given) == PRIVATE else given
    digest = hashlib.sha256(metric.encode("utf-8", "surrogatepass")).hexdigest()
    safe = [re.sub(r"[^\w/]", "_", kind or "metric"), re.sub(r"\W", "_", shown)]
    return f"{'/'.join(safe)}_{digest[:_HASH_DIGITS]}"


def evaluation_key(record: Record, part: str = "") -> str:
    """Key of a record's value, or of the end of its interval: "low" or "high"."""
    end = f"_{part}" if part else ""
    return f"eval/{metric_name(record.metric)}{end}/{record.protocol[:PROTOCOL_DIGITS]}"


def evaluation_scalars(record: Record) -> dict[str, float]:
    """What a record has of value and interval, by key; nothing of a refused one."""
    parts = {"": record.value, "low": record.low, "high": record.high}
    return {
        evaluation_key(record, part): value
        for part, value in parts.items()
        if value is not None and math.isfinite(value)
    }
