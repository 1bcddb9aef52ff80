"""Decides what has to be simulated and prepared before a verb can start.

Imports no image library: a machine that only trains on prepared data need not have one.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.data.cards import Card
from common.data.manifest import SPLITS, Sample
from common.data.prepared import Prepared
from common.errors import Exit, UserError, relative, visible
from common.storage import whole_folder

if TYPE_CHECKING:
    from common.data.datamodule import ImageDataModule

# Raise it when the same files and recipe shall be prepared anew.
FORMAT = 1


@dataclass(frozen=True)
class Recipe:
    """What a prepared set depends on besides its files.

    Attributes:
        experiment: name of the experiment's folder.
        card: the data card.
        image_size: side of the square canvas in pixels.
        val_fraction: share of the training images, by group, that becomes the validation split.
        test_fraction: share of all images, by group, held out until `evaluate`.
        split_seed: of the split.
    """

    experiment: str
    card: Card
    image_size: int
    val_fraction: float
    test_fraction: float
    split_seed: int


def prepared_name(recipe: Recipe, root: Path, samples: Sequence[Sample]) -> str:
    """Folder name: experiment and a hash of the recipe and of the listing (names and sizes)."""
    listing = [(s.name, s.split, s.label, s.group, (root / s.name).stat().st_size) for s in samples]
    facts = {"format": FORMAT, "recipe": asdict(recipe), "listing": sorted(listing)}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return f"{recipe.experiment}-{digest[:12]}"


def is_current(folder: Path, root: Path, samples: Sequence[Sample]) -> bool:
    """Whether ``folder`` is complete and no raw file was written after it."""
    marker = folder / "dataset.json"
    if not marker.is_file():
        return False
    made = marker.stat().st_mtime_ns
    return all((root / sample.name).stat().st_mtime_ns <= made for sample in samples)


def prepared_folder(data: "ImageDataModule") -> Path:
    """Where the prepared form of the module's data is, or will be."""
    root = _raw_root(data)
    if _is_prepared(root):
        return root
    return data.workspace / "data/processed" / prepared_name(_recipe(data), root, _scan(data, root))


def ensure_prepared(data: "ImageDataModule") -> Prepared:
    """Simulates where no folder is given, prepares what is not prepared, and opens it."""
    if data.root is None:
        _ensure_simulated(data)
    root, folder = _raw_root(data), prepared_folder(data)
    if not _is_prepared(root):
        samples = _scan(data, root)
        if not is_current(folder, root, samples):
            _prepare(data, root, folder, samples)
    prepared = Prepared.open(folder)
    print(summary(prepared), flush=True)
    return prepared


def summary(prepared: Prepared) -> str:
    """Images by split, where they are, and which classes have none."""
    counts = [f"{len(prepared.samples(split))} {split}" for split in SPLITS]
    text = f"data: {relative(prepared.folder)} ({', '.join(counts)})"
    found = {sample.label for sample in prepared.manifest}
    missing = [name for name in prepared.facts["classes"] if name not in found]
    return f"{text}\nwarning: no images of class {', '.join(missing)}" if missing else text


def _prepare(data: "ImageDataModule", root: Path, folder: Path, samples: Sequence[Sample]) -> None:
    # Image libraries are imported only where something has to be read.
    from common.data.prepare import prepare

    print(f"preparing {len(samples)} images of {relative(root)}", flush=True)
    others = _passed_over(root, samples)
    if others:
        print(f"note: no images of the data set, passed over: {others}", flush=True)
    for remark in prepare(root, folder, samples, _recipe(data)):
        print(f"note: {remark}", flush=True)


def _passed_over(root: Path, samples: Sequence[Sample]) -> str:
    """Files that are not read, counted by their ending: lost images must not go unseen."""
    names = {sample.name for sample in samples}
    found = Counter(
        path.suffix or path.name
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".")
        if path.relative_to(root).as_posix() not in names
    )
    return ", ".join(f"{count} {visible(suffix)}" for suffix, count in sorted(found.items()))


def _ensure_simulated(data: "ImageDataModule") -> None:
    target = _raw_root(data)
    if target.is_dir():
        return
    print(f"no --data.root: simulating {data.simulated_images} images", flush=True)
    with whole_folder(target) as partial:
        data.simulate(partial)


def _raw_root(data: "ImageDataModule") -> Path:
    if data.root is None:
        return data.workspace / "data/raw" / data.simulated_name
    root = Path(data.root)
    if not root.is_dir():
        raise UserError(
            Exit.INPUT,
            data.root,
            "is not a folder",
            "name the folder that holds the images with DATA= or --data.root",
        )
    return root


def _is_prepared(root: Path) -> bool:
    return (root / "dataset.json").is_file() and (root / "manifest.csv").is_file()


def _scan(data: "ImageDataModule", root: Path) -> list[Sample]:
    samples = data.scan(root)
    if not samples:
        raise UserError(
            Exit.INPUT,
            relative(root),
            "holds no image of this data set",
            f"the layout is described in data_cards/{data.card.name}.md",
        )
    return samples


def _recipe(data: "ImageDataModule") -> Recipe:
    return Recipe(
        data.experiment,
        data.card,
        data.image_size,
        data.val_fraction,
        data.test_fraction,
        data.split_seed,
    )
