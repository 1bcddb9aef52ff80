"""Reads the log of an offline W&B run."""

import struct
from collections.abc import Iterator
from pathlib import Path

from wandb.proto.wandb_internal_pb2 import Record as WandbRecord

__all__ = ["WandbRecord", "records_of"]
_BLOCK, _HEAD = 32768, 7


def records_of(path: Path) -> Iterator[bytes]:
    """The records of a log: in its blocks a long one is cut into pieces, and so would be a word."""
    data = path.read_bytes()
    assert data.startswith(b":W&B")
    at, record = _HEAD, b""
    while at + _HEAD <= len(data):
        if (left := _BLOCK - at % _BLOCK) < _HEAD:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + _HEAD : at + _HEAD + length]
        at += _HEAD + length
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""
