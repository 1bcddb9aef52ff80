"""Whether a prepared set still is what its raw files would give.

Trusted is the kernel's word on a file: as long as its size, its date of modification and its date
of change (which no ordinary program can set back) are those it had just before it was read, it
counts as unread since. Not trusted is any one of these alone: a file of equal size with an older
date may be put in the place of another. Where anything differs, the file is hashed and compared
with the manifest; where that is equal, as after a copy to another machine, nothing is prepared
again. Not seen is what changes under the file system, such as a failing disk.

The dates lie in a hidden file beside the prepared folder, whose own bytes hold nothing of a
machine. Without that file everything is hashed once.
"""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from common.data.manifest import Sample, read_manifest
from common.data.raw_files import State, digest_of, digest_of_all, state_of
from common.errors import UserError, relative
from common.storage import whole_file


def remember(folder: Path, states: Mapping[str, State]) -> None:
    """Keeps the states of the raw files of a prepared folder; where that fails, nothing is lost."""
    facts = {"prepared": digest_of(folder / "dataset.json"), "files": states}
    with suppress(UserError), whole_file(_beside(folder), durable=False) as stream:
        stream.write(json.dumps(facts).encode("ascii"))


def states_of(root: Path, samples: Sequence[Sample]) -> dict[str, State]:
    """States of the files of the samples, by their names below ``root``."""
    return {name: state_of(root / name) for name in {n for s in samples for n in s.files}}


def is_current(folder: Path, root: Path, samples: Sequence[Sample]) -> bool:
    """Whether ``folder`` is complete and was made of exactly these files.

    Args:
        folder: prepared folder, whose name stands for recipe, names and sizes.
        root: raw folder.
        samples: names below ``root``.
    """
    if not (folder / "dataset.json").is_file():
        return False
    known, states = _remembered(folder), states_of(root, samples)
    changed = {name for name, state in states.items() if known.get(name) != state}
    if not changed:
        return True
    print(f"new dates on {len(changed)} files of {relative(root)}: comparing them", flush=True)
    try:
        expected = {row.files: row.sha256 for row in read_manifest(folder / "manifest.csv")}
        suspects = list({sample.files for sample in samples if changed.intersection(sample.files)})
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            digests = pool.map(lambda files: digest_of_all(root, files), suspects)
            if any(expected.get(one) != d for one, d in zip(suspects, digests, strict=True)):
                return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    remember(folder, states)
    return True


def _beside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.files.json")


def _remembered(folder: Path) -> dict[str, State]:
    try:
        facts = json.loads(_beside(folder).read_bytes())
        return facts["files"] if facts["prepared"] == digest_of(folder / "dataset.json") else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
