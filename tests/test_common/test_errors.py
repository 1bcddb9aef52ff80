import errno
import os
import pickle
from pathlib import Path

import pytest
from torch._utils import ExceptionWrapper

from common.errors import (
    Exit,
    UserError,
    exit_on_user_error,
    quoted_error,
    relative,
    require_positive,
    visible,
)

HOSTILE = "a\x1b[31mred\nb\r\u202ec\x85\ud800\0"


def test_a_message_is_code_subject_problem_kept_and_remedy() -> None:
    error = UserError(Exit.STORAGE, Path("runs/a"), "is full", "free space", "the rest is there")
    assert str(error) == "error[5]: runs/a: is full; the rest is there; free space"
    assert str(UserError(Exit.INPUT, "a.png", "is blank", "remove it")) == (
        "error[3]: a.png: is blank; remove it"
    )


def test_the_exit_codes_are_those_of_the_house() -> None:
    assert [(code.name, int(code)) for code in Exit] == [
        *(("DONE", 0), ("BUG", 1), ("USAGE", 2), ("INPUT", 3)),
        *(("CHECKPOINT", 4), ("STORAGE", 5), ("NON_FINITE", 6), ("LOST", 7)),
    ]


@pytest.mark.parametrize("place", range(4))
def test_a_hostile_name_cannot_rewrite_the_terminal(
    place: int, capsys: pytest.CaptureFixture
) -> None:
    words = ["subject", "problem", "remedy", "kept"]
    words[place] = HOSTILE * 3
    with pytest.raises(SystemExit) as stop, exit_on_user_error():
        raise UserError(Exit.INPUT, *words)
    assert stop.value.code == 3
    shown = capsys.readouterr().err
    assert shown.endswith("\n") and shown[:-1].isprintable()
    assert len(shown.splitlines()) <= 5
    assert "\\u001b[31mred\\u000ab" in shown


def test_visible_text_stays_as_it_is() -> None:
    assert visible("Zelle 3 µm – 線毛.png") == "Zelle 3 µm – 線毛.png"


def test_a_path_is_shown_from_here_or_by_its_last_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert relative(tmp_path / "here/a/b.png") == os.path.join("a", "b.png")  # noqa: PTH118
    assert relative("a.png") == "a.png"
    assert relative("/one/two/three/four.png") == "two/three/four.png"


def test_a_path_that_cannot_be_resolved_is_still_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert relative(tmp_path / "loop" / "a.png").endswith("loop/a.png")
    assert relative("a\0b.png") == r"a\u0000b.png"
    assert relative("x" * 5000)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert relative("/one/two/three.png") == "one/two/three.png"


def test_an_error_inside_another_message_is_found_again() -> None:
    inner = UserError(Exit.USAGE, "--data.image_size 100", "is no multiple", "take 96", "nothing")
    found = quoted_error(f"Problem with given class_path:\n  - {inner}\nmore")
    assert found.code == Exit.USAGE and str(found) == str(inner)
    assert quoted_error("a plain message; with: signs") is None
    assert quoted_error("error[9]: a: b; c") is None


def test_an_error_survives_pickling() -> None:
    error = UserError(Exit.STORAGE, "a", "b", "c", "d")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.code, copy.subject, copy.problem, copy.remedy, copy.kept) == (
        *(Exit.STORAGE, "a", "b", "c", "d"),
    )


def test_an_error_in_a_loader_process_is_the_same_error(capsys: pytest.CaptureFixture) -> None:
    try:
        raise UserError(Exit.INPUT, "val.npy", "is cut short", "prepare the data again")
    except UserError:
        handed_over = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(SystemExit) as stop, exit_on_user_error():
        handed_over.reraise()
    assert stop.value.code == 3
    shown = capsys.readouterr().err
    assert shown == "error[3]: val.npy: is cut short; prepare the data again\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_disk_that_refuses_is_a_storage_error(number: int, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop, exit_on_user_error():
        raise OSError(number, os.strerror(number), "runs/metrics.csv")
    assert stop.value.code == Exit.STORAGE
    assert "runs/metrics.csv" in capsys.readouterr().err


@pytest.mark.parametrize("bug", [RuntimeError("a"), ValueError("a"), FileNotFoundError(2, "a")])
def test_our_own_bugs_keep_their_traceback(bug: Exception) -> None:
    with pytest.raises(type(bug)) as caught, exit_on_user_error():
        raise bug
    assert caught.value is bug


@pytest.mark.parametrize("value", [0, -1, -0.5, float("nan")])
def test_an_option_that_is_not_positive_is_named(value: float) -> None:
    require_positive("model", width=1, lr=1e-9)
    with pytest.raises(UserError, match=r"error\[2\]: --model\.lr .*is not positive"):
        require_positive("model", width=1, lr=value)
