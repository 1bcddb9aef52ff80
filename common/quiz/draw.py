"""Which images a quiz shows: equal numbers of both kinds, nothing but the pixels between them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from common.callbacks import image_grid
from common.data.datamodule import ImageDataModule
from common.errors import Exit, UserError, relative
from common.generation import read_samples_manifest
from common.run_images import generated_images, packed_images
from common.runs.folder import RunFolder

# Panels of one image in a row of the page; more channels than that make more rows.
PANELS_IN_A_ROW = 3


@dataclass(frozen=True)
class Shown:
    """One image of the quiz.

    Attributes:
        name: "seed 12", or "held-out" and the `alias` in the data's manifest.
        label: class name, "" without classes.
        generated: the truth.
        pixels: uint8 [H, W], the channels in panels.
    """

    name: str
    label: str
    generated: bool
    pixels: np.ndarray


@dataclass(frozen=True)
class Draw:
    """Rows of the held-out split and of the samples, as many of each, and the order of both."""

    real: tuple[int, ...]
    generated: tuple[int, ...]
    order: tuple[int, ...]


def draw_images(
    folder: RunFolder, data: ImageDataModule, count: int, seed: int
) -> tuple[list[Shown], dict[str, str]]:
    """Draws from the test split and from the run's samples.

    Args:
        folder: of the run.
        data: set up; its test split is read here.
        count: images of either kind.
        seed: of the choice and of the order.

    Returns:
        The images in the order of the quiz, and a row of the table of samples.

    Raises:
        UserError: nothing was generated, or too few images can be paired by class.
    """
    rows = read_samples_manifest(folder)
    samples = data.samples("test")
    labels = [sample.label for sample in samples], [row["label"] for row in rows]
    _refuse_too_few(folder, data, labels, count)
    drawn = paired_draw(*labels, count, seed)
    chosen = [rows[row] for row in drawn.generated]
    held_out = packed_images(data, "test", drawn.real)
    seen = (*held_out, *generated_images(folder, data, chosen))
    pixels = [_panels(one.canvas) for one in seen]
    facts = [
        *((f"held-out {samples[r].alias}", samples[r].label, False) for r in drawn.real),
        *((f"seed {row['seed']}", row["label"], True) for row in chosen),
    ]
    images = [Shown(*facts[place], pixels[place]) for place in drawn.order]
    return images, rows[0]


def paired_draw(real: Sequence[str], generated: Sequence[str], count: int, seed: int) -> Draw:
    """Draws without replacement, every class as often from both sides, classes evenly.

    Args:
        real: class of every row; the same for ``generated``.
        generated: class of every row.
        count: rows of either side, at most what `can_pair` says.
        seed: of everything that is left to chance.
    """
    rng = np.random.default_rng(seed)
    turns = [
        (turn, tie, label)
        for label, number in sorted((Counter(real) & Counter(generated)).items())
        for tie in [rng.random()]
        for turn in range(number)
    ]
    wanted = Counter(label for _, _, label in sorted(turns)[:count])
    sides = [tuple(_rows(side, wanted, rng)) for side in (real, generated)]
    return Draw(*sides, order=tuple(rng.permutation(2 * count).tolist()))


def can_pair(real: Sequence[str], generated: Sequence[str]) -> int:
    """How many images of either side have one of their class on the other."""
    return (Counter(real) & Counter(generated)).total()


def _rows(side: Sequence[str], wanted: Counter[str], rng: np.random.Generator) -> Iterator[int]:
    for label, number in sorted(wanted.items()):
        rows = [row for row, found in enumerate(side) if found == label]
        yield from rng.choice(rows, number, replace=False).tolist()


def _refuse_too_few(
    folder: RunFolder,
    data: ImageDataModule,
    labels: tuple[Sequence[str], Sequence[str]],
    count: int,
) -> None:
    pairs, (real, generated) = can_pair(*labels), map(len, labels)
    if pairs >= count:
        return
    by_class = any(labels[0])
    balanced = ' ARGS="--labels balanced"' if by_class else ""
    more = f"make generate EXP={folder.experiment} RUN={folder.run_id} N={10 * count}{balanced}"
    helps = pairs < real and (real >= count or not pairs)
    ways = [f"generate more with {more}"] * helps + [f"show N={pairs}"] * (pairs > 0)
    raise UserError(
        Exit.INPUT,
        relative(folder.samples),
        f"{pairs} of its {generated} images have a held-out image {'of their class ' * by_class}"
        f"to be shown beside, {count} are needed ({real} images are held out)",
        " or ".join(ways) or "hold out more with --data.test_fraction, in a new run",
    )


def _panels(canvas: np.ndarray) -> np.ndarray:
    """One grey panel a channel, all of one size."""
    return image_grid(canvas[:, None], columns=PANELS_IN_A_ROW)
