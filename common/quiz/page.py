"""The page that people play: one file, which loads nothing and sends nothing."""

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from markupsafe import Markup

from common.data.datamodule import ImageDataModule
from common.data.image_io import stored_png
from common.errors import Exit, UserError, visible
from common.image_tables import AROUND, FOR_WHOM, NEAR_COPIES
from common.quiz.answers import COLUMNS
from common.quiz.draw import PANELS_IN_A_ROW, Shown, draw_images
from common.runs.folder import RunFolder
from common.storage import whole_file
from common.tables import GUARDED
from common.web_page import page_template, source, style_with

_HERE = Path(__file__).parent
# A page of more is slow to open; one byte a pixel, and base64 adds a third.
_MOST_PIXELS = 64 * 2**20


@dataclass(frozen=True)
class Quiz:
    """All that the page is made of.

    Attributes:
        experiment: name of its folder.
        run: name of the run.
        checkpoint_sha256: of the weights that made the generated images.
        seed: of the draw.
        channels: what the panels of an image show, in their order.
        images: in the order they are shown; as many generated as real.
        near_copies: whether those that are generated were drawn around training images.
    """

    experiment: str
    run: str
    checkpoint_sha256: str
    seed: int
    channels: Sequence[str]
    images: Sequence[Shown]
    near_copies: bool = False


def write_quiz(folder: RunFolder, data: ImageDataModule, count: int, seed: int) -> Path:
    """Draws the images and writes `quiz/index.html`, whole or not at all.

    Args:
        folder: of the run, with samples.
        data: set up; its test split is read here.
        count: images of either kind.
        seed: of the choice and of the order.

    Raises:
        UserError: too few images, more than a page can hold, or the folder cannot be written.
    """
    _refuse_too_many(data, count)
    images, drawn = draw_images(folder, data, count, seed)
    about = (folder.experiment, folder.run_id, drawn["checkpoint_sha256"], seed)
    quiz = Quiz(*about, data.facts["channels"], images, drawn["origin"] == AROUND)
    with whole_file(folder.quiz, parents=True) as stream:
        stream.write(render(quiz).encode())
    return folder.quiz


def render(quiz: Quiz) -> str:
    """The page as HTML: the same images in the same order give the same text."""
    files = [stored_png(shown.pixels) for shown in quiz.images]
    style = style_with(_HERE / "style.css")
    scripts = (_HERE / name for name in ("scoring.js", "play.js"))
    script = "".join(path.read_text(encoding="utf-8") for path in scripts)
    return page_template(_HERE / "template.html.j2").render(
        style=Markup(style),
        style_source=source(style),
        script=Markup(script),
        script_source=source(script),
        data=Markup(_as_json(_content(quiz, files))),
        count=len(quiz.images),
        channels=quiz.channels,
        in_a_row=PANELS_IN_A_ROW,
        warning=f"{NEAR_COPIES}; {FOR_WHOM}" if quiz.near_copies else "",
    )


def seal(text: str, key: int) -> str:
    """Hides a text from a glance into the source, and from nobody who means to read it.

    Args:
        text: what is hidden.
        key: 1 to 2**32 - 1; `unsealed` in `play.js` needs it.
    """
    data = text.encode()
    stream = islice(_key_stream(key), len(data))
    return base64.b64encode(bytes(a ^ b for a, b in zip(data, stream, strict=True))).decode("ascii")


def _key_stream(state: int) -> Iterator[int]:
    """Bytes of xorshift32 (Marsaglia 2003)."""
    while True:
        state ^= state << 13 & 0xFFFFFFFF
        state ^= state >> 17
        state ^= state << 5 & 0xFFFFFFFF
        yield state >> 24


def _content(quiz: Quiz, files: Sequence[bytes]) -> dict[str, object]:
    """What the script reads; the truth is one text, so that no length tells anything."""
    facts = {
        "experiment": visible(quiz.experiment),
        "run": visible(quiz.run),
        "checkpoint_sha256": visible(quiz.checkpoint_sha256),
        "images_per_side": len(quiz.images) // 2,
        # As text: a script would round a large one.
        "draw_seed": str(quiz.seed),
    }
    truths = [
        {
            "image": visible(shown.name),
            "class": visible(shown.label),
            "truth": "generated" if shown.generated else "real",
        }
        for shown in quiz.images
    ]
    digest = hashlib.sha256(json.dumps([facts, truths]).encode() + b"".join(files)).hexdigest()
    key = int(digest[-8:], 16) or 1
    return {
        "facts": {"quiz": digest[:16]} | facts,
        "columns": COLUMNS,
        "guarded": "".join(GUARDED),
        "images": [f"data:image/png;base64,{base64.b64encode(f).decode('ascii')}" for f in files],
        "key": key,
        "sealed": seal(json.dumps(truths), key),
    }


def _as_json(content: dict[str, object]) -> str:
    """JSON that cannot end the element it stands in."""
    return json.dumps(content).replace("<", "\\u003c")


def _refuse_too_many(data: ImageDataModule, count: int) -> None:
    most = _MOST_PIXELS // (2 * len(data.facts["channels"]) * data.facts["image_size"] ** 2)
    if count > most:
        problem = "makes a page that is slow to open"
        raise UserError(Exit.USAGE, f"--n {count}", problem, f"show at most N={most}")
