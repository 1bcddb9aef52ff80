"""A player of quiz pages, with eyes that know the truth."""

import base64
import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page


def play(page: Page, say: Callable[[int, np.ndarray], str]) -> int:
    """Plays a quiz from its start to its result, with keys and buttons in turn.

    Args:
        page: that shows the start.
        say: from position (1, 2, …) and pixels to "real" or "generated", with a "?" when unsure.

    Returns:
        How many images there were.
    """
    total = int(page.locator("#progress").get_attribute("max"))
    page.locator("#begin").click()
    for position in range(1, total + 1):
        wait_for_image(page, position)
        word = say(position, pixels_of(page.locator("#stage img").get_attribute("src")))
        if word.endswith("?"):
            page.keyboard.press("ArrowUp")
        if position % 2:
            page.keyboard.press("ArrowRight" if word.startswith("generated") else "ArrowLeft")
        else:
            page.locator(f"#{word.removesuffix('?')}").click()
    page.locator("#result").wait_for()
    return total


def wait_for_image(page: Page, position: int) -> None:
    """Until an answer counts; Playwright's own way to wait needs `eval`, which the page forbids."""
    shown = f"byId('place').textContent.startsWith('Image {position} ')"
    deadline = time.monotonic() + 60
    while not page.evaluate(f"{shown} && shownAt && performance.now() - shownAt > FASTEST_MS"):
        assert time.monotonic() < deadline
        page.wait_for_timeout(20)


def save_answers(page: Page, path: Path) -> Path:
    """What the button saves."""
    with page.expect_download() as download:
        page.locator("#download").click()
    download.value.save_as(path)
    return path


def pixels_of(uri: str) -> np.ndarray:
    """Of an image as a page holds it."""
    return np.asarray(Image.open(io.BytesIO(file_of(uri))))


def file_of(uri: str) -> bytes:
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    return base64.b64decode(data, validate=True)


def content_of(path: Path) -> dict:
    """The data that a page hands to its script."""
    element = r'<script type="application/json" id="quiz">(.*?)</script>'
    (text,) = re.findall(element, path.read_text(encoding="utf-8"))
    return json.loads(text)
