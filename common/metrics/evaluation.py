"""All numbers of one run: synthetic images against a held-out split, refused ones included."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from common.metrics import bootstrap, fidelity
from common.metrics.biology_records import biology_records, measurable
from common.metrics.conditional import Estimate, class_distance, estimates, mean_distance
from common.metrics.features import Embedder
from common.metrics.kinds import class_of
from common.metrics.manifold import COVERING, covering, spread
from common.metrics.memorization import (
    REPEATING,
    REPEATING_OF_CLASS,
    Memorization,
    memorization,
    repeating,
    repeating_of_class,
)
from common.metrics.names import Names, names
from common.metrics.protocol import REFUSALS, Measured, Record, attempt, sentence
from common.metrics.sides import Looking, Side, look, look_at_clips

__all__ = [
    "Evaluation",
    "EvaluationContext",
    "Looking",
    "Side",
    "evaluate",
    "evaluate_clips",
    "look",
    "look_at_clips",
    "measured_records",
]

CLASS_DISTANCE = "class_kernel_distance"


@dataclass(frozen=True)
class EvaluationContext:
    """What every record of one evaluation shares; fields as in `Record`.

    Attributes:
        units: unit of each biological scalar by its name, such as "µm".
        channels: names of the channels; their numbers where there are none.
        groups: of the held-out images that are compared, 0 where that does not count.
        class_groups: those of them that hold images of a class, by its name.
    """

    split: str
    data: str
    preprocessing: str
    seed: int = 0
    checkpoint_sha256: str = ""
    commit: str = ""
    settings: str = ""
    imported: str = ""
    units: Mapping[str, str] = field(default_factory=dict)
    channels: Sequence[str] = ()
    groups: int = 0
    class_groups: Mapping[str, int] = field(default_factory=dict)

    def record(self, metric: str, **measured: Any) -> Record:
        """A record of this evaluation; an interval tells of no other groups, and few are noted."""
        if measured.get("low") is not None and 0 < self.groups < measured["n_real"]:
            told = f"interval about these {self.groups} groups, not about others"
            measured["note"] = "; ".join(filter(None, [measured.get("note", ""), told]))
        return Record(
            metric=metric,
            split=self.split,
            data=self.data,
            preprocessing=self.preprocessing,
            seed=self.seed,
            checkpoint_sha256=self.checkpoint_sha256,
            commit=self.commit,
            settings=self.settings,
            imported=self.imported,
            **measured,
        )


class Evaluation(NamedTuple):
    """What one evaluation gives.

    Attributes:
        records: the numbers.
        neighbours: of each synthetic image; None where that was not asked or was refused.
    """

    records: list[Record]
    neighbours: Memorization | None


def evaluate(
    real: Side,
    fake: Side,
    extractor: Embedder,
    context: EvaluationContext,
    train: Side | None = None,
) -> Evaluation:
    """Measures every distance; one that cannot be given is a record without value, with a note.

    Args:
        real: of the held-out split.
        fake: synthetic images, made uint8 in the same way.
        extractor: which gave the features.
        context: what the records say about data and run.
        train: of the images that the model was trained on; without it, whether it repeats them is
            not asked.

    Returns:
        Records and neighbours. The records: distances of the two sets, the kernel distance first
        where there are fewer than 5,000 images, those of each channel alone and of the classes; the
        classifier score of each channel; how the sets cover each other, how diverse they are,
        whether training images come back. Then the share of synthetic images on which the most
        difficult biological scalar can be measured, and Wasserstein and Kolmogorov-Smirnov distance
        of each scalar, in the order of its name. At last what there is of each class alone: kernel
        distance, and with ``train`` membership AUC and nearest ratio.
    """
    seen = _Seen(real, fake, extractor, context)
    sides = [real, fake] if train is None else [real, fake, train]
    neighbours, of_classes = None, {}
    if refusal := _refusal(sides):
        found = seen.refused(refusal, [*COVERING, *(REPEATING if train is not None else ())])
    else:
        features = [side.features for side in sides]
        of_classes = seen.class_estimates()
        found = seen.distances() | _mean_of(of_classes) | seen.scores()
        found |= _covering(*features[:2], fake.frames)
        if train is not None:
            neighbours, measured = _repeats(*features, fake.frames)
            found |= measured
    records = [*seen.records(found), *measured_records(real, fake, context)]
    return Evaluation([*records, *seen.class_records(of_classes, train)], neighbours)


def measured_records(real: Side, fake: Side, context: EvaluationContext) -> list[Record]:
    """How the biological scalars of two sets agree, and how often they can be measured.

    Args:
        real: of the held-out split.
        fake: synthetic images or clips.
        context: what the records say about data and run.
    """
    record = partial(context.record, n_real=real.count, n_fake=fake.count)
    records = []
    if fake.biology:
        records.append(record("measurable_share", **measurable(real.biology, fake.biology)))
    for name in sorted({*real.biology, *fake.biology}):
        records += biology_records(
            name,
            real.biology.get(name),
            fake.biology.get(name),
            context.units.get(name, ""),
            record,
        )
    return records


def evaluate_clips(
    real: Side, fake: Side, extractor: Embedder, context: EvaluationContext
) -> list[Record]:
    """Measures how far synthetic clips are from real ones, frames in their order.

    Args:
        real: of the held-out split, from `look_at_clips`.
        fake: synthetic clips, made uint8 in the same way.
        extractor: which gave the features; a `clip_features.ClipExtractor`.
        context: what the records say about data and run.

    Returns:
        The two distances of all channels together, the kernel distance first where there are fewer
        than 5,000 clips, then those of each channel alone where there are several.
    """
    seen = _Seen(real, fake, extractor, context, clips=True)
    refusal = _refusal([real, fake])
    return seen.records(seen.refused(refusal, []) if refusal else seen.distances())


@dataclass(frozen=True)
class _Seen:
    """Two sides, and the numbers that one extractor gives of them."""

    real: Side
    fake: Side
    extractor: Embedder
    context: EvaluationContext
    clips: bool = False

    def records(self, found: Mapping[str, Measured]) -> list[Record]:
        return [
            self.context.record(
                name,
                extractor=self.extractor.name,
                extractor_sha256=self.extractor.sha256,
                n_real=self.real.count,
                n_fake=self.fake.count,
                **self._ruled(name, measured)._asdict(),
            )
            for name, measured in found.items()
        ]

    def _ruled(self, name: str, measured: Measured) -> Measured:
        """Distances of longer clips are other numbers, and frames are those of sequences."""
        if not self.clips:
            return self._of_sequences(name, measured)
        frames = f"frames={self.real.shape[0] if self.real.shape else 0}"
        return measured._replace(rule=" ".join(filter(None, [measured.rule, frames])))

    def _of_sequences(self, name: str, measured: Measured) -> Measured:
        if self.fake.frames == 1 or measured.value is None:
            return measured
        told = f"frames of {self.real.sequences} real and {self.fake.sequences} generated sequences"
        if measured.low is not None and name in self._score_names():
            told += ", which are no independent draws; interval over frames"
        elif measured.low is not None:
            told += "; interval over sequences"
        return measured._replace(note="; ".join(filter(None, [measured.note, told])))

    def refused(self, why: str, more: Sequence[str]) -> dict[str, Measured]:
        known = self._names(self._channels())
        asked = [known.kernel, known.frechet]
        asked += [CLASS_DISTANCE] if self._has_classes() else []
        asked += list(self._score_names()) if self.extractor.classes else []
        return dict.fromkeys([*asked, *more], Measured(None, note=why))

    def distances(self) -> dict[str, Measured]:
        real, fake, channels = self.real.features, self.fake.features, self._channels()
        frames = self.fake.frames
        found = _distances(real, fake, self._names(channels), frames)
        if channels > 1:
            parts = zip(real.chunk(channels, 1), fake.chunk(channels, 1), strict=True)
            for channel, pair in zip(self._channel_names(), parts, strict=True):
                alone = _distances(*pair, self._names(1), frames)
                found |= {f"{name}/{channel}": measured for name, measured in alone.items()}
        return found

    def class_estimates(self) -> dict[str, Estimate]:
        if not self._has_classes():
            return {}
        features, labels = zip(*((s.features, s.labels) for s in self._sides), strict=True)
        return estimates(*features, *labels)

    def class_records(
        self, of_classes: Mapping[str, Estimate], train: Side | None
    ) -> Iterable[Record]:
        """One number after the other, each of every class; counts are those of the class."""
        records = []
        for name, found in of_classes.items():
            context = replace(self.context, groups=self.context.class_groups.get(name, 0))
            sides = (side.of_class(name) for side in self._sides)
            seen = _Seen(*sides, self.extractor, context)
            measured = {CLASS_DISTANCE: attempt(class_distance, found)}
            if train is not None and train.labels:
                measured |= _repeats_of_class(*seen._sides, train.of_class(name))
            records += seen.records({f"{kind}/{name}": one for kind, one in measured.items()})
        order = (CLASS_DISTANCE, *REPEATING_OF_CLASS)
        return sorted(records, key=lambda record: order.index(class_of(record.metric)[0]))

    def scores(self) -> dict[str, Measured]:
        if any(side.logits is None for side in self._sides):
            return {}
        logits = (side.logits.split(self.extractor.classes, 1) for side in self._sides)
        splits = self._names(1).splits
        parts = zip(self._score_names(), *logits, strict=True)
        return {name: attempt(_score, *pair, splits) for name, *pair in parts}

    @property
    def _sides(self) -> tuple[Side, Side]:
        return self.real, self.fake

    def _has_classes(self) -> bool:
        """Whether both sides are labelled, and not all of one class."""
        labelled = self.real.labels and self.fake.labels
        return bool(labelled) and len({*self.real.labels, *self.fake.labels}) > 1

    def _names(self, channels: int) -> Names:
        return names(self.extractor.name, self.extractor.sha256, channels, self.clips)

    def _channels(self) -> int:
        """Whose features stand side by side."""
        return 1 if self.extractor.joint or not self.real.shape else self.real.shape[-3]

    def _channel_names(self) -> Sequence[str]:
        count = self._channels()
        return self.context.channels if len(self.context.channels) == count else range(count)

    def _score_names(self) -> Iterable[str]:
        """One for each channel: probabilities of classes are not to be joined."""
        score = self._names(1).score
        alone = self._channels() == 1
        return [score] if alone else [f"{score}/{name}" for name in self._channel_names()]


def _mean_of(of_classes: Mapping[str, Estimate]) -> dict[str, Measured]:
    return {CLASS_DISTANCE: attempt(mean_distance, of_classes)} if of_classes else {}


def _refusal(sides: Iterable[Side]) -> str:
    """Why features cannot be compared, or ""."""
    real, *others = sides
    for side in others:
        if side.shape != real.shape:
            shapes = f"real ones are {real.shape}, synthetic ones {side.shape}"
            return f"Images of unlike shape cannot be compared; {shapes}."
    return next((side.refusal for side in sides if side.refusal), "")


def _distances(real: Tensor, fake: Tensor, known: Names, frames: int) -> dict[str, Measured]:
    """The one to go by stands first."""
    kernel, frechet = attempt(_kernel, real, fake, frames), attempt(_frechet, real, fake)
    found = {known.kernel: kernel, known.frechet: frechet}
    few = min(len(real), len(fake)) < fidelity.KERNEL_FIRST_BELOW
    return found if few else dict(reversed(found.items()))


def _frechet(real: Tensor, fake: Tensor) -> Measured:
    """Without interval: resampling with replacement adds to the very bias that decides it."""
    note = fidelity.frechet_note(len(real), len(fake), real.shape[1])
    return Measured(fidelity.frechet_distance(real, fake), note=note)


def _kernel(real: Tensor, fake: Tensor, frames: int) -> Measured:
    """With an interval where there are two sequences, or images, to tell apart on each side."""
    size = fidelity.kernel_subset_size(len(real), len(fake))
    subsets = 1 if size == len(real) == len(fake) else fidelity.SUBSETS
    value, deviation = fidelity.kernel_distance(real, fake, subsets, size)
    low, high = None, None
    if min(len(real), len(fake)) >= 2 * frames:
        error = deviation / subsets**0.5
        low, high = bootstrap.kernel_interval(real, fake, value, error, frames=frames)
    few = min(len(real), len(fake)) < fidelity.KERNEL_FIRST_BELOW
    note = f"the one to go by below {fidelity.KERNEL_FIRST_BELOW:,} images" if few else ""
    return Measured(value, low, high, f"subsets={subsets} subset_size={size}", note)


def _score(real: Tensor, fake: Tensor, splits: int) -> Measured:
    """With an interval over the parts; beside it the score of real images, of equally many."""
    value, deviation = fidelity.classifier_score(fake, splits)
    ends = bootstrap.parts_interval(value, deviation, splits) if splits > 1 else (None, None)
    count = min(len(real), len(fake))
    own, other = (fidelity.classifier_score(spread(s, count), splits)[0] for s in (fake, real))
    note = f"of {count} images {own:.4g}, of as many real ones {other:.4g}"
    return Measured(value, *ends, f"splits={splits}", note)


def _covering(real: Tensor, fake: Tensor, frames: int) -> dict[str, Measured]:
    try:
        return covering(real, fake, frames)
    except REFUSALS as refusal:
        return dict.fromkeys(COVERING, Measured(None, note=sentence(refusal)))


def _repeats(
    real: Tensor, fake: Tensor, train: Tensor, frames: int
) -> tuple[Memorization | None, dict[str, Measured]]:
    try:
        neighbours = memorization(train, real, fake, frames=frames)
        return neighbours, repeating(real, fake, train, neighbours, frames)
    except REFUSALS as refusal:
        return None, dict.fromkeys(REPEATING, Measured(None, note=sentence(refusal)))


def _repeats_of_class(real: Side, fake: Side, train: Side) -> dict[str, Measured]:
    try:
        return repeating_of_class(real.features, fake.features, train.features)
    except REFUSALS as refusal:
        return dict.fromkeys(REPEATING_OF_CLASS, Measured(None, note=sentence(refusal)))
