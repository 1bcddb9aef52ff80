"""The numbers of a run in its cards: each verb's own table, and why numbers are missing."""

from collections.abc import Sequence

from common.cards.markdown import block, bullets, code, table, text
from common.cards.parts import code_of, command
from common.cards.subject import Subject
from common.metrics.kinds import CONTINUATION, JUDGE, SINGLE, UTILITY, class_of, verb_of
from common.metrics.protocol import Record

_COMPARED = "An interval is about the images that were measured, not about another training."
_WORTH = (
    "Score, on held-out images, of models that were trained on real images, on generated ones, or "
    "on both. In a name, `classical` is augmentation as without a generator, the number is the "
    "percentage of the real training images, and `gain` is the difference to the line that the "
    "note names; n real counts the held-out images. An interval is about other models and other "
    "held-out groups, not about another training of this generator."
)
_RECOGNISED = (
    "What classifiers see that were trained on real images alone: how often a generated image is "
    "recognised as the class that it was asked to be, and, as `real`, how often a held-out image "
    "is recognised as what it is; `main` is of the most frequent classes. An interval is about "
    "other images and other judges."
)
_WENT_ON = (
    "Held-out recordings of which the model saw the first frames alone and added what may follow: "
    "how far its frames are from the true ones, and, as `repeated`, how far the last known frame "
    "is, shown again and again; a `gain` above 0 is in favour of the model. Of what is measured in "
    "cells: the median in the first known and in the last added frame, and the share of added "
    "frames in the range of training frames."
)
_SECTIONS = {
    "": ("### Against held-out images", _COMPARED),
    JUDGE: ("### What a judge recognises", _RECOGNISED),
    UTILITY: ("### What the images are worth to a task", _WORTH),
    CONTINUATION: ("### How recordings go on", _WENT_ON),
}


def evaluation(subject: Subject) -> list[str]:
    """The records as tables, those of each verb, and the refused ones with their reasons."""
    title = "## Evaluation"
    if not subject.records:
        first = [] if subject.samples else [command(subject, "generate", "N=1000")]
        lines = block([*first, command(subject, "evaluate")])
        return [title, "Nothing was measured. These commands measure:", lines]
    of_all = [record for record in subject.records if not class_of(record.metric)[1]]
    found = [title, "Numbers of different protocols must not be compared."]
    for verb, words in _SECTIONS.items():
        numbers = [record for record in of_all if verb_of(record.metric) == verb]
        if numbers:
            found += [*words, *_numbers(numbers)]
    if left := len(subject.records) - len(of_all):
        found += [f"Left out here: {left} numbers of {SINGLE}, in `records.jsonl`."]
    return found


def _numbers(records: Sequence[Record]) -> list[str]:
    """How they were measured, the numbers, and why others are missing."""
    measured = [record for record in records if record.value is not None]
    shared = _shared([record.rule for record in measured])
    reasons: dict[str, list[str]] = {}
    for record in records:
        if record.value is None:
            reasons.setdefault(record.note, []).append(code(record.metric))
    return [
        bullets([*_how(records), *([f"all numbers: {text('; '.join(shared))}"] if shared else [])]),
        _table(measured, shared) if measured else "Every metric was refused.",
        "Refused, with the reason:" if reasons else "",
        bullets(f"{', '.join(names)}: {text(note)}" for note, names in reasons.items()),
    ]


def _how(records: Sequence[Record]) -> list[str]:
    """What holds for all of them; where records differ, everything that holds for some."""
    real = (f"split {code(one.split)}, fingerprint {code(one.data[:16])}" for one in records)
    lines = {
        "real side": real,
        "both sides": (text(one.preprocessing) for one in records),
        "weights": (f"imported from {code(x.imported)}" for x in records if x.imported),
        "code that measured": (code_of(one.commit) for one in records),
        "settings other than in training": (code(x.settings) for x in records if x.settings),
    }
    told = {name: " or ".join(dict.fromkeys(values)) for name, values in lines.items()}
    return [f"{name}: {words}" for name, words in told.items() if words]


def _shared(rules: Sequence[str]) -> list[str]:
    """The clauses that several rules have in common; said once, they are read."""
    if len(rules) < 2:
        return []
    clauses = [rule.split("; ") for rule in rules]
    return [one for one in clauses[0] if one and all(one in others for others in clauses)]


def _table(records: Sequence[Record], shared: Sequence[str]) -> str:
    """Without the column of extractors where no record has one, and without what rules share."""
    extracted = any(record.extractor for record in records)
    extractor = ["extractor"] if extracted else []
    header = ("metric", "value", "95 % interval", "n real / generated", *extractor, "split")
    rows = [_row(record, shared, extracted) for record in records]
    return table((*header, "protocol", "note"), rows)


def _row(record: Record, shared: Sequence[str], extracted: bool) -> tuple[str, ...]:
    unit = f" {text(record.unit)}" if record.unit else ""
    interval = f"{record.low:.4g} to {record.high:.4g}" if record.low is not None else ""
    own = [clause for clause in record.rule.split("; ") if clause not in shared]
    extractor = [code(record.extractor) if record.extractor else ""] if extracted else []
    return (
        code(record.metric),
        f"{record.value:.4g}{unit}",
        interval,
        f"{record.n_real} / {record.n_fake}",
        *extractor,
        code(record.split),
        code(record.protocol),
        text("; ".join(filter(None, [*own, record.note]))),
    )
