"""`model_card.md`: what a model is, what it was trained on, and how far it can be trusted."""

from typing import Any

from common.cards import parts
from common.cards.evaluation import evaluation
from common.cards.licence import HEAD
from common.cards.markdown import block, bullets, code, head, one_line, page, prose, table, text
from common.cards.origin import Origin
from common.cards.subject import Subject
from common.data.manifest import SPLITS
from common.data.windows import text_of
from common.metrics.protocol import Record
from common.privacy import PRIVATE

# Of the configuration, what made the model; the rest is about this machine or this start.
_PROCEDURE = (
    *("seed_everything", "skip_bad", "model.", "data.", "hardware.", "ema.", "budget."),
    *("trainer.accelerator", "trainer.strategy", "trainer.devices", "trainer.num_nodes"),
    *("trainer.precision", "trainer.max_epochs", "trainer.max_steps"),
    *("trainer.accumulate_grad_batches", "trainer.gradient_clip", "trainer.deterministic"),
)
_TAGS = {
    Origin.SIMULATED: ["simulated-training-data"],
    Origin.UNKNOWN: ["origin-of-training-data-unknown"],
    Origin.GIVEN: [],
    Origin.IMPORTED: ["imported-weights"],
}
_DATA_SETS = {
    Origin.SIMULATED: "simulated by this repository's code, a stand-in for: {}",
    Origin.UNKNOWN: "images of unknown origin, in the layout of: {}",
    Origin.GIVEN: "images that were given, said to be in the layout of: {}",
}
# Simulated images have none of the problems that real ones have, and others instead.
_ABOUT_REAL = (
    "The data card describes the real data set. Its simulated stand-in, which this model was "
    "trained on, shares layout and classes with it; which of these problems it imitates, the "
    "simulator's source says."
)
_ABOUT_OTHERS = (
    "The training images have the layout and the classes that the data card describes. Whether "
    "they are of its data set, and so have these problems, the run does not record."
)
_NOT_SHOWN = ("data.root", "data.workspace", "data.card", "data.seed", "data.skip_bad")


def model_card(subject: Subject) -> str:
    """The whole card in Markdown."""
    run = subject.folder
    return page(
        [
            head(_head(subject)),
            f"# {text(run.experiment)}, run {text(run.run_id)}",
            f"> **{subject.origin.value}**",
            "## What it is",
            prose(subject.readme.get("", "")),
            bullets(_what(subject)),
            *parts.use(subject),
            *_training_data(subject),
            *_training(subject),
            *evaluation(subject),
            "## Limits",
            bullets(parts.limits(subject)),
            *parts.provenance(subject),
            *_repeated(subject),
            *parts.again(subject),
        ]
    )


def data_set_name(subject: Subject) -> str:
    """What the run's own images are, as far as it knows; never the data set by name."""
    return one_line(_DATA_SETS[subject.compared].format(subject.card.title))


def _head(subject: Subject) -> dict[str, Any]:
    run = subject.folder
    results = _results(subject)
    index = {"name": f"{run.experiment}/{run.run_id}", "results": results}
    return {
        **HEAD,
        "library_name": "pytorch-lightning",
        "tags": ["microscopy", "image-generation", run.experiment, *_TAGS[subject.origin]],
        **({"model-index": [index]} if results else {}),
    }


def _results(subject: Subject) -> list[dict[str, Any]]:
    """The numbers as Hugging Face lists them; a protocol tells what may be compared with each."""
    by_split = dict[str, list[Record]]()
    # The name of the data card would stand for its data set.
    kind = f"{subject.folder.experiment}-{subject.compared.name.lower()}"
    for record in subject.records:
        if record.value is not None:
            by_split.setdefault(record.split, []).append(record)
    return [
        {
            "task": {"type": "image-generation"},
            "dataset": {"type": kind, "name": data_set_name(subject), "split": one_line(split)},
            "metrics": [_metric(record) for record in records],
        }
        for split, records in by_split.items()
    ]


def _metric(record: Record) -> dict[str, Any]:
    beside = f"{record.extractor}, " if record.extractor else ""
    name = one_line(f"{record.metric} ({beside}protocol {record.protocol})")
    return {"type": one_line(record.metric), "value": record.value, "name": name}


def _what(subject: Subject) -> list[str]:
    facts, config = subject.facts, subject.config
    path = config["model.class_path"].shown if "model.class_path" in config else "unknown"
    size, window = facts["image_size"], text(text_of(facts["window"], facts["channels"]))
    classes = ", ".join(map(code, facts["classes"]))
    return [
        f"model: {code(path.rpartition('.')[2])}, {subject.parameters:,} numbers in its weights",
        f"images: canvas of {size} x {size} px, pixel type {code(facts['storage']['source'])}, "
        f"grey values {window}",
        f"channels: {', '.join(map(code, facts['channels']))}",
        f"classes: {classes or 'none'}",
        f"licence: {text(subject.licence, 1000)}",
    ]


def _training_data(subject: Subject) -> list[str]:
    card = subject.card
    group = f"{code(card.group_kind)}; a group lies whole in one split"
    said = bullets(
        [
            f"data card: {code(subject.card_name)}, {text(card.title)}",
            f"the data set that it describes is found at: {code(card.url)}",
            f"licence of that data set: {text(card.licence)}",
            f"group: {group}",
        ]
    )
    several = (
        f"The run was trained on {subject.data_sets} data sets one after the other; what follows "
        "is of the last one."
    )
    return [
        "## Training data",
        subject.origin.value,
        said,
        several if subject.data_sets > 1 else "",
        _counts(subject),
        "### Known problems of the data set that the data card describes",
        _ABOUT_REAL if subject.origin is Origin.SIMULATED else _ABOUT_OTHERS,
        prose(subject.problems) or "The data card names none.",
    ]


def _counts(subject: Subject) -> str:
    counts = subject.facts["counts"]
    names = subject.facts["classes"] or [""]
    rows = [(code(name or "all"), *(counts[s].get(name, 0) for s in SPLITS)) for name in names]
    if len(names) > 1:
        rows.append(("all", *(sum(counts[split].values()) for split in SPLITS)))
    header = ("class", "train", "validation", "test (held out)")
    return table(header, [(name, *map(str, numbers)) for name, *numbers in rows])


def _training(subject: Subject) -> list[str]:
    seen, images = subject.images_seen, subject.train_images
    rows = [
        (code(key), code(setting.shown))
        for key, setting in subject.config.items()
        if key.startswith(_PROCEDURE) and key not in _NOT_SHOWN
        if setting.value != "null" and setting.shown != PRIVATE
    ]
    return [
        "## Training procedure",
        f"Since the import of {code(subject.imported)}:" if subject.imported else "",
        f"{seen:,} images seen, {seen / images:.1f} times each of the {images:,} in the training "
        "split. The settings, as `config.yaml` holds them; `auto` was decided by the machine, and "
        "which machine that was is not told:",
        table(("setting", "value"), rows),
    ]


def _repeated(subject: Subject) -> list[str]:
    run = subject.folder
    path = f"runs/{run.experiment}/{run.run_id}/config.yaml"
    if not subject.imported:
        again = f"make train EXP={run.experiment} CONFIG={path} RUN=again"
        return ["The training is repeated with:", block([again])]
    again = [f"make import-published EXP={run.experiment} CONFIG={path} WEIGHTS=file RUN=again"]
    if subject.images_seen:
        again.append(f"make train EXP={run.experiment} RUN=again RESUME=1")
    return ["The run is repeated, with that file of weights, by:", block(again)]
