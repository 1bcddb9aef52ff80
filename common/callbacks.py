"""What happens beside the training step: counting, previews, writing, saving the configuration."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeInt
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.cli import LightningArgumentParser, SaveConfigCallback
from torch import Tensor

from common.data.canvas import crop_to_mask
from common.data.image_io import write_ome_tiff, write_png
from common.data.windows import ends
from common.errors import Exit, UserError
from common.privacy import masked
from common.runs.folder import RunFolder
from common.storage import whole_file

# Channels and pixel types that PNG holds; the first two by default.
_PNG = ((1, "uint8"), (1, "uint16"), (3, "uint8"))
_OF_THIS_START = (
    "config",
    "run",
    "resume",
    "allow_change",
    "ckpt_path",
    "weights_only",
    "workspace",
    "weights",
)


class ImagesSeen(Callback):
    """Counts training images over all ranks: the x-axis of every curve and the unit of stopping.

    Lightning's ``global_step`` counts every optimizer, so it means something else in each model.

    Args:
        images_seen: the run stops when this many were seen; 0 leaves it to ``trainer.max_epochs``.
    """

    def __init__(self, images_seen: NonNegativeInt = 0) -> None:
        self.budget = images_seen
        self.count = 0
        self._started = (0.0, 0)
        self._rate: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """The count."""
        return {"count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the count."""
        self.count = state_dict["count"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Publishes the restored count, before other callbacks ask for it."""
        self._publish(trainer)
        self._stop_when_spent(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock: a run that is resumed within an epoch does not start one."""
        self._start_clock()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._start_clock()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Counts the batch, so that what its step logs and decides belongs to it."""
        self.count += len(batch["image"]) * trainer.world_size
        self._publish(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any
    ) -> None:
        """Stops the run when the budget is spent."""
        self._stop_when_spent(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the rate of the epoch, its validation left out."""
        if self._rate is None:
            self._stop_clock()
        pl_module.log("train/images_per_s", self._rate)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops the clock: validation comes before the end of the epoch."""
        self._stop_clock()

    def _start_clock(self) -> None:
        self._started, self._rate = (time.perf_counter(), self.count), None

    def _stop_clock(self) -> None:
        started, count = self._started
        self._rate = (self.count - count) / max(time.perf_counter() - started, 1e-9)

    def _stop_when_spent(self, trainer: pl.Trainer) -> None:
        if self.budget and self.count >= self.budget:
            trainer.should_stop = True

    def _publish(self, trainer: pl.Trainer) -> None:
        trainer.images_seen = self.count
        for logger in trainer.loggers:
            logger.images_seen = self.count


class PreviewGrid(Callback):
    """Draws the same seeds again and again, with the averaged weights.

    Args:
        count: images in the grid; 0 draws none.
        seed: of the first.
    """

    def __init__(self, count: NonNegativeInt = 20, seed: NonNegativeInt = 0) -> None:
        self.count = count
        self.seed = seed
        self.folder: RunFolder | None = None

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Comes after `EMA` in the list, which has put the average in place here."""
        if trainer.sanity_checking or not self.count or not trainer.is_global_zero:
            return
        batch = trainer.datamodule.example_batch(self.count, self.seed, pl_module.device)
        images = pl_module.predict_step(batch, 0)["image"]
        grid = image_grid(to_uint8(images.cpu()))
        write_png(self.folder.previews / f"{trainer.images_seen:010d}.png", grid)
        for logger in trainer.loggers:
            if hasattr(logger, "log_grid"):
                logger.log_grid("preview", grid)


class ImageWriter(Callback):
    """Writes what `predict_step` returns, cut to its mask, in the grey levels of the data.

    Args:
        folder: receives ``<name>.png``, or ``<name>.ome.tiff`` for several channels.
        facts: of the training data: window, storage, channels, pixel sizes.
        file_format: "png", "tiff", or "auto" (PNG for one channel of 8 or 16 bits).
        shapes: height and width that image number k is resampled to; None leaves all of them as
            they are on the canvas.

    Raises:
        UserError: the pixels of these data do not go into PNG, which was asked for.
    """

    def __init__(
        self,
        folder: Path,
        facts: dict[str, Any],
        file_format: str = "auto",
        shapes: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self.folder = folder
        self.facts = facts
        self.shapes = shapes
        kind = (len(facts["channels"]), facts["storage"]["source"])
        if file_format == "png" and kind not in _PNG:
            raise UserError(
                Exit.USAGE,
                "--file_format png",
                f"cannot hold {kind[0]} channels of {kind[1]}, the type of the data",
                "leave it out or choose tiff",
            )
        png = kind in _PNG[:2] if file_format == "auto" else file_format == "png"
        self.suffix = ".png" if png else ".ome.tiff"
        # What else each image is written as.
        self.shown_as = ""

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *args: Any
    ) -> None:
        """Writes one file an image; its name is its number."""
        masks = outputs["mask"].cpu().numpy()
        images = outputs["image"].float().cpu().numpy()
        for name, canvas, mask in zip(outputs["name"], images, masks, strict=True):
            image = crop_to_mask(canvas, mask)
            if self.shapes is not None:
                image = _resampled(image, *self.shapes[int(name)])
            grey = to_grey_levels(image, self.facts)
            self._write(self.folder / f"{name}{self.suffix}", grey)

    def _write(self, path: Path, image: np.ndarray) -> None:
        if self.suffix == ".png":
            write_png(path, image)
        else:
            self._write_tiff(path, image)

    def _write_tiff(self, path: Path, image: np.ndarray) -> None:
        write_ome_tiff(path, image, "CYX", self._pixel_size(), tuple(self.facts["channels"]))

    def _pixel_size(self) -> tuple[float, float] | None:
        """Of what is written, which the canvas has scaled."""
        size = self.facts["pixel_size_um"]
        if self.shapes is not None:
            return (size, size) if size else None
        scaled = self.facts["canvas_pixel_size_um"]
        return tuple(scaled) if scaled else None


class RunConfig(SaveConfigCallback):
    """Writes `config.yaml` into the run folder, which is all it takes to repeat the run."""

    def __init__(self, *args: Any, folder: RunFolder, **kwargs: Any) -> None:
        super().__init__(*args, save_to_log_dir=False, **kwargs)
        self.folder = folder

    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """On the first rank only, and without any collective call: others wait for nothing."""
        if stage != "fit":
            return
        text = self.write()
        for logger in trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(text))

    def write(self) -> str:
        """Writes the file and returns its content."""
        text = configuration_yaml(self.parser, self.config)
        # Resuming on a full disk must not cost the run its configuration.
        with whole_file(self.folder.config) as stream:
            stream.write(text.encode())
        return text

    @staticmethod
    def of(trainer: pl.Trainer) -> "RunConfig":
        """The one of this run."""
        return next(c for c in trainer.callbacks if isinstance(c, RunConfig))


def configuration_yaml(parser: LightningArgumentParser, config: Namespace) -> str:
    """The part of a parsed configuration that makes the run, as `config.yaml` holds it.

    Secrets are masked; whoever repeats the run types them again.
    """
    config = config.clone()
    # These name this start, not the run; a repetition gets its own.
    for key in _OF_THIS_START:
        config.pop(key, None)
    text = parser.dump(config, skip_unset=False, skip_validation=True)
    settings = yaml.safe_load(text)
    if masked(settings) == settings:
        return text
    return yaml.safe_dump(masked(settings), sort_keys=False)


def to_uint8(images: Tensor) -> np.ndarray:
    """Turns [N, C, H, W] in [-1, 1] into uint8 [N, C, H, W]; 255 is the top of the window."""
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).numpy()


def to_grey_levels(images: np.ndarray, facts: dict[str, Any]) -> np.ndarray:
    """Turns [C, ..., H, W] in [-1, 1] into grey values of the data's window and pixel type."""
    low, high = ends(facts["window"], images.ndim)
    grey = (images.astype(np.float64) + 1) / 2 * (high - low) + low
    dtype = np.dtype(facts["storage"]["source"])
    if dtype.kind == "f":
        return grey.astype(np.float32)
    limits = np.iinfo(dtype)
    return np.rint(grey).clip(limits.min, limits.max).astype(dtype)


def _resampled(image: np.ndarray, height: int, width: int) -> np.ndarray:
    # Training has to work without an image library.
    from common.preprocess.geometry import resize

    planes = resize(image.reshape(-1, *image.shape[-2:]), height, width)
    # Cubic interpolation goes beyond what it goes through.
    return planes.clip(-1, 1).reshape(*image.shape[:-2], height, width)


def image_grid(images: np.ndarray, columns: int = 10, gap: int = 2) -> np.ndarray:
    """Tiles uint8 [N, C, H, W] into one [H', W'] picture, the channels of an image side by side.

    Of sequences [N, C, T, H, W] the frames are side by side, one channel below the other.
    """
    if images.ndim == 5:
        images = strips(images)[:, None]
    images = np.concatenate(list(images.transpose(1, 0, 2, 3)), axis=2)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height, width = images.shape[1] + gap, images.shape[2] + gap
    grid = np.full((rows * height - gap, columns * width - gap), 255, np.uint8)
    for k, image in enumerate(images):
        top, left = k // columns * height, k % columns * width
        grid[top : top + height - gap, left : left + width - gap] = image
    return grid


def frames_of(sequences: Tensor) -> Tensor:
    """Images [N * T, C, H, W] of sequences [N, C, T, H, W]; images [N, C, H, W] as they are."""
    return sequences if sequences.ndim == 4 else sequences.movedim(2, 1).flatten(0, 1)


def strips(sequences: np.ndarray) -> np.ndarray:
    """Turns [N, C, T, H, W] into pictures [N, C * H, T * W]: frames in a row, channels below."""
    count, channels, frames, height, width = sequences.shape
    rows = sequences.transpose(0, 1, 3, 2, 4)
    return rows.reshape(count, channels * height, frames * width)
