import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

import common.interrupts
from common.interrupts import Interrupts, Stopped, die_with_parent

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    """Those of a training, as it stands between two waits."""
    one = Interrupts()
    with one.listening():
        one.defer()
        yield one


def in_child(work: Callable[[], object]) -> int:
    """How a forked process ends that does ``work``: 99 if by itself, negative by a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_outside_of_training_a_signal_stops_at_once(number: int, code: int) -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    one = Interrupts()
    with pytest.raises(Stopped, match=signal.Signals(number).name) as caught, one.listening():
        signal.raise_signal(number)
    assert caught.value.code == code and not isinstance(caught.value, Exception)
    assert one.clean is None
    assert [signal.getsignal(n) for n in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_in_a_step_a_signal_waits_for_the_next_batch(
    interrupts: Interrupts, number: int, capfd: pytest.CaptureFixture
) -> None:
    with interrupts.waiting():
        pass
    signal.raise_signal(number)
    name = signal.Signals(number).name
    assert f"{name}: finishing the step" in capfd.readouterr().err
    assert interrupts.clean is None and interrupts.pending == number
    with pytest.raises(Stopped) as caught, interrupts.waiting():
        pytest.fail("the batch was fetched")
    assert interrupts.clean is caught.value


def test_a_signal_in_the_wait_stops_at_once(interrupts: Interrupts) -> None:
    with pytest.raises(Stopped) as caught, interrupts.waiting():
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("it went on")
    assert interrupts.clean is caught.value


def test_after_training_a_signal_stops_at_once_again(interrupts: Interrupts) -> None:
    interrupts.release()
    with pytest.raises(Stopped):
        signal.raise_signal(signal.SIGINT)
    assert interrupts.clean is None


def test_other_ranks_go_on(interrupts: Interrupts) -> None:
    interrupts.is_first_rank = False
    signal.raise_signal(signal.SIGTERM)
    with interrupts.waiting():
        pass
    assert interrupts.pending == signal.SIGTERM and interrupts.clean is None


def test_a_signal_waits_until_all_gradients_of_a_step_are_there(interrupts: Interrupts) -> None:
    interrupts.step_complete = False
    signal.raise_signal(signal.SIGTERM)
    with interrupts.waiting():
        pass
    interrupts.step_complete = True
    with pytest.raises(Stopped), interrupts.waiting():
        pytest.fail("the batch was fetched")


@pytest.mark.parametrize("second", SIGNALS)
@pytest.mark.parametrize("where", ["step", "wait", "outside"])
def test_a_second_signal_ends_the_process(second: int, where: str) -> None:
    def work() -> None:
        one = Interrupts()
        with one.listening():
            if where != "outside":
                one.defer()
            place = one.waiting() if where == "wait" else contextlib.nullcontext()
            with contextlib.suppress(Stopped), place:
                signal.raise_signal(signal.SIGTERM)
            # What stopping may do that takes long: saving, for instance.
            time.sleep(0.3)
            signal.raise_signal(second)

    assert in_child(work) == 128 + second


@pytest.mark.parametrize(
    ("times", "pause", "is_first_rank"),
    # make passes on what the whole process group has received; other ranks end with the first.
    [(1, 0.0, True), (3, 0.0, True), (2, 0.3, False)],
    ids=["one signal", "its echo", "two in another rank"],
)
def test_the_process_goes_on_after(times: int, pause: float, is_first_rank: bool) -> None:
    def work() -> None:
        one = Interrupts()
        with one.listening():
            one.defer()
            one.is_first_rank = is_first_rank
            for _ in range(times):
                signal.raise_signal(signal.SIGTERM)
                time.sleep(pause)

    assert in_child(work) == 99


def test_what_fails_in_the_wait_is_clean_and_the_end_of_the_data_is_no_failure(
    interrupts: Interrupts,
) -> None:
    with pytest.raises(StopIteration), interrupts.waiting():
        raise StopIteration
    assert interrupts.clean is None
    error = RuntimeError("a loader process died")
    with pytest.raises(RuntimeError), interrupts.waiting():
        raise error
    assert interrupts.clean is error
    interrupts.step_complete = False
    with pytest.raises(RuntimeError), interrupts.waiting():
        raise error
    assert interrupts.clean is None, "half of a step's gradients would be lost"


def test_another_training_starts_without_what_stopped_the_last() -> None:
    one = Interrupts()
    with pytest.raises(Stopped), one.listening():
        one.defer()
        signal.raise_signal(signal.SIGTERM)
        with one.waiting():
            pass
    with one.listening():
        one.defer()
        with one.waiting():
            pass
    assert one.pending is None and one.clean is None


def test_a_signal_at_any_line_of_a_wait_stops_it_cleanly_or_waits_for_the_next() -> None:
    files = {common.interrupts.__file__, contextlib.__file__}
    clean, deferred, line = 0, 0, 0
    while clean + deferred == line:
        line += 1
        one = Interrupts()
        with one.listening():
            one.defer()
            stopped = wait_with_signal_at(one, line, files)
            if stopped is not None:
                assert one.clean is stopped, f"line {line}"
                clean += 1
            elif one.pending is not None:
                deferred += 1
            # Else the wait has fewer lines.
    assert clean > 5 and deferred > 1


def wait_with_signal_at(one: Interrupts, line: int, files: set[str]) -> Stopped | None:
    """Waits twice; a signal comes before the ``line``-th line of ``files`` of the first wait."""
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Callable | None:
        nonlocal count
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            count += 1
            if count == line:
                sys.settrace(None)
                signal.raise_signal(signal.SIGTERM)
        return trace

    before = sys.gettrace()
    try:
        sys.settrace(trace)
        with one.waiting():
            pass
    except Stopped as stopped:
        return stopped
    finally:
        sys.settrace(before)
    if one.pending is not None:
        with pytest.raises(Stopped), one.waiting():
            pass
        return None
    return None


@pytest.fixture
def torch_handler() -> Iterator[None]:
    """What torch does on SIGCHLD when one of its loader processes has died."""

    def fail(signum: int, frame: object) -> None:
        raise RuntimeError("DataLoader worker died")

    before = signal.signal(signal.SIGCHLD, fail)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("torch_handler")
def test_the_death_of_a_loader_process_waits_for_the_next_batch(interrupts: Interrupts) -> None:
    interrupts.defer_lost_children()
    interrupts.defer_lost_children()
    signal.raise_signal(signal.SIGCHLD)
    with pytest.raises(RuntimeError, match="worker died") as caught, interrupts.waiting():
        interrupts.raise_lost_child()
    assert interrupts.clean is caught.value
    with interrupts.waiting():
        interrupts.raise_lost_child()


@pytest.mark.usefixtures("torch_handler")
def test_the_death_of_a_loader_process_that_is_waited_for_is_seen_at_once(
    interrupts: Interrupts,
) -> None:
    interrupts.defer_lost_children()
    with pytest.raises(RuntimeError, match="worker died") as caught, interrupts.waiting():
        signal.raise_signal(signal.SIGCHLD)
        pytest.fail("it went on")
    assert interrupts.clean is caught.value


def test_without_loader_processes_the_death_of_a_child_is_nothing(interrupts: Interrupts) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        interrupts.defer_lost_children()
        assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGCHLD, before)
    with interrupts.waiting():
        interrupts.raise_lost_child()


def test_a_thread_may_run_a_command_though_it_gets_no_signals() -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    entered = []

    def work() -> None:
        one = Interrupts()
        with one.listening():
            one.defer()
            entered.append([signal.getsignal(n) for n in SIGNALS])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [before]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone can do that")
@pytest.mark.parametrize("asked", [True, False])
def test_a_process_dies_with_its_parent_where_it_asks_for_it(asked: bool) -> None:
    reading, writing = os.pipe()

    def parent() -> None:
        pid = os.fork()
        if pid == 0:
            if asked:
                die_with_parent()
            os.write(writing, str(os.getpid()).encode())
            signal.pause()
        signal.pause()

    pid = os.fork()
    if pid == 0:
        parent()
    os.close(writing)
    child = int(os.read(reading, 20))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    ended = bool(select.select([reading], [], [], 20 if asked else 0.2)[0])
    if not ended:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    assert ended is asked
