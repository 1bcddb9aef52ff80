"""Decides what has to be unpacked, simulated and prepared before a verb can start.

Imports no image library: a machine that only trains on prepared data need not have one.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from common.data.archives import extracted, is_archive
from common.data.canvas import Fit
from common.data.cards import Card
from common.data.freshness import is_current, remember, states_of
from common.data.manifest import SPLITS, Sample
from common.data.npz_input import npz_of, unpack_npz
from common.data.prepared import Prepared
from common.data.reading import Reading
from common.data.sequences import told
from common.data.splits import SPLIT_FOLDERS
from common.errors import Exit, UserError, relative, visible
from common.storage import whole_folder

if TYPE_CHECKING:
    from common.data.datamodule import ImageDataModule

# Raise it when the same files and recipe shall be prepared anew.
FORMAT = 2
_say = partial(print, flush=True)


@dataclass(frozen=True)
class Recipe:
    """What a prepared set depends on besides its files.

    Attributes:
        experiment: name of the experiment's folder.
        card: the data card; with a pipeline, its window is "dtype".
        image_size: side of the square canvas in pixels.
        val_fraction: share of the training images, by group, that becomes the validation split.
        test_fraction: share of all images, by group, held out until `evaluate`.
        split_seed: of the split.
        fit: how an image comes onto the canvas, see `canvas`.
        reading: what happens to an image before that.
        channels: names of the channels that it has then; () for those of the card.
    """

    experiment: str
    card: Card
    image_size: int
    val_fraction: float
    test_fraction: float
    split_seed: int
    fit: Fit = "aspect"
    reading: Reading = field(default_factory=Reading)
    channels: tuple[str, ...] = ()


def prepared_name(recipe: Recipe, root: Path, samples: Sequence[Sample]) -> str:
    """Folder name: experiment and a hash of the recipe and of the listing (names and sizes)."""
    sizes = {name: state[0] for name, state in states_of(root, samples).items()}
    listing = [
        (s.name, s.split, s.label, s.group, *(sizes[file] for file in s.files), *_place(s))
        for s in samples
    ]
    facts = {"format": FORMAT, "recipe": asdict(recipe), "listing": sorted(listing)}
    if recipe.reading.pipeline:
        facts["pipeline"] = recipe.reading.pipeline.digest
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return f"{recipe.experiment}-{digest[:12]}"


def _place(sample: Sample) -> tuple[object, ...]:
    return (sample.partners, sample.sequence, sample.moment) if sample.sequence else ()


def report_of(folder: Path, experiment: str) -> Path:
    """Where the findings of a check lie."""
    return folder / f"{experiment}-report.json"


def prepared_folder(data: "ImageDataModule") -> Path:
    """Where the prepared form of the module's data is, or will be."""
    root = _raw_root(data)
    if _is_prepared(root):
        return root
    return _processed(data) / prepared_name(_recipe(data), root, _scan(data, root))


def ensure_prepared(data: "ImageDataModule") -> Prepared:
    """Simulates where no folder is given, prepares what is not prepared, and opens it."""
    if data.root is None:
        _ensure_simulated(data)
    root, folder, found_now = _raw_root(data), prepared_folder(data), False
    if not _is_prepared(root):
        samples = _scan(data, root)
        if not is_current(folder, root, samples):
            found_now = True
            _prepare(data, root, folder, samples)
    prepared = Prepared.open(folder)
    _say(summary(prepared, found_now))
    return prepared


def check_data(data: "ImageDataModule") -> None:
    """Looks at everything that `ensure_prepared` would, prints and writes it, and packs nothing.

    Raises:
        UserError: the data cannot be used as they are.
    """
    if data.root is None:
        _ensure_simulated(data)
    root = _raw_root(data)
    if _is_prepared(root):
        prepared = Prepared.open(root)
        for split in SPLITS:
            prepared.dataset(split)
        _say(summary(prepared))
        return
    # Image libraries are imported only where something has to be read.
    from common.data.check import check
    from common.data.packing import Ledger

    samples, report = _scan(data, root), report_of(_processed(data), data.experiment)
    left_out = data.left_out(root)
    _announce("checking", data, root, samples, left_out)
    checked = check(root, samples, _recipe(data), report, Ledger(), data.skip_bad, _say, left_out)
    _say(f"data: {len(checked.samples)} images can be used ({relative(report)})")
    if checked.bad:
        _say(_skipped(len(checked.bad), report))


def draw_pipeline_of(data: "ImageDataModule", name: str) -> None:
    """Draws what the pipeline does to one image, as `<experiment>-pipeline.png` beside the report.

    Args:
        data: whose raw images are read.
        name: of an image, as in the manifest; "" for the first one.

    Raises:
        UserError: the data have no pipeline, no such image, or it cannot be read.
    """
    pipeline = data.reading.pipeline
    if pipeline is None:
        problem, remedy = "has no pipeline", "choose an experiment with --data.pipeline"
        raise UserError(Exit.USAGE, data.experiment, problem, remedy)
    if data.root is None:
        _ensure_simulated(data)
    root = _raw_root(data)
    samples = sorted(_scan(data, root), key=lambda sample: (sample.file, sample.frame))
    chosen = next((sample for sample in samples if sample.name == (name or samples[0].name)), None)
    if chosen is None:
        remedy = f"name one as the manifest does, such as {samples[0].name}"
        raise UserError(Exit.USAGE, f"--image {name}", "is no image of the data", remedy)
    # Image libraries are imported only where something has to be read.
    from common.data.check import stages_of
    from common.pipeline_figure import draw_pipeline

    path = _processed(data) / f"{data.experiment}-pipeline.png"
    draw_pipeline(stages_of(root, chosen, _recipe(data)), path)
    _say(f"pipeline: {relative(path)} ({chosen.name})")


def summary(prepared: Prepared, found_now: bool = False) -> str:
    """Images by split, where they are, and what is missing.

    Args:
        prepared: the data.
        found_now: whether the findings on them were just listed, the line on sequences with them.
    """
    counts = [f"{len(prepared.samples(split))} {split}" for split in SPLITS]
    lines = [f"data: {relative(prepared.folder)} ({', '.join(counts)})"]
    found = {sample.label for sample in prepared.manifest}
    missing = [name for name in prepared.facts["classes"] if name not in found]
    if missing:
        lines.append(f"warning: no images of class {', '.join(missing)}")
    if prepared.facts.get("sequences") and not found_now:
        lines.append(told(prepared.facts["sequences"]))
    if prepared.facts.get("skipped"):
        report = report_of(prepared.folder, prepared.facts["experiment"])
        lines.append(_skipped(prepared.facts["skipped"], report))
    return "\n".join(lines)


def _skipped(count: int, report: Path) -> str:
    were = "1 bad image was" if count == 1 else f"{count} bad images were"
    return f"warning: {were} skipped, listed in {relative(report)}"


def _prepare(data: "ImageDataModule", root: Path, folder: Path, samples: Sequence[Sample]) -> None:
    from common.data.prepare import prepare

    left_out = data.left_out(root)
    _announce("preparing", data, root, samples, left_out)
    checked = prepare(root, folder, samples, _recipe(data), data.skip_bad, _say, left_out)
    remember(folder, checked.states)


def _announce(
    verb: str,
    data: "ImageDataModule",
    root: Path,
    samples: Sequence[Sample],
    left_out: Mapping[str, str],
) -> None:
    _say(f"{verb} {len(samples)} images of {relative(root)}")
    others = _passed_over(root, samples, left_out)
    if others:
        _say(f"note: no images of the data set, passed over: {others}")
    in_movies = any(sample.frame >= 0 for sample in samples)
    if data.root and in_movies and data.card.group != data.card.group_of_movies:
        _say(
            "note: each file of several frames is a group, whatever `group` of the data card says; "
            "another `group_kind` than video changes that"
        )


def _passed_over(root: Path, samples: Sequence[Sample], left_out: Mapping[str, str]) -> str:
    """Files that are not read, counted by their ending: lost images must not go unseen.

    Those that are told of one by one do not count.
    """
    names = {*left_out, *(name for sample in samples for name in sample.files)}
    folders = tuple(f"{name}/" for name in names if (root / name).is_dir())
    others = (path for path in root.rglob("*") if path.is_file() and path.name[0] != ".")
    found = Counter(
        path.suffix or path.name
        for path, name in ((path, path.relative_to(root).as_posix()) for path in others)
        if name not in names and not name.startswith(folders)
    )
    return ", ".join(f"{count} {visible(suffix)}" for suffix, count in sorted(found.items()))


def _ensure_simulated(data: "ImageDataModule") -> None:
    target, published = _raw_root(data), data.workspace / "data/raw" / data.card.name
    if published.is_dir():
        where = relative(published)
        _say(f"warning: {where} is not read, simulated images are; DATA={where} takes it instead")
    if target.is_dir():
        return
    _say(f"no --data.root: simulating {data.simulated_images} images")
    with whole_folder(target) as unfinished:
        data.simulate(unfinished)


def _raw_root(data: "ImageDataModule") -> Path:
    home = data.workspace / "data/raw"
    if data.root is None:
        return home / data.simulated_name
    root = Path(data.root)
    arrays = None if _is_prepared(root) else npz_of(root)
    if arrays is not None:
        return unpack_npz(arrays, home, data.card)
    if root.is_dir():
        return root
    if is_archive(root):
        return _without_wrapping(extracted(root, home), data.card)
    raise UserError(
        Exit.INPUT,
        relative(root),
        "is not a folder, nor an archive (.zip, .tar, .tar.gz, .tar.bz2, .tar.xz), nor a .npz",
        "name what holds the images with DATA= or --data.root",
    )


def _without_wrapping(folder: Path, card: Card) -> Path:
    """The only folder in an unpacked archive, unless its name says what the images show."""
    found = [p for p in folder.iterdir() if not p.name.startswith((".", "__MACOSX"))]
    if len(found) != 1 or not found[0].is_dir():
        return folder
    name = found[0].name
    return folder if name in card.classes or name.lower() in SPLIT_FOLDERS else found[0]


def _processed(data: "ImageDataModule") -> Path:
    return data.workspace / "data/processed"


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
    # A pipeline normalises raw grey values itself, and no card names the mask that it adds.
    card = replace(data.card, window="dtype") if data.reading.pipeline else data.card
    return Recipe(
        data.experiment,
        card,
        data.image_size,
        data.val_fraction,
        data.test_fraction,
        data.split_seed,
        data.fit,
        data.reading,
        data.channels,
    )
