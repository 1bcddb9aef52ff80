"""No verb opens a connection to another machine, and training needs few libraries."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from running import ROOT, at, smoke

# Python reads this file at the start of every process that finds it on its path.
_WATCH = """
import ipaddress, os, sys

def watch(event, args):
    if event == "socket.getaddrinfo":
        host = args[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(args[1], tuple):
        host = args[1][0]
    else:
        return
    name = host.decode() if isinstance(host, bytes) else str(host or "localhost")
    try:
        local = ipaddress.ip_address(name).is_loopback
    except ValueError:
        local = name in ("localhost", os.uname().nodename)
    if not local:
        with open(os.environ["CONNECTIONS"], "a") as stream:
            stream.write(f"{event} {name} {sys.argv}\\n")
        raise OSError("connections are forbidden in this test")

sys.addaudithook(watch)
"""
# The kernel counts what cannot be routed, whoever sends it: W&B's own process is no Python.
_COUNT = 'ip link set lo up; "$@"; code=$?; grep "^Ip:" /proc/self/net/snmp >>"$COUNTS"; exit $code'
_ALONE = ("unshare", "--net", "sh", "-c", _COUNT, "sh")
# Gone as if never installed: neither to be imported nor listed among the distributions.
_BLOCK = """
import importlib.metadata, sys

MODULES = ("cv2", "albumentations", "torchvision", "torch_fidelity")
DISTRIBUTIONS = ("opencv-python-headless", "albumentations", "torchvision", "torch-fidelity")

# Torch asks whether there is such a package, which is not to be an error.
EXPORT = ("safetensors", "onnx", "onnx_ir", "onnxruntime", "onnxscript")
sys.modules.update(dict.fromkeys(EXPORT))

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

find = importlib.metadata.Distribution.from_name.__func__

def from_name(cls, name):
    if name.replace("_", "-") in DISTRIBUTIONS:
        raise importlib.metadata.PackageNotFoundError(name)
    return find(cls, name)

importlib.metadata.Distribution.from_name = classmethod(from_name)
sys.meta_path.insert(0, Blocked())
"""

# Verb by verb, for importing torch takes longer than most of them; whether one may fail is known
# by what it says.
_IN_ONE_PROCESS = """
import contextlib, io, json, os, sys
from running import call_cli

experiment, verbs = sys.argv[1], json.loads(sys.argv[2])
for verb in verbs:
    os.environ.pop("SYNTHETIC_MICROSCOPY_RUN", None)
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = call_cli(experiment, *verb)
    if code and "names no task" not in said.getvalue():
        sys.exit(f"{verb}: {said.getvalue()}")
"""


def start_with(folder: Path, code: str) -> dict[str, str]:
    (folder / "sitecustomize.py").write_text(code)
    kept = {k: v for k, v in os.environ.items() if k != "SYNTHETIC_MICROSCOPY_RUN"}
    path = os.pathsep.join([str(folder), str(ROOT), str(ROOT / "tests")])
    records = {"CONNECTIONS": "connections.txt", "COUNTS": "counts.txt"}
    return kept | {"PYTHONPATH": path} | {k: str(folder / name) for k, name in records.items()}


def python(*args: str, env: dict[str, str]) -> subprocess.CompletedProcess:
    """Runs Python, where Linux lets us in a network of its own that knows this machine alone."""
    command = [*_ALONE, sys.executable, *args] if _can_be_alone() else [sys.executable, *args]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


@functools.cache
def _can_be_alone() -> bool:
    found = all(map(shutil.which, ("unshare", "ip")))
    return found and subprocess.run([*_ALONE, "true"], env={"COUNTS": os.devnull}).returncode == 0


def unroutable(folder: Path) -> int:
    """Packets that any process of `python`, native ones too, wanted to send elsewhere."""
    path = folder / "counts.txt"
    if not path.exists():
        return 0
    names, *rows = [line.split() for line in path.read_text().splitlines()]
    column = names.index("OutNoRoutes")
    return sum(int(row[column]) for row in rows if row != names)


@pytest.mark.parametrize("watched", [True, False])
def test_the_watches_see_a_connection(tmp_path: Path, watched: bool) -> None:
    env = start_with(tmp_path, _WATCH if watched else "")
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    if watched:
        assert "forbidden" in python("-c", code, env=env).stderr
        assert "192.0.2.1" in (tmp_path / "connections.txt").read_text()
    elif not _can_be_alone():
        pytest.skip("no network of its own for a process here: native processes are not watched")
    else:
        assert python("-c", code, env=env).returncode == 1
        assert unroutable(tmp_path) >= 1


@pytest.mark.one_experiment(real=True)
def test_no_verb_connects_to_another_machine(experiment: str, tmp_path: Path) -> None:
    env = start_with(tmp_path, _WATCH)
    where = at(tmp_path / "w", "offline")
    verbs = (
        ("prepare", *smoke(experiment), "--workspace", str(tmp_path / "w")),
        ("fit", *smoke(experiment), *where, "--tracking.wandb", "offline"),
        ("generate", *where, "--n", "20", "--labels", "balanced"),
        ("evaluate", *where),
        ("utility", *where, "--seeds", "1", "--images_seen", "8", "--width", "2"),
        ("judge", *where, "--judges", "1", "--images_seen", "8", "--width", "2"),
        ("quiz", *where, "--n", "2"),
        ("card", *where),
        ("export", *where),
    )
    done = python("-c", _IN_ONE_PROCESS, experiment, json.dumps(verbs), env=env)
    assert done.returncode == 0, done.stderr
    done = python("-m", "common.report", "--workspace", str(tmp_path / "w"), env=env)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "connections.txt").exists()
    assert unroutable(tmp_path) == 0
    assert list((tmp_path / "w/runs").rglob("*.wandb"))


@pytest.mark.slow
def test_online_tracking_without_a_key_is_refused_at_once(experiment: str, tmp_path: Path) -> None:
    env = start_with(tmp_path, _WATCH) | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}
    env.pop("WANDB_API_KEY", None)
    script = str(ROOT / "experiments" / experiment / "cli.py")
    fit = ["fit", *smoke(experiment), *at(tmp_path, "x"), "--tracking.wandb", "online"]
    done = python(script, *fit, env=env)
    assert done.returncode == 2 and "WANDB_API_KEY" in done.stderr
    assert not (tmp_path / "connections.txt").exists()


@pytest.mark.parametrize("verb", ["dashboard", "sweep", "sync"])
def test_what_talks_to_wandb_ends_at_once_without_a_key(verb: str, tmp_path: Path) -> None:
    env = start_with(tmp_path, _WATCH) | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}
    env.pop("WANDB_API_KEY", None)
    (tmp_path / "runs/any/first/wandb/offline-run-1-first").mkdir(parents=True)
    (tmp_path / "runs/any/first/wandb/offline-run-1-first/run-first.wandb").touch()
    more = ["--config", "any.yaml"] if verb == "sweep" else ["--workspace", str(tmp_path)]
    done = python("-m", f"common.tracking.{verb}", "any", *more, env=env)
    assert done.returncode == 2, done.stderr
    assert f"error[2]: make {verb}: no W&B key is set" in done.stderr
    assert "wandb login" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "connections.txt").exists()
    assert unroutable(tmp_path) == 0


@pytest.mark.one_experiment(real=True)
def test_training_on_a_prepared_set_needs_no_libraries_of_images_and_export(
    trained: Path, experiment: str, tmp_path: Path
) -> None:
    env = start_with(tmp_path, _BLOCK)
    (prepared,) = trained.glob("data/processed/*/")
    script = str(ROOT / "experiments" / experiment / "cli.py")
    data = ["--data.root", str(prepared)]
    done = python(script, "fit", *smoke(experiment), *data, *at(tmp_path, "lean"), env=env)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / experiment / "lean/checkpoints/best.ckpt").is_file()
