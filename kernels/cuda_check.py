"""``make kernels-check-cuda``: what can be told of the CUDA operators without a GPU and its torch.

They must compile without a warning, use few registers, spill none of them to memory, and call
nothing but the stable interface of torch and the standard libraries.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kernels import build, toolchain
from kernels.build import Library
from kernels.toolchain import BuildFailed, CommandFailed, Toolchain, Torch

MAX_REGISTERS = 128
CARDS = ("8.0", "9.0+PTX")
LIMIT_S = 900.0

_STRICT = {
    ".cu": ("-Xptxas=-v", "-Werror=all-warnings", "-Xcompiler=-Werror"),
    ".cpp": ("-Werror",),
}
# Torch's C interface; symbols of the standard libraries carry their version, others are optional.
_ALLOWED = re.compile(r"U (aoti_torch_|torch_)\w+$|U \S+@(GLIBC|GLIBCXX|CXXABI|GCC)_|[wv] ")


@dataclass(frozen=True)
class Kernel:
    """What the assembler says of one kernel on one card; sizes are bytes of a thread or block."""

    source: str
    name: str
    gpu: str
    registers: int
    spilled: int
    shared: int


def check(library: Library) -> int:
    """Compiles and links ``library``, prints a table of its kernels, and says what is wrong.

    Returns:
        The exit code: 1 if anything is wrong.
    """
    try:
        nvcc, cxx = toolchain.find_nvcc(), toolchain.find_cxx()
    except BuildFailed as error:
        print(f"kernels-check-cuda: skipped, {error}")
        return 0
    with tempfile.TemporaryDirectory() as name:
        torch = _stub_torch(Path(name), cxx)
        tools = Toolchain(torch, cxx, nvcc, toolchain.gpu_flags(CARDS))
        try:
            kernels, symbols = _compile(library, tools, Path(name))
        except CommandFailed as error:
            print(error.log.read_text(errors="replace"), file=sys.stderr)
            return _report([f"{library.name}: {error}; mend what is said above"])
        except BuildFailed as error:
            return _report([f"{library.name}: {error}; add it"])
    _print_table(kernels)
    foreign = [symbol.split()[-1] for symbol in symbols if not _ALLOWED.match(symbol)]
    remedy = "call the stable interface of torch instead"
    return _report([*_faults(kernels), *(f"{name}: is not allowed; {remedy}" for name in foreign)])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    argparse.ArgumentParser("kernels.cuda_check", description=__doc__).parse_args(arguments)
    return check(build.CUDA)


def kernels_in(said: str, source: str) -> list[Kernel]:
    """The kernels in what ``ptxas -v`` printed for ``source``, with their mangled names."""
    found: list[Kernel] = []
    for line in said.splitlines():
        if match := re.search(r"Compiling entry function '(\S+)' for '(\w+)'", line):
            found.append(Kernel(source, match[1], match[2], 0, 0, 0))
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            # Functions that are not inlined have a line of their own.
            spilled = found[-1].spilled + int(match[1]) + int(match[2])
            found[-1] = replace(found[-1], spilled=spilled)
        elif match := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            sizes = {"registers": int(match[1]), "shared": int(shared[1]) if shared else 0}
            found[-1] = replace(found[-1], **sizes)
    return found


def _stub_torch(folder: Path, cxx: str) -> Torch:
    """A torch with CUDA to link with: the installed headers, and libraries without content."""
    (folder / "lib").mkdir()
    (folder / "include").symlink_to(toolchain.find_torch().folder / "include")
    for name in ("libtorch_cpu.so", "libtorch_cuda.so"):
        command = [cxx, "-shared", "-x", "c++", "-", "-o", f"lib/{name}", f"-Wl,-soname,{name}"]
        subprocess.run(command, cwd=folder, input=b"", check=True)
    return Torch(folder, None)


def _compile(library: Library, tools: Toolchain, folder: Path) -> tuple[list[Kernel], list[str]]:
    units = [replace(u, flags=u.flags + _STRICT[Path(u.sources).suffix]) for u in library.units]
    commands = build.object_commands(replace(library, units=tuple(units)), tools, folder)
    toolchain.run_all(commands, library.folder, LIMIT_S)
    out = folder / "library.so"
    link = tools.link([log.with_suffix(".o") for log in commands], out)
    toolchain.run_all({folder / "link.log": link}, library.folder, LIMIT_S)
    found = [
        kernel
        for log, words in commands.items()
        for kernel in kernels_in(log.read_text(errors="replace"), words[words.index("-c") + 1])
    ]
    undefined = ["nm", "-D", "--undefined-only", str(out)]
    listed = subprocess.run(undefined, capture_output=True, text=True, check=True).stdout
    names = _demangled([kernel.name for kernel in found], tools)
    kernels = [replace(kernel, name=name) for kernel, name in zip(found, names, strict=True)]
    return kernels, [line.strip() for line in listed.splitlines()]


def _demangled(names: list[str], tools: Toolchain) -> list[str]:
    beside = Path(str(tools.nvcc)).with_name("cu++filt")
    program = shutil.which(beside) or shutil.which("c++filt")
    if program is None:
        return names
    how = {"input": "\n".join(names), "capture_output": True, "text": True, "check": True}
    said = subprocess.run([program], **how).stdout
    return said.replace("(anonymous namespace)::", "").splitlines()


def _print_table(kernels: Sequence[Kernel]) -> None:
    print(f"{'registers':>9} {'spilled':>7} {'shared':>6}  {'card':<6} {'source':<28} kernel")
    for k in sorted(kernels, key=lambda k: (-k.spilled, -k.registers, k.name, k.gpu)):
        print(f"{k.registers:9} {k.spilled:7} {k.shared:6}  {k.gpu:<6} {k.source:<28} {k.name}")


def _faults(kernels: Sequence[Kernel]) -> Iterator[str]:
    for kernel in kernels:
        where = f"{kernel.source}: {kernel.name} on {kernel.gpu}"
        remedy = "keep fewer values at once"
        if kernel.spilled:
            yield f"{where} spills {kernel.spilled} bytes; {remedy}"
        if kernel.registers > MAX_REGISTERS:
            yield f"{where} uses {kernel.registers} registers of {MAX_REGISTERS}; {remedy}"


def _report(faults: Sequence[str]) -> int:
    for fault in faults:
        print(f"error[1]: {fault}", file=sys.stderr)
    if not faults:
        budget = f"no warnings, no spills, at most {MAX_REGISTERS} registers"
        print(f"kernels-check-cuda: passed: {budget}, only allowed symbols")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
