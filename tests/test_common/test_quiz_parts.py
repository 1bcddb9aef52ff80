"""The parts of the quiz: draw, score in both languages, hostile names on the page, the CSV."""

import csv
import io
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from browsing import visit
from common.data.image_io import stored_png
from common.errors import Exit, UserError, visible
from common.quiz.__main__ import main
from common.quiz.answers import COLUMNS, read_play
from common.quiz.draw import Shown, can_pair, paired_draw
from common.quiz.page import Quiz, render
from common.quiz.scoring import Counts, count, score
from common.tables import from_csv, to_csv
from quiz_player import content_of, pixels_of, play, save_answers, wait_for_image

HOSTILE = [
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(2)>", "<!--<script>",
    '=HYPERLINK("http://x")', "+1", "-1", "@SUM(1)", "＝1", "'1", 'a"b,c', "a\r\nb",
    "\u202ea", "$&",
]  # fmt: skip
RUN = "".join(HOSTILE[:2])


# The score.


@pytest.mark.parametrize("number", [5, 20])
def test_the_interval_of_d_prime_holds_the_true_one_in_19_of_20_quizzes(number: int) -> None:
    kinds = range(number + 1)
    found = {
        (hits, false_alarms): score(
            Counts(hits, number - hits, false_alarms, number - false_alarms)
        ).d_prime
        for hits, false_alarms in product(kinds, kinds)
    }
    for d_prime, criterion in product((0, 1, 2, 3), (0, 0.5)):
        hit = stats.binom.pmf(kinds, number, stats.norm.cdf(d_prime / 2 - criterion))
        alarm = stats.binom.pmf(kinds, number, stats.norm.cdf(-d_prime / 2 - criterion))
        holds = sum(hit[h] * alarm[f] for (h, f), e in found.items() if e.low <= d_prime <= e.high)
        assert 0.94 <= holds <= 0.99


def test_many_answers_find_the_d_prime_and_the_criterion_that_made_them() -> None:
    d_prime, criterion, number = 1.5, 0.4, 10**7
    hits = round(number * stats.norm.cdf(d_prime / 2 - criterion))
    alarms = round(number * stats.norm.cdf(-d_prime / 2 - criterion))
    found = score(Counts(hits, number - hits, alarms, number - alarms))
    assert found.d_prime.value == pytest.approx(d_prime, abs=1e-6)
    assert found.criterion.value == pytest.approx(criterion, abs=1e-6)
    # The inverse function carries the error of a rate over into z.
    rates = np.array([found.hit_rate.value, found.false_alarm_rate.value])
    slopes = 1 / stats.norm.pdf(stats.norm.ppf(rates))
    error = np.sqrt((slopes**2 * rates * (1 - rates) / number).sum())
    assert found.d_prime.high - d_prime == pytest.approx(1.959964 * error, rel=1e-4)


def test_a_flawless_player_and_one_who_always_says_real_have_finite_scores() -> None:
    flawless = score(Counts(8, 0, 0, 8))
    assert flawless.accuracy.value == flawless.accuracy.high == 1
    assert 0 < flawless.d_prime.low < flawless.d_prime.high < 10
    timid = score(Counts(0, 8, 0, 8))
    assert timid.d_prime.value == 0 and timid.criterion.low > 0


def test_answers_are_counted_with_generated_as_the_signal() -> None:
    truths = [True, True, True, False, False, False, False]
    answers = [True, True, False, True, False, False, False]
    assert count(truths, answers) == Counts(2, 1, 1, 3)


def test_the_page_computes_what_python_computes(tmp_path: Path, chromium: str) -> None:
    some = [*product((0, 1, 3), repeat=4), (250, 250, 100, 400), (999, 1, 0, 1000)]
    cases = [Counts(*c) for c in some if c[0] + c[1] and c[2] + c[3]]
    names = ("hits", "misses", "falseAlarms", "correctRejections")
    given = [
        dict(zip(names, (c.hits, c.misses, c.false_alarms, c.correct_rejections), strict=True))
        for c in cases
    ]
    with visit(chromium, written(tmp_path, ["", ""])) as seen:
        found = seen.page.evaluate("cases => cases.map(score)", given)
    for case, scripted in zip(cases, found, strict=True):
        expected = score(case)
        for here, there in (
            (expected.accuracy, "accuracy"),
            (expected.hit_rate, "hitRate"),
            (expected.false_alarm_rate, "falseAlarmRate"),
            (expected.d_prime, "dPrime"),
            (expected.criterion, "criterion"),
        ):
            assert scripted[there] == pytest.approx(list(here), abs=1e-9), (case, there)


# The draw.


@pytest.mark.parametrize("seed", range(5))
def test_both_sides_have_the_same_classes_as_evenly_as_they_can(seed: int) -> None:
    rng = np.random.default_rng(seed)
    real = rng.choice(list("abcd"), 60, p=[0.7, 0.2, 0.1, 0]).tolist()
    generated = rng.choice(list("abcde"), 40).tolist()
    most = can_pair(real, generated)
    for number in (1, 7, most):
        draw = paired_draw(real, generated, number, seed)
        sides = [Counter(real[r] for r in draw.real), Counter(generated[r] for r in draw.generated)]
        assert sides[0] == sides[1] and sides[0].total() == number
        assert len(set(draw.real)) == len(set(draw.generated)) == number
        assert sorted(draw.order) == list(range(2 * number))
        room = Counter(real) & Counter(generated)
        for label in room:
            if sides[0][label] < room[label]:
                assert max(sides[0].values()) <= sides[0][label] + 1
        assert draw == paired_draw(real, generated, number, seed)
        assert draw != paired_draw(real, generated, number, seed + 100) or number == 1


def test_the_order_of_real_and_generated_is_no_pattern() -> None:
    orders = {tuple(np.array(paired_draw([""] * 9, [""] * 9, 9, s).order) < 9) for s in range(50)}
    assert len(orders) == 50


@pytest.mark.parametrize("shape", [(40, 30), (3, 16, 16)])
def test_what_an_image_shows_does_not_change_the_size_of_its_file(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    images = [np.zeros(shape, np.uint8), rng.integers(0, 256, shape).astype(np.uint8)]
    assert len({len(stored_png(image)) for image in images}) == 1


# The page.


def test_hostile_names_stay_text_on_the_page_and_in_the_csv(tmp_path: Path, chromium: str) -> None:
    labels = [label for label in HOSTILE for _ in range(2)]
    path = written(tmp_path, labels, run=RUN)
    with visit(chromium, path) as seen:
        play(seen.page, lambda position, pixels: "real" if position % 3 else "generated?")
        text = seen.page.locator("#result").inner_text()
        assert seen.page.locator("#result img").count() == len(labels)
        assert seen.page.locator("script").count() == 2
        saved = save_answers(seen.page, tmp_path / "answers.csv")
        assert seen.complaints == []
    for label in HOSTILE:
        assert " ".join(visible(label).split()) in " ".join(text.split())
    assert RUN in text and "\u202e" not in text
    header, *rows = from_csv(saved.read_bytes())
    assert tuple(header) == COLUMNS
    shown = {label: visible(label) for label in HOSTILE}
    assert [row[COLUMNS.index("class")] for row in rows] == [shown[label] for label in labels]
    cells = [cell for row in csv.reader(io.StringIO(saved.read_text())) for cell in row]
    assert not [cell for cell in cells if cell.startswith(tuple("=+-@＝"))]
    found = read_play(saved)
    assert found.run == RUN and len(found.answers) == len(labels)
    assert saved.read_bytes() == to_csv([COLUMNS, *(map(_number, row) for row in rows)])


def test_a_key_held_down_or_struck_twice_is_one_answer(tmp_path: Path, chromium: str) -> None:
    with visit(chromium, written(tmp_path, [""] * 4)) as seen:
        page = seen.page
        page.locator("#begin").click()
        wait_for_image(page, 1)
        for _ in range(5):
            page.keyboard.down("ArrowLeft")
        page.keyboard.up("ArrowLeft")
        wait_for_image(page, 2)
        page.keyboard.press("Control+ArrowLeft")
        page.locator("#real").dblclick()
        wait_for_image(page, 3)


def test_the_policy_lets_the_one_script_and_the_one_style_through(tmp_path: Path) -> None:
    html = written(tmp_path, ["a", "b"]).read_text()
    (policy,) = [line for line in html.splitlines() if "Content-Security-Policy" in line]
    assert "default-src 'none'; img-src data:; script-src 'sha256-" in policy
    assert "unsafe" not in html and "http" not in html.replace("http-equiv", "")


def test_the_page_says_of_near_copies_that_they_are(tmp_path: Path) -> None:
    warning = "The generated images are drawn around training images, one each, and near copies"
    plain = Quiz("cilia", "one", "c0" * 32, 0, ["tem"], shown_images(["a", "b"]))
    assert warning not in render(plain) and warning in render(replace(plain, near_copies=True))


def test_the_images_of_the_page_are_those_of_the_draw(tmp_path: Path) -> None:
    images = shown_images(["a", "b"])
    path = written(tmp_path, ["a", "b"])
    for uri, image in zip(content_of(path)["images"], images, strict=True):
        assert (pixels_of(uri) == image.pixels).all()


# The answers.


def test_a_saved_file_is_scored_and_several_give_a_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [answers(tmp_path / f"{k}.csv", wrong=k) for k in (1, 2)]
    main([str(path) for path in files])
    told = " ".join(capsys.readouterr().out.split())
    low, high = stats.binomtest(7, 8).proportion_ci(0.95)
    assert f"accuracy 0.8750 [{low:.4f}, {high:.4f}]" in told
    assert "accuracy, class a 0.7500" in told and "n=4" in told
    deviation = np.std([7 / 8, 6 / 8], ddof=1)
    assert f"over 2 players: accuracy 0.8125, {deviation:.4f} d' " in told
    main([str(files[0]), str(answers(tmp_path / "other.csv", quiz="b" * 16))])
    assert "no means: the files are of 2 different quizzes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: "", "no answers"),
        (lambda text: text.splitlines()[0], "no answers"),
        (lambda text: text.replace("position", "place"), "other columns"),
        (lambda text: text.replace("run,", "run;"), "other columns"),
        (lambda text: text + "1,2,3\r\n", "has not 14 cells"),
        (lambda text: text.replace(",1,seed", ",2,seed"), "position is 2"),
        (lambda text: text.replace(",0,1,", ",1,1,"), "another draw_seed"),
        (lambda text: text.replace("real,real,yes", "real,maybe,yes"), "answer is 'maybe'"),
        (lambda text: text.replace("real,real,yes", "real,real,no"), "correct contradicts"),
        (lambda text: text.replace(",500\r", ",-5\r"), "response_ms is '-5'"),
        (lambda text: text.replace(",500\r", ",=1+1\r"), "response_ms is '=1+1'"),
        (lambda text: text.replace(",4,0,", ",3,0,"), "images, not 3"),
        (lambda text: text.replace("aaaaaaaaaaaaaaaa", "zz\x1b[2J"), r"quiz is 'zz\x1b[2J'"),
        (lambda text: text.replace(",a,", ',"a'), "is not what the quiz writes"),
        (lambda text: "\r\n".join(text.splitlines()[:-1]), "images, not 4"),
        (lambda text: text.replace("run one", "x" * 400), "run is 'xxx"),
        (lambda text: text.replace("run one", "x" * 200_000), "is not what the quiz writes"),
    ],
)
def test_a_file_that_the_page_did_not_write_is_refused_in_one_sentence(
    tmp_path: Path,
    change: Callable[[str], str],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = answers(tmp_path / "answers.csv")
    text = path.read_bytes().decode()
    changed = change(text)
    assert changed != text
    path.write_bytes(changed.encode())
    refused(path, words, capsys)


@pytest.mark.parametrize("data", [b"\xff\xfe", b"\0" * 100, b"," * 2**24 + b","])
def test_bytes_that_are_no_text_are_refused(
    tmp_path: Path, data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "answers.csv"
    path.write_bytes(data)
    refused(path, "is not what the quiz writes", capsys)


def test_a_missing_file_a_folder_and_a_file_given_twice_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(tmp_path / "none.csv", "cannot be read", capsys)
    refused(tmp_path, "cannot be read", capsys)
    path = answers(tmp_path / "a.csv")
    refused(answers(tmp_path / "b.csv"), "the same answers and times as", capsys, path)


def refused(path: Path, words: str, capsys: pytest.CaptureFixture[str], *before: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*map(str, before), str(path)])
    assert caught.value.code == Exit.INPUT
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert line.startswith("error[3]: ") and path.name in line and words in line
    assert told.out == "" and "\x1b" not in line
    if not before:
        with pytest.raises(UserError):
            read_play(path)


def answers(path: Path, wrong: int = 0, quiz: str = "a" * 16) -> Path:
    """Eight answers on two classes, the first ones wrong."""
    rows = []
    for place in range(8):
        truth, said = [("real", "generated"), ("generated", "real")][place % 2]
        said = said if place < wrong else truth
        facts = [quiz, "cilia", "run one", "c0" * 32, 4, 0]
        correct = "yes" if said == truth else "no"
        label = "ab"[place // 2 % 2]
        rows.append([*facts, place + 1, f"seed {place}", label, truth, said, correct, "yes", 500])
    path.write_bytes(to_csv([COLUMNS, *rows]))
    return path


def shown_images(labels: list[str]) -> list[Shown]:
    rng = np.random.default_rng(0)
    return [
        Shown(f"seed {k}", label, k % 2 == 0, rng.integers(0, 256, (24, 24)).astype(np.uint8))
        for k, label in enumerate(labels)
    ]


def written(folder: Path, labels: list[str], run: str = "one") -> Path:
    path = folder / "index.html"
    quiz = Quiz("cilia", run, "c0" * 32, 0, ["tem"], shown_images(labels))
    path.write_text(render(quiz), encoding="utf-8")
    return path


def _number(cell: str) -> object:
    """As the page writes it: whole numbers are no text."""
    return int(cell) if cell.isdecimal() and cell == str(int(cell)) else cell
