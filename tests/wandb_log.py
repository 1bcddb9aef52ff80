"""Reads the log of an offline W&B run."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record as WandbRecord

__all__ = ["WandbRecord", "history_of", "logs_of", "records_of", "summary_of", "tables_of"]
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


def logs_of(folder: Path) -> list[Path]:
    """Logs of a run, a segment each, oldest first."""
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"))


def history_of(log: Path) -> list[dict[str, Any]]:
    """Rows that were logged, by key."""
    records = map(WandbRecord.FromString, records_of(log))
    return [_tree(r.history.item) for r in records if r.WhichOneof("record_type") == "history"]


def summary_of(log: Path) -> dict[str, Any]:
    """Last value of each key."""
    summary: dict[str, Any] = {}
    for record in map(WandbRecord.FromString, records_of(log)):
        if record.WhichOneof("record_type") == "summary":
            summary |= _tree(record.summary.update)
    return summary


def tables_of(log: Path, workspace: Path) -> dict[str, dict[str, Any]]:
    """Tables by key: ``columns``, ``data``, and ``files`` by the name that their cells give."""
    tables = {}
    for record in map(WandbRecord.FromString, records_of(log)):
        files = {c.path: workspace / c.local_path for c in record.artifact.manifest.contents}
        for name in files:
            if name.endswith(".table.json"):
                table = json.loads(files[name].read_text())
                tables[name.removesuffix(".table.json")] = table | {"files": files}
    return tables


def _tree(items: Any) -> dict[str, Any]:
    """Values by key; a nested one, such as a picture, as a mapping."""
    tree: dict[str, Any] = {}
    for item in items:
        first, *inner = item.nested_key or [item.key]
        value = json.loads(item.value_json)
        if inner:
            tree.setdefault(first, {})[".".join(inner)] = value
        else:
            tree[first] = value
    return tree
