"""The folder `card` of a run: written whole, or left as it was."""

import re
from datetime import date

from common.cards.croissant import croissant
from common.cards.data_card import data_card
from common.cards.model_card import model_card
from common.cards.samples import write_archive
from common.cards.subject import read_subject
from common.data.datamodule import ImageDataModule
from common.errors import Exit, UserError
from common.runs.checkpoints import sha256_of
from common.runs.folder import RunFolder
from common.storage import whole_folder


def write_cards(
    folder: RunFolder, data: ImageDataModule, creator: str = "", published: str = ""
) -> bool:
    """Writes `model_card.md` and, where there are samples, `data_card.md`, `croissant.json`, a zip.

    Args:
        folder: of the run.
        data: set up with the run's configuration; its data need not be there.
        creator: who publishes the samples, "" where nobody does.
        published: day of it as YYYY-MM-DD, "" where it is not.

    Returns:
        Whether there were samples.

    Raises:
        UserError: ``published`` is no day, or the run's files are not those of each other.
    """
    _refuse_no_day(published)
    subject = read_subject(folder, data)
    with whole_folder(folder.card) as partial:
        texts = {"model_card.md": model_card(subject)}
        if subject.samples is not None:
            archive = write_archive(subject.samples, folder.samples, partial)
            stated = (creator, published)
            texts["data_card.md"] = data_card(subject, archive.name, *stated)
            digest = sha256_of(archive)
            texts["croissant.json"] = croissant(subject, archive.name, digest, *stated)
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
    return subject.samples is not None


def _refuse_no_day(published: str) -> None:
    try:
        known = not published or bool(re.fullmatch(r"\d{4}-\d\d-\d\d", published, re.ASCII))
        date.fromisoformat(published or "2000-01-01")
    except ValueError:
        known = False
    if not known:
        problem = "is no day"
        raise UserError(Exit.USAGE, f"--published {published}", problem, "write it as YYYY-MM-DD")
