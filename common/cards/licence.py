"""Under which licence images may be passed on, as people, Hugging Face and Croissant write it."""

import re
from dataclasses import dataclass

from common.cards.markdown import one_line

# Of these alone the name on Hugging Face is that of SPDX in lower case.
_KNOWN = (
    *("CC0-1.0", "CC-BY-2.0", "CC-BY-2.5", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0"),
    *("CC-BY-SA-4.0", "CC-BY-NC-2.0", "CC-BY-NC-3.0", "CC-BY-NC-4.0", "CC-BY-ND-4.0"),
    *("CC-BY-NC-ND-3.0", "CC-BY-NC-ND-4.0", "CC-BY-NC-SA-2.0", "CC-BY-NC-SA-3.0"),
    *("CC-BY-NC-SA-4.0", "MIT", "Apache-2.0"),
)
_SPDX = {name.lower(): name for name in _KNOWN}


@dataclass(frozen=True)
class Licence:
    """A licence as it was stated.

    Attributes:
        text: for people.
        spdx: its identifier, "" where the text is not exactly one.
        is_stated: whether there is one at all.
    """

    text: str
    spdx: str = ""
    is_stated: bool = True

    @property
    def head(self) -> dict[str, str]:
        """Its keys in the head of a card."""
        if not self.is_stated:
            return {"license": "unknown"}
        if self.spdx:
            return {"license": self.spdx.lower()}
        return {"license": "other", "license_name": one_line(self.text)}

    @property
    def croissant(self) -> str | dict[str, str]:
        """Value of ``license`` in Croissant: a URL, or a work that is only named."""
        if self.spdx:
            return f"https://spdx.org/licenses/{self.spdx}.html"
        return {"@type": "sc:CreativeWork", "name": one_line(self.text, 600)}


def inherited(stated: str, simulated: bool) -> Licence:
    """Of a model and of what it draws.

    Args:
        stated: licence in the data card of the training images.
        simulated: whether those images were none of the data set, but simulated.
    """
    if simulated:
        text = (
            "none was stated: the training images were simulated by this repository's code; the "
            f"data card's licence ({stated}) is of the real images, of which none was used"
        )
        return Licence(text, is_stated=False)
    return Licence(stated, _SPDX.get(re.sub(r"[\s-]+", "-", stated.strip()).lower(), ""))
