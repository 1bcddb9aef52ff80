"""Lets torchvision import beside a torch that its compiled extension was not built for.

The torchvision wheel on PyPI is a CUDA build. Beside a CPU torch its extension cannot load, and
its fake-tensor registrations then fail on two operators that do not exist. Declaring those two
schemas is enough; where the extension loads, nothing is declared.
"""

import contextlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

_OPERATORS = ("nms", "qnms")
# A Library forgets its schemas when it is collected.
_DECLARED: list[Any] = []


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "torchvision":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname)
        if spec is not None and spec.submodule_search_locations:
            _declare_missing_operators(Path(spec.submodule_search_locations[0]))
        return spec


def install() -> None:
    """Prepares the next ``import torchvision``; costs nothing until it happens."""
    known = any(isinstance(finder, _Finder) for finder in sys.meta_path)
    if "torchvision" not in sys.modules and not known:
        sys.meta_path.insert(0, _Finder())


def _declare_missing_operators(package: Path) -> None:
    import torch

    for binary in sorted([*package.glob("_C*.so"), *package.glob("_C*.pyd")]):
        with contextlib.suppress(OSError, ImportError):
            torch.ops.load_library(str(binary))
    missing = [name for name in _OPERATORS if not hasattr(torch.ops.torchvision, name)]
    if missing:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in missing:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _DECLARED.append(library)
