import logging
import os
import platform
import socket
import sys
from collections.abc import Iterator
from pathlib import Path, PurePath

import numpy as np
import pytest
import wandb

from common.data.image_io import read_image
from common.errors import Exit, UserError
from common.runs.folder import RunFolder
from common.tracking import Tracking, WandbRun, make_loggers, public
from running import ROOT, Cli, at, smoke

# Planted where W&B would look; none of them may turn up in what it writes.
CANARIES = {"argv": "canaryargument", "env": "canaryenvironment", "path": "canarypath",
            "user": "canaryuser", "host": "canaryhost", "secret": "canarysecret"}  # fmt: skip


@pytest.fixture
def wandb_traps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Lightning sets it for good when a run is offline.
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("SOME_TOKEN", CANARIES["env"])
    for name in ("USER", "LOGNAME", "WANDB_USERNAME", "USERNAME"):
        monkeypatch.setenv(name, CANARIES["user"])
    monkeypatch.setattr(socket, "gethostname", lambda: CANARIES["host"])
    monkeypatch.setattr(platform, "node", lambda: CANARIES["host"])
    monkeypatch.setattr(sys, "argv", ["cli.py", "--x", CANARIES["argv"]])
    yield
    if wandb.run is not None:
        wandb.finish()
    wandb.teardown()


def written(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in (folder / "wandb").rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def assert_private(files: dict[str, bytes]) -> None:
    hidden = [*CANARIES.values(), str(ROOT), str(Path.home()) + "/", *_host()]
    for name, content in files.items():
        for word in hidden:
            assert word.encode() not in content, f"{word} in {name}"
            assert word not in name


def _host() -> list[str]:
    # The real name, which W&B's own process asks the system for; a short one is in any file.
    return [name for name in [os.uname().nodename] if len(name) > 5]


def test_an_offline_run_gives_nothing_of_this_machine_away(
    tmp_path: Path, wandb_traps: None, capfd: pytest.CaptureFixture
) -> None:
    workspace = tmp_path / CANARIES["path"]
    folder = RunFolder(workspace, "experiment", "first")
    csv, run = make_loggers(folder, Tracking(tags=("public-tag",)))
    assert csv.path == folder.metrics
    run.log_hyperparams(
        {
            "data": {"root": str(workspace / "raw"), "card": "public-card"},
            "files": [str(workspace / "a.yaml"), workspace / "b.yaml"],
            "note": f"see {workspace}/c.yaml",
            "api_key": CANARIES["secret"],
            "nested": [{"password": CANARIES["secret"]}],
        }
    )
    picture = np.linspace(0, 255, 64 * 48).reshape(64, 48).astype(np.uint8)
    run.images_seen = 4711
    run.log_metrics({"train/public-loss": 0.5}, step=3)
    run.log_grid("preview", picture)
    wandb.finish()
    files = written(folder.path)
    assert_private(files)
    (log,) = (content for name, content in files.items() if name.endswith(".wandb"))
    for shown in (b"public-card", b"public-loss", b"public-tag", b"first", b"a.yaml", b"4711"):
        assert shown in log
    (image,) = (name for name in files if name.endswith(".png"))
    assert np.array_equal(read_image(folder.path / image).pixels, picture), "not what was logged"
    assert "anonymous" not in capfd.readouterr().err


def test_the_command_line_tells_wandb_nothing_of_this_machine(
    tmp_path: Path, wandb_traps: None, cli: Cli
) -> None:
    workspace = tmp_path / CANARIES["path"]
    fit = ["fit", *smoke("cilia_cvae"), *at(workspace, "first"), "--tracking.wandb", "offline"]
    result = cli("cilia_cvae", *fit, "--tracking.tags", "[public-tag]")
    assert result.code == 0, result.err
    assert "wandb" not in result.err and "Traceback" not in result.err
    wandb.finish()
    files = written(workspace / "runs/cilia_cvae/first")
    assert_private(files)
    (log,) = (content for name, content in files.items() if name.endswith(".wandb"))
    for shown in (b"val/loss", b"public-tag", b"images_seen", b"kl_warmup_images"):
        assert shown in log


def test_disabled_tracking_leaves_only_the_table(tmp_path: Path) -> None:
    (csv,) = make_loggers(RunFolder(tmp_path, "exp", "first"), Tracking("disabled"))
    assert csv.save_dir == str(tmp_path / "runs/exp/first")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("outcome", [False, wandb.errors.AuthenticationError("no such key")])
def test_online_without_a_key_that_works_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: bool | Exception
) -> None:
    def login(prompt: bool) -> bool:
        assert prompt is False
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(wandb, "login", login)
    with pytest.raises(UserError, match="no W&B key is set") as caught:
        make_loggers(RunFolder(tmp_path, "exp", "first"), Tracking("online"))
    assert caught.value.code == Exit.USAGE and "wandb login" in caught.value.remedy
    assert not list(tmp_path.iterdir())


def test_online_without_a_key_asks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    fit = ["fit", *smoke("cilia_cvae"), *at(tmp_path, "first"), "--tracking.wandb", "online"]
    result = cli("cilia_cvae", *fit)
    assert result.code == 2 and "error[2]: --tracking.wandb online: no W&B key" in result.err
    assert not (tmp_path / "runs").exists()


def test_a_logger_asked_for_online_resumes_its_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "exp", "first")
    online = WandbRun(folder, Tracking("online"))._wandb_init
    offline = WandbRun(folder, Tracking("offline"))._wandb_init
    assert (online["id"], online["project"], online["resume"]) == ("first", "exp", "allow")
    assert offline["resume"] is None and "anonymous" not in {**online, **offline}


def test_what_is_public_has_no_folders_and_no_secrets() -> None:
    value = {
        "root": PurePath("/home/me/data/raw"),
        "relative": "experiments/x/configs/a.yaml",
        "text": "from /home/me/a b.yaml to C:\\Users\\me\\c.yaml, ~/me/d.yaml",
        "url": "https://example.org/a/b.html",
        "class_path": "experiments.x.module.Model",
        "wandb_api_key": "abc",
        "hf_token": 12345,
        "no_token": None,
        "passwords": ["a", {"inner": "b"}],
        "numbers": (1, 2.5, True, None),
    }
    assert public(value) == {
        "root": "raw",
        "relative": "experiments/x/configs/a.yaml",
        "text": "from a b.yaml to c.yaml, d.yaml",
        "url": "https://example.org/a/b.html",
        "class_path": "experiments.x.module.Model",
        "wandb_api_key": "***",
        "hf_token": "***",
        "no_token": None,
        "passwords": "***",
        "numbers": [1, 2.5, True, None],
    }


def test_wandb_keeps_its_warnings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    WandbRun(RunFolder(tmp_path, "exp", "first"), Tracking())
    logger = logging.getLogger("wandb")
    logger.propagate = True
    logger.addHandler(caplog.handler)
    logger.info("a path")
    logger.warning("something to know")
    logger.removeHandler(caplog.handler)
    assert {record.message for record in caplog.records} == {"something to know"}
