"""`data_card.md`: what a generated set of images is, and what it is not."""

from typing import Any

from common.cards import parts
from common.cards.evaluation import evaluation
from common.cards.licence import HEAD
from common.cards.markdown import bullets, code, head, one_line, page, table, text
from common.cards.samples import Samples
from common.cards.subject import Subject
from common.data.windows import text_of
from common.generation import ANNOTATIONS, MANIFEST
from common.image_tables import FOR_WHOM, NEAR_COPIES

_SYNTHETIC = "SYNTHETIC. A generative model drew every image of this set; none shows a specimen."
# As Hugging Face sorts them: number of images, and the name of the class that ends there.
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))


def data_card(subject: Subject, archive: str, creator: str = "", published: str = "") -> str:
    """The whole card in Markdown.

    Args:
        subject: a run with samples.
        archive: name of the file that holds them.
        creator: who publishes them, "" where nobody does.
        published: day of it, "" where it is not.
    """
    run, made = subject.folder, subject.samples
    return page(
        [
            head(_head(subject)),
            f"# {text(title(subject))}",
            f"> **{_SYNTHETIC}**",
            f"> **{subject.origin.value}**",
            "## What it is",
            f"{len(made.rows):,} images in {code(archive)}, with {_tables(made)}, "
            f"drawn by run {code(run.run_id)} of {code(run.experiment)} (see `model_card.md`). "
            "`croissant.json` describes them to programs, in Python: "
            '`mlcroissant.Dataset("croissant.json").records("images")`.',
            bullets(_what(subject, creator, published)),
            "## Classes",
            text(parts.labels(subject), 600),
            _classes(subject),
            *parts.use(subject),
            *evaluation(subject),
            "## Limits",
            bullets(parts.limits(subject)),
            *parts.provenance(subject),
            *parts.again(subject),
        ]
    )


def title(subject: Subject) -> str:
    """Name of the set, for people."""
    return f"Synthetic images of {subject.folder.experiment}, run {subject.folder.run_id}"


def pixel_size(subject: Subject) -> str:
    """What is known of it."""
    size, canvas = subject.facts["pixel_size_um"], subject.facts["image_size"]
    if size is None:
        return "unknown"
    if subject.samples.is_resampled:
        return f"{size:g} µm, that of the files that the model was trained on"
    if subject.facts["canvas_pixel_size_um"]:
        rows, columns = subject.facts["canvas_pixel_size_um"]
        return f"{columns:g} µm" if rows == columns else f"{rows:g} µm high, {columns:g} µm wide"
    return (
        f"{size:g} µm in the files that the model was trained on; where their longer side was not "
        f"{canvas} px they were scaled to it, and pixels are larger or smaller here accordingly"
    )


def _head(subject: Subject) -> dict[str, Any]:
    count = len(subject.samples.rows)
    size = next((name for end, name in _SIZES if count < end), "n>1M")
    return {
        "pretty_name": one_line(title(subject)),
        **HEAD,
        "annotations_creators": ["machine-generated"],
        "size_categories": [size],
        "tags": ["synthetic", "microscopy", subject.folder.experiment],
    }


def _what(subject: Subject, creator: str, published: str) -> list[str]:
    made, facts = subject.samples, subject.facts
    window = text(text_of(facts["window"], facts["channels"]))
    kind = "PNG" if made.suffix == ".png" else "OME-TIFF"
    return [
        *_warning(made),
        f"files: {kind}, {code(made.dtype)}, channels {', '.join(map(code, facts['channels']))}",
        f"size: {_span(made.heights)} px high, {_span(made.widths)} px wide, {_origin(subject)}",
        f"grey values: {window} is the window of the training data",
        f"pixel size: {text(pixel_size(subject))}",
        f"seeds: {made.seeds[0]} to {made.seeds[-1]}, one an image",
        *_settings(made),
        f"licence: {text(subject.licence, 1000)}",
        _published(subject, creator, published),
    ]


def _tables(made: Samples) -> str:
    if not made.annotations_sha256:
        return f"their table {code(MANIFEST)}"
    asked = f"{code(ANNOTATIONS)}, where the structures are that each was asked to show"
    return f"their tables {code(MANIFEST)} and {asked}"


def _warning(made: Samples) -> list[str]:
    if not made.is_around_training:
        return []
    return [f"**origin: {NEAR_COPIES}**; {FOR_WHOM}"]


def _settings(made: Samples) -> list[str]:
    told = ", ".join(f"{code(name)} {text(str(value))}" for name, value in made.settings.items())
    return [f"settings of the model other than in training: {told}"] if told else []


def _origin(subject: Subject) -> str:
    canvas = f"cut from a canvas of {subject.facts['image_size']} px"
    if not subject.samples.is_resampled:
        return canvas
    return f"{canvas} and resampled to sizes of the training images; that adds no detail"


def _published(subject: Subject, creator: str, published: str) -> str:
    if creator:
        return f"published by: {text(creator)}{f' on {text(published)}' if published else ''}"
    if published:
        return f"published on: {text(published)}"
    words = ["--creator", "NAME", "--published", "YYYY-MM-DD"]
    command = parts.command(subject, "card", args=words)
    return f"published by: nobody yet; to state it: {code(command)}"


def _span(sizes: tuple[int, int]) -> str:
    low, high = sizes
    return str(low) if low == high else f"{low} to {high}"


def _classes(subject: Subject) -> str:
    counts = subject.samples.counts
    if not subject.facts["classes"]:
        return ""
    rows = [(code(name), str(counts.get(name, 0))) for name in subject.facts["classes"]]
    return table(("class", "images"), rows)
