"""A run's generated images against the held-out split."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from common.data.datamodule import ImageDataModule
from common.errors import Exit, UserError, relative
from common.evaluation_files import Judged, write_evaluation
from common.generation import read_samples_manifest
from common.metrics.evaluation import Side, evaluate, look
from common.metrics.features import Extractor
from common.metrics.protocol import Record, read_records, write_records
from common.progress import images_bar
from common.run_images import Seen, evaluation_context, generated_images, packed_images
from common.runs.folder import RunFolder

# Four minutes on two cores. Copies of images that are not drawn go unseen; the records say how many
# were looked at.
MAX_TRAIN = 10_000
# How the metrics of the augmentation ledger begin.
UTILITY = "utility/"


def evaluate_run(folder: RunFolder, data: ImageDataModule, network: Extractor) -> list[Record]:
    """Measures `samples` against the test split and writes `records.jsonl`.

    Args:
        folder: of the run, with samples.
        data: set up; its test split is read here.
        network: gives the features.

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
    held_out = _look("held-out", packed_images(data, "test", real), len(real), network, data)
    fake = _look("generated", generated_images(folder, data, rows), len(rows), network, data)
    known = _look("training", packed_images(data, "train", train), len(train), network)
    found = evaluate(held_out, fake, network, evaluation_context(folder, data), known)
    update_records(folder, found.records)
    write_evaluation(folder, data, Judged(held_out, fake, real, rows, train, found.neighbours))
    show(found.records)
    return found.records


def update_records(folder: RunFolder, records: list[Record], utility: bool = False) -> None:
    """Writes records in place of those of the same verb; what the other verb measured stays.

    Args:
        folder: of the run.
        records: all that one verb measured.
        utility: whether that is the verb `utility`, whose metrics begin with its name.
    """
    before = read_records(folder.records) if folder.records.is_file() else []
    others = [r for r in before if r.metric.startswith(UTILITY) != utility]
    write_records(folder.records, [*others, *records] if utility else [*records, *others])


def show(records: Iterable[Record]) -> None:
    """Prints one line a record."""
    for record in records:
        print(f"{record.metric:34} {_value(record)}")


def _chosen(data: ImageDataModule, split: str, labels: str) -> list[int]:
    """Rows of a split; of one class only where that class alone was generated."""
    alone = labels in data.facts["classes"]
    rows = enumerate(data.prepared.samples(split))
    return [index for index, sample in rows if not alone or sample.label == labels]


def _drawn(rows: list[int]) -> list[int]:
    if len(rows) <= MAX_TRAIN:
        return rows
    return sorted(np.random.default_rng(0).choice(rows, MAX_TRAIN, replace=False).tolist())


def _look(
    name: str,
    side: Iterator[Seen],
    total: int,
    network: Extractor,
    data: ImageDataModule | None = None,
) -> Side:
    """Features of one side, and what a biologist measures where ``data`` say how."""
    labels = []
    with images_bar(f"{name} images", total) as bar:

        def counted() -> Iterator[tuple[np.ndarray, Mapping[str, float]]]:
            for seen in side:
                labels.extend([seen.label] if seen.label else [])
                yield seen.canvas, data.measure(seen.image) if data else {}
                bar.update()

        return look(counted(), network, labels)


def _value(record: Record) -> str:
    if record.value is None:
        return f"refused: {record.note}"
    interval = f" [{record.low:.4g}, {record.high:.4g}]" if record.low is not None else ""
    note = f"  ({record.note})" if record.note else ""
    return f"{record.value:.4g}{interval}  n={record.n_real}/{record.n_fake}{note}"
