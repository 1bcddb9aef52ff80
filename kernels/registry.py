"""Where operators are declared, and whether a call runs compiled code or the torch reference."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.autograd import forward_ad

from kernels import build
from kernels.derivatives import autograd_kernel

SWITCH = "KERNELS"
MODES = ("auto", "ref", "native")

_log = logging.getLogger("kernels")
_library = torch.library.Library("kernels", "DEF")
_loaded: dict[str, Path] = {}
_missing: dict[str, str] = {}
_changing = threading.Lock()


def operator(
    schema: str,
    reference: Callable,
    fake: Callable,
    backward: Callable | None = None,
    setup_context: Callable | None = None,
) -> Callable:
    """Declares ``torch.ops.kernels.<name>`` and returns it.

    Args:
        schema: ``name(Tensor x, ...) -> Tensor`` in torch's schema language, without defaults and
            lists of tensors.
        reference: plain torch; runs on every device that no compiled library serves.
        fake: shapes, strides and dtypes of the results, without data.
        backward: gradients of the inputs; built of declared operators, so that it can be
            differentiated again.
        setup_context: what the forward pass keeps for ``backward``.
    """
    name = f"kernels::{schema.split('(')[0]}"
    _library.define(schema, tags=torch.Tag.pt2_compliant_tag)
    _library.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(name, fake, lib=_library)
    declared = getattr(torch.ops.kernels, name.split("::")[1]).default
    if backward is not None:
        kernel = autograd_kernel(declared, backward, setup_context)
        _library.impl(name, kernel, "Autograd", with_keyset=True)
    return declared


def native(x: torch.Tensor) -> bool:
    """Whether a call on ``x`` goes to the declared operator; otherwise to its torch reference.

    Raises:
        RuntimeError: the mode is ``native`` and no compiled library serves the device of ``x``, or
            not what torch does with it.
    """
    device = x.device.type
    # CUDA code is built for the types that networks train in.
    served = device in _loaded and (device == "cpu" or x.dtype != torch.float64)
    # They go through torch's own operations only; through ours, tangents would be lost.
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    mode = _modes[-1][0]
    if mode == "native" and (transformed or not served):
        why = f"there are no compiled operators for {x.dtype} on {device}; use auto"
        if transformed:
            why = "torch.func and forward-mode derivatives need the reference; use auto"
        if _started_without and device not in _loaded:
            why = f"{SWITCH}=ref was set at the start; start without it"
        if device in _missing:
            why = f"{_missing[device]}; run `make kernels`, or use auto"
        raise RuntimeError(f"error[2]: {SWITCH}=native: {why}")
    return served and not transformed and mode != "ref"


@contextmanager
def using(mode: str) -> Iterator[None]:
    """Sets the mode of the whole process for a while: ``auto``, ``ref`` or ``native``.

    Raises:
        RuntimeError: there is no such mode.
    """
    # Threads may leave in any order: each takes its own away, and the latest that is left counts.
    asked = [_checked(mode)]
    with _changing:
        _modes.append(asked)
    try:
        yield
    finally:
        with _changing:
            _modes[:] = [other for other in _modes if other is not asked]


def status() -> dict[str, object]:
    """The mode, the loaded library of each device, and why one is not loaded."""
    return {"mode": _modes[-1][0], "loaded": dict(_loaded), "missing": dict(_missing)}


def _checked(mode: str) -> str:
    if mode not in MODES:
        raise RuntimeError(f"error[2]: {SWITCH}={mode}: is not known; give {', '.join(MODES)}")
    return mode


def _load(device: str, library: "build.Library") -> None:
    """Loads what was built before; an import never builds."""
    _missing[device] = f"the {device} operators are not built"
    found = build.candidates(library)
    outdated = not found and build.outdated(library)
    if outdated:
        _missing[device] += " from these sources with these settings, but from others"
    # Another machine that shares the cache may have built one that does not run here.
    for path in found:
        try:
            torch.ops.load_library(path)
        except OSError as error:
            _missing[device] = f"{path.name} cannot be loaded ({error}); delete it"
        else:
            _loaded[device] = path
            del _missing[device]
            return
    # Who has compiled code counts on it; who has none was told so by the build.
    level = logging.WARNING if found or outdated else logging.INFO
    said = "%s: the torch reference runs, which is slower; run `make kernels`"
    _log.log(level, said, _missing[device])


_modes = [[_checked(os.environ.get(SWITCH) or "auto")]]
_started_without = _modes[0][0] == "ref"
if not _started_without:
    _load("cpu", build.CPU)
    if torch.version.cuda is not None:
        _load("cuda", build.CUDA)
