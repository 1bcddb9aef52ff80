"""Scores the answers that quiz pages have saved, one file a player."""

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from common.errors import Exit, UserError, exit_on_user_error, relative, visible
from common.quiz.answers import Answer, Play, read_play
from common.quiz.scoring import Estimate, Score, count, score, share


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints what the page shows at its end, and means where several played the same quiz.

    Args:
        arguments: of the command line, the process's own by default.
    """
    parser = argparse.ArgumentParser("python -m common.quiz", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="CSV", help="what a page has saved")
    files = parser.parse_args(arguments).files
    with exit_on_user_error():
        plays = _plays(files)
        scores = {path: _score(play.answers) for path, play in plays.items()}
        for path, play in plays.items():
            print(f"{relative(path)}: {visible(play.experiment)}, run {visible(play.run)}")
            print("\n".join([*_measures(scores[path]), *_classes(play.answers)]))
        if len(plays) > 1:
            print("\n".join(_means(plays, list(scores.values()))))


def _plays(files: Sequence[Path]) -> dict[Path, Play]:
    """Every file's answers; one given twice would pass for two players."""
    plays: dict[Path, Play] = {}
    for path in files:
        play = read_play(path)
        for other, before in plays.items():
            if before == play:
                problem = f"holds the same answers and times as {relative(other)}"
                raise UserError(Exit.INPUT, relative(path), problem, "give each player's file once")
        plays[path] = play
    return plays


def _score(answers: Sequence[Answer]) -> Score:
    truths = [answer.generated for answer in answers]
    return score(count(truths, [answer.called_generated for answer in answers]))


def _measures(found: Score) -> Iterator[str]:
    yield _line("accuracy", found.accuracy)
    yield _line("hit rate (generated called generated)", found.hit_rate)
    yield _line("false-alarm rate (real called generated)", found.false_alarm_rate)
    yield _line("d'", found.d_prime)
    yield _line("criterion", found.criterion)


def _classes(answers: Sequence[Answer]) -> Iterator[str]:
    for label in sorted({answer.label for answer in answers} - {""}):
        right = [a.generated == a.called_generated for a in answers if a.label == label]
        name = f"accuracy, class {visible(label)}"
        yield f"{_line(name, share(sum(right), len(right)))}  n={len(right)}"


def _means(plays: Mapping[Path, Play], scores: Sequence[Score]) -> Iterator[str]:
    quizzes = {play.quiz for play in plays.values()}
    if len(quizzes) > 1:
        yield f"no means: the files are of {len(quizzes)} different quizzes"
        return
    yield f"mean and standard deviation over {len(scores)} players:"
    for name, values in (
        ("accuracy", [found.accuracy.value for found in scores]),
        ("d'", [found.d_prime.value for found in scores]),
    ):
        yield f"  {name:42} {statistics.mean(values):.4f}, {statistics.stdev(values):.4f}"


def _line(name: str, found: Estimate) -> str:
    return f"  {name:42} {found.value:.4f} [{found.low:.4f}, {found.high:.4f}]"


if __name__ == "__main__":
    main()
