"""All numbers of one run: synthetic images against a held-out split, refused ones included."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from torch import Tensor

from common.errors import UserError
from common.metrics import bootstrap, distributions, fidelity
from common.metrics.features import Extractor
from common.metrics.protocol import MetricRefused, Record

# Share of images on which a biological scalar may be unmeasurable before it is refused.
MAX_LOST = 0.2
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


def evaluate(
    real: Tensor,
    fake: Tensor,
    extractor: Extractor,
    context: EvaluationContext,
    biology_real: Mapping[str, np.ndarray] | None = None,
    biology_fake: Mapping[str, np.ndarray] | None = None,
) -> list[Record]:
    """Measures every distance; one that cannot be given is a record without value, with a note.

    Args:
        real: uint8 [N, C, H, W] of the held-out split.
        fake: uint8 [M, C, H, W], made uint8 in the same way.
        extractor: for the two image distances.
        context: what the records say about data and run.
        biology_real: biological scalars by name, [K] each, one value an image or an object.
        biology_fake: the same measurements on the synthetic images.

    Returns:
        Fréchet and kernel distance, the share of synthetic images on which the most difficult
        biological scalar can be measured, then Wasserstein and Kolmogorov-Smirnov distance of each
        scalar, in the order of its name.
    """
    biology_real, biology_fake = biology_real or {}, biology_fake or {}
    records = _image_records(real, fake, extractor, context)
    record = partial(context.record, n_real=len(real), n_fake=len(fake))
    if biology_fake:
        records.append(record("measurable_share", **_measurable(biology_real, biology_fake)))
    for name in sorted({*biology_real, *biology_fake}):
        records += _biology_records(
            name,
            biology_real.get(name),
            biology_fake.get(name),
            context.units.get(name, ""),
            record,
        )
    return records


class _Measured(NamedTuple):
    value: float | None
    low: float | None = None
    high: float | None = None
    rule: str = ""
    note: str = ""


def _image_records(
    real: Tensor, fake: Tensor, extractor: Extractor, context: EvaluationContext
) -> list[Record]:
    record = partial(
        context.record,
        extractor=extractor.name,
        extractor_sha256=extractor.sha256,
        n_real=len(real),
        n_fake=len(fake),
    )
    published = fidelity.is_published(extractor.name, extractor.sha256, real.shape[1])
    measures = {
        "FID" if published else "frechet_distance": _frechet,
        "KID" if published else "kernel_distance": _kernel,
    }
    try:
        features = _features(real, fake, extractor)
    except _REFUSALS as refusal:
        return [record(name, value=None, note=_sentence(refusal)) for name in measures]
    return [record(name, **_attempt(m, *features)._asdict()) for name, m in measures.items()]


def _features(real: Tensor, fake: Tensor, extractor: Extractor) -> tuple[Tensor, Tensor]:
    if real.shape[1:] != fake.shape[1:]:
        shapes = f"real ones are {tuple(real.shape[1:])}, synthetic ones {tuple(fake.shape[1:])}"
        raise MetricRefused(f"Images of unlike shape cannot be compared; {shapes}.")
    return extractor(real), extractor(fake)


def _frechet(real: Tensor, fake: Tensor) -> _Measured:
    """Without interval: resampling with replacement adds to the very bias that decides it."""
    note = fidelity.frechet_note(len(real), len(fake), real.shape[1])
    return _Measured(fidelity.frechet_distance(real, fake), note=note)


def _kernel(real: Tensor, fake: Tensor) -> _Measured:
    size = fidelity.kernel_subset_size(len(real), len(fake))
    subsets = 1 if size == len(real) == len(fake) else fidelity.SUBSETS
    value, deviation = fidelity.kernel_distance(real, fake, subsets, size)
    low, high = bootstrap.kernel_interval(real, fake, value, deviation / subsets**0.5)
    return _Measured(value, low, high, f"subsets={subsets} subset_size={size}")


def _measurable(real: Mapping[str, np.ndarray], fake: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Of the scalar that fails most often; needs no real image at all.

    The interval is the exact binomial one (Clopper and Pearson 1934).
    """
    worst = min(fake, key=lambda name: np.isfinite(fake[name]).mean())
    found = stats.binomtest(int(np.isfinite(fake[worst]).sum()), len(fake[worst]))
    low, high = found.proportion_ci()
    beside = f"; of the real images {np.isfinite(real[worst]).mean():.3f}" if worst in real else ""
    return {
        "value": found.statistic,
        "low": float(low),
        "high": float(high),
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
    refused = _Measured(None, note=f"Measurable on too few images: {note}.")
    records = []
    for key, (distance, of) in measures.items():
        found = refused if selected else _attempt(_with_interval, distance, real, fake)
        records.append(record(key, **of, **found._replace(note=found.note or note)._asdict()))
    return records


def _is_selected(values: np.ndarray, lost: int) -> bool:
    return lost > MAX_LOST * (len(values) + lost)


def _with_interval(
    distance: distributions.Distance, real: np.ndarray, fake: np.ndarray
) -> _Measured:
    return _Measured(distance(real, fake), *distributions.interval(distance, real, fake))


def _attempt(measure: Callable[..., _Measured], *args: Any) -> _Measured:
    try:
        return measure(*args)
    except _REFUSALS as refusal:
        return _Measured(None, note=_sentence(refusal))


def _sentence(refusal: BaseException) -> str:
    return str(refusal) or type(refusal).__name__
