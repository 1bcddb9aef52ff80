"""A run's generated images as training data."""

import torch

from common.data.datamodule import ImageDataModule
from common.errors import Exit, UserError, relative
from common.evaluate import show, update_records
from common.generation import read_samples_manifest
from common.metrics.protocol import Record
from common.progress import images_bar
from common.run_images import evaluation_context, generated_images, packed_images
from common.runs.folder import RunFolder
from common.utility.ledger import ledger_records, lines, run_ledger
from common.utility.pools import Pool, gather


def measure_utility(
    folder: RunFolder,
    data: ImageDataModule,
    device: torch.device,
    seeds: int,
    images_seen: int,
    width: int,
) -> list[Record]:
    """Runs the augmentation ledger and writes its records beside those of `evaluate`.

    Args:
        folder: of the run, with samples.
        data: set up; its training and test splits are read.
        device: where the task model is trained.
        seeds: models of each line.
        images_seen: training images of one model.
        width: of the task model.

    Raises:
        UserError: the experiment names no task, or a class has no generated image.
    """
    task = data.task(width, images_seen, device)
    if task is None:
        problem = "names no task that its images are wanted for"
        remedy = "measure its images with make evaluate"
        raise UserError(Exit.USAGE, folder.experiment, problem, remedy)
    rows = read_samples_manifest(folder)
    real, test = _split(data, "train"), _split(data, "test")
    _refuse_missing(folder, data, {row["label"] for row in rows}, real)
    fake = gather(generated_images(folder, data, rows), data.facts["classes"])
    models = len(lines()) * seeds
    print(f"utility:    {models} models of {images_seen} images each", flush=True)
    with images_bar("training task models", models * images_seen) as bar:
        outcome = run_ledger(task, real, fake, test, seeds, bar.update)
    records = ledger_records(outcome, task, len(fake), evaluation_context(folder, data))
    update_records(folder, records, utility=True)
    show(records)
    return records


def _split(data: ImageDataModule, split: str) -> Pool:
    samples = data.prepared.samples(split)
    seen = packed_images(data, split, list(range(len(samples))))
    return gather(seen, data.facts["classes"], [sample.group for sample in samples])


def _refuse_missing(
    folder: RunFolder, data: ImageDataModule, generated: set[str], real: Pool
) -> None:
    names = [data.facts["classes"][label] for label in sorted(set(real.labels.tolist()))]
    if missing := [name for name in names if name not in generated]:
        raise UserError(
            Exit.INPUT,
            relative(folder.samples),
            f"holds no image of class {', '.join(missing)}",
            f"run make generate N={len(real)}, or more",
        )
