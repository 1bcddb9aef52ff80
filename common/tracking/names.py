"""The scheme of names (the table in `common.tracking`), as a pattern and as functions."""

import math
import re

from common.metrics.protocol import Record

X_AXIS = "images_seen"
PREVIEW = "preview"
RECORDS = "eval/records"
SAMPLES = "eval/samples"
# As many as the report shows.
PROTOCOL_DIGITS = 8

_NAME = r"\w+(?:/\w+)*"
_KEY = re.compile(
    rf"(?:train|val)/{_NAME}|{X_AXIS}|epoch|{PREVIEW}|{RECORDS}|{SAMPLES}"
    rf"|eval/{_NAME}/[0-9a-f]{{{PROTOCOL_DIGITS}}}"
)


def obeys(key: str) -> bool:
    """Whether a key that was logged is one of the scheme."""
    return _KEY.fullmatch(key) is not None


def evaluation_key(record: Record, part: str = "") -> str:
    """Key of a record's value, or of the end of its interval: "low" or "high"."""
    end = f"_{part}" if part else ""
    return f"eval/{record.metric}{end}/{record.protocol[:PROTOCOL_DIGITS]}"


def evaluation_scalars(record: Record) -> dict[str, float]:
    """What a record has of value and interval, by key; nothing of a refused one."""
    parts = {"": record.value, "low": record.low, "high": record.high}
    return {
        evaluation_key(record, part): value
        for part, value in parts.items()
        if value is not None and math.isfinite(value)
    }
