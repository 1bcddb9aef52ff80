import common  # noqa: F401  isort: skip  (repairs the torchvision import before Lightning's)

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from running import EXPERIMENTS, TOY, Cli, Result, at, call_cli, smoke

pytest_plugins = ["error_sites"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "experiment" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("one_experiment")
    names = EXPERIMENTS
    if marker:
        chosen = EXPERIMENTS[0] if marker.kwargs.get("real") else TOY
        others = (name for name in EXPERIMENTS if name != chosen)
        names = [chosen, *(pytest.param(name, marks=pytest.mark.slow) for name in others)]
    metafunc.parametrize("experiment", names, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The test that takes minutes comes first: at the end, one process would work at it alone."""
    items.sort(key=lambda item: "test_sixth_experiment" not in item.nodeid)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors on many threads cost more than they save."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs an experiment's real command line in this process: importing torch again costs 4 s."""

    def call(experiment: str, *args: str | Path) -> Result:
        monkeypatch.delenv("SYNTHETIC_MICROSCOPY_RUN", raising=False)
        code = call_cli(experiment, *args)
        return Result(code, *capfd.readouterr())

    return call


@pytest.fixture(scope="session")
def trained(experiment: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Workspace with a smoke run called `first`, from simulated raw data; tests copy it."""
    workspace = tmp_path_factory.mktemp(experiment)
    code = call_cli(experiment, "fit", *smoke(experiment), *at(workspace, "first"))
    assert code == 0
    return workspace


@pytest.fixture
def workspace(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained workspace that a test may change."""
    shutil.copytree(trained, tmp_path / "workspace", symlinks=True)
    return tmp_path / "workspace"


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a headless browser; where apt may, it is installed."""
    # One process at a time: apt gives up where another one installs.
    with (Path(tempfile.gettempdir()) / "chromium.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if shutil.which("chromium") is None and shutil.which("apt-get") and os.geteuid() == 0:
            for words in ("update -qq", "install -y -qq --no-install-recommends chromium"):
                subprocess.run(["apt-get", *words.split()], capture_output=True, check=False)
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs chromium: apt-get install chromium")
    return path
