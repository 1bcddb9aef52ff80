"""A prepared folder, read; needs no image library."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.datasets import PackedDataset
from common.data.manifest import Sample, of_split, read_manifest
from common.errors import Exit, UserError, relative


@dataclass(frozen=True)
class Prepared:
    """What `prepare` wrote.

    Attributes:
        folder: where.
        facts: content of `dataset.json`.
        manifest: every sample of every split.
    """

    folder: Path
    facts: dict[str, Any]
    manifest: Sequence[Sample]

    @classmethod
    def open(cls, folder: Path) -> "Prepared":
        """Reads facts and manifest, no pixels.

        Raises:
            UserError: the folder is not a prepared one.
        """
        try:
            facts = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
            return cls(folder, facts, read_manifest(folder / "manifest.csv"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                Exit.INPUT,
                relative(folder),
                f"is not a complete prepared folder ({error})",
                "delete it and run make prepare again",
            ) from error

    def samples(self, split: str) -> list[Sample]:
        """Rows of one split in packed order."""
        return of_split(self.manifest, split)

    def dataset(self, split: str, policy: str = "none", seed: int = 0) -> PackedDataset:
        """One split; opens its pixels at the first access and no other split's at all."""
        rows = self.samples(split)
        return PackedDataset(self.folder, split, rows, self.facts["classes"], policy, seed)
