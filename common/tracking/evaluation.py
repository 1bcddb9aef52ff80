"""The evaluation of a run in the W&B run of its training: numbers, records, samples."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.utilities import rank_zero_only

from common.callbacks import image_grid
from common.data.datamodule import ImageDataModule
from common.errors import relative
from common.generation import read_samples_manifest
from common.image_tables import AROUND, NAMING, NEAR_COPIES
from common.metrics.protocol import Record, read_records
from common.privacy import public, public_sentence
from common.run_images import Seen, generated_images
from common.runs.folder import RunFolder
from common.tables import finite_or_none, from_csv, named_cells
from common.tracking.account import answered
from common.tracking.names import RECORDS, SAMPLES, evaluation_scalars, metric_name
from common.tracking.run import Tracking, WandbRun
from common.untrusted_yaml import load_yaml, read_text

SAMPLES_SHOWN = 100
# Of a record: they may quote a path, or name a file.
_SENTENCES = ("rule", "preprocessing", "imported", "note")
# In the place of a picture.
_UNSEEN = f"{NEAR_COPIES}: no picture is sent"


@dataclass(frozen=True)
class SampleRow:
    """One generated image.

    Attributes:
        image: uint8 [C, H, W] in the data's window; None where it must not leave this machine.
        seed: it was made from.
        label: name of its class, "" where there are none.
        scalars: biological ones by name, and whatever else is known of this image.
    """

    image: np.ndarray | None
    seed: int
    label: str
    scalars: Mapping[str, float]


def sample_rows(folder: RunFolder, data: ImageDataModule) -> Iterator[SampleRow]:
    """The run's generated images as `evaluate` judged them, read as they are asked for.

    None where `evaluate` has not judged these images yet; without pictures where the images are
    near copies of training images, for no real image leaves this machine.
    """
    judged = folder.evaluation / "generated.csv"
    if not judged.is_file():
        return
    table = named_cells(from_csv(judged.read_bytes()))
    rows = read_samples_manifest(folder)
    shown = rows if rows[0]["origin"] != AROUND else []
    pictures = (_picture(seen) for seen in generated_images(folder, data, shown))
    for row, picture in zip(table, pictures if shown else [None] * len(rows), strict=True):
        scalars = {name: float(row[name]) for name in row if name not in NAMING and row[name]}
        yield SampleRow(picture, int(row["seed"]), row["label"], scalars)


def _picture(seen: Seen) -> np.ndarray:
    return np.rint(seen.image * 255).astype(np.uint8)


@rank_zero_only
def log_evaluation(folder: RunFolder, tracking: Tracking, samples: Iterable[SampleRow]) -> None:
    """Adds what was measured to the summary of the run's W&B run.

    Offline that is a segment whose summary replaces the one before, so all of it is logged each
    time, whichever verb has measured what.

    Args:
        folder: of the run, with its records; refused ones go into the table alone.
        tracking: of the run; nothing is done where W&B is disabled.
        samples: the first `SAMPLES_SHOWN` are shown; without any there is no table of them. Where
            they have no pictures, the table says why.

    Raises:
        UserError: W&B does not answer.
    """
    if tracking.wandb == "disabled":
        return
    kept = f"{relative(folder.records)} is written"
    run, records = WandbRun(folder, tracking, kept), read_records(folder.records)
    with answered(f"--tracking.wandb {tracking.wandb}", kept), _tables_beside(folder):
        run.log_hyperparams(load_yaml(read_text(folder.config)))
        for record in records:
            run.experiment.summary.update(evaluation_scalars(record))
        _add_table(run, folder, RECORDS, *records_table(records))
        if shown := list(islice(samples, SAMPLES_SHOWN)):
            _add_table(run, folder, SAMPLES, *_samples_table(shown))
        run.experiment.finish()


def records_table(records: Sequence[Record]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the table of records.

    Args:
        records: all of them; names are W&B's (`metric_name`).
    """
    rows = [_shown(record) for record in records]
    columns = list(rows[0]) if rows else ["metric"]
    return columns, [[finite_or_none(row[name]) for name in columns] for row in rows]


def _shown(record: Record) -> dict[str, Any]:
    """All fields and the protocol; what is a sentence may quote a path."""
    texts = {name: public_sentence(getattr(record, name)) for name in _SENTENCES}
    metric = {"metric": metric_name(record.metric), "protocol": record.protocol}
    return asdict(record) | texts | metric


def _samples_table(shown: Sequence[SampleRow]) -> tuple[list[str], list[list[Any]]]:
    import wandb

    names = sorted({name for sample in shown for name in sample.scalars})
    first = "note" if shown[0].image is None else "image"
    rows = [
        [
            # A picture of floats would be black.
            _UNSEEN if sample.image is None else wandb.Image(image_grid(sample.image[None])),
            sample.seed,
            public(sample.label),
            *(finite_or_none(sample.scalars.get(name)) for name in names),
        ]
        for sample in shown
    ]
    return [first, "seed", "label", *names], rows


def _add_table(
    run: WandbRun, folder: RunFolder, key: str, columns: list[str], rows: list[list[Any]]
) -> None:
    """Logs a table as `Run.log` does, but with paths from the workspace on.

    W&B keeps a table's files where it keeps its data and writes their whole paths into the log.
    """
    import wandb

    table = wandb.Table(columns, rows)
    artifact = wandb.Artifact(f"run-{folder.run_id}-{key.replace('/', '')}", "evaluation")
    artifact.add(table, key)
    for entry in artifact.manifest.entries.values():
        entry.local_path = os.path.relpath(entry.local_path, folder.workspace)
    run.experiment.log_artifact(artifact)
    # Else W&B would log the table once more, in its own way.
    table.bind_to_run(run.experiment, key, "summary")
    run.experiment.summary.update({key: table})


@contextmanager
def _tables_beside(folder: RunFolder) -> Iterator[None]:
    """W&B's data folder in the run's, and its process in the workspace, where paths begin."""
    name, data = "WANDB_DATA_DIR", folder.path.resolve() / "wandb/data"
    before = os.environ.get(name)
    os.environ[name] = str(data)
    try:
        with chdir(Path(folder.workspace)):
            yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
