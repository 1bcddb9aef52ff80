"""All numbers of one run: synthetic images against a held-out split, refused ones included."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from common.errors import UserError
from common.metrics import bootstrap, distributions, fidelity
from common.metrics.features import Extractor, embed
from common.metrics.manifold import COVERING, covering
from common.metrics.memorization import REPEATING, repeating
from common.metrics.protocol import Measured, MetricRefused, Record

# Share of images on which a biological scalar may be unmeasurable before it is refused.
MAX_LOST = 0.2
_NAMES = {covering: COVERING, repeating: REPEATING}
_REFUSALS = (MetricRefused, UserError, ImportError, MemoryError, np.linalg.LinAlgError)


@dataclass(frozen=True)
class EvaluationContext:
    """What every record of one evaluation shares; fields as in `Record`.

    Attributes:
        units: unit of each biological scalar by its name, such as "µm".
    """

    split: str
    data: str
    preprocessing: str
    seed: int = 0
    checkpoint_sha256: str = ""
    commit: str = ""
    units: Mapping[str, str] = field(default_factory=dict)

    def record(self, metric: str, **measured: Any) -> Record:
        """A record of this evaluation."""
        return Record(
            metric=metric,
            split=self.split,
            data=self.data,
            preprocessing=self.preprocessing,
            seed=self.seed,
            checkpoint_sha256=self.checkpoint_sha256,
            commit=self.commit,
            **measured,
        )


@dataclass(frozen=True)
class Side:
    """One set of images as it was seen; the images themselves are not kept.

    Attributes:
        count: images.
        shape: [C, H, W] of each.
        features: [N, D], None where there can be none, and `refusal` says why.
        biology: biological scalars by name, one value an image.
        refusal: one sentence, or "".
    """

    count: int
    shape: tuple[int, ...]
    features: Tensor | None
    biology: Mapping[str, np.ndarray]
    refusal: str = ""


def look(images: Iterable[tuple[np.ndarray, Mapping[str, float]]], extractor: Extractor) -> Side:
    """Takes in images one by one.

    Args:
        images: uint8 [C, H, W] of one shape, each with its biological scalars.
        extractor: what turns them into features.
    """
    shapes, scalars = [], []

    def pixels() -> Iterator[np.ndarray]:
        for image, measured in images:
            shapes.append(image.shape)
            scalars.append(measured)
            yield image

    stream = pixels()
    try:
        features, refusal = embed(stream, extractor), ""
    except MetricRefused as refused:
        features, refusal = None, _sentence(refused)
        for _ in stream:
            pass
    names = scalars[0] if scalars else {}
    biology = {name: np.array([row[name] for row in scalars]) for name in names}
    return Side(len(shapes), shapes[0] if shapes else (), features, biology, refusal)


def evaluate(
    real: Side,
    fake: Side,
    extractor: Extractor,
    context: EvaluationContext,
    train: Side | None = None,
) -> list[Record]:
    """Measures every distance; one that cannot be given is a record without value, with a note.

    Args:
        real: of the held-out split.
        fake: synthetic images, made uint8 in the same way.
        extractor: which gave the features.
        context: what the records say about data and run.
        train: of the images that the model was trained on; without it, whether it repeats them is
            not asked.

    Returns:
        Distances of the two sets, how they cover each other, how diverse they are, whether training
        images come back; then the share of synthetic images on which the most difficult biological
        scalar can be measured, and Wasserstein and Kolmogorov-Smirnov distance of each scalar, in
        the order of its name.
    """
    records = _image_records(real, fake, extractor, context, train)
    record = partial(context.record, n_real=real.count, n_fake=fake.count)
    if fake.biology:
        records.append(record("measurable_share", **_measurable(real.biology, fake.biology)))
    for name in sorted({*real.biology, *fake.biology}):
        records += _biology_records(
            name,
            real.biology.get(name),
            fake.biology.get(name),
            context.units.get(name, ""),
            record,
        )
    return records


def _image_records(
    real: Side,
    fake: Side,
    extractor: Extractor,
    context: EvaluationContext,
    train: Side | None,
) -> list[Record]:
    record = partial(
        context.record,
        extractor=extractor.name,
        extractor_sha256=extractor.sha256,
        n_real=real.count,
        n_fake=fake.count,
    )
    published = bool(real.shape) and fidelity.is_published(
        extractor.name, extractor.sha256, real.shape[0]
    )
    distances = {
        "FID" if published else "frechet_distance": _frechet,
        "KID" if published else "kernel_distance": _kernel,
    }
    sides = [real, fake] if train is None else [real, fake, train]
    if refusal := _refusal(sides):
        names = [*distances, *COVERING, *(REPEATING if train is not None else ())]
        return [record(name, value=None, note=refusal) for name in names]
    seen = [side.features for side in sides]
    found = {name: _attempt(measure, *seen[:2]) for name, measure in distances.items()}
    found |= _all_of(covering, *seen[:2])
    if train is not None:
        found |= _all_of(repeating, *seen)
    return [record(name, **measured._asdict()) for name, measured in found.items()]


def _refusal(sides: Iterable[Side]) -> str:
    """Why features cannot be compared, or ""."""
    real, *others = sides
    for side in others:
        if side.shape != real.shape:
            shapes = f"real ones are {real.shape}, synthetic ones {side.shape}"
            return f"Images of unlike shape cannot be compared; {shapes}."
    return next((side.refusal for side in sides if side.refusal), "")


def _frechet(real: Tensor, fake: Tensor) -> Measured:
    """Without interval: resampling with replacement adds to the very bias that decides it."""
    note = fidelity.frechet_note(len(real), len(fake), real.shape[1])
    return Measured(fidelity.frechet_distance(real, fake), note=note)


def _kernel(real: Tensor, fake: Tensor) -> Measured:
    size = fidelity.kernel_subset_size(len(real), len(fake))
    subsets = 1 if size == len(real) == len(fake) else fidelity.SUBSETS
    value, deviation = fidelity.kernel_distance(real, fake, subsets, size)
    low, high = bootstrap.kernel_interval(real, fake, value, deviation / subsets**0.5)
    return Measured(value, low, high, f"subsets={subsets} subset_size={size}")


def _measurable(real: Mapping[str, np.ndarray], fake: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Of the scalar that fails most often; needs no real image at all."""
    worst = min(fake, key=lambda name: np.isfinite(fake[name]).mean())
    seen = np.isfinite(fake[worst])
    low, high = bootstrap.share_interval(int(seen.sum()), len(seen))
    beside = f"; of the real images {np.isfinite(real[worst]).mean():.3f}" if worst in real else ""
    return {
        "value": float(seen.mean()),
        "low": low,
        "high": high,
        "note": f"lowest for {worst}{beside}",
    }


def _biology_records(
    name: str,
    real: np.ndarray | None,
    fake: np.ndarray | None,
    unit: str,
    record: Callable[..., Record],
) -> list[Record]:
    measures = {
        f"wasserstein/{name}": (distributions.wasserstein, {"unit": unit}),
        f"kolmogorov_smirnov/{name}": (distributions.kolmogorov_smirnov, {}),
    }
    if real is None or fake is None:
        note = f"Measured on the {'synthetic' if real is None else 'real'} images only."
        return [record(key, value=None, note=note, **of) for key, (_, of) in measures.items()]
    (real, lost_real), (fake, lost_fake) = distributions.finite(real), distributions.finite(fake)
    counts = f"{len(real)} real and {len(fake)} synthetic values"
    note = f"{counts}, {lost_real} and {lost_fake} more not measurable"
    # What is left would be the best of a set, and its distance no statement about the set.
    selected = any(_is_selected(*side) for side in ((real, lost_real), (fake, lost_fake)))
    refused = Measured(None, note=f"Measurable on too few images: {note}.")
    records = []
    for key, (distance, of) in measures.items():
        found = refused if selected else _attempt(_with_interval, distance, real, fake)
        records.append(record(key, **of, **found._replace(note=found.note or note)._asdict()))
    return records


def _is_selected(values: np.ndarray, lost: int) -> bool:
    return lost > MAX_LOST * (len(values) + lost)


def _with_interval(
    distance: distributions.Distance, real: np.ndarray, fake: np.ndarray
) -> Measured:
    return Measured(distance(real, fake), *distributions.interval(distance, real, fake))


def _all_of(measures: Callable[..., dict[str, Measured]], *args: Any) -> dict[str, Measured]:
    try:
        return measures(*args)
    except _REFUSALS as refusal:
        return dict.fromkeys(_NAMES[measures], Measured(None, note=_sentence(refusal)))


def _attempt(measure: Callable[..., Measured], *args: Any) -> Measured:
    try:
        return measure(*args)
    except _REFUSALS as refusal:
        return Measured(None, note=_sentence(refusal))


def _sentence(refusal: BaseException) -> str:
    return str(refusal) or type(refusal).__name__
