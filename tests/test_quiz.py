"""Real or generated: a page is drawn, played in a browser by who knows the truth, and scored."""

import csv
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from browsing import LAPTOP, PHONE, visit
from common.data.image_io import read_image
from common.data.prepared import Prepared
from common.quiz import __main__ as quiz_score
from quiz_player import content_of, file_of, pixels_of, play, save_answers
from running import Cli, at, refuses, run_folder

pytestmark = pytest.mark.one_experiment

N = 4


@pytest.fixture
def page(workspace: Path, experiment: str, cli: Cli) -> Path:
    """A quiz of the smoke run."""
    assert cli(experiment, "generate", *at(workspace, "first"), "--n", "40").code == 0
    result = cli(experiment, "quiz", *at(workspace, "first"), "--n", str(N))
    assert result.code == 0, result.err
    assert f"runs/{experiment}/first/quiz/index.html" in result.out
    return run_folder(workspace, experiment, "first") / "quiz/index.html"


class Oracle:
    """Knows every image by its pixels, from the files alone."""

    def __init__(self, workspace: Path, experiment: str) -> None:
        (folder,) = workspace.glob("data/processed/*/")
        prepared = Prepared.open(folder)
        self.facts = prepared.facts
        self.known: dict[bytes, tuple[str, str, str]] = {}
        samples = run_folder(workspace, experiment, "first") / "samples"
        with (samples / "manifest.csv").open(newline="") as stream:
            for row in csv.DictReader(stream):
                grey = np.atleast_3d(read_image(samples / row["name"]).pixels.T).T
                facts = ("generated", row["label"], f"seed {row['seed']}")
                self.known[self._first_panel(grey[0])] = facts
        storage = self.facts["storage"]
        for sample, stored in zip(
            prepared.samples("test"), np.load(folder / "test.npy"), strict=True
        ):
            grey = stored[0].astype(float) * storage["scale"] + storage["offset"]
            facts = ("real", sample.label, f"held-out {sample.alias}")
            self.known[self._first_panel(grey)] = facts

    def look(self, pixels: np.ndarray) -> tuple[str, str, str]:
        size = self.facts["image_size"]
        return self.known[pixels[:size, :size].tobytes()]

    def _first_panel(self, grey: np.ndarray) -> bytes:
        low, high = self.facts["window"]
        unit = ((grey.astype(np.float32) - low) / (high - low)).clip(0, 1)
        size = self.facts["image_size"]
        top, left = ((size - side) // 2 for side in grey.shape)
        margins = [(top, size - len(grey) - top), (left, size - grey.shape[1] - left)]
        return np.rint(np.pad(unit, margins, mode="edge") * 255).astype(np.uint8).tobytes()


def test_a_player_gets_the_score_that_the_answers_deserve(
    page: Path,
    workspace: Path,
    experiment: str,
    chromium: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    oracle = Oracle(workspace, experiment)
    told: list[tuple[str, str, str, str, str]] = []

    def say(position: int, pixels: np.ndarray) -> str:
        truth, label, name = oracle.look(pixels)
        wrong, sure = position % 3 == 0, position % 4 != 0
        answer = {"real": "generated", "generated": "real"}[truth] if wrong else truth
        told.append((name, label, truth, answer, "yes" if sure else "no"))
        return answer + "?" * (not sure)

    with visit(chromium, page) as seen:
        assert play(seen.page, say) == 2 * N
        heading = seen.page.locator("#result-h").inner_text()
        shown = seen.page.locator("#measures").inner_text()
        saved = save_answers(seen.page, tmp_path / "answers.csv")
        assert seen.complaints == []
        assert {url.split(":")[0] for url in seen.requests} <= {"file", "blob"}
        assert [url for url in seen.requests if url.startswith("file")] == [page.as_uri()]

    with saved.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = ("image", "class", "truth", "answer", "sure")
    assert [tuple(row[column] for column in columns) for row in rows] == told
    assert [int(row["position"]) for row in rows] == list(range(1, 2 * N + 1))
    assert all(200 <= int(row["response_ms"]) < 60_000 for row in rows)
    assert {row["run"] for row in rows} == {"first"}
    right = [truth == answer for _, _, truth, answer, _ in told]
    assert [row["correct"] == "yes" for row in rows] == right
    assert heading == f"{sum(right)} of {2 * N} right"

    pairs = Counter((truth, answer) for _, _, truth, answer, _ in told)
    z = {kind: stats.norm.ppf((pairs[kind, "generated"] + 0.5) / (N + 1)) for kind in _KINDS}
    d_prime = z["generated"] - z["real"]
    low, high = stats.binomtest(sum(right), 2 * N).proportion_ci(method="exact")
    for number in (f"{100 * low:.1f} to {100 * high:.1f} %", f"{d_prime:.2f}"):
        assert number.replace("-", "−") in shown
    capfd.readouterr()
    quiz_score.main([str(saved)])
    printed = " ".join(capfd.readouterr().out.split())
    assert f"accuracy {sum(right) / (2 * N):.4f} [{low:.4f}, {high:.4f}]" in printed
    assert f"d' {d_prime:.4f} [" in printed
    assert f"criterion {-(z['generated'] + z['real']) / 2:.4f}" in printed


@pytest.mark.parametrize("size", [LAPTOP, PHONE])
def test_nothing_has_to_be_scrolled_to_while_playing(
    page: Path, chromium: str, size: tuple[int, int]
) -> None:
    def fits(across: int, down: int | None = None) -> None:
        root = "document.scrollingElement"
        assert seen.page.evaluate(f"{root}.scrollWidth") <= across
        assert down is None or seen.page.evaluate(f"{root}.scrollHeight") <= down

    def say(position: int, pixels: np.ndarray) -> str:
        fits(*size)
        return "real"

    with visit(chromium, page, size) as seen:
        fits(size[0])
        play(seen.page, say)
        fits(size[0])


def test_nothing_but_the_pixels_tells_the_sides_apart(
    page: Path, workspace: Path, experiment: str
) -> None:
    oracle = Oracle(workspace, experiment)
    images = content_of(page)["images"]
    files = [file_of(uri) for uri in images]
    assert len({_structure(file) for file in files}) == 1
    assert [kind for kind, _ in _structure(files[0])] == [b"IHDR", b"IDAT", b"IEND"]
    facts = [oracle.look(pixels_of(uri)) for uri in images]
    assert len(set(facts)) == 2 * N
    real, generated = (Counter(f[1] for f in facts if f[0] == kind) for kind in _KINDS)
    assert real == generated and real.total() == N
    text = page.read_text()
    assert not any(name in text for _, _, name in facts)
    assert not any("generated" in text for text in _texts(content_of(page)))


def test_the_page_is_a_function_of_the_seed(
    page: Path, workspace: Path, experiment: str, cli: Cli
) -> None:
    first = page.read_bytes()
    pages = {}
    for seed in ("0", "1"):
        more = ["--n", str(N), "--seed", seed]
        assert cli(experiment, "quiz", *at(workspace, "first"), *more).code == 0
        pages[seed] = page.read_bytes()
    assert pages["0"] == first
    assert pages["1"] != first


def test_a_quiz_without_enough_images_says_what_to_do(
    workspace: Path, experiment: str, cli: Cli
) -> None:
    quiz = [experiment, "quiz", *at(workspace, "first")]
    refuses(cli(*quiz), 2, "holds no generated images", "make generate")
    assert cli(experiment, "generate", *at(workspace, "first"), "--n", "1").code == 0
    refuses(cli(*quiz, "--n", "2"), 3, "samples", "make generate EXP=", "RUN=first N=20")
    result = cli(*quiz, "--n", "1000")
    refuses(result, 3, "1000 are needed")
    assert "make generate" not in result.err or "show N=" not in result.err
    refuses(cli(*quiz, "--n", "2000000"), 2, "--n 2000000", "show at most N=")
    assert not (run_folder(workspace, experiment, "first") / "quiz").exists()


def test_a_quiz_on_data_that_were_split_anew_is_refused(
    workspace: Path, experiment: str, cli: Cli
) -> None:
    assert cli(experiment, "generate", *at(workspace, "first"), "--n", "3").code == 0
    changed = [*at(workspace, "first"), "--data.test_fraction", "0.4"]
    refuses(cli(experiment, "quiz", *changed), 3, "is not the data set")


_KINDS = ("real", "generated")


def _texts(value: object) -> Iterator[str]:
    """Of nested lists and objects, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def _structure(png: bytes) -> tuple[tuple[bytes, object], ...]:
    """Kind of every part with its length, of the header its content."""
    place, parts = 8, []
    while place < len(png):
        length, kind = struct.unpack(">I4s", png[place : place + 8])
        parts.append((kind, png[place + 8 : place + 21] if kind == b"IHDR" else length))
        place += length + 12
    return tuple(parts)
