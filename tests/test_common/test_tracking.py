import logging
import os
import platform
import socket
import sys
from collections.abc import Iterator
from pathlib import Path, PurePath
from types import SimpleNamespace

import numpy as np
import pytest
import wandb
import yaml

from common.callbacks import configuration_yaml
from common.data.image_io import read_image
from common.errors import Exit, UserError
from common.metrics.protocol import Record
from common.privacy import MASKED, PRIVATE, masked, public, public_sentence
from common.runs.folder import RunFolder
from common.tracking.evaluation import records_table
from common.tracking.names import evaluation_key, metric_name, obeys
from common.tracking.run import Tracking, WandbRun, make_loggers
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
    finish()


def finish() -> None:
    if wandb.run is not None:
        wandb.finish()
    # Only then is the log on the disk for sure.
    wandb.teardown()


def written(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted((folder / "wandb").rglob("*")):
        # Where a link leads is written in the folder as well.
        if path.is_symlink() or path.is_file():
            content = bytes(path.readlink()) if path.is_symlink() else path.read_bytes()
            found[path.relative_to(folder).as_posix()] = content
    return found


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
    csv, run = make_loggers(folder, Tracking(tags=("public-tag", str(workspace / "tag"))))
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
    run.log_metrics({"train/public-loss": 0.5, "train/x": float("nan")}, step=3)
    run.log_metrics({"train/x": float("inf")}, step=4)
    run.log_grid("preview", picture)
    finish()
    files = written(folder.path)
    assert_private(files)
    (log,) = (content for name, content in files.items() if name.endswith(".wandb"))
    for shown in (b"public-card", b"public-loss", b"public-tag", b"first", b"4711"):
        assert shown in log
    for hidden in (b".yaml", b"train/x", b"NaN", b"Infinity"):
        assert hidden not in log
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
    finish()
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
    # Offline too: else the upload of a second segment would overwrite the first.
    assert offline["resume"] == "allow" and "anonymous" not in {**online, **offline}


@pytest.mark.parametrize("tag", ["", "x" * 65, "\x1b" * 11])
def test_a_tag_that_wandb_would_not_take_is_refused(tmp_path: Path, tag: str) -> None:
    with pytest.raises(UserError, match="is not between 1 and 64 characters") as caught:
        make_loggers(RunFolder(tmp_path, "exp", "first"), Tracking(tags=("good", tag)))
    assert caught.value.code == Exit.USAGE and "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["/home/ann/raw", "see /home/ann smith/x y.yaml", "C:\\Users\\ann", "C:/ann", "~ann", "../ann",
     "data/raw/ann", "file:///ann", "\\\\host\\ann", "ann@example.org", "ann.md",
     "https://ann:pass@example.org/x", "val/loss of /ann", PurePath("/home/ann")],
)  # fmt: skip
def test_paths_and_addresses_are_left_out_whole(text: str | PurePath) -> None:
    assert public(text) == PRIVATE
    assert public({"a": [{"b": (text,)}]}) == {"a": [{"b": [PRIVATE]}]}
    assert public({str(text): 1}) == {PRIVATE: 1}


def test_keys_that_are_left_out_are_numbered() -> None:
    shown = public({"/ann/a": 1, "b": 2, "/ann/c": 3, "~d": {"/e": 4}})
    assert shown == {PRIVATE: 1, "b": 2, f"{PRIVATE} 2": 3, f"{PRIVATE} 3": {PRIVATE: 4}}


@pytest.mark.parametrize("root", ["ann", "/home/ann", PurePath("ann"), 7])
def test_the_folder_of_the_data_is_left_out_in_any_form(root: object) -> None:
    assert "ann" not in str(public({"data": {"root": root}}))
    assert public("ann", "data.root") == PRIVATE
    assert public({"root": None}) == {"root": None}


@pytest.mark.parametrize(
    "value",
    ["val/loss", "train/g_loss", "experiments.x.module.Model", "d4+affine", "bf16-mixed", "min",
     1, 2.5, True, None, ""],
)  # fmt: skip
def test_what_tells_nothing_is_public_as_it_is(value: object) -> None:
    assert public(value) == value
    assert public({"a": [value]}) == {"a": [value]}


def test_what_is_public_can_be_shown_anywhere() -> None:
    shown = public({"a\x1b": ["\u202ex\udcff\n", float("nan"), float("-inf")]})
    assert shown == {"a\\u001b": ["\\u202ex\\udcff\\u000a", "nan", "-inf"]}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("canvas 32 px by area/cubic; 12/30 nats/pixel", None),
        ("wasserstein/ring_radius", None),
        ("cannot open /home/ann/x.so today", f"cannot open {PRIVATE} today"),
        ("see /ann, C:\\ann and a/b/c", f"see {PRIVATE} {PRIVATE} and {PRIVATE}"),
        ("~/x of ann@example.org in ann.md", f"{PRIVATE} of {PRIVATE} in {PRIVATE}"),
        ("a\x1b", "a\\u001b"),
    ],
)
def test_a_sentence_loses_the_words_that_may_be_paths_or_addresses(
    text: str, shown: str | None
) -> None:
    assert public_sentence(text) == (text if shown is None else shown)


@pytest.mark.parametrize(
    ("metric", "begins"),
    [
        ("kernel_distance/DAPI (405 nm)", "kernel_distance/DAPI__405_nm__"),
        ("frechet_distance/GFP-1", "frechet_distance/GFP_1_"),
        ("wasserstein/ring-radius", "wasserstein/ring_radius_"),
        ("kernel_distance//home/ann/x", "kernel_distance/private_"),
        ("kernel_distance/ann@example.org", "kernel_distance/private_"),
        ("kernel_distance/\x1b\udcff", "kernel_distance/"),
        ("odd name", "odd_name/_"),
        ("utility/gain/real_50/recall/CP 2", "utility/gain/real_50/recall/CP_2_"),
        ("judge/recall//home/ann/x", "judge/recall/private_"),
        ("/x", "metric/x_"),
    ],
)
def test_any_name_of_a_channel_becomes_a_key_that_obeys(metric: str, begins: str) -> None:
    name = metric_name(metric)
    assert name.startswith(begins) and "ann" not in name
    assert name == metric_name(metric) and metric_name(name) == name
    for part in ("", "low", "high"):
        assert obeys(evaluation_key(Record(metric, 1.0), part))


def test_names_that_differ_have_keys_that_differ() -> None:
    names = ["GFP-1", "GFP 1", "GFP_1", "GFP.1", "/a/b", "/a/c", "~", "@", "\u202e", ""]
    assert len({metric_name(f"kernel_distance/{name}") for name in names}) == len(names)
    for metric in ("FID", "utility/gain/real_25/macro_f1", "wasserstein/ring_radius"):
        assert metric_name(metric) == metric


def test_of_a_record_only_sentences_lose_words() -> None:
    ours = {"metric": "utility/gain/real_synthetic_25", "split": "test", "data": "0" * 64}
    record = Record(
        value=float("nan"),
        note="see /home/ann/x",
        rule="area/cubic",
        imported="a@b.pt, SHA-256 0",
        **ours,
    )
    columns, (row,) = records_table([record])
    shown = dict(zip(columns, row, strict=True))
    assert shown.items() >= {**ours, "rule": "area/cubic", "protocol": record.protocol}.items()
    assert shown["note"] == f"see {PRIVATE}" and shown["value"] is None
    assert shown["imported"] == f"{PRIVATE} SHA-256 0"


def test_secrets_are_masked_and_nothing_else_is_touched() -> None:
    value = {
        "wandb_api_key": "abc",
        "hf_token": 12345,
        "no_token": None,
        "use_token": True,
        "key": "",
        "passwords": ["a", {"inner": "b"}],
        "callbacks": [{"init_args": {"SECRET": "abc", "dirpath": "/home/ann"}}],
    }
    hidden = {**value, "wandb_api_key": MASKED, "hf_token": MASKED, "passwords": MASKED}
    hidden["callbacks"] = [{"init_args": {"SECRET": MASKED, "dirpath": "/home/ann"}}]
    assert masked(value) == hidden
    assert public(value) == {
        **hidden, "callbacks": [{"init_args": {"SECRET": MASKED, "dirpath": PRIVATE}}]
    }  # fmt: skip


def test_no_setting_of_ours_is_called_like_a_secret(experiment: str, cli: Cli) -> None:
    result = cli(experiment, "fit", *smoke(experiment), "--print_config")
    settings = yaml.safe_load(result.out)
    assert "model" in settings and masked(settings) == settings
    # A value that happens to be null now would be masked once it is set.
    assert not [key for key in _keys(settings) if masked("x", key) == MASKED]


def _keys(tree: object) -> Iterator[str]:
    children = tree.items() if isinstance(tree, dict) else ()
    for key, value in children:
        yield str(key)
        yield from _keys(value)


class StubParser:
    def dump(self, config: object, **options: object) -> str:
        return "# a head\n" + yaml.safe_dump(config.settings)


def test_the_configuration_of_a_run_is_masked_only_where_it_has_secrets() -> None:
    def written(**settings: object) -> str:
        config = SimpleNamespace(settings=settings, pop=lambda *args: None)
        config.clone = lambda: config
        return configuration_yaml(StubParser(), config)

    assert written(root="/home/ann") == "# a head\nroot: /home/ann\n"
    assert yaml.safe_load(written(root="/home/ann", b={"api_key": "abc"})) == {
        "root": "/home/ann", "b": {"api_key": MASKED}
    }  # fmt: skip


def test_wandb_keeps_its_warnings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    WandbRun(RunFolder(tmp_path, "exp", "first"), Tracking())
    logger = logging.getLogger("wandb")
    logger.propagate = True
    logger.addHandler(caplog.handler)
    logger.info("a path")
    logger.warning("something to know")
    logger.removeHandler(caplog.handler)
    assert {record.message for record in caplog.records} == {"something to know"}
