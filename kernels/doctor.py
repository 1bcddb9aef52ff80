"""``python -m kernels.doctor``: which compiled operators are active here, and why."""

import argparse
import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from kernels import build, cache, registry, toolchain
from kernels.toolchain import BuildFailed

_LIBRARIES = {"cpu": build.CPU, "cuda": build.CUDA}


def facts() -> Iterator[tuple[str, str]]:
    """What there is to know, as pairs of a name and a text of one line."""
    status = registry.status()
    loaded: dict[str, Path] = status["loaded"]
    yield "mode", _set_by(build.SWITCH, str(status["mode"]))
    for device, library in _LIBRARIES.items():
        yield f"{device} library", str(loaded.get(device) or f"none: {_absence(device, library)}")
    if "cpu" in loaded:
        yield "cpu level", _level(loaded["cpu"])
    yield "C++ compiler", _compiler(toolchain.find_cxx)
    yield "CUDA compiler", _compiler(toolchain.find_nvcc)
    yield "CUDA targets", _set_by("TORCH_CUDA_ARCH_LIST", " ".join(toolchain.gpus()))
    for place in cache.places():
        yield "cache", _set_by(cache.SETTING, f"{place}, {_access(place)}")
    cuda = torch.version.cuda and f"CUDA {torch.version.cuda}, {torch.cuda.device_count()} devices"
    yield "torch", f"{torch.__version__}, {cuda or 'without CUDA'}"
    yield "threads", f"{torch.get_num_threads()} of {os.cpu_count()} processors"
    yield from _operators(set(loaded) if status["mode"] != "ref" else set())


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints one fact a line; returns the exit code 0."""
    argparse.ArgumentParser("kernels.doctor", description=__doc__).parse_args(arguments)
    told = list(facts())
    width = max(len(name) for name, _ in told)
    for name, text in told:
        print(f"{name:<{width}}  {text}")
    return 0


def _absence(device: str, library: build.Library) -> str:
    if registry.status()["mode"] == "ref":
        return f"{build.SWITCH}=ref"
    if library.cuda and torch.version.cuda is None:
        return "the installed torch is one without CUDA"
    failed = None if build.find(library) else build.failure(library)
    reason = registry.status()["missing"].get(device, "it is not built")
    return failed or f"{reason}; run `make kernels`"


def _level(library: Path) -> str:
    told = ctypes.CDLL(str(library)).kernels_cpu_level
    told.restype = ctypes.c_char_p
    level = (told() or b"").decode()
    if wish := os.environ.get("KERNELS_CPU"):
        unknown = f"none: {wish} is not known; give baseline, avx2 or avx512"
        return _set_by("KERNELS_CPU", level or unknown)
    return f"{level} (the processor has {torch.backends.cpu.get_cpu_capability()})"


def _set_by(setting: str, text: str) -> str:
    return f"{text} ({setting} is set)" if os.environ.get(setting) else text


def _compiler(find: Callable[[], str]) -> str:
    try:
        path = find()
        said = toolchain.version(path).strip().splitlines()
    except BuildFailed as error:
        return f"none: {error}"
    # g++ says it first, nvcc last but one.
    told = next((line for line in said if re.search(r"\d+\.\d+", line)), "it tells no version")
    return f"{path}, {told}"


def _access(place: Path) -> str:
    there = place.is_dir()
    nearest = next(path for path in (place, *place.parents) if path.exists())
    allowed = "can be written" if os.access(nearest, os.W_OK | os.X_OK) else "cannot be written"
    return allowed if there else f"is not there yet, {allowed}"


def _operators(active: set[str]) -> Iterator[tuple[str, str]]:
    """Whether a call on a device runs compiled code."""
    keys = {"cpu": "CPU", "cuda": "CUDA"}
    names = torch._C._dispatch_get_registrations_for_dispatch_key
    compiled = {device: set(names(key)) for device, key in keys.items() if device in active}
    for name in sorted(names("CompositeExplicitAutograd")):
        if name.startswith("kernels::"):
            served = {d: "native" if name in compiled.get(d, ()) else "reference" for d in keys}
            yield name.split("::")[1], ", ".join(f"{d} {how}" for d, how in served.items())


if __name__ == "__main__":
    sys.exit(main())
