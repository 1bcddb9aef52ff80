"""A run's generated images against the held-out split."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from common.data.datamodule import ImageDataModule
from common.data.leakage import audit
from common.data.near_duplicates import across_splits, descriptor
from common.errors import Exit, UserError, relative
from common.evaluation_files import Judged, write_evaluation
from common.generation import read_samples_manifest
from common.metrics.evaluation import EvaluationContext, Side, evaluate, look
from common.metrics.features import Extractor
from common.metrics.kinds import SINGLE, VERBS, class_of, verb_of
from common.metrics.memorization import COARSELY, repeating_coarsely
from common.metrics.names import LEAKAGE
from common.metrics.protocol import (
    REFUSALS,
    Measured,
    Record,
    sentence,
    usable_records,
    write_records,
)
from common.metrics.structure import structure_records
from common.progress import images_bar
from common.run_images import Seen, evaluation_context, generated_images, packed_images
from common.runs.folder import RunFolder

# Four minutes on two cores. Copies of images that are not drawn go unseen; the records say how many
# were looked at.
MAX_TRAIN = 10_000


def evaluate_run(
    folder: RunFolder, data: ImageDataModule, network: Extractor, device: torch.device
) -> list[Record]:
    """Measures `samples` against the test split and writes `records.jsonl`.

    Args:
        folder: of the run, with samples.
        data: set up; its test split is read here.
        network: gives the features.
        device: where it does.

    Raises:
        UserError: nothing was generated, or no image of its class is held out.
    """
    rows = read_samples_manifest(folder)
    labels = rows[0]["labels"]
    train = _drawn(_chosen(data, "train", labels))
    real = _chosen(data, "test", labels)
    if not real:
        raise UserError(
            Exit.INPUT,
            relative(data.prepared.folder),
            f"holds no test image of class {labels}",
            "generate another class, or --labels data",
        )
    eyes = _Eyes(data, network, device)
    held_out, faces = eyes.look("held-out", packed_images(data, "test", real), len(real))
    fake, drawn = eyes.look("generated", generated_images(folder, data, rows), len(rows))
    known, others = eyes.look("training", packed_images(data, "train", train), len(train), False)
    context = evaluation_context(folder, data, real)
    found = evaluate(held_out, fake, network, context, known)
    records = [
        *found.records,
        *coarse_copies(faces, drawn, others, context),
        *structure_records(held_out, fake, data.checks, context.record),
        *leakage(data, real, train, faces + others, context),
    ]
    # Killed in between, a run has numbers without pictures and never those of another evaluation.
    shutil.rmtree(folder.evaluation, ignore_errors=True)
    update_records(folder, records)
    write_evaluation(folder, data, Judged(held_out, fake, real, rows, train, found.neighbours))
    show(records)
    return records


def update_records(folder: RunFolder, records: list[Record], verb: str = "") -> None:
    """Writes records in place of those of the same verb; what other verbs measured stays.

    A damaged file is set aside, see `usable_records`.

    Args:
        folder: of the run.
        records: all that one verb measured.
        verb: how its metrics begin, one of `VERBS`; "" for `evaluate`, whose come first.
    """
    before = usable_records(folder.records)
    found = {name: [r for r in before if verb_of(r.metric) == name] for name in ("", *VERBS)}
    found[verb] = records
    write_records(folder.records, [record for of_verb in found.values() for record in of_verb])


def show(records: Sequence[Record]) -> None:
    """Prints one line a record; those of single classes or steps are counted."""
    of_all = [record for record in records if not class_of(record.metric)[1]]
    for record in of_all:
        print(f"{record.metric:34} {_value(record)}")
    if len(of_all) < len(records):
        print(f"of {SINGLE}: {len(records) - len(of_all)} more numbers; make report shows them")


def coarse_copies(
    held_out: Sequence[np.ndarray],
    fake: Sequence[np.ndarray],
    train: Sequence[np.ndarray],
    context: EvaluationContext,
) -> list[Record]:
    """Whether synthetic images show, on the whole, what single training images show.

    Args:
        held_out: `near_duplicates.descriptor` of each image.
        fake: the same of synthetic ones.
        train: the same of those trained on.
        context: what the records say about data and run.
    """
    count = {"n_real": len(held_out), "n_fake": len(fake)}
    try:
        found = repeating_coarsely(*(np.stack(side) for side in (held_out, fake, train)))
    except REFUSALS as refusal:
        found = dict.fromkeys(COARSELY, Measured(None, note=sentence(refusal)))
    return [context.record(name, **count, **one._asdict()) for name, one in found.items()]


def leakage(
    data: ImageDataModule,
    test: Sequence[int],
    train: Sequence[int],
    faces: Sequence[np.ndarray],
    context: EvaluationContext,
) -> list[Record]:
    """Whether held-out images were trained on.

    The first number is of the whole data set, by names, groups and hashes; `prepare` refuses what
    it counts, but a prepared folder may have come from elsewhere. The second is of the images that
    were looked at, which may differ in brightness, noise and a little in their frame.

    Args:
        data: set up.
        test: positions within the test split.
        train: positions within the training split.
        faces: `near_duplicates.descriptor` of these images, held-out ones first.
        context: what the records say about data and run.
    """
    leaks = audit(data.prepared.manifest, data.card.derivative_suffixes)
    crossing = [
        leak for leak in leaks if {leak.first_split, leak.second_split} == {"train", "test"}
    ]
    held_out, known = data.samples("test"), data.samples("train")
    samples = [*(held_out[row] for row in test), *(known[row] for row in train)]
    near, _ = across_splits(samples, np.stack(faces))
    rule = f"{len(train)} training images"
    same, alike = LEAKAGE
    return [
        context.record(same, value=float(len(crossing)), n_real=len(held_out)),
        context.record(alike, value=float(near), n_real=len(test), rule=rule),
    ]


def _chosen(data: ImageDataModule, split: str, labels: str) -> list[int]:
    """Rows of a split; of one class only where that class alone was generated."""
    alone = labels in data.facts["classes"]
    rows = enumerate(data.prepared.samples(split))
    return [index for index, sample in rows if not alone or sample.label == labels]


def _drawn(rows: list[int]) -> list[int]:
    if len(rows) <= MAX_TRAIN:
        return rows
    return sorted(np.random.default_rng(0).choice(rows, MAX_TRAIN, replace=False).tolist())


@dataclass(frozen=True)
class _Eyes:
    """All that sides are seen through."""

    data: ImageDataModule
    network: Extractor
    device: torch.device

    def look(
        self, name: str, side: Iterator[Seen], total: int, measured: bool = True
    ) -> tuple[Side, list[np.ndarray]]:
        """One side, and what each of its images shows on the whole."""
        labels, faces = [], []
        with images_bar(f"{name} images", total) as bar:

            def counted() -> Iterator[tuple[np.ndarray, Mapping[str, float]]]:
                for seen in side:
                    labels.extend([seen.label] if seen.label else [])
                    faces.append(descriptor(seen.image))
                    yield seen.canvas, self.data.measure(seen.image) if measured else {}
                    bar.update()

            return look(counted(), self.network, labels, self.device), faces


def _value(record: Record) -> str:
    if record.value is None:
        return f"refused: {record.note}"
    interval = f" [{record.low:.4g}, {record.high:.4g}]" if record.low is not None else ""
    note = f"  ({record.note})" if record.note else ""
    return f"{record.value:.4g}{interval}  n={record.n_real}/{record.n_fake}{note}"
