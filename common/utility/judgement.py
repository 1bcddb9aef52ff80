"""What independent judges see in a run's generated images, and in held-out ones beside them.

`judge/confusion.csv` of a run counts, for each class that images are of or were asked to be, as
what they were recognised; counts are means over the judges.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from common.data.datamodule import ImageDataModule
from common.evaluate import show, update_records
from common.metrics.evaluation import EvaluationContext
from common.metrics.kinds import JUDGE
from common.metrics.protocol import Record
from common.run_images import evaluation_context
from common.runs.folder import RunFolder
from common.storage import whole_file
from common.tables import to_csv
from common.utility import recognition
from common.utility.intervals import group_draws, summarize
from common.utility.judge import Judges, judges_of
from common.utility.material import generated_pool, split_pool
from common.utility.pools import Pool
from common.utility.task import CLASSICAL, Score, Training, of_models

# A judge that errs on more than one real image in a hundred is no yardstick of that grain.
GOOD = 0.99
# Of classes with few training images there is little to judge by.
NUM_MAIN = 5


@dataclass(frozen=True)
class Judged:
    """Images, and what was seen in them.

    Attributes:
        pool: the images with the classes that they are of, or were asked to be.
        labels: int64 [judges, N], what each judge took them for.
    """

    pool: Pool
    labels: np.ndarray

    def table(self, num_classes: int) -> np.ndarray:
        """Images by asked and recognised class, float64 [K, K]; means over the judges."""
        once = np.ones((1, len(self.pool)))
        of_judges = [
            recognition.confusions(self.pool.labels, said, once, num_classes)[0]
            for said in self.labels
        ]
        return np.mean(of_judges, 0)


def measure_judgement(
    folder: RunFolder, data: ImageDataModule, training: Training, device: torch.device, count: int
) -> list[Record]:
    """Asks the judges of the data set and writes what they say beside what other verbs measured.

    Args:
        folder: of the run, with samples.
        data: set up; all splits are read, that for validation for a note alone.
        training: of each judge.
        device: where they are trained and asked.
        count: how many judges.

    Raises:
        UserError: the experiment names no task with classes, or the images do not suit it.
    """
    # First: where nothing was generated, no judge has to be trained to say so.
    context = evaluation_context(folder, data, labels="as asked")
    judges = judges_of(data, device, training, count)
    pools = generated_pool(folder, data), split_pool(data, "test"), split_pool(data, "val")
    fake, real, aside = (Judged(pool, judges.labels(pool.images)) for pool in pools)
    records = judgement_records(judges, fake, real, aside, context)
    update_records(folder, records, JUDGE)
    with whole_file(folder.confusion, parents=True) as stream:
        stream.write(to_csv(_confusion({"held-out": real, "generated": fake}, judges.task.classes)))
    show(records)
    return records


def judgement_records(
    judges: Judges, fake: Judged, real: Judged, aside: Judged, context: EvaluationContext
) -> list[Record]:
    """How often images are recognised as what they are, or were asked to be.

    Each judge gives one number, the record is their mean; intervals are those of `over_models`,
    over judges and over images (of held-out ones, over their groups).

    Args:
        judges: who were asked.
        fake: generated images.
        real: held-out images.
        aside: validation images, for a note.
        context: what the records say about data and run.
    """
    classes, main = judges.task.classes, main_classes(judges.trained_on)
    known = len(np.unique(judges.trained_on))
    by_rights, noted = (
        float(recognition.balanced_accuracy(side.table(len(classes))[None])[0])
        for side in (real, aside)
    )
    errs = "" if by_rights >= GOOD else f"; below {GOOD:g}, so the judges err on real images, too"
    notes = {
        "balanced_accuracy": f"of real held-out images {by_rights:.3g}; chance {1 / known:.3g}",
        "real_balanced_accuracy": f"of validation images {noted:.3g}{errs}",
    }
    whole = f"{judges.task.rule}; {CLASSICAL}; {len(judges.models)} judges"
    of_main = f"; of {', '.join(classes[k] for k in main)}"

    def record(name: str, score: Score, side: Judged) -> Record:
        found = summarize(score, side.pool.groups, notes.get(name, ""))
        groups = f"; {found.groups} groups" if side is real else ""
        which = of_main if name.startswith("main_") else ""
        return context.record(
            f"{JUDGE}{name}",
            **found.ends,
            extractor="judge",
            extractor_sha256=judges.sha256,
            n_real=found.images if side is real else 0,
            n_fake=found.images if side is fake else 0,
            rule=f"{whole}{groups}{which}",
            note=found.note,
        )

    return [
        record(name, score, side)
        for side, prefix in ((fake, ""), (real, "real_"))
        for name, score in _scores(side, prefix, classes, main).items()
    ]


def main_classes(labels: np.ndarray) -> list[int]:
    """The five classes with most images, the largest first; all where there are fewer.

    Args:
        labels: int64 [N] of the training images.
    """
    names, counts = np.unique(labels, return_counts=True)
    return names[np.argsort(-counts, kind="stable")][:NUM_MAIN].tolist()


def _scores(
    side: Judged, prefix: str, classes: Sequence[str], main: Sequence[int]
) -> dict[str, Score]:
    """By name, of all judges."""
    weights, labels = group_draws(side.pool.groups), side.pool.labels
    whole, of_main = np.ones(len(labels), bool), np.isin(labels, main)

    def of_one(said: np.ndarray) -> dict[str, Score]:
        table = recognition.confusions(labels, said, weights, len(classes))
        balanced, of_classes = recognition.balanced_accuracy, recognition.recalls(table)
        alone = {f"{prefix}accuracy": Score(recognition.accuracy(table), whole)} if prefix else {}
        return {
            f"{prefix}balanced_accuracy": Score(balanced(table), whole),
            f"main_{prefix}balanced_accuracy": Score(balanced(table, main), of_main),
            **alone,
            **{
                f"{prefix}recall/{classes[k]}": Score(of_classes[:, k], labels == k)
                for k in np.unique(labels)
            },
        }

    return of_models([of_one(said) for said in side.labels])


def _confusion(sides: Mapping[str, Judged], classes: Sequence[str]) -> Iterator[Sequence[object]]:
    yield ["images", "class", *classes]
    for name, side in sides.items():
        table = side.table(len(classes))
        for label in np.unique(side.pool.labels):
            yield [name, classes[label], *table[label].tolist()]
