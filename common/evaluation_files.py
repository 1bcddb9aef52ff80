"""What `evaluate` leaves of single images: a table of each side, and the nearest ones as a picture.

`evaluation/held_out.csv` and `evaluation/generated.csv` hold the biological scalars of every image;
the second also names its nearest training and held-out image. Real images are named by the first
digits of `sha256` in the data's manifest, because a file's name could tell whose image it is.
`evaluation/nearest.png` shows those that are the most suspect of being copies: generated, nearest
training, nearest held-out image in three rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from common.callbacks import image_grid
from common.data.datamodule import ImageDataModule
from common.data.image_io import write_png
from common.metrics.evaluation import Side
from common.metrics.memorization import Memorization
from common.run_images import generated_images, packed_images
from common.runs.folder import RunFolder
from common.storage import whole_file
from common.tables import finite_or_none, to_csv

NEAREST_SHOWN = 10


@dataclass(frozen=True)
class Judged:
    """What was compared, and what was found.

    Attributes:
        held_out: that side.
        generated: that side.
        test_rows: positions within the test split, of each held-out image.
        samples: rows of the samples' manifest, of each generated image.
        train_rows: positions within the training split, of each training image.
        neighbours: of each generated image, None where they are not known.
    """

    held_out: Side
    generated: Side
    test_rows: Sequence[int]
    samples: Sequence[Mapping[str, str]]
    train_rows: Sequence[int]
    neighbours: Memorization | None

    @property
    def suspects(self) -> np.ndarray:
        """Generated images that come much nearer to training than to held-out ones; at most 10."""
        found = self.neighbours
        order = (found.to_train / found.to_held_out.clamp(min=1e-12)).argsort(stable=True)
        return order[:NEAREST_SHOWN].numpy()


def write_evaluation(folder: RunFolder, data: ImageDataModule, judged: Judged) -> None:
    """Writes the tables and the picture, each file whole or not at all.

    Args:
        folder: of the run.
        data: set up.
        judged: what `evaluate` has found.

    Raises:
        UserError: the folder cannot be written.
    """
    held_out, generated = _held_out_rows(data, judged), _generated_rows(data, judged)
    for name, rows in (("held_out", held_out), ("generated", generated)):
        with whole_file(folder.evaluation / f"{name}.csv", parents=True) as stream:
            stream.write(to_csv(rows))
    if judged.neighbours is not None:
        write_png(folder.evaluation / "nearest.png", _panel(folder, data, judged))


def _held_out_rows(data: ImageDataModule, judged: Judged) -> Iterable[Iterable[object]]:
    samples = data.samples("test")
    yield ["name", "label", *judged.held_out.biology]
    for row, scalars in zip(judged.test_rows, _scalars(judged.held_out), strict=True):
        yield [samples[row].alias, samples[row].label or "", *scalars]


def _generated_rows(data: ImageDataModule, judged: Judged) -> Iterable[Iterable[object]]:
    found = _neighbours(data, judged)
    yield ["name", "seed", "label", *judged.generated.biology, *found]
    columns = zip(*found.values(), strict=True) if found else ([] for _ in judged.samples)
    rows = zip(judged.samples, _scalars(judged.generated), columns, strict=True)
    for sample, scalars, near in rows:
        yield [sample["name"], int(sample["seed"]), sample["label"], *scalars, *near]


def _neighbours(data: ImageDataModule, judged: Judged) -> dict[str, Sequence[object]]:
    if judged.neighbours is None:
        return {}
    found = judged.neighbours
    train, test = data.samples("train"), data.samples("test")
    return {
        "nearest_training": [train[judged.train_rows[k]].alias for k in found.index.tolist()],
        "distance_to_training": found.to_train.tolist(),
        "nearest_held_out": [
            test[judged.test_rows[k]].alias for k in found.held_out_index.tolist()
        ],
        "distance_to_held_out": found.to_held_out.tolist(),
        "copied": found.copied.int().tolist(),
        "authentic": found.authentic.int().tolist(),
    }


def _scalars(side: Side) -> Iterable[list[float | None]]:
    """Of each image; what could not be measured is an empty cell."""
    for k in range(side.count):
        yield [finite_or_none(float(column[k])) for column in side.biology.values()]


def _panel(folder: RunFolder, data: ImageDataModule, judged: Judged) -> np.ndarray:
    found, suspects = judged.neighbours, judged.suspects
    fake = generated_images(folder, data, [judged.samples[k] for k in suspects])
    train = [judged.train_rows[k] for k in found.index[suspects].tolist()]
    test = [judged.test_rows[k] for k in found.held_out_index[suspects].tolist()]
    sides = chain(fake, packed_images(data, "train", train), packed_images(data, "test", test))
    return image_grid(np.stack([seen.canvas for seen in sides]), columns=len(suspects))
