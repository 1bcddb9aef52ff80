import csv
import ctypes
import math
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.distributed import TCPStore
from torch.optim.lr_scheduler import StepLR

from common.errors import Exit, UserError
from common.runs import hardware, preset
from common.runs.folder import RunFolder, find_run, new_run_id
from common.runs.hardware import Hardware
from common.runs.metrics_csv import HEADER, MetricsCSV, truncate
from common.runs.resume import SeededSteps, TypedSettingsWin


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as stream:
        return list(csv.reader(stream))


def log(path: Path, images_seen: int, **metrics: float) -> None:
    logger = MetricsCSV(path)
    logger.images_seen = images_seen
    logger.log_metrics(metrics | {"epoch": images_seen // 8}, step=images_seen // 4)


def test_metrics_are_one_line_each_under_one_header(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    log(path, 8, b=2.0, a=1.0)
    log(path, 16, a=3.0)
    assert rows(path) == [
        list(HEADER),
        ["8", "1", "2", "a", "1.0"],
        ["8", "1", "2", "b", "2.0"],
        ["16", "2", "4", "a", "3.0"],
    ]


def test_metrics_keep_every_bit_of_a_float(tmp_path: Path) -> None:
    values = [0.1, 1 / 3, 5e-324, -1.7976931348623157e308, 0.1 + 0.2, -0.0]
    for value in values:
        log(tmp_path / "metrics.csv", 8, a=value)
    read = [float(row[-1]) for row in rows(tmp_path / "metrics.csv")[1:]]
    assert list(map(repr, read)) == list(map(repr, values))
    truncate(tmp_path / "metrics.csv", 8)
    read = [float(row[-1]) for row in rows(tmp_path / "metrics.csv")[1:]]
    assert list(map(repr, read)) == list(map(repr, values))


def test_what_is_not_finite_is_left_out_and_warned_of_once(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path, logger = tmp_path / "metrics.csv", MetricsCSV(tmp_path / "metrics.csv")
    logger.images_seen = 8
    for value in (math.nan, math.inf):
        logger.log_metrics({"val/x": value, "epoch": 0}, step=1)
    assert not path.exists()
    logger.log_metrics({"val/x": -math.inf, "val/y": -math.inf, "val/z": 1.0, "epoch": 0}, step=2)
    logger.log_metrics({"val/x": 2.0, "epoch": 1}, step=3)
    assert rows(path)[1:] == [["8", "0", "2", "val/z", "1.0"], ["8", "1", "3", "val/x", "2.0"]]
    assert capsys.readouterr().err.splitlines() == [
        "warning: val/x is nan after 8 images; it is left out of metrics.csv",
        "warning: val/y is -inf after 8 images; it is left out of metrics.csv",
    ]


@pytest.mark.parametrize("fault", ["folder gone", "a folder in its place"])
def test_metrics_that_cannot_be_written_are_an_error_of_storage(tmp_path: Path, fault: str) -> None:
    path = tmp_path / "run/metrics.csv"
    if fault != "folder gone":
        path.mkdir(parents=True)
    said = r"metrics\.csv: cannot be written \(.+\); .+--resume"
    with pytest.raises(UserError, match=said) as caught:
        log(path, 8, a=1.0)
    assert caught.value.code == Exit.STORAGE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_that_fills_up_under_the_metrics_is_an_error_of_storage(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").symlink_to("/dev/full")
    with pytest.raises(UserError, match="No space left on device") as caught:
        log(tmp_path / "metrics.csv", 8, a=1.0)
    assert caught.value.code == Exit.STORAGE


def test_truncating_drops_only_what_will_be_logged_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    odd = {'odd,"name"': -1.0, "=two\nlines": -1e-9}
    for images in (8, 16, 24):
        log(path, images, **odd, **{"train/loss": images / 7})
    before = rows(path)
    truncate(path, 24)
    assert rows(path) == before
    truncate(path, 16)
    assert rows(path) == before[:7]
    log(path, 24, **odd, **{"train/loss": 24 / 7})
    assert rows(path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]


@pytest.mark.parametrize("end", ["8,1,2,train/lo", "8,1,2,train/loss,0.123", "8", "\0\0\0", "\xff"])
def test_a_line_that_was_cut_short_is_dropped_on_truncating(tmp_path: Path, end: str) -> None:
    path = tmp_path / "metrics.csv"
    log(path, 8, a=1.0)
    before = rows(path)
    with path.open("ab") as stream:
        stream.write(end.encode("latin-1"))
    truncate(path, 8)
    assert rows(path) == before


@pytest.mark.parametrize("start", ["", "images_s"])
def test_a_header_that_was_cut_short_is_written_again(tmp_path: Path, start: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(start)
    truncate(path, 8)
    log(path, 16, a=1.0)
    assert rows(path) == [list(HEADER), ["16", "2", "4", "a", "1.0"]]


def test_a_history_that_is_no_table_is_named_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text('1,"' + "x" * 200_000 + "\n")
    with pytest.raises(UserError, match=r"metrics\.csv: is no table") as caught:
        truncate(path, 8)
    assert caught.value.code == Exit.INPUT and path.stat().st_size > 200_000


def test_truncating_what_is_not_there_writes_nothing(tmp_path: Path) -> None:
    truncate(tmp_path / "metrics.csv", 8)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("native", [True, False])
def test_auto_precision_is_bfloat16_where_it_is_native(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr(hardware, "has_native_bf16", lambda accelerator: native)
    assert Hardware().resolved_precision("cpu") == ("bf16-mixed" if native else "32-true")
    assert Hardware(precision="32-true").resolved_precision("cpu") == "32-true"
    assert Hardware(precision="bf16-mixed").resolved_precision("cpu") == "bf16-mixed"


@pytest.mark.parametrize(
    ("capability", "native"), [((7, 5), False), ((8, 0), True), ((12, 0), True)]
)
def test_bfloat16_is_native_from_ampere_on(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], native: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert hardware.has_native_bf16("cuda") is native
    assert hardware.has_native_bf16("tpu") and not hardware.has_native_bf16("mps")
    assert isinstance(hardware.has_native_bf16("cpu"), bool)


def set_libc(monkeypatch: pytest.MonkeyPatch, **functions: Callable[[int, int], int]) -> None:
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(**functions))


@pytest.mark.parametrize(("limit", "accepted"), [(1 << 62, 1 << 30), (32 << 20, 32 << 20)])
def test_the_allocator_takes_the_largest_threshold_that_glibc_accepts(
    monkeypatch: pytest.MonkeyPatch, limit: int, accepted: int
) -> None:
    thresholds = {}

    def mallopt(option: int, value: int) -> int:
        if option == -3 and value > limit:
            return 0
        thresholds[option] = value
        return 1

    set_libc(monkeypatch, mallopt=mallopt)
    Hardware().apply()
    assert thresholds == {-3: accepted, -1: 2**31 - 1, -2: 1 << 28}


def test_the_allocator_is_left_alone_without_glibc_or_where_the_user_has_set_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    set_libc(monkeypatch)
    hardware.keep_freed_memory()
    set_libc(monkeypatch, mallopt=lambda *args: calls.append(args) or 1)
    Hardware(allocator=False).apply()
    monkeypatch.setattr(sys, "platform", "darwin")
    hardware.keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "100")
    hardware.keep_freed_memory()
    assert not calls


def test_threads_are_set_only_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    Hardware(allocator=False).apply()
    Hardware(allocator=False, threads=3).apply()
    assert calls == [3]


@pytest.mark.parametrize(("found", "name"), [(True, "default"), (False, "cpu")])
def test_the_preset_suits_the_machine_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, found: bool, name: str
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: found)
    preset.main("some_experiment")
    out, err = capsys.readouterr()
    assert out == f"experiments/some_experiment/configs/{name}.yaml\n"
    assert f"CONFIG={name}" in err and ("no accelerator" in err) is not found


def make_run(workspace: Path, name: str, age: int) -> None:
    folder = RunFolder(workspace, "exp", name)
    folder.path.mkdir(parents=True)
    folder.config.write_text("")
    os.utime(folder.config, (1000 - age, 1000 - age))


def test_the_run_trained_last_is_found_and_others_by_name(tmp_path: Path) -> None:
    for name, age in (("new", 1), ("newest", 0), ("old", 9)):
        make_run(tmp_path, name, age)
    (tmp_path / "runs/exp/without_config").mkdir()
    assert find_run(tmp_path, "exp", None).run_id == "newest"
    assert find_run(tmp_path, "exp", "old").path == tmp_path / "runs/exp/old"
    with pytest.raises(UserError, match="there are: new, newest, old") as caught:
        find_run(tmp_path, "exp", "without_config")
    assert caught.value.code == Exit.USAGE
    with pytest.raises(UserError, match="there are: none"):
        find_run(tmp_path, "other", None)


@pytest.mark.parametrize(
    "name", ["a/b", "..", "../x", "/etc", ".", ".hidden", "a\nb", "a\0", "a#b"]
)
def test_a_run_name_that_is_no_name_of_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="is no name for a run") as caught:
        RunFolder(tmp_path, "exp", name)
    assert caught.value.code == Exit.USAGE and "\n" not in str(caught.value)
    for good in ("first", "2025-01-02-b.3", "Läufe_1", new_run_id(), ""):
        RunFolder(tmp_path, "exp", good)


def test_all_ranks_of_a_start_share_one_run_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SYNTHETIC_MICROSCOPY_RUN", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    first = new_run_id()
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert new_run_id() == first
    monkeypatch.delenv("SYNTHETIC_MICROSCOPY_RUN")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert new_run_id() == "4711"


def test_ranks_of_a_torchrun_without_an_id_agree_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def rank(pid: int) -> str:
        monkeypatch.delenv("SYNTHETIC_MICROSCOPY_RUN", raising=False)
        monkeypatch.setattr(os, "getpid", lambda: pid)
        return new_run_id()

    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    started = []
    for first in (10, 20):
        agent = TCPStore("localhost", 0, is_master=True)
        monkeypatch.setenv("MASTER_PORT", str(agent.port))
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
        started.append({rank(first), rank(first + 1)})
        assert len(started[-1]) == 1 and started[-1].pop().endswith(f"-{first}")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    with pytest.raises(UserError, match="torchrun: was started without an id") as caught:
        rank(30)
    assert caught.value.code == Exit.USAGE and "--run" in caught.value.remedy


def draws() -> list[float]:
    return [random.random(), np.random.normal(), np.random.normal(), float(torch.randn(()))]


def step(images_seen: int, rank: int = 0, seed: int = 3) -> list[float]:
    trainer = SimpleNamespace(images_seen=images_seen, global_rank=rank)
    SeededSteps(seed).on_train_batch_start(trainer, None, {}, 0)
    return draws()


def validation(images_seen: int) -> list[float]:
    trainer = SimpleNamespace(images_seen=images_seen, global_rank=0)
    SeededSteps(3).on_validation_start(trainer, None)
    return draws()


def test_a_validation_draws_the_same_after_a_resumption() -> None:
    first = validation(64)
    draws()
    assert validation(64) == first


def test_validations_differ_by_the_weights_alone() -> None:
    assert validation(64) == validation(6400) and not set(validation(64)) & set(step(0))


def test_the_noise_of_a_step_is_a_function_of_seed_images_and_rank() -> None:
    first = step(64)
    draws()
    assert step(64) == first
    others = (step(96), step(64, rank=1), step(64, seed=4), validation(64))
    for other in others:
        assert not set(other) & set(first)


class Scheduled(pl.LightningModule):
    def configure_optimizers(self) -> dict[str, object]:
        weight = torch.nn.Parameter(torch.ones(1))
        optimizer = torch.optim.Adam([weight], lr=0.2, betas=(0.0, 0.99))
        return {"optimizer": optimizer, "lr_scheduler": StepLR(optimizer, 1)}


def test_typed_settings_replace_loaded_ones_when_a_run_is_resumed() -> None:
    weight, module = torch.nn.Parameter(torch.ones(1)), Scheduled()
    module.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    for path, scheduled, rate, beta in (
        (None, [], 0.1, 0.5),
        ("last.ckpt", [], 0.2, 0.0),
        ("last.ckpt", ["cosine"], 0.1, 0.0),
    ):
        loaded = torch.optim.Adam([weight], lr=0.1, betas=(0.5, 0.9))
        trainer = SimpleNamespace(
            optimizers=[loaded], ckpt_path=path, lr_scheduler_configs=scheduled
        )
        TypedSettingsWin().on_train_start(trainer, module)
        (group,) = loaded.param_groups
        assert (group["lr"], group["betas"][0]) == (rate, beta)
        assert group["params"] == [weight]
