"""What the cards of a run are about, read once from the run's own files."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import PROJECT
from common.cards.licence import licence
from common.cards.markdown import sections
from common.cards.origin import Origin, origin
from common.cards.samples import Samples, read_samples
from common.code_version import commit, versions
from common.data.cards import Card
from common.data.datamodule import ImageDataModule
from common.errors import Exit, UserError, relative
from common.generation import MANIFEST, read_samples_manifest
from common.metrics.kinds import CONTINUATION, verb_of
from common.metrics.protocol import Record, read_records
from common.report.configs import Setting, read_config
from common.restoring import held_checkpoints, name_of_checkpoint
from common.run_images import shown_card
from common.runs.checkpoints import images_in, load_checkpoint
from common.runs.folder import RunFolder

# Headings of an experiment's README that the cards repeat.
INTENDED, OUT_OF_SCOPE, LIMITS = "Intended use", "Out of scope", "Limits"
# Heading of a data card that they repeat.
KNOWN_PROBLEMS = "Known problems"
_PACKAGES = ("torch", "pytorch-lightning", "numpy")


@dataclass(frozen=True)
class Subject:
    """All that the cards say of a run.

    Attributes:
        folder: of the run.
        config: its configuration by dotted key.
        card: by which its training data were read; they may be others than it describes.
        card_name: where that card lies in the repository; elsewhere its name alone.
        problems: known problems of the data set that the card describes, in Markdown.
        readme: sections of the experiment's README by heading.
        facts: of the training data, as the checkpoint holds them.
        data_sets: how many data sets the run was trained on.
        imported: file, with its SHA-256, whose weights the run began with; "" where it drew them.
        checkpoint: name of the checkpoint that drew the samples, else of the best one.
        sha256: of that checkpoint.
        images_seen: training images at that moment.
        parameters: numbers in its weights.
        trained_with: version of Lightning.
        records: what was measured on the samples.
        samples: None where nothing was generated.
        commit: of the code that wrote the cards.
        versions: of Python and of the libraries beside it.
    """

    folder: RunFolder
    config: Mapping[str, Setting]
    card: Card
    card_name: str
    problems: str
    readme: Mapping[str, str]
    facts: Mapping[str, Any]
    data_sets: int
    imported: str
    checkpoint: str
    sha256: str
    images_seen: int
    parameters: int
    trained_with: str
    records: Sequence[Record]
    samples: Samples | None
    commit: str
    versions: Mapping[str, str]

    @property
    def origin(self) -> Origin:
        """Of the training images."""
        return Origin.IMPORTED if self.imported else self.compared

    @property
    def compared(self) -> Origin:
        """Of the images that samples are compared with, and that the run itself was trained on."""
        root = self.config["data.root"].value if "data.root" in self.config else "null"
        given = None if root == "null" else root
        return origin(self.folder.experiment, given, self.data_sets)

    @property
    def licence(self) -> str:
        """What is known of that of the model and of its samples."""
        return licence(self.card, self.origin)

    @property
    def train_images(self) -> int:
        """Images of the training split."""
        return sum(self.facts["counts"]["train"].values())


def read_subject(folder: RunFolder, data: ImageDataModule) -> Subject:
    """Reads a run whose data need not be there.

    Args:
        folder: of the run.
        data: set up with the run's configuration; gets the facts of the checkpoint.

    Raises:
        UserError: the run holds no checkpoint that can be read, its samples are not those of their
            table, or samples, records and checkpoints are not those of each other.
    """
    records = read_records(folder.records) if folder.records.is_file() else []
    name, digest = _checkpoint(folder, records)
    path = folder.checkpoint(name)
    checkpoint = load_checkpoint(path, to_resume=True)
    data.load_facts(checkpoint, path)
    if data.facts["card"] != data.card.name:
        problem = f"is not the data card of the training data ({data.facts['card']})"
        raise UserError(Exit.USAGE, f"--data.card {data.card.name}", problem, "leave it out")
    readme = Path(inspect.getfile(type(data))).with_name("README.md")
    return Subject(
        folder=folder,
        config=read_config(folder.config),
        card=data.card,
        card_name=_name_of(data.card_file),
        problems=sections(data.card_file.read_text(encoding="utf-8-sig")).get(KNOWN_PROBLEMS, ""),
        readme=sections(readme.read_text(encoding="utf-8")) if readme.is_file() else {},
        facts=data.facts,
        data_sets=len(data.state_dict()["trained_on"]),
        imported=data.imported,
        checkpoint=name,
        sha256=digest,
        images_seen=images_in(checkpoint),
        parameters=sum(value.numel() for value in checkpoint["state_dict"].values()),
        trained_with=str(checkpoint.get("pytorch-lightning_version", "unknown")),
        records=records,
        samples=read_samples(folder, shown_card(data), data.facts["classes"]),
        commit=commit(),
        versions=versions(_PACKAGES),
    )


def _checkpoint(folder: RunFolder, records: Sequence[Record]) -> tuple[str, str]:
    """The checkpoint that samples and records are of, else the best one that there is."""
    held = held_checkpoints(folder)
    told = [r for r in records if verb_of(r.metric) != CONTINUATION]
    of_samples = {record.checkpoint_sha256 for record in told} | _drawn_by(folder)
    wanted = {record.checkpoint_sha256 for record in records} | of_samples
    if len(wanted) > 1:
        run = f"EXP={folder.experiment} RUN={folder.run_id}"
        remedy = f"run make generate {run} N=1000, then make evaluate and whatever else measured"
        again = [name for name, digest in held.items() if of_samples == {digest}]
        if again:
            remedy = f'run make continue {run} ARGS="--weights {again[0]}"'
        problem = "holds numbers of another checkpoint than the one that drew samples/"
        raise UserError(Exit.INPUT, relative(folder.records), problem, remedy)
    if not wanted:
        return next(iter(held.items()), ("best", ""))
    (digest,) = wanted
    return name_of_checkpoint(folder, digest, held), digest


def _drawn_by(folder: RunFolder) -> set[str]:
    if not (folder.samples / MANIFEST).is_file():
        return set()
    return {row["checkpoint_sha256"] for row in read_samples_manifest(folder)}


def _name_of(path: Path) -> str:
    path = path.resolve()
    return path.relative_to(PROJECT).as_posix() if path.is_relative_to(PROJECT) else path.name
