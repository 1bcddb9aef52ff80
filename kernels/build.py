"""Compiles the operators, once: ``python kernels/build.py`` does, and importing them never."""

import argparse
import hashlib
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

if __name__ == "__main__":
    # As a script, it leaves out the package's own code: that imports torch, which takes seconds.
    package = sys.modules.setdefault("kernels", ModuleType("kernels"))
    package.__path__ = [str(Path(__file__).parent)]

from kernels import cache, toolchain
from kernels.cache import BuildStalled
from kernels.toolchain import BuildFailed, CommandFailed, Toolchain

SWITCH = "KERNELS"
COMPILE_S = 600.0

_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (
    *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
    *("-mfma", "-mf16c", "-mprefer-vector-width=512"),
)
_WIDE = {"avx2": _AVX2, "avx512": _AVX512} if toolchain.X86 else {}
_LEVELS = {"baseline": ("-DKERNELS_IN_DOUBLE",), **_WIDE}


@dataclass(frozen=True)
class Unit:
    """Object files: one for each source that a pattern finds in the library's folder."""

    sources: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Library:
    """What is compiled, and linked into one file that torch loads.

    Args:
        name: part of its file name and of messages.
        folder: its sources; a change of any file there is another library.
        units: what is compiled.
        omits: files and folders of ``folder`` that it does not depend on.
        cuda: whether it needs nvcc and a torch with CUDA.
    """

    name: str
    folder: Path
    units: tuple[Unit, ...]
    omits: tuple[str, ...] = ()
    cuda: bool = False


_SOURCES = Path(__file__).parent / "csrc"
CPU = Library(
    "cpu",
    _SOURCES,
    (
        *(Unit("cpu/level.cpp", (f"-DKERNELS_LEVEL={k}", *flags)) for k, flags in _LEVELS.items()),
        Unit("bind_cpu.cpp"),
    ),
    omits=("cuda", "emu", "bind_cuda.cpp"),
)
CUDA = Library(
    "cuda",
    _SOURCES,
    (Unit("cuda/*.cu"), Unit("bind_cuda.cpp")),
    omits=("cpu", "emu", "bind_cpu.cpp"),
    cuda=True,
)


def find(library: Library) -> Path | None:
    """The youngest of `candidates`."""
    return next(iter(candidates(library)), None)


def candidates(library: Library) -> list[Path]:
    """What has been built from the present sources, by whatever compiler, the youngest first.

    It starts no process and raises nothing: it is for the import.
    """
    return _look_up(library, ".so")


def outdated(library: Library) -> bool:
    """Whether it has ever been built, from whatever sources and for whatever cards."""
    return cache.newest(f"{library.name}-*.so") is not None


def failure(library: Library) -> str | None:
    """Why the present sources could not be built, if that was tried."""
    notes = _look_up(library, ".failed")
    return cache.failure(notes[0]) if notes else None


def build(library: Library, retry: bool = False) -> Path:
    """The library as the present compilers make it: the cached one, or a new one.

    Args:
        library: what is to be built.
        retry: try again what has failed before with these sources and compilers.

    Raises:
        BuildFailed: a compiler is missing or fails, or the cache cannot be written.
        BuildStalled: another process has held the cache for too long.
    """
    tools, name = _plan(library)
    return cache.newest(name) or _build(library, tools, name, retry)


def ensure(library: Library, retry: bool = False, quiet: bool = False) -> int:
    """Builds the library unless it is there, and says that and how it went.

    Args:
        library: what is to be there.
        retry: build with the present compilers, even what has failed before.
        quiet: say nothing if it was there.

    Returns:
        The exit code: 0 if it is there, 1 if it cannot be built, 7 if another process stalls.
    """
    started = time.monotonic()
    try:
        ready = None if retry else find(library)
        if not ready:
            tools, name = _plan(library)
            ready = cache.newest(name)
        if not ready:
            _build(library, tools, name, retry, "is compiled now, once: a minute or two")
    except BuildFailed as error:
        if find(library):
            return _say(library, f"is ready from before, but cannot be built now: {error}")
        reason = f"which is slower: {error}; {SWITCH}=ref stops trying"
        return _say(library, f"runs on its torch reference, {reason}", code=1)
    except BuildStalled as error:
        print(error, file=sys.stderr, flush=True)
        return 7
    if not ready:
        return _say(library, f"built in {time.monotonic() - started:.0f} s")
    return 0 if quiet else _say(library, "is ready")


def object_commands(library: Library, tools: Toolchain, out: Path) -> dict[Path, list[str]]:
    """What compiles a library, up to the link.

    Returns:
        For each source, the command; its key is the file for what the compiler says, and the object
        file lies beside it and ends in ``.o``.

    Raises:
        BuildFailed: a source is not there.
    """
    commands: dict[Path, list[str]] = {}
    for unit in library.units:
        sources = sorted(library.folder.glob(unit.sources))
        if not sources:
            raise BuildFailed(f"{unit.sources} is not in {cache.shown(library.folder)}")
        for source in sources:
            name = source.relative_to(library.folder).as_posix()
            log = out / f"{len(commands)}.log"
            commands[log] = tools.compile(name, unit.flags, log.with_suffix(".o"))
    return commands


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser("kernels/build.py", description=__doc__)
    parser.add_argument("--cuda", action="store_true", help="insist on the CUDA operators too")
    parser.add_argument("--retry", action="store_true", help="try again what has failed before")
    parser.add_argument("--strict", action="store_true", help="end with 1 or 7 if it fails")
    parser.add_argument("--quiet", action="store_true", help="do not say what is ready")
    parser.add_argument("--stamp", type=Path, help="file to touch once the CPU operators are ready")
    given = parser.parse_args(arguments)
    if os.environ.get(SWITCH) == "ref":
        if not given.quiet:
            print(f"kernels: nothing is built, because {SWITCH}=ref")
        return 0
    code = ensure(CPU, given.retry, given.quiet)
    if code == 0 and given.stamp:
        # Without it, all of this is looked at again: nothing is lost.
        with suppress(OSError):
            given.stamp.touch()
    if given.cuda or _torch_has_cuda():
        cuda_code = ensure(CUDA, given.retry, given.quiet)
        code = max(code, cuda_code) if given.cuda else code
    return code if given.strict else 0


def _torch_has_cuda() -> bool:
    with suppress(BuildFailed):
        return toolchain.find_torch().cuda is not None
    return False


def _say(library: Library, text: str, code: int = 0) -> int:
    line = f"kernels: {library.name} {text}"
    shown = "".join(sign if sign.isprintable() else " " for sign in line)
    print(shown, file=sys.stderr if code else sys.stdout, flush=True)
    return code


def _look_up(library: Library, suffix: str) -> list[Path]:
    with suppress(OSError, BuildFailed):
        return cache.named(f"{library.name}-{_source_key(library)}-*{suffix}")
    return []


def _plan(library: Library) -> tuple[Toolchain, str]:
    tools = toolchain.find_toolchain(library.cuda)
    try:
        return tools, f"{library.name}-{_source_key(library)}-{tools.key()}.so"
    except OSError as error:
        where = cache.shown(library.folder)
        raise BuildFailed(f"{where} cannot be read ({error.strerror or error})") from error


def _source_key(library: Library) -> str:
    """Digest of all but the compilers that decides what the library holds."""
    files = {name: hashlib.sha256(path.read_bytes()) for name, path in _files(library)}
    facts = {
        "files": {name: content.hexdigest() for name, content in files.items()},
        "units": [asdict(unit) for unit in library.units],
        "flags": toolchain.CPP_FLAGS,
        "machine": [platform.system(), platform.machine()],
    }
    if library.cuda:
        cuda = (toolchain.find_torch().cuda or "none").split(".")[0]
        facts["cuda"] = [cuda, toolchain.gpus()]
        facts["flags"] += toolchain.CUDA_FLAGS + toolchain.CUDA_LINK_FLAGS
    return toolchain.digest(facts)


def _files(library: Library) -> Iterator[tuple[str, Path]]:
    for path in library.folder.rglob("*"):
        name = path.relative_to(library.folder)
        if name.parts[0] not in library.omits and path.is_file():
            yield name.as_posix(), path


def _build(library: Library, tools: Toolchain, name: str, retry: bool, notice: str = "") -> Path:
    path = cache.writable() / name

    def compile_in(private: Path) -> Path:
        if notice:
            _say(library, notice)
        made = _compile(library, tools, private)
        if _source_key(library) not in name:
            raise BuildFailed("its sources were changed meanwhile; `make kernels` tries again")
        return made

    try:
        cache.build_once(path, compile_in, retry)
    except OSError as error:
        problem = f"{cache.shown(path.parent)} cannot be used ({error.strerror or error})"
        raise BuildFailed(f"{problem}; set {cache.SETTING} to a local folder") from error
    return path


def _compile(library: Library, tools: Toolchain, private: Path) -> Path:
    """Every object at once, then one link."""
    commands = object_commands(library, tools, private)
    started = time.monotonic()
    toolchain.run_all(commands, library.folder, COMPILE_S)
    made, said = private / "library.so", private / "link.log"
    link = tools.link([log.with_suffix(".o") for log in commands], made)
    toolchain.run_all({said: link}, library.folder, COMPILE_S - (time.monotonic() - started))
    if not made.is_file():
        raise CommandFailed("the compiler wrote no library", said)
    return made


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
