"""The images of a run and of its data as pools, and the task that they are wanted for."""

from typing import TYPE_CHECKING

import torch

from common.errors import Exit, UserError
from common.generation import read_samples_manifest
from common.run_images import generated_images, packed_images
from common.runs.folder import RunFolder
from common.utility.pools import Pool, gather
from common.utility.task import Task, Training

if TYPE_CHECKING:
    from common.data.datamodule import ImageDataModule


def task_of(data: "ImageDataModule", training: Training, device: torch.device) -> Task:
    """What the images of an experiment are wanted for.

    Raises:
        UserError: the experiment names no task.
    """
    task = data.task(training, device)
    if task is None:
        problem = "names no task that its images are wanted for"
        remedy = "measure its images with make evaluate"
        raise UserError(Exit.USAGE, data.experiment, problem, remedy)
    return task


def split_pool(data: "ImageDataModule", split: str) -> Pool:
    """All images of a split, with their groups."""
    samples = data.prepared.samples(split)
    seen = packed_images(data, split, range(len(samples)))
    groups = [sample.group for sample in samples]
    return gather(seen, len(samples), data.facts["classes"], groups)


def generated_pool(folder: RunFolder, data: "ImageDataModule") -> Pool:
    """All generated images, each a group of its own.

    Raises:
        UserError: there are none, or one is not what was generated.
    """
    rows = read_samples_manifest(folder)
    return gather(generated_images(folder, data, rows), len(rows), data.facts["classes"])
