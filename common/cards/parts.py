"""What model card and data card both say: use, limits, where it comes from."""

import json
import re
import shlex
from collections.abc import Sequence

from common.cards.markdown import (
    block,
    bullets,
    code,
    inline,
    one_line,
    paragraphs,
    plain,
    prose,
    text,
)
from common.cards.origin import Origin
from common.cards.subject import INTENDED, LIMITS, OUT_OF_SCOPE, Subject
from common.generation import MANIFEST
from common.metrics.memorization import CHANCE, THRESHOLD
from common.metrics.names import LEAKAGE
from common.metrics.protocol import Record

_RULES = {
    "data": "drawn for each seed, with the class frequencies of the training split",
    "balanced": "the classes in turn",
}
# How each is measured, where it is not by the features.
_COPIED = {"copied_share": "", "coarse_copied_share": "By what they show on the whole: "}
# A share that may be greater than this is not known to be chance: beside 1,000 held-out images, its
# interval ends below with none of 191 images copied, or 9 of 1,000.
_TWICE_CHANCE = 2 * CHANCE
_SIMULATED = (
    "Simulated: distances are to simulated images that were held out. They tell how well the "
    "simulator is imitated, not how real the images look."
)
_GROUP = (
    "The group of the data set is the single image: images of one specimen can lie on both sides "
    "of the split, so every held-out number is optimistic."
)
_GROUP_OF_SIMULATED = (
    "The group of the data set is the single image. Simulated ones are independent of each other; "
    "real ones of one specimen would lie on both sides of the split."
)

# What each counts, in pairs of a held-out and a training image.
_LEAKED = {
    LEAKAGE[0]: "are the same picture, altered copies, or of one group",
    LEAKAGE[1]: "look the same",
}


def command(subject: Subject, verb: str, *words: str, args: Sequence[str] = ()) -> str:
    """A command as it is typed in a clone of the repository."""
    run = subject.folder
    joined = shlex.join(args)
    plainly = not set(joined) & set('"$`\\!')
    quoted = f'"{joined}"' if plainly else shlex.quote(joined.replace("$", "$$"))
    more = [f"ARGS={quoted}"] if args else []
    return " ".join([f"make {verb} EXP={run.experiment} RUN={run.run_id}", *words, *more])


def stated(subject: Subject, heading: str) -> str:
    """What the experiment's README says below a heading, or that it says nothing."""
    nothing = f"The experiment's README has no section {code(heading)}."
    return prose(subject.readme.get(heading, "")) or nothing


def stated_plainly(subject: Subject, heading: str) -> list[str]:
    """The same without mark-up, one text a paragraph."""
    return plain(subject.readme.get(heading, ""))


def use(subject: Subject) -> list[str]:
    """Intended use, and what is none."""
    intended, other = (stated(subject, heading) for heading in (INTENDED, OUT_OF_SCOPE))
    return ["## Intended use", intended, "## Out-of-scope use", other]


def limits(subject: Subject) -> list[str]:
    """What a reader must not overlook, in Markdown: of the experiment, then of this run."""
    own = subject.readme.get(LIMITS, "")
    of_run = [text(sentence, 1000) for sentence in run_limits(subject)]
    return [inline(line) for _, line in paragraphs(own)] + of_run


def run_limits(subject: Subject) -> list[str]:
    """What this run's own files show, as plain sentences."""
    facts, records = subject.facts, subject.records
    refused = sum(record.value is None for record in records)
    unseen = [name for name in facts["classes"] if not facts["counts"]["train"].get(name)]
    simulated, alone = subject.compared is Origin.SIMULATED, subject.card.group is None
    found = (
        (simulated, _SIMULATED),
        (alone, _GROUP_OF_SIMULATED if simulated else _GROUP),
        (unseen, f"No image of class {', '.join(unseen)} was trained on; none can be made."),
        (facts["skipped"], f"{facts['skipped']} unusable files of the data set were left out."),
        (facts["pixel_size_um"] is None, "The pixel size is unknown: nothing is in micrometres."),
        (not records, "Nothing was measured on generated images."),
        (refused, f"{refused} of {len(records)} metrics were refused; the evaluation says why."),
    )
    return [sentence for holds, sentence in found if holds] + leaks(records) + copies(subject)


def leaks(records: Sequence[Record]) -> list[str]:
    """Whether held-out images were trained on, as plain sentences."""
    counted = [r for r in records if r.metric in _LEAKED and r.value is not None]
    if records and not counted:
        return ["Whether held-out images were trained on was not counted."]
    return [
        f"LEAKED: {record.value:,.0f} pairs of a held-out and a training image "
        f"{_LEAKED[record.metric]}, so numbers on held-out images are too good."
        for record in counted
        if record.value > 0
    ]


def copies(subject: Subject) -> list[str]:
    """Whether training images come back, as plain sentences; none where nothing was measured."""
    if not subject.records:
        return []
    known = {r.metric: r for r in subject.records if r.value is not None}
    found = {how: known[metric] for metric, how in _COPIED.items() if metric in known}
    if not found:
        return ["Whether generated images repeat training images was not measured."]
    return [f"{how}{_told(one)} {_compared(subject, one)}" for how, one in found.items()]


def _told(found: Record) -> str:
    """More copies than chance brings, no more, or that the images are too few to tell.

    The interval is about other generated and other held-out images, so that it lies above chance
    for one in forty models that copy nothing.
    """
    told = (
        f"{found.value:.2%} of {found.n_fake:,} generated images lie as near to a training image "
        f"as {CHANCE:.0%} of the held-out images do"
    )
    if THRESHOLD not in found.rule:
        return f"By an older rule, which takes chance for copies: {told}; make evaluate tells anew."
    if found.low is None or found.high is None:
        return f"Without an interval nobody can tell whether training images come back: {told}."
    share = f"{told} (95 % interval {found.low:.2%} to {found.high:.2%})"
    if found.low > CHANCE:
        return (
            f"MORE copies of training images than chance brings: {share}. {found.note}. Where as "
            "many are that near to held-out images, all images of this kind are alike; else the "
            "model repeats what it was trained on."
        )
    if found.high <= _TWICE_CHANCE:
        return f"No more copies of training images than twice what chance brings: {share}."
    few = f"{found.n_fake:,} images are too few to tell whether training images come back"
    return f"{few}: {share}."


def _compared(subject: Subject, found: Record) -> str:
    """Of an image that was not looked at, no copy is found."""
    known = re.fullmatch(r"(\d{1,12}) training images(?:; .*)?", found.rule)
    if known is None:
        return f"Compared with: {found.rule or 'it is not known how many training images'}."
    count, images = int(known[1]), subject.train_images
    if count == images and subject.data_sets == 1:
        return f"Compared with all {images:,} training images."
    beyond = " of the last data set" if subject.data_sets > 1 else ""
    return (
        f"Compared with {count:,} of the {images:,} training images{beyond}; copies of others were "
        "not looked for."
    )


def labels(subject: Subject) -> str:
    """How the labels of the samples were chosen, as plain text."""
    rule = subject.samples.rule
    if not subject.facts["classes"]:
        return "There are no classes."
    chosen = _RULES.get(rule, f'all of class "{one_line(rule)}"')
    return (
        f"Labels: {chosen}. A label is the class that the model was asked for; nobody has looked "
        "whether the image shows it."
    )


def provenance(subject: Subject) -> list[str]:
    """Fingerprints, commits, seeds and versions."""
    versions = ", ".join(f"{name} {number}" for name, number in subject.versions.items())
    seed = subject.config["seed_everything"].shown if "seed_everything" in subject.config else "?"
    lines = [
        f"run: {code(f'{subject.folder.experiment}/{subject.folder.run_id}')}",
        f"checkpoint: {code(f'checkpoints/{subject.checkpoint}.ckpt')}, SHA-256 "
        f"{code(subject.sha256)}",
        f"training data: fingerprint {code(subject.facts['manifest_sha256'])}, split seed "
        f"{code(subject.facts['split']['seed'])}",
        *([f"weights: imported from {code(subject.imported)}"] if subject.imported else []),
        f"seed of the training: {code(seed)}",
        f"trained with pytorch-lightning {text(subject.trained_with)}",
        f"code that wrote this card: {code_of(subject.commit)}; {text(versions)}",
    ]
    return ["## Provenance", bullets(lines)]


def again(subject: Subject) -> list[str]:
    """The commands that make each image, or the whole set, once more."""
    made = subject.samples
    one = command(subject, "generate", "N=1", args=["--seed", "k", *_asked(subject)])
    parts = [
        "## How to make each image again",
        "An image is a function of the checkpoint, its seed, its label and the options below "
        "alone, whatever is drawn beside it; another kind of machine or another torch may round "
        f"differently. The following makes the image of seed k, which {code(MANIFEST)} names for "
        "each file, from the run's folder; it replaces what `samples/` holds.",
        block([one]),
    ]
    if made is None:
        return parts
    args = ["--seed", str(made.seeds[0]), *_asked(subject)]
    every = command(subject, "generate", f"N={len(made.rows)}", args=args)
    return [*parts, f"All {len(made.rows)} images:", block([every])]


def _asked(subject: Subject) -> list[str]:
    """Options of `generate` that are not the default."""
    made, kind = subject.samples, subject.facts["storage"]["source"]
    asked = ["--weights", subject.checkpoint] if subject.checkpoint != "best" else []
    if made is None:
        return asked
    is_png = made.suffix == ".png"
    by_default = len(subject.facts["channels"]) == 1 and kind in ("uint8", "uint16")
    if is_png != by_default:
        asked += ["--file_format", "png" if is_png else "tiff"]
    if made.is_resampled:
        asked += ["--size", "native"]
    if made.is_around_training:
        asked += ["--around_training", "true"]
    for name, value in made.settings.items():
        asked += [f"--model.{name}", value if isinstance(value, str) else json.dumps(value)]
    return asked if made.rule == "data" else [*asked, "--labels", made.rule]


def code_of(name: str) -> str:
    """Which code it was, by its commit."""
    return f"commit {code(name)}" if name else "of unknown commit"
