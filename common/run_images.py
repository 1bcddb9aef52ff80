"""Held-out, training and generated images of a run, brought to one form by one path.

Whatever compares the sides takes them from here: a difference in preprocessing would be the first
thing that it finds.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.code_version import commit
from common.data.canvas import crop_to_mask, extent, rectangle_mask
from common.data.cards import Card
from common.data.datamodule import ImageDataModule
from common.data.image_io import read_image
from common.data.reading import planes
from common.data.windows import text_of
from common.generation import grey_to_unit, read_samples_manifest, sample_file
from common.image_tables import SAMPLED
from common.metrics.evaluation import EvaluationContext
from common.preprocess.geometry import fit_to_canvas
from common.runs.folder import RunFolder

# What every image goes through between grey values and uint8; part of every protocol hash.
PREPROCESSING = "{canvas}; window {window}; uint8; labels: {labels}{origin}{frames}"
_CANVAS = {
    "aspect": "canvas {size} px by area/cubic, edge-padded",
    "squash": "stretched to {size} x {size} px, bilinear",
}


@dataclass(frozen=True)
class Seen:
    """One image, or sequence, of either side.

    Attributes:
        name: of the generated file, or of the raw file that was packed.
        label: name of the class, "" without classes.
        canvas: uint8 [C, S, S], or [C, T, S, S] of a sequence; 255 at the top of the window.
        image: float32 [C, H, W] or [C, T, H, W] in [0, 1], without what the canvas adds at the
            edges.
    """

    name: str
    label: str
    canvas: np.ndarray
    image: np.ndarray


def packed_images(data: ImageDataModule, split: str, rows: Sequence[int]) -> Iterator[Seen]:
    """Images of a split, in the order of ``rows``.

    Args:
        data: set up.
        split: "train", "val" or "test"; no other one's pixels are opened.
        rows: positions within the split.
    """
    # Guides, which only images have, are not needed.
    dataset = data.dataset(split) if data.frames else data.prepared.dataset(split)
    storage = data.facts["storage"]
    for row in rows:
        sample = dataset.samples[row]
        grey = dataset.stored(row).astype(np.float32) * storage["scale"] + storage["offset"]
        unit = grey_to_unit(grey, dataset.window(row, data.facts["window"]))
        yield _seen(data, sample.name, sample.label or "", unit, (sample.height, sample.width))


def generated_images(
    folder: RunFolder, data: ImageDataModule, rows: Sequence[Mapping[str, str]]
) -> Iterator[Seen]:
    """Generated images, in the order of rows of ``samples/manifest.csv``.

    Raises:
        UserError: a file is missing or is not what was written.
    """
    card = shown_card(data)
    for row in rows:
        pixels = generated_pixels(sample_file(folder, row), folder, card)
        # The axis of a single moment is not in its file.
        grey = pixels[:, None] if data.frames and pixels.ndim == 3 else pixels
        unit = grey_to_unit(grey, data.facts["window"])
        together = unit.reshape(-1, *unit.shape[-2:])
        canvas = fit_to_canvas(together, data.facts["image_size"], data.facts["fit"])
        canvas = canvas.reshape(*unit.shape[:-2], *canvas.shape[-2:])
        yield _seen(data, row["name"], row["label"], canvas, unit.shape[-2:])


def generated_pixels(path: Path, folder: RunFolder, card: Card) -> np.ndarray:
    """Grey values of one generated file: [C, H, W], or [C, T, H, W] of several moments.

    Args:
        path: of the file.
        folder: of the run, in whose samples it lies.
        card: with the channels of generated images.

    Raises:
        UserError: it cannot be read.
        ValueError: it does not hold these channels.
    """
    image = read_image(path, root=folder.samples)
    if "T" not in image.axes:
        return planes(image, card)
    axes = image.axes.replace("T", "")
    moments = np.moveaxis(image.pixels, image.axes.index("T"), 0)
    return np.stack([planes(replace(image, pixels=one, axes=axes), card) for one in moments], 1)


def shown_card(data: ImageDataModule) -> Card:
    """The data's card, as if its files had the channels that generated images have."""
    return replace(data.card, channels=tuple(data.facts["channels"]))


def evaluation_context(
    folder: RunFolder,
    data: ImageDataModule,
    rows: Sequence[int] = (),
    labels: str | None = None,
) -> EvaluationContext:
    """What all numbers about a run's samples share.

    Args:
        folder: of the run, with samples.
        data: set up.
        rows: as of `held_out_context`.
        labels: rule by which the labels were chosen; None takes it from the samples.
    """
    first = read_samples_manifest(folder)[0]
    return held_out_context(
        data,
        labels or first["labels"],
        rows,
        "" if first["origin"] == SAMPLED else first["origin"],
        seed=int(first["seed"]),
        checkpoint_sha256=first["checkpoint_sha256"],
        settings=first["settings"],
    )


def held_out_context(
    data: ImageDataModule,
    labels: str,
    rows: Sequence[int] = (),
    origin: str = "",
    **drawn: Any,
) -> EvaluationContext:
    """What all numbers share that a checkpoint gets on held-out data.

    Args:
        data: set up.
        labels: rule by which they were chosen.
        rows: positions within the test split of what is compared, whose groups are counted; none
            where groups do not count.
        origin: of images that were not sampled freely.
        drawn: seed, checkpoint and settings, by the names of `EvaluationContext`.
    """
    samples = data.samples("test") if rows else []
    pairs = {(samples[row].label or "", samples[row].group) for row in rows}
    return EvaluationContext(
        split="test",
        data=data.facts["manifest_sha256"],
        preprocessing=PREPROCESSING.format(
            canvas=_CANVAS[data.facts["fit"]].format(size=data.facts["image_size"]),
            window=text_of(data.facts["window"], data.facts["channels"]),
            labels=labels,
            origin=f"; drawn {origin}" if origin else "",
            frames=f"; {data.frames} moments a sequence" if data.frames else "",
        ),
        commit=commit(),
        imported=data.imported,
        channels=data.facts["channels"],
        groups=len({group for _, group in pairs}),
        class_groups=Counter(label for label, _ in pairs),
        **drawn,
    )


def _seen(
    data: ImageDataModule, name: str, label: str, canvas: np.ndarray, shape: tuple[int, int]
) -> Seen:
    """``shape`` is what the file has; from here on only its ratio counts."""
    size = canvas.shape[-1]
    mask = rectangle_mask(*extent(*shape, size, data.facts["fit"]), size)
    return Seen(name, label, _to_uint8(canvas), crop_to_mask(canvas, mask))


def _to_uint8(unit: np.ndarray) -> np.ndarray:
    return np.rint(unit * 255).astype(np.uint8)
