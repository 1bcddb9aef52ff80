"""A real browser that complains aloud."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

_SWITCHES = (
    "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    "disable-component-update disable-sync"
)
LAPTOP, PHONE = (1280, 800), (390, 844)


@dataclass
class Visit:
    """One look at a page.

    Attributes:
        page: Playwright's.
        complaints: errors and warnings of the browser's console.
        requests: addresses that were asked for, data URIs aside.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def visit(chromium: str, path: Path, size: tuple[int, int] = LAPTOP) -> Iterator[Visit]:
    """Opens a file in a browser window of this width and height."""
    switches = [f"--{switch}" for switch in _SWITCHES.split()]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=switches)
        page = browser.new_page(viewport=dict(zip(("width", "height"), size, strict=True)))
        seen = Visit(page)
        page.on("console", lambda message: seen.complaints.append(message.text))
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        page.on("request", lambda request: _note(seen.requests, request.url))
        page.goto(path.as_uri())
        yield seen
        browser.close()


def _note(requests: list[str], url: str) -> None:
    if not url.startswith("data:"):
        requests.append(url)
