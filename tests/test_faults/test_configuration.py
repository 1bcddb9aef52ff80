"""Y1: configurations that would run code or exhaust the machine; C3: checkpoints that would."""

import hashlib
import io
import json
import os
import pickle
import resource
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from faults import SUBJECTS, Alive, Call, Ended, Victim, call, run_all, run_one
from running import at, smoke
from tiny_run import TinyRun, read

pytestmark = pytest.mark.faults

EXPERIMENT = SUBJECTS[0]
SECONDS = 2
EXTRA_BYTES = 300_000_000
HOOK = "trainer: {strategy: {class_path: DDPStrategy, init_args: {ddp_comm_hook: %s}}}"
BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    + [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 9)]
)
FLOW_BOMB = "{" + ", ".join(BOMB.splitlines()) + "}"
# Name of the case: the configuration, what the one sentence says, further arguments.
CONFIGURATIONS = {
    "foreign class": ("model: foreign.Model", "foreign.Model may not", ()),
    "foreign callback": ("trainer: {callbacks: [foreign.Watch]}", "foreign.Watch may not", ()),
    "foreign class of a group": (
        "hardware: {class_path: foreign.Speed}",
        "foreign.Speed may not",
        (),
    ),
    "foreign help": ("{}", "foreign.Model may not", ("--model.help", "foreign.Model")),
    "os.system": (HOOK % "os.system", "os.system may not", ()),
    "os.system through ours": (HOOK % "common.cli.os.system", "posix.system may not", ()),
    "torch.load": (HOOK % "torch.load", "torch.load may not", ()),
    "torch.load through ours": (
        HOOK % f"experiments.{EXPERIMENT}.module.torch.load",
        "torch.serialization.load may not",
        (),
    ),
    "printed foreign class": ("model: foreign.Model", "foreign.Model may not", ("--print_config",)),
    "printed os.system": (HOOK % "os.system", "os.system may not", ("--print_config",)),
    "Python tag": ("run: !!python/object/apply:foreign.run []", "Python object", ()),
    "alias bomb": (BOMB, "more than", ()),
    "alias bomb as text": (f"data: {{batch_size: {json.dumps(FLOW_BOMB)}}}", "batch_size", ()),
    "alias bomb in a list": (f"trainer: {{devices: [{json.dumps(FLOW_BOMB)}]}}", "devices", ()),
    "alias bomb as argument": ("{}", "more than", ("--config", FLOW_BOMB)),
    "alias bomb in a further file": ("model: bomb.yaml", "bomb.yaml", ()),
    "brackets": ("[" * 500_000, "maximum nesting depth", ()),
    "5 MB": ("#" * 5_000_000, "more than", ()),
    "20 GB in a further file": ("model: huge.yaml", "huge.yaml", ()),
    "pipe": ("model: pipe", "pipe", ()),
    "unknown key": ("data: {imge_size: 64}", "imge_size", ()),
    "wrong type": ("data: {batch_size: many}", "batch_size", ()),
    "missing file": ("{}", "absent.yaml", ("--config", "absent.yaml")),
}


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """Appears as soon as the module `foreign` is imported or one of its functions is called."""
    return tmp_path / "marker"


@pytest.fixture
def reachable(tmp_path: Path, marker: Path) -> Call:
    """Puts a folder with the module `foreign` on the path of a victim."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    text = (
        f"from pathlib import Path\n\n\ndef run():\n    Path({str(marker)!r}).touch()\n\n\nrun()\n"
    )
    (folder / "foreign.py").write_text(text)
    return call("site:addsitedir", sitedir=str(folder))


def refused(ended: Ended, code: int, *words: str) -> bool:
    line = ended.errors[0] if len(ended.errors) == 1 else ""
    told = line.startswith(f"error[{code}]: ") and all(word in line for word in words)
    return ended.code == code and told and "Traceback" not in ended.err


def at_most_two_seconds(alive: Alive) -> None:
    """Of computing, which is the same on a busy machine."""
    with suppress(ProcessLookupError):
        resource.prlimit(alive.pid, resource.RLIMIT_CPU, (SECONDS, SECONDS))


def test_no_configuration_imports_or_runs_anything_or_exhausts_the_machine(
    tmp_path: Path, marker: Path, reachable: Call, tally: Callable[[str, int, int], None]
) -> None:
    (tmp_path / "bomb.yaml").write_text(BOMB)
    with (tmp_path / "huge.yaml").open("wb") as stream:
        stream.truncate(20 * 10**9)
    os.mkfifo(tmp_path / "pipe")
    limit = call("sabotage:limit_memory", extra=EXTRA_BYTES)
    victims = []
    for number, (text, _, more) in enumerate(CONFIGURATIONS.values()):
        config = tmp_path / f"{number}.yaml"
        config.write_text(text)
        words = ["fit", *smoke(EXPERIMENT), *at(tmp_path, "x"), "--config", config, *more]
        victims.append(Victim(EXPERIMENT, words, [reachable, limit], steer=at_most_two_seconds))
    results = dict(zip(CONFIGURATIONS, run_all(victims), strict=True))
    failed = {
        case: ended
        for case, ended in results.items()
        if not refused(ended, 2, CONFIGURATIONS[case][1])
    }
    clean = not marker.exists() and not (tmp_path / "runs").exists()
    tally("Y1", (len(results) - len(failed)) * clean, len(results))
    assert not failed and clean


def test_the_traps_would_have_gone_off(tmp_path: Path, marker: Path, reachable: Call) -> None:
    assert run_one(Victim(sabotage=[reachable, call("foreign:run")])).code == 0
    assert marker.exists()
    limit = call("sabotage:limit_memory", extra=EXTRA_BYTES)
    starved = Victim(sabotage=[limit, call("sabotage:devour_memory")])
    assert "MemoryError" in run_one(starved).err
    busy = call("timeit:timeit", stmt="sum(range(1000))", number=10**9)
    assert run_one(Victim(sabotage=[busy], steer=at_most_two_seconds)).code < 0


def test_a_run_whose_own_configuration_is_hostile_is_not_touched(
    trained_run: TinyRun,
    marker: Path,
    reachable: Call,
    tally: Callable[[str, int, int], None],
) -> None:
    config = trained_run.folder / "config.yaml"
    settings = yaml.safe_load(config.read_text())
    settings["model"]["class_path"] = "foreign.Model"
    config.write_text(yaml.safe_dump(settings))
    results = run_all(restarts(trained_run, reachable))
    passed = sum(refused(ended, 2, "foreign.Model") for ended in results) * (not marker.exists())
    tally("Y1", passed, len(results))
    assert passed == len(results), results


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def zipped(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def replace_checkpoints(run: TinyRun, content: bytes) -> None:
    """With a digest that fits, so that the loader itself is what is tested."""
    for name in ("best.ckpt", "last.ckpt"):
        path = run.last.with_name(name)
        path.write_bytes(content)
        line = f"{hashlib.sha256(content).hexdigest()}  {name}\n"
        path.with_name(f"{name}.sha256").write_text(line)


@pytest.mark.parametrize("kind", ["pickle", "zip", "more than a state", "YAML"])
def test_a_hostile_checkpoint_is_refused_and_not_executed(
    kind: str, trained_run: TinyRun, marker: Path, tally: Callable[[str, int, int], None]
) -> None:
    good = read(trained_run.last)
    content = {
        "pickle": lambda: pickle.dumps(Bomb(marker)),
        "zip": lambda: zipped(Bomb(marker)),
        "more than a state": lambda: zipped(good | {"callbacks": Bomb(marker)}),
        "YAML": lambda: f"lr: !!python/object/apply:os.system ['touch {marker}']\n".encode(),
    }[kind]()
    if kind != "YAML":
        unpickle(content)
        assert marker.exists(), "the checkpoint is not hostile"
        marker.unlink()
    replace_checkpoints(trained_run, content)
    anywhere = ("--ckpt_path", trained_run.last, "--weights_only", "false")
    fresh = TinyRun(EXPERIMENT, trained_run.data, trained_run.workspace, "fresh").fit(*anywhere)
    *results, started = run_all([*restarts(trained_run), fresh])
    passed = all(refused(ended, 4, ".ckpt") for ended in results) and not marker.exists()
    # No such option, or an option that loads as safely.
    passed &= refused(started, 2, "ckpt_path") or refused(started, 4, ".ckpt")
    tally("C3", int(passed), 1)
    assert passed, (results, started)


@pytest.mark.parametrize("key", ["_instantiator", "_class_path"])
def test_names_of_code_among_hyper_parameters_are_ignored(
    key: str,
    trained_run: TinyRun,
    marker: Path,
    reachable: Call,
    tally: Callable[[str, int, int], None],
) -> None:
    checkpoint = read(trained_run.last)
    checkpoint["hyper_parameters"][key] = "foreign.run"
    replace_checkpoints(trained_run, zipped(checkpoint))
    results = run_all(restarts(trained_run, reachable))
    passed = all(ended.code == 0 for ended in results) and not marker.exists()
    tally("C3", int(passed), 1)
    assert passed, results


def test_the_switch_that_lets_checkpoints_run_code_is_refused(
    trained_run: TinyRun, marker: Path, tally: Callable[[str, int, int], None]
) -> None:
    replace_checkpoints(trained_run, zipped(Bomb(marker)))
    env = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    results = run_all([replace(victim, env=env) for victim in restarts(trained_run)])
    passed = all(refused(ended, 2, *env) for ended in results) and not marker.exists()
    tally("C3", int(passed), 1)
    assert passed, results


@pytest.fixture(scope="module")
def template(prepared: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    run = TinyRun(EXPERIMENT, prepared(EXPERIMENT), tmp_path_factory.mktemp("trained"), "one")
    ended = run_one(run.fit())
    assert ended.code == 0, ended.err
    return run


@pytest.fixture
def trained_run(template: TinyRun, tmp_path: Path) -> TinyRun:
    """A finished run that a test may change."""
    return replace(template, workspace=shutil.copytree(template.workspace, tmp_path / "workspace"))


def restarts(run: TinyRun, *sabotage: Call) -> list[Victim]:
    """What reads `best.ckpt` and what reads `last.ckpt`."""
    words = ["generate", *at(run.workspace, run.name), "--n", "2"]
    return [Victim(run.experiment, words, sabotage), run.resume(sabotage=[*sabotage])]


def unpickle(content: bytes) -> None:
    # A bare pickle runs and is only then found to be no checkpoint.
    with suppress(RuntimeError):
        torch.load(io.BytesIO(content), weights_only=False)
