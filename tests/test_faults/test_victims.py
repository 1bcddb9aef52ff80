"""The harness itself: it must see what it is there to see."""

import signal
from pathlib import Path

import pytest

from faults import Victim, call, run_all, run_one

pytestmark = pytest.mark.faults


def test_codes_and_texts_of_victims_side_by_side_come_back_in_order() -> None:
    ends = [
        [call("sabotage:leave", code=3)],
        [call("sabotage:send", number=signal.SIGKILL)],
        [call("sabotage:fail", error="builtins:ValueError", text="the reason")],
        [call("sabotage:send", number=signal.SIGINT)],
        [],
    ]
    ended = run_all([Victim(sabotage=calls) for calls in ends])
    assert [one.code for one in ended] == [3, -signal.SIGKILL, 1, -signal.SIGINT, 0]
    assert "the reason" in ended[2].err
    assert not any(one.hung or one.left for one in ended)


def test_a_victim_that_hangs_is_killed_and_says_where() -> None:
    ended = run_one(Victim(sabotage=[call("sabotage:sleep", seconds=60)], timeout_s=1))
    assert ended.hung and ended.code == -signal.SIGKILL and ended.elapsed < 30
    assert "sabotage.py" in ended.err


def test_a_process_that_outlives_its_victim_is_seen(tmp_path: Path) -> None:
    started = tmp_path / "started"
    orphan = call("sabotage:leave_a_child", path=str(started))
    ended = run_one(Victim(sabotage=[orphan], grace_s=0.1))
    assert started.exists() and ended.code == 0
    assert len(ended.left) == 1 and "time.sleep(60)" in ended.left[0]


def test_a_victim_can_be_steered_from_outside(tmp_path: Path) -> None:
    ready = tmp_path / "ready"

    def kill(alive: object) -> None:
        assert alive.wait_for(ready.exists)
        alive.send_all(signal.SIGTERM)

    calls = [call("sabotage:touch", path=str(ready)), call("sabotage:sleep", seconds=60)]
    assert run_one(Victim(sabotage=calls, steer=kill)).code == -signal.SIGTERM
