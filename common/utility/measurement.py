"""A run's generated images as training data."""

from collections.abc import Sequence

import torch

from common.data.datamodule import ImageDataModule
from common.errors import relative
from common.evaluate import show, update_records
from common.metrics.kinds import UTILITY
from common.metrics.protocol import Record
from common.progress import images_bar
from common.run_images import evaluation_context
from common.runs.folder import RunFolder
from common.utility.cache import Cache, task_folder
from common.utility.ledger import Ledger, ledger_records, lines
from common.utility.material import generated_pool, split_pool, task_of
from common.utility.task import Training


def measure_utility(
    folder: RunFolder,
    data: ImageDataModule,
    training: Training,
    device: torch.device,
    seeds: int,
    percents: Sequence[int],
) -> list[Record]:
    """Runs the augmentation ledger and writes its records beside those of the other verbs.

    Args:
        folder: of the run, with samples.
        data: set up; its training and test splits are read.
        training: of each task model.
        device: where it is trained.
        seeds: models of each line.
        percents: shares of the real training images that are tried.

    Raises:
        UserError: the experiment names no task, or the images do not suit it.
    """
    task = task_of(data, training, device)
    fake = generated_pool(folder, data)
    real, test = split_pool(data, "train"), split_pool(data, "test")
    task.refuse(real, test, fake)
    ledger = Ledger(task, real, fake, test, Cache(task_folder(data.prepared)))
    models = [(line, seed) for line in lines(percents) for seed in range(seeds)]
    known = ledger.known(models)
    missing = [model for model in models if model not in known]
    print(f"utility:    {_told(len(models), len(known), training)}", flush=True)
    if known:
        names = dict.fromkeys(line.name for line, _ in known)
        print(f"known:      {', '.join(names)} ({relative(ledger.cache.folder)})", flush=True)
    total = len(missing) * training.images_seen
    with images_bar("training task models", total, shown=total > 0) as bar:
        known |= ledger.train(missing, bar.update)
    # Balance is part of the rule, so it does not count how often the labels' rule chose each class.
    context = evaluation_context(folder, data, labels="drawn by balance")
    records = ledger_records(ledger, {model: known[model] for model in models}, context)
    update_records(folder, records, UTILITY)
    show(records)
    return records


def _told(models: int, known: int, training: Training) -> str:
    told = f"{models} models of {training.images_seen} images each"
    return f"{told}, {known} of them known from before" if known else told
