"""E1: a build of compiled operators that is killed, broken, unwritable, doubled or locked."""

import os
import re
import shutil
import signal
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faults import Alive, Ended, Victim, call, in_session, run_all, run_one
from tiny_operator import compiler, operator, ran

pytestmark = pytest.mark.faults

NOBODY = 65534
OPERATOR = operator("build_fault")
# Builds as the command does, loads as an import does, and computes with it or its reference.
CALLER = """
import os
from pathlib import Path
import torch
from kernels.build import ensure, find
from tiny_operator import library
if {user}:
    os.setuid({user})
print("writable" if os.access(os.environ["KERNELS_CACHE"], os.W_OK) else "read-only")
Path({ready!r}, str(os.getpid())).touch() if {ready!r} else None
operators = library(Path({sources!r}))
code = ensure(operators, quiet=True)
if path := find(operators):
    torch.ops.load_library(path)
print(code, torch.ops.build_fault.twice(21) if path else 2 * 21, flush=True)
"""


class Place:
    """A source folder, a cache and a caller that any user of the machine may read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = root / "cache"
        self.sources = root / "sources"
        self.cache.mkdir()
        self.sources.mkdir()
        (self.sources / "operator.cpp").write_text(OPERATOR)

    def compiler(self, script: str) -> Path:
        return compiler(self.root / "cxx", script)

    def caller(
        self,
        cxx: Path | str,
        user: int = 0,
        ready: str = "",
        steer: Callable[[Alive], object] | None = None,
    ) -> Victim:
        script = self.root / f"caller-{user}.py"
        script.write_text(CALLER.format(user=user, ready=ready, sources=str(self.sources)))
        env = {"KERNELS_CACHE": str(self.cache), "CXX": str(cxx), "KERNELS": ""}
        run = call("runpy:run_path", path_name=str(script))
        return Victim(sabotage=[run], env=env, steer=steer, timeout_s=100, grace_s=5)

    def cached(self) -> list[str]:
        """Kinds of what is in the cache."""
        return sorted(path.name.split("-")[0] + path.suffix for path in self.cache.iterdir())


BUILT = ["lock", "operators.so"]
# What a caller prints: of the cache, the exit code, and a result.
NOTICE = "kernels: operators is compiled now, once: a minute or two\n"
COMPILED = re.compile(rf"writable\n({NOTICE})?(kernels: operators built in \d+ s\n)?0 42\n")
REFERENCE = "1 42\n"


def compiled(ended: Ended) -> bool:
    """Whether it ended well, with a compiled result and no complaint."""
    return (ended.code, ended.err) == (0, "") and bool(COMPILED.fullmatch(ended.out))


@pytest.fixture
def place() -> Iterator[Place]:
    # Not pytest's folder, which only its owner may enter.
    with tempfile.TemporaryDirectory(prefix="build-") as name:
        Path(name).chmod(0o755)
        yield Place(Path(name))


@pytest.fixture(scope="module")
def cxx(tally: Callable) -> str:
    found = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    if found is None:
        tally.skip("E1", 1, "no C++ compiler")
        pytest.skip("needs a C++ compiler")
    return found


@pytest.fixture(scope="module")
def build_s(cxx: str) -> float:
    """Seconds from start to end of a caller that finds an empty cache."""
    run_one(Victim())  # starts the server, which is no part of it
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name))
        ended = run_one(place.caller(cxx))
        assert compiled(ended) and place.cached() == BUILT, ended.err
        return ended.elapsed


def test_after_a_builder_was_killed_the_next_start_builds(
    place: Place, cxx: str, build_s: float, tally: Callable
) -> None:
    gate, compiling = place.root / "gate", place.root / "compiling"
    gate.touch()
    # Half of the library is written when it dies, by a process that the compiler started.
    half = 'while [ "$1" != -o ]; do shift; done; echo half > "$2"'
    hang = f"if [ -e {gate} ]; then {half}; touch {compiling}; sleep 60; fi"
    script = place.compiler(f'{hang}\nexec {cxx} "$@"')
    seen = []

    def kill(victim: Alive) -> None:
        def works() -> bool:
            seen[:] = in_session(victim.pid).values()
            return "sleep 60" in seen

        victim.wait_for(lambda: compiling.exists() and works())
        victim.send(signal.SIGKILL)

    killed = run_one(place.caller(script, steer=kill))
    left = place.cached()
    gate.unlink()
    after = run_one(place.caller(script))
    injected = (
        killed.code == -signal.SIGKILL
        and "sleep 60" in seen
        and [name.split(".")[0] for name in left] == ["building", "lock"]
    )
    passed = (
        injected
        and not killed.left
        and compiled(after)
        and after.elapsed <= build_s + 5
        and place.cached() == BUILT
    )
    tally("E1", passed, 1)
    assert passed, (seen, left, killed, after, build_s, place.cached())


def test_a_broken_compiler_is_said_in_one_sentence_and_the_reference_computes(
    place: Place, tally: Callable
) -> None:
    noise = 'seq -f "operator.cpp:%g: note: candidate" 5000'
    says = 'echo >> "$0.ran"; echo "internal error: out of registers" >&2'
    script = place.compiler(f"{noise}\n{says}\nexit 4")
    # The second start says it again, and does not try it again.
    ended = [run_one(place.caller(script)) for _ in range(2)]
    lines = [one.err.splitlines() for one in ended]
    passed = (
        all(one.code == 0 for one in ended)
        and ended[0].out == f"writable\n{NOTICE}{REFERENCE}"
        and ended[1].out == f"writable\n{REFERENCE}"
        and [len(said) for said in lines] == [1, 1]
        and all(len(said) < 1000 and "cxx ended with 4" in said for (said,) in lines)
        and all("internal error: out of registers" in said for (said,) in lines)
        and len(ran(script)) == 1
        and place.cached() == ["lock", "operators.failed", "operators.log"]
    )
    tally("E1", passed, 1)
    assert passed, (ended, place.cached())


def test_a_cache_that_cannot_be_written_is_said_and_the_reference_computes(
    place: Place, cxx: str, tally: Callable
) -> None:
    place.cache.chmod(stat.S_IRUSR | stat.S_IXUSR | stat.S_IROTH | stat.S_IXOTH)
    # Permissions do not bind root.
    ended = run_one(place.caller(cxx, user=0 if os.geteuid() else NOBODY))
    lines = ended.err.splitlines()
    passed = (
        (ended.code, ended.out) == (0, f"read-only\n{REFERENCE}")
        and len(lines) == 1
        and "cache cannot be used (Permission denied)" in lines[0]
        and "set KERNELS_CACHE" in lines[0]
        and place.cached() == []
    )
    tally("E1", passed, 1)
    assert passed, (ended, place.cached())


def test_of_two_builders_at_once_one_compiles_and_both_load(
    place: Place, cxx: str, tally: Callable
) -> None:
    ready = place.root / "ready"
    ready.mkdir()
    # The first to compile waits for the second to have come, and to reach the lock.
    wait = f"for try in $(seq 200); do [ $(ls {ready} | wc -l) = 2 ] && break; sleep 0.1; done"
    note = f"ls {ready} | wc -l >> {place.root}/runs"
    script = place.compiler(f'{wait}\nsleep 0.5\n{note}\nexec {cxx} "$@"')
    ended = run_all([place.caller(script, ready=str(ready))] * 2)
    # One line for the object and one for the link of one build: how many callers were there.
    runs = (place.root / "runs").read_text().split()
    passed = runs == ["2", "2"] and all(map(compiled, ended)) and place.cached() == BUILT
    tally("E1", passed, 1)
    assert passed, (ended, runs, place.cached())


def test_a_stale_lock_is_not_waited_on(
    place: Place, cxx: str, build_s: float, tally: Callable
) -> None:
    (place.cache / "lock").write_text(f"process {os.getpid()} on elsewhere")
    half = place.cache / "building-dead"
    half.mkdir()
    (half / "lock").touch()
    (half / "library").write_bytes(b"\x7fELF")
    ended = run_one(place.caller(cxx))
    passed = compiled(ended) and ended.elapsed <= build_s + 5 and place.cached() == BUILT
    tally("E1", passed, 1)
    assert passed, (ended, build_s, place.cached())
