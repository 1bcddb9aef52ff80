"""A prepared folder, read; needs no image library."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.data.datasets import Guides, PackedDataset, open_packed
from common.data.manifest import Sample, of_split, read_manifest
from common.errors import Exit, UserError, relative

# What facts that were written before somebody asked for it do not say.
UNSAID = {"fit": "aspect", "log_size": None, "canvas_pixel_size_um": None}


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
            UserError: the folder is not a prepared one, or its manifest was changed.
        """
        try:
            facts = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
            digest = hashlib.sha256((folder / "manifest.csv").read_bytes()).hexdigest()
            if facts["manifest_sha256"] != digest:
                raise ValueError("manifest.csv is not the one its pixels were packed by")
            return cls(folder, UNSAID | facts, read_manifest(folder / "manifest.csv"))
        except OSError as error:
            raise _unusable(folder, f"{Path(error.filename).name}: {error.strerror}") from error
        except KeyError as error:
            raise _unusable(folder, f"{error} is missing") from error
        except (ValueError, TypeError) as error:
            raise _unusable(folder, str(error)) from error

    def samples(self, split: str) -> list[Sample]:
        """Rows of one split in packed order."""
        return of_split(self.manifest, split)

    def dataset(
        self, split: str, policy: str = "none", seed: int = 0, guides: Guides | None = None
    ) -> PackedDataset:
        """One split; of no other split's pixels anything is opened.

        Raises:
            UserError: the packed pixels are missing, cut short or not those of the manifest.
        """
        rows = self.samples(split)
        self._check_packed(self.folder / f"{split}.npy", len(rows))
        classes, fit = self.facts["classes"], self.facts["fit"]
        return PackedDataset(self.folder, split, rows, classes, policy, seed, fit, guides)

    def _check_packed(self, path: Path, rows: int) -> None:
        """Here and not at the first access, which may happen in a loader process."""
        size = self.facts["image_size"]
        expected = (rows, len(self.facts["channels"]), size, size)
        packed = open_packed(path)
        whole = packed.offset + packed.nbytes == path.stat().st_size
        if packed.shape != expected or packed.dtype != self.facts["storage"]["dtype"] or not whole:
            problem = f"holds {packed.dtype} {packed.shape}, its manifest asks for {expected}"
            raise _unusable(path, problem if whole else "has bytes after its pixels")


def _unusable(path: Path, problem: str) -> UserError:
    return UserError(
        Exit.INPUT,
        relative(path),
        f"is not what make prepare writes ({problem})",
        "if make prepare wrote the folder, delete it and run the same command again",
    )
