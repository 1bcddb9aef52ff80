"""A run's generated images as training data."""

from dataclasses import replace

import torch

from common.data.datamodule import ImageDataModule
from common.errors import Exit, UserError
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
        UserError: the experiment names no task, or the images do not suit it.
    """
    task = data.task(width, images_seen, device)
    if task is None:
        problem = "names no task that its images are wanted for"
        remedy = "measure its images with make evaluate"
        raise UserError(Exit.USAGE, folder.experiment, problem, remedy)
    rows = read_samples_manifest(folder)
    classes = data.facts["classes"]
    fake = gather(generated_images(folder, data, rows), len(rows), classes)
    real, test = _split(data, "train"), _split(data, "test")
    task.refuse(real, fake, test)
    models = len(lines()) * seeds
    print(f"utility:    {models} models of {images_seen} images each", flush=True)
    with images_bar("training task models", models * images_seen) as bar:
        outcome = run_ledger(task, real, fake, test, seeds, bar.update)
    # Classes are drawn in turn, so it does not count how often the rule for labels chose each.
    context = evaluation_context(folder, data, labels="each class as often")
    records = ledger_records(outcome, task, replace(context, groups=0))
    update_records(folder, records, utility=True)
    show(records)
    return records


def _split(data: ImageDataModule, split: str) -> Pool:
    samples = data.prepared.samples(split)
    seen = packed_images(data, split, range(len(samples)))
    groups = [sample.group for sample in samples]
    return gather(seen, len(samples), data.facts["classes"], groups)
