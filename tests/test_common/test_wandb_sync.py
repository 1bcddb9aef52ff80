"""What was recorded offline and is refused, still being written, or cut off."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from wandb_server import WandbServer, end_runs, wandb_server

from common.errors import UserError
from common.runs.lock import SAMPLES as GENERATING
from common.runs.lock import TRAINING, RunLock
from common.tracking import sweep, sync
from common.tracking.names import RECORDS, SAMPLES
from common.tracking.sync import unsent
from running import EXPERIMENTS, ROOT, at, call_cli, run_folder, smoke
from wandb_log import history_of, logs_of

EXPERIMENT = EXPERIMENTS[0]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Workspace of a run with two offline segments: training and evaluation."""
    workspace = tmp_path_factory.mktemp("recorded")
    offline = ("--tracking.wandb", "offline")
    for verb, *more in (
        ("fit", *smoke(EXPERIMENT), *offline),
        ("generate", "--n", "12"),
        ("evaluate", "--extractor", "random-conv"),
    ):
        assert call_cli(EXPERIMENT, verb, *more, *at(workspace, "first")) == 0
        end_runs()
    return workspace


@pytest.fixture
def workspace(recorded: Path, tmp_path: Path) -> Path:
    ours = Path("runs") / EXPERIMENT
    return Path(shutil.copytree(recorded / ours, tmp_path / ours)).parents[1]


def synced(server: WandbServer, workspace: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "common.tracking.sync", EXPERIMENT, "--workspace", str(workspace)],
        env=server.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def numbers(rows: list[dict[str, Any]]) -> set[tuple[str, int, float]]:
    return {
        (key, row["images_seen"], value)
        for row in rows
        for key, value in row.items()
        if key.startswith(("train/", "val/"))
    }


@pytest.mark.parametrize(
    "asked",
    [
        "file_stream",
        "CreateArtifact",
        pytest.param("UpsertBucket", marks=pytest.mark.slow),
        pytest.param("CreateRunFiles", marks=pytest.mark.slow),
    ],
)
def test_what_is_refused_is_told_and_sent_again(asked: str, workspace: Path) -> None:
    written = numbers(history_of(logs_of(run_folder(workspace, EXPERIMENT, "first"))[0]))
    with wandb_server() as server:
        server.refused = {asked}
        first = synced(server, workspace)
        kept = unsent(workspace, EXPERIMENT)
        server.refused = set()
        again = synced(server, workspace)
    assert first.returncode == 2, first.stdout
    assert "error[2]: make sync: W&B did not take it all" in first.stderr
    assert "Traceback" not in first.stderr
    assert kept and again.returncode == 0, again.stderr
    assert not unsent(workspace, EXPERIMENT)
    assert written and numbers(server.history["first"]) == written
    assert {RECORDS, SAMPLES} <= {name.removesuffix(".table.json") for name in server.uploads}
    # Neither does W&B's own log of it stay, with its paths.
    assert [path.name for path in workspace.iterdir()] == ["runs"]


@pytest.mark.parametrize("name", [TRAINING, GENERATING])
def test_a_run_that_is_being_written_waits(name: str, workspace: Path) -> None:
    held = RunLock(run_folder(workspace, EXPERIMENT, "first"), name)
    held.acquire()
    waiting = unsent(workspace, EXPERIMENT)
    with wandb_server() as server:
        done = synced(server, workspace)
        assert done.returncode == 0 and not server.history
        assert "left out:" in done.stdout and f"by process {os.getpid()}" in done.stdout
        assert unsent(workspace, EXPERIMENT) == waiting and len(waiting) == 2
        held.release()
        assert synced(server, workspace).returncode == 0
    assert server.history and not unsent(workspace, EXPERIMENT)


def test_the_log_of_a_process_that_was_killed_is_sent_once(workspace: Path) -> None:
    log = logs_of(run_folder(workspace, EXPERIMENT, "first"))[0]
    written = numbers(history_of(log))
    log.write_bytes(log.read_bytes()[:-100])
    with wandb_server() as server:
        done = synced(server, workspace)
    assert done.returncode == 0, done.stderr
    assert "its process was killed" in done.stdout and not unsent(workspace, EXPERIMENT)
    assert server.history["first"] and numbers(server.history["first"]) <= written


def test_what_was_not_taken_ends_in_a_sentence_that_says_what_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sync, "unsent", lambda *_: [tmp_path])
    monkeypatch.setattr(sync, "require_account", lambda *_: None)
    monkeypatch.setattr(sync, "send", lambda *_: False)
    with pytest.raises(SystemExit) as caught:
        sync.main(["any", "--workspace", str(tmp_path)])
    assert caught.value.code == 2
    assert "W&B did not take it all; what was not sent stays" in capsys.readouterr().err


def test_a_command_line_that_ends_without_a_reason_is_told_by_its_last_words() -> None:
    with pytest.raises(UserError, match="any: last words"):
        sweep._accepted(["-c", "import sys; sys.exit('first words\\nlast words')"], "any")
