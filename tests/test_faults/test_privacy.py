"""What a run must never tell about its user, looked for in every file that may be passed on."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from PIL import Image

from common.privacy import MASKED
from experiments.cilia_cvae.simulator import simulate
from running import ROOT
from wandb_log import WandbRecord, records_of

pytestmark = pytest.mark.faults

SECRETS = {
    "argv key": "canaryargv4711",
    "config token": "canarytoken4712",
    "remote URL with credentials": "canaryremote4713",
    "uncommitted line": "canaryuncommitted4714",
    "environment secret": "canaryenvironment4715canaryenvironment47",
}
PERSONAL = {
    "home path": "canaryhome4716",
    "patient name": "canarypatient4717",
    "host name": "canaryhost4718",
    "user name": "canaryuser4719",
    "e-mail": "canary4720@example.org",
}
CANARIES = SECRETS | PERSONAL
# These stay with the user: they may hold paths and names, but no secret.
LOCAL = ("config.yaml", "run.log")
# A laboratory's own addition to a run. Says also what a process can see here.
UPLOAD = """
import getpass
import json
import os
import socket
import sys
from pathlib import Path

import pytorch_lightning as pl


class Upload(pl.Callback):
    def __init__(self, api_key: str = "", hf_token: str = "", notify: str = "") -> None:
        self.given = [api_key, hf_token, notify]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        around = [sys.argv, dict(os.environ), socket.gethostname(), getpass.getuser()]
        Path(os.environ["PROBE"]).write_text(json.dumps([self.given, around]))
"""
HOST = f"""
import platform
import socket

socket.gethostname = platform.node = lambda: {PERSONAL["host name"]!r}
"""


class User(NamedTuple):
    """Somebody whose name, machine, patients and secrets are the canaries."""

    home: Path
    clone: Path
    workspace: Path
    raw: Path
    probe: Path

    @property
    def run(self) -> Path:
        return self.workspace / "runs/cilia_cvae/first"

    @property
    def page(self) -> Path:
        return self.workspace / "reports/index.html"

    def call(self, *command: str | Path) -> str:
        """Runs a command in the clone; what it printed."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "SYNTHETIC"))}
        secret = SECRETS["environment secret"]
        names = dict.fromkeys(("USER", "LOGNAME", "USERNAME"), PERSONAL["user name"])
        mail = dict.fromkeys(("EMAIL", "WANDB_USER_EMAIL"), PERSONAL["e-mail"])
        secrets = dict.fromkeys(("SOME_TOKEN", "WANDB_API_KEY"), secret)
        places = {"HOME": self.home, "PYTHONPATH": self.clone, "PROBE": self.probe}
        env = kept | names | mail | secrets | {k: str(v) for k, v in places.items()}
        done = subprocess.run(
            [*map(str, command)],
            cwd=self.clone,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> User:
    home = tmp_path_factory.mktemp("v1") / PERSONAL["home path"]
    raw = home / "patients" / f"{PERSONAL['patient name']} J" / "raw"
    made = User(home, home / "clone", home / "work", raw, home / "probe.json")
    simulate(raw, 60, mean_size=48)
    for path in (raw / "Normal").iterdir():
        path.rename(path.with_name(f"{PERSONAL['patient name']}_{path.name}"))
    for part in ("common", "kernels", "experiments", "data_cards"):
        shutil.copytree(ROOT / part, made.clone / part)
    (made.clone / "experiments/cilia_cvae/upload.py").write_text(UPLOAD)
    (made.clone / "sitecustomize.py").write_text(HOST)
    settings = {"hf_token": SECRETS["config token"], "notify": PERSONAL["e-mail"]}
    callback = {"class_path": "experiments.cilia_cvae.upload.Upload", "init_args": settings}
    (home / "mine.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    keep_in_git(made)
    return made


def keep_in_git(user: User) -> None:
    """A checkout with a password in its remote and a line that was not committed."""
    remote = f"https://ann:{SECRETS['remote URL with credentials']}@example.org/x.git"
    for words in (
        ("init", "-q"),
        ("config", "user.email", PERSONAL["e-mail"]),
        ("config", "user.name", PERSONAL["user name"]),
        ("remote", "add", "origin", remote),
        ("add", "-A"),
        ("commit", "-q", "-m", "all"),
    ):
        user.call("git", *words)
    with (user.clone / "common/__init__.py").open("a") as stream:
        stream.write(f"# {SECRETS['uncommitted line']}\n")


@pytest.fixture(scope="module")
def printed(user: User) -> str:
    """What the whole path printed, walked on the real command line."""
    cli = (sys.executable, "experiments/cilia_cvae/cli.py")
    run = ("--workspace", user.workspace, "--run", "first")
    smoke = ("--config", "experiments/cilia_cvae/configs/smoke.yaml")
    mine = ("--config", user.home / "mine.yaml", "--data.root", user.raw)
    key = ("--trainer.callbacks.api_key", SECRETS["argv key"])
    return "".join(
        [
            user.call(*cli, "fit", *smoke, *mine, *run, *key, "--tracking.wandb", "offline"),
            user.call(*cli, "generate", *run, "--n", "20"),
            user.call(*cli, "evaluate", *run),
            user.call(*cli, "quiz", *run, "--n", "2"),
            user.call(*cli, "card", *run),
            user.call(*cli, "export", *run),
            user.call(sys.executable, "-m", "common.report", "--workspace", user.workspace),
        ]
    )


def test_the_canaries_are_where_a_run_could_see_them(user: User, printed: str) -> None:
    given, around = json.loads(user.probe.read_text())
    assert given == [SECRETS["argv key"], SECRETS["config token"], PERSONAL["e-mail"]]
    for name in ("argv key", "environment secret", "home path", "host name", "user name"):
        assert CANARIES[name] in json.dumps(around)
    assert SECRETS["remote URL with credentials"] in user.call("git", "remote", "-v")
    assert SECRETS["uncommitted line"] in user.call("git", "diff")
    config = yaml.safe_load((user.run / "config.yaml").read_text())
    assert config["data"]["root"] == str(user.raw)
    (callback,) = config["trainer"]["callbacks"]
    assert callback["init_args"]["notify"] == PERSONAL["e-mail"]
    assert callback["init_args"]["hf_token"] == MASKED
    manifests = [path.read_text() for path in user.workspace.glob("data/processed/*/manifest.csv")]
    assert manifests and PERSONAL["patient name"] in manifests[0]


def test_no_canary_is_in_what_may_be_passed_on(
    user: User, printed: str, tally: Callable[[str, int, int], None]
) -> None:
    found: dict[str, list[str]] = {}
    for name, content in passed_on(user):
        local = Path(name.partition(":")[0]).name in LOCAL
        for canary, word in (SECRETS if local else CANARIES).items():
            if word.encode() in content or word in name:
                found.setdefault(canary, []).append(name)
    for canary, word in SECRETS.items():
        if word in printed:
            found.setdefault(canary, []).append("terminal")
    tally("V1", len(CANARIES) - len(found), len(CANARIES))
    assert found == {}


def test_the_search_looks_into_every_kind_of_file(user: User, printed: str) -> None:
    contents = dict(passed_on(user))
    kinds = {Path(name.partition(":")[0]).suffix for name in contents}
    assert kinds >= set(
        [".wandb", ".ckpt", ".csv", ".png", ".jsonl", ".html", ".yaml", ".md", ".zip"]
    )
    assert kinds >= {".safetensors", ".json", ".onnx"}
    assert any(b'"checkpoint_sha256"' in c for n, c in contents.items() if "/wandb/data/" in n)
    assert b"state_dict" in b"".join(c for n, c in contents.items() if n.endswith("data.pkl"))
    logged = [c for n, c in contents.items() if ".wandb:" in n]
    settings = [u.key for c in logged for u in WandbRecord.FromString(c).config.update]
    assert {"data", "model", "trainer"} <= set(settings)


def passed_on(user: User) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file of the run and of the page, packed ones also unpacked."""
    for path in [*sorted(user.run.rglob("*")), user.page]:
        name = path.relative_to(user.workspace).as_posix()
        if path.is_symlink():
            yield name, bytes(path.readlink())
        elif path.is_file():
            yield name, path.read_bytes()
            yield from ((f"{name}:{inner}", content) for inner, content in unpacked(path))


def unpacked(path: Path) -> Iterator[tuple[str, bytes]]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from ((inner, archive.read(inner)) for inner in archive.namelist())
    elif path.suffix == ".wandb":
        yield from ((str(k), record) for k, record in enumerate(records_of(path)))
    elif path.suffix in (".png", ".tiff"):
        with Image.open(path) as image:
            yield "text", repr(image.info).encode()
