import shutil
from pathlib import Path

import pytest
import torch

from kernels import cache, toolchain
from kernels.toolchain import Torch


def test_the_installed_torch_is_described_without_importing_it() -> None:
    found = toolchain.find_torch()
    assert found == Torch(Path(torch.__file__).parent, torch.version.cuda)


@pytest.mark.parametrize("cuda", ["13.0", None])
def test_the_cuda_of_torch_is_read_from_its_version_file(
    cuda: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"__version__ = '2.13.0'\ncuda: Optional[str] = {cuda!r}\nhip: Optional[str] = None\n"
    (tmp_path / "version.py").write_text(text)
    monkeypatch.setattr(torch.__spec__, "origin", str(tmp_path / "__init__.py"))
    assert toolchain.find_torch() == Torch(tmp_path, cuda)


def test_the_cache_is_in_the_project_or_where_caches_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("KERNELS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cache, "ROOT", tmp_path)
    home = tmp_path / "home/.cache/synthetic-microscopy/kernels"
    assert cache.places() == [home]
    (tmp_path / "pyproject.toml").touch()
    assert cache.places() == [tmp_path / "build/kernels", home]
    assert cache.writable() == tmp_path / "build/kernels"
    shutil.rmtree(tmp_path / "build")
    (tmp_path / "build").touch()
    assert cache.writable() == home
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.places()[1] == tmp_path / "xdg/synthetic-microscopy/kernels"
    monkeypatch.setenv("KERNELS_CACHE", str(tmp_path / "own"))
    assert cache.places() == [tmp_path / "own"]
