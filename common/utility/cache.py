"""What models that saw no synthetic image have said: the same for all runs on one data set.

The files lie in the folder `task` of the prepared data set, each under a digest of all that decides
its content, so that nothing is ever out of date. Preparing anew removes them.
"""

import hashlib
import inspect
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np

from common.data import augment
from common.data.prepared import Prepared
from common.errors import UserError, relative
from common.storage import whole_file
from common.utility import pools as drawing
from common.utility.pools import Pool
from common.utility.task import Task

# What a damaged or foreign archive makes numpy fail with.
_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


def task_folder(prepared: Prepared) -> Path:
    """Where all that task models leave of a data set is kept."""
    return prepared.folder / "task"


def digest(task: Task, policy: str, seed: int, pools: Sequence[Pool]) -> str:
    """Sixteen hex digits, equal exactly where models are trained and tested alike.

    Args:
        task: its rule, and the text of its code and of what draws and augments images.
        policy: augmentation of the training images.
        seed: of the model.
        pools: what it is trained on, and tested on where that matters; all of their content.
    """
    found = hashlib.sha256(json.dumps([task.rule, policy, seed]).encode())
    modules: list[ModuleType] = [augment, drawing, *task.code]
    for module in modules:
        found.update(_text_of(module))
    for pool in pools:
        for array in (pool.images, pool.labels, pool.groups):
            found.update(f"{array.shape} {array.dtype}".encode())
            found.update(np.ascontiguousarray(array))
    return found.hexdigest()[:16]


@cache
def _text_of(module: ModuleType) -> bytes:
    """Read once: what runs is what was there at the start, whatever is edited meanwhile."""
    return Path(inspect.getfile(module)).read_bytes()


@dataclass(frozen=True)
class Cache:
    """Outcomes by digest.

    Attributes:
        folder: where they lie; it need not be there.
    """

    folder: Path

    def read(self, key: str) -> np.ndarray | None:
        """The outcomes of this digest; None where there are none, or where they are damaged."""
        path = self.folder / f"{key}.npz"
        if not path.exists():
            return None
        try:
            with np.load(path) as archive:
                if str(archive["key"]) != key:
                    raise ValueError(key)
                return archive["outcomes"]
        except _DAMAGE:
            print(f"note: {relative(path)} is damaged; its model is trained again", flush=True)
            return None

    def keep(self, key: str, outcomes: np.ndarray) -> None:
        """Writes outcomes, whole or not at all; where nothing can be written, it says so."""
        try:
            with whole_file(self.folder / f"{key}.npz", parents=True) as stream:
                np.savez(stream, key=key, outcomes=outcomes)
        except UserError as error:
            print(f"note: {error.subject} {error.problem}; the next run trains again", flush=True)
