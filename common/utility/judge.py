"""Independent judges: classifiers that are trained on real images alone, once for a data set.

Whoever wants to know what they see in images takes `judges_of` and asks it for `labels`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn

from common.errors import Exit, UserError, relative
from common.progress import images_bar
from common.storage import whole_file
from common.tensors_file import digest_of, seal, unseal
from common.utility.cache import digest, task_folder
from common.utility.material import split_pool, task_of
from common.utility.pools import Pool
from common.utility.task import CLASSICAL, JUDGE, JUDGES, Task, Training

if TYPE_CHECKING:
    from common.data.datamodule import ImageDataModule


@runtime_checkable
class Recognition(Task, Protocol):
    """A task whose models say of which class an image is; `Classification` is one.

    Attributes:
        classes: names; index = label.
    """

    classes: Sequence[str]

    def untrained(self, num_channels: int, seed: int = 0) -> nn.Module:
        """A model before its training."""
        ...

    def probabilities(self, model: nn.Module, images: np.ndarray) -> np.ndarray:
        """Of each class, float32 [N, classes], for uint8 images [N, C, S, S]."""
        ...


@dataclass(frozen=True)
class Judges:
    """Models that differ by their seed alone.

    Attributes:
        task: what they were trained for.
        models: one or more.
        trained_on: int64 [N], labels of the images that they were trained on.
    """

    task: Recognition
    models: Sequence[nn.Module]
    trained_on: np.ndarray

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """What each judge thinks of each image.

        Args:
            images: uint8 [N, C, S, S] as `run_images.Seen.canvas`: 255 at the top of the window.

        Returns:
            float32 [judges, N, classes].
        """
        return np.stack([self.task.probabilities(model, images) for model in self.models])

    def labels(self, images: np.ndarray) -> np.ndarray:
        """The class that each judge takes each image for: int64 [judges, N].

        Args:
            images: as in `probabilities`.
        """
        return self.probabilities(images).argmax(2)

    @cached_property
    def sha256(self) -> str:
        """Of the weights of all of them."""
        digests = "".join(digest_of(model.state_dict()) for model in self.models)
        return hashlib.sha256(digests.encode()).hexdigest()


def judges_of(
    data: "ImageDataModule",
    device: torch.device,
    training: Training = JUDGE,
    count: int = JUDGES,
) -> Judges:
    """The judges of a data set: from its prepared folder, and trained where they are not there.

    Args:
        data: set up; of its splits that for training alone is read.
        device: where they are trained and asked.
        training: of each.
        count: how many.

    Raises:
        UserError: the experiment names no task, one without classes, or one that its training
            images are not enough for.
    """
    task = task_of(data, training, device)
    if not isinstance(task, Recognition):
        problem = "names a task without classes, so no judge can say what an image shows"
        raise UserError(Exit.USAGE, data.experiment, problem, "measure its images by make utility")
    real = split_pool(data, "train")
    task.refuse(real, real)
    return trained_judges(task, real, task_folder(data.prepared), training, count)


def trained_judges(
    task: Recognition, real: Pool, folder: Path, training: Training, count: int
) -> Judges:
    """Judges with the seeds from 0 on, and what there is of them in a folder.

    Args:
        task: what they are trained for.
        real: what they are trained on.
        folder: where they are kept.
        training: of each.
        count: how many.
    """
    keys = [digest(task, CLASSICAL, seed, [real]) for seed in range(count)]
    paths = [folder / f"judge-{key}.safetensors" for key in keys]
    channels = real.images.shape[1]
    models = [_read(path, task, channels) for path in paths]
    missing = [seed for seed, model in enumerate(models) if model is None]
    there = f"{count - len(missing)} of them from {relative(folder)}"
    print(f"judges:     {count} of {training.images_seen} images each, {there}", flush=True)
    total = len(missing) * training.images_seen
    with images_bar("training judges", total, shown=total > 0) as bar:
        for seed in missing:
            models[seed] = task.train([real], CLASSICAL, seed, bar.update)
            _keep(paths[seed], models[seed])
    return Judges(task, models, real.labels)


def _read(path: Path, task: Recognition, channels: int) -> nn.Module | None:
    """The judge in a file; None where there is none, or where it is damaged."""
    if not path.exists():
        return None
    model = task.untrained(channels)
    try:
        model.load_state_dict(unseal(path.read_bytes()))
    except (OSError, ValueError, RuntimeError):
        print(f"note: {relative(path)} is damaged; its judge is trained again", flush=True)
        return None
    return model.eval()


def _keep(path: Path, model: nn.Module) -> None:
    """Where nothing can be written, the next run trains again, and is told so."""
    try:
        with whole_file(path, parents=True) as stream:
            stream.write(seal(model.state_dict()))
    except UserError as error:
        print(f"note: {error.subject} {error.problem}; the next run trains again", flush=True)
