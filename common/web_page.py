"""What our pages share: the template engine, the look, and the rule that nothing is loaded."""

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from common.errors import visible

_THEME = Path(__file__).with_name("theme.css")


def page_template(path: Path, **filters: Callable[..., str]) -> Template:
    """A template: whatever it shows is escaped, and absent values are a dash."""
    environment = Environment(
        loader=FileSystemLoader(path.parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters)
    return environment.get_template(path.name)


def style_with(own: Path) -> str:
    """The style sheet of a page: colours and type of all pages, then its own rules."""
    return "".join(path.read_text(encoding="utf-8") for path in (_THEME, own))


def source(text: str) -> str:
    """The one inline style or script that a content security policy lets through, by its hash."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"


def _shown(value: object) -> object:
    """Absent values as a dash; texts without control and direction characters."""
    if value is None or value == "":
        return "—"
    return value if hasattr(value, "__html__") or not isinstance(value, str) else visible(value)
