"""`croissant.json`: a generated set as MLCommons' Croissant 1.1 describes it to programs.

Vocabulary: https://docs.mlcommons.org/croissant/docs/croissant-spec.html, its extension for
responsible AI, https://schema.org and PROV-O. Everything refers to files beside it.
"""

import json
from collections.abc import Set
from typing import Any

from common.cards import parts
from common.cards.data_card import pixel_size, title
from common.cards.markdown import one_line
from common.cards.model_card import data_set_name
from common.cards.origin import Origin
from common.cards.subject import INTENDED, LIMITS, OUT_OF_SCOPE, Subject
from common.generation import ANNOTATED, ANNOTATIONS, MANIFEST
from common.tables import GUARDED

_CONFORMS = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
# Names of the vocabulary that stand for themselves with "cr:" in front.
_TERMS = (
    *("arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field"),
    *("fileObject", "fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset"),
    *("jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex"),
    *("repeated", "replace", "samplingRate", "separator", "source", "subField", "transform"),
)
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{name: f"cr:{name}" for name in _TERMS},
}
_IMAGES = "image-files"
_ASKED = (
    f"One row a structure that an image was asked to show; columns: {', '.join(ANNOTATED)}, the "
    "last two as shares of its width and height. Nobody has looked whether the image shows it."
)
_RECORDS = "images"
# A spreadsheet would compute what begins like this, so the table has an apostrophe before it.
_GUARD = r"(?s)'?(.*)"
# What pandas takes for an empty cell, and mlcroissant reads tables with pandas. Croissant has no
# word for the type of a column.
_NOTHING = {
    *("#N/A", "#N/A N/A", "#NA", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None"),
    *("n/a", "nan", "null"),
}
_GUESSED = (
    "Readers that guess types, such as pandas and with it mlcroissant, take labels of this set for "
    "numbers, for true and false or for nothing; the table holds them as text."
)


def croissant(
    subject: Subject, archive: str, sha256: str, creator: str = "", published: str = ""
) -> str:
    """The metadata as JSON.

    Args:
        subject: a run with samples.
        archive: name of the file beside it that holds them.
        sha256: of that file.
        creator: who publishes them, "" where nobody does.
        published: day of it, "" where it is not.
    """
    values = _about(subject) | _responsible(subject) | _sources(subject)
    if creator:
        values["creator"] = {"@type": "sc:Organization", "name": one_line(creator)}
    if published:
        values["datePublished"] = published
    values |= {"distribution": _files(subject, archive, sha256), "recordSet": [_records(subject)]}
    return json.dumps(values, indent=1) + "\n"


def _about(subject: Subject) -> dict[str, Any]:
    made, run = subject.samples, subject.folder
    name = f"{run.experiment}-{run.run_id}-samples"
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": _CONFORMS,
        "name": name,
        "alternateName": title(subject),
        "description": f"SYNTHETIC: {len(made.rows)} images drawn by a generative model; none "
        f"shows a specimen. {subject.origin.value} {parts.labels(subject)} "
        f"Pixel size: {pixel_size(subject)}.",
        "url": "data_card.md",
        "license": {"@type": "sc:CreativeWork", "name": subject.licence},
        "version": f"1.0.0+{made.manifest_sha256[:12]}",
        "keywords": ["synthetic", "microscopy", run.experiment],
        "citeAs": f"{title(subject)}; checkpoint SHA-256 {subject.sha256}, seeds "
        f"{made.seeds[0]} to {made.seeds[-1]}",
        "digitalSourceType": {"@id": "sc:TrainedAlgorithmicMediaDigitalSource"},
        "rai:hasSyntheticData": True,
    }


def _responsible(subject: Subject) -> dict[str, Any]:
    simulated = subject.origin is Origin.SIMULATED
    person = (
        "None: the model was trained on simulated images."
        if simulated
        else "Not examined. The model was trained on images that were given to it; if these are of "
        "patients, an image that repeats one of them tells of a patient."
    )
    copies = [] if simulated else parts.copies(subject)
    return {
        "rai:dataCollection": "No image was taken of anything: a model drew each from a seed.",
        "rai:dataCollectionType": ["Synthetic"],
        "rai:dataAnnotationProtocol": parts.labels(subject),
        "rai:dataUseCases": parts.stated_plainly(subject, INTENDED) or ["None is stated."],
        "rai:dataLimitations": [
            *(f"Out of scope: {line}" for line in parts.stated_plainly(subject, OUT_OF_SCOPE)),
            *parts.stated_plainly(subject, LIMITS),
            *(one_line(line, 1000) for line in parts.run_limits(subject)),
        ],
        "rai:dataBiases": _biases(subject),
        "rai:dataSocialImpact": "Synthetic micrographs can be taken for real ones: whoever passes "
        "them on must pass on that they are synthetic.",
        "rai:personalSensitiveInformation": [person, *(one_line(line, 1000) for line in copies)],
    }


def _biases(subject: Subject) -> list[str]:
    """Whatever the training images were biased to, the model learnt."""
    counts = subject.facts["counts"]["train"]
    names = subject.facts["classes"]
    share = ", ".join(f"{one_line(name)}: {counts.get(name, 0)}" for name in names)
    classes = [f"Training images by class: {share}."] if names else []
    return [*classes, "The model repeats what its training images were selected and shaped by."]


def _sources(subject: Subject) -> dict[str, Any]:
    run = subject.folder
    source = data_set_name(subject), f"fingerprint {subject.facts['manifest_sha256']}"
    if subject.imported:
        source = "weights that were trained elsewhere", one_line(subject.imported)
    return {
        "prov:wasDerivedFrom": {
            "@type": "prov:Entity",
            "prov:label": source[0],
            "sc:identifier": source[1],
        },
        "prov:wasGeneratedBy": {
            "@type": "prov:Activity",
            "prov:label": f"make generate EXP={run.experiment} RUN={run.run_id}",
            "sc:identifier": f"checkpoint SHA-256 {subject.sha256}",
        },
    }


def _files(subject: Subject, archive: str, sha256: str) -> list[dict[str, Any]]:
    made = subject.samples
    inside = {"containedIn": {"@id": archive}}
    columns, digest = ", ".join(made.rows[0]), made.annotations_sha256
    return [
        {
            "@type": "cr:FileObject",
            "@id": archive,
            "name": archive,
            "description": "All images and their table, not compressed.",
            "contentUrl": archive,
            "encodingFormat": "application/zip",
            "sha256": sha256,
        },
        _table(MANIFEST, f"One row an image; columns: {columns}.", made.manifest_sha256) | inside,
        *([_table(ANNOTATIONS, _ASKED, digest) | inside] if digest else []),
        {
            "@type": "cr:FileSet",
            "@id": _IMAGES,
            "name": _IMAGES,
            "description": f"The images, {made.dtype}; channels: "
            f"{', '.join(map(one_line, subject.facts['channels']))}.",
            **inside,
            "encodingFormat": "image/png" if made.suffix == ".png" else "image/tiff",
            "includes": f"{'*/' * made.rows[0]['name'].count('/')}*{made.suffix}",
        },
    ]


def _table(name: str, what: str, sha256: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "description": what,
        "contentUrl": name,
        "encodingFormat": "text/csv",
        "sha256": sha256,
    }


def _records(subject: Subject) -> dict[str, Any]:
    # The images come first: of two joined sources, mlcroissant reads the files of the first.
    fields = [
        _field("name", "sc:Text", "File name.", _file("fullpath"), references=_column("name")),
        _field("seed", "sc:Integer", "Makes this image again.", _column("seed")),
    ]
    if subject.facts["classes"]:
        what = "Class that the model was asked for; nobody has looked whether the image shows it."
        told = f"{what} {_GUESSED}" if is_guessed({*subject.samples.counts}) else what
        fields.append(_field("label", "sc:Text", told, _label(subject)))
    fields.append(_field("image", "sc:ImageObject", "Pixels, synthetic.", _file("content")))
    return {
        "@type": "cr:RecordSet",
        "@id": _RECORDS,
        "name": _RECORDS,
        "description": "One record an image.",
        "key": {"@id": f"{_RECORDS}/name"},
        "field": fields,
    }


def _label(subject: Subject) -> dict[str, Any]:
    source = _column("label")
    guarded = any(name.startswith(GUARDED) for name in subject.samples.counts)
    return source | {"transform": {"regex": _GUARD}} if guarded else source


def is_guessed(labels: Set[str]) -> bool:
    """Whether a reader that guesses types takes a column of these labels for something else.

    A column is numbers, or true and false, only where all of it is; with a sign in front it is
    guarded, and text.
    """
    if labels & _NOTHING:
        return True
    numbers = all(_is_number(label) and not label.startswith(GUARDED) for label in labels)
    return numbers or all(label.lower() in ("true", "false") for label in labels)


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    # Python alone reads 1_000 and digits of other scripts.
    return label.isascii() and "_" not in label


def _file(what: str) -> dict[str, Any]:
    return {"fileSet": {"@id": _IMAGES}, "extract": {"fileProperty": what}}


def _column(name: str) -> dict[str, Any]:
    return {"fileObject": {"@id": MANIFEST}, "extract": {"column": name}}


def _field(name: str, kind: str, what: str, source: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{_RECORDS}/{name}",
        "name": name,
        "description": what,
        "dataType": kind,
        "source": source,
        **more,
    }
