"""Mistakes end in one sentence and the right exit code, never in a traceback of ours."""

import os
import re
import shutil
from collections.abc import Callable
from itertools import chain, groupby
from pathlib import Path

import numpy as np
import pytest
import yaml

from common.arguments import ON_A_RUN
from common.data.image_io import find_images, read_image, write_ome_tiff, write_png
from common.runs.lock import TRAINING, RunLock
from running import ROOT, Cli, at, refuses, smoke

pytestmark = pytest.mark.one_experiment


@pytest.fixture
def raw(trained: Path, tmp_path: Path) -> Path:
    """A copy of the simulated raw folder, to be damaged."""
    (source,) = trained.glob("data/raw/*")
    return shutil.copytree(source, tmp_path / "raw")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--nonsense", "3"], "nonsense"),
        (["--model.nonsense", "3"], "nonsense"),
        (["--data.batch_size", "none"], "batch_size"),
        (["--data.batch_size", "0"], "batch_size"),
        (["--data.augment", "foo"], "foo"),
        (["--config", "not_there.yaml"], "not_there.yaml"),
        (["--trainer.accelerator", "tpu"], "torch_xla"),
        (["--trainer.accelerator", "foo"], "foo"),
        (["--hardware.threads", "-1"], "threads"),
        (["--budget.images_seen", "-1"], "images_seen"),
        (["--ema.ramp", "0"], "ramp"),
        (["--preview.count", "-1"], "count"),
        (["--run", "../elsewhere"], "elsewhere"),
    ],
)
def test_a_wrong_option_is_named(
    experiment: str, arguments: list[str], word: str, tmp_path: Path, cli: Cli
) -> None:
    result = cli(experiment, "fit", *smoke(experiment), *at(tmp_path, "x"), *arguments)
    refuses(result, 2, word)
    assert not (tmp_path / "runs").exists()


def test_an_unknown_key_in_a_file_is_named(experiment: str, tmp_path: Path, cli: Cli) -> None:
    config = tmp_path / "typo.yaml"
    config.write_text("data:\n  imge_size: 64\n")
    fit = [experiment, "fit", *smoke(experiment), "--config", config, *at(tmp_path, "x")]
    refuses(cli(*fit), 2, "imge_size")


def test_a_verb_without_its_run_says_what_runs_there_are(
    trained: Path, experiment: str, tmp_path: Path, cli: Cli
) -> None:
    for verb in ON_A_RUN:
        refuses(cli(experiment, verb, *at(trained, "nope")), 2, "nope", "there are: first")
        refuses(cli(experiment, verb, "--workspace", tmp_path), 2, "there are: none")


@pytest.mark.parametrize("arguments", [["--n", "0"], ["--n", "-3"], ["--seed", "-1"]])
def test_generate_refuses_numbers_that_mean_nothing(
    trained: Path, experiment: str, arguments: list[str], cli: Cli
) -> None:
    result = cli(experiment, "generate", *at(trained, "first"), *arguments)
    refuses(result, 2, arguments[0].strip("-"))


def test_evaluate_before_generate_says_what_to_run(
    trained: Path, experiment: str, cli: Cli
) -> None:
    refuses(cli(experiment, "evaluate", *at(trained, "first")), 2, "make generate")


def test_a_run_is_never_written_over(trained: Path, experiment: str, cli: Cli) -> None:
    history = (trained / "runs" / experiment / "first/metrics.csv").read_bytes()
    fit = [experiment, "fit", *smoke(experiment), *at(trained, "first")]
    refuses(cli(*fit), 5, "first", "--resume true")
    assert (trained / "runs" / experiment / "first/metrics.csv").read_bytes() == history


def test_resuming_what_was_never_saved_is_not_a_fresh_start(
    workspace: Path, experiment: str, cli: Cli
) -> None:
    folder = workspace / "runs" / experiment / "first"
    (folder / "checkpoints/last.ckpt").unlink()
    fit = [experiment, "fit", *at(workspace, "first"), "--resume", "true"]
    refuses(cli(*fit), 4, "last.ckpt", "does not exist")


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", b"PK\x03\x04" + bytes(100)])
def test_a_damaged_checkpoint_is_named(
    workspace: Path, experiment: str, damage: bytes, cli: Cli
) -> None:
    folder = workspace / "runs" / experiment / "first"
    (folder / "checkpoints/best.ckpt").write_bytes(damage)
    refuses(cli(experiment, "generate", *at(workspace, "first")), 4, "best.ckpt")


def test_a_missing_data_folder_is_named(experiment: str, tmp_path: Path, cli: Cli) -> None:
    fit = [experiment, "fit", *smoke(experiment), *at(tmp_path, "x")]
    refuses(cli(*fit, "--data.root", tmp_path / "absent"), 3, "absent", "is not a folder")
    (tmp_path / "empty").mkdir()
    refuses(cli(*fit, "--data.root", tmp_path / "empty"), 3, "empty", "data_cards/")


def _files_of_images(raw: Path) -> list[list[Path]]:
    """Files that are channels of one image stand together, the first channel first."""

    def image(path: Path) -> str:
        return re.sub(r"_\d+-(BF|GFP)\d*_", "_", str(path))

    return [list(files) for _, files in groupby(sorted(find_images(raw), key=image), key=image)]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _blacken(path: Path) -> None:
    image = read_image(path)
    black = np.zeros_like(image.pixels)
    if path.suffix == ".png":
        write_png(path, black)
    else:
        write_ome_tiff(path, black, image.axes)


def _colour(path: Path) -> None:
    write_png(path, np.random.default_rng(0).integers(0, 255, (3, 40, 40)).astype(np.uint8))


@pytest.mark.parametrize(
    ("damage", "word"),
    [(_truncate, ""), (_empty, ""), (_blacken, "is blank"), (_colour, "channels")],
)
def test_a_bad_image_is_named_and_nothing_is_prepared(
    raw: Path, experiment: str, damage: Callable[[Path], None], word: str, cli: Cli, tmp_path: Path
) -> None:
    victims = _files_of_images(raw)[3]
    for path in victims:
        damage(path)
    prepare = [experiment, "prepare", *smoke(experiment), "--workspace", tmp_path / "w"]
    refuses(cli(*prepare, "--data.root", raw), 3, victims[0].name, word)
    assert not list((tmp_path / "w/data/processed").glob("*/"))


def test_all_bad_images_are_counted_at_once(
    raw: Path, experiment: str, cli: Cli, tmp_path: Path
) -> None:
    for path in chain(*_files_of_images(raw)[:5]):
        _empty(path)
    prepare = [experiment, "prepare", *smoke(experiment), "--workspace", tmp_path / "w"]
    refuses(cli(*prepare, "--data.root", raw), 3, "5 of ", "and 2 more")


def test_help_of_every_verb_works(experiment: str, cli: Cli) -> None:
    for verb in ("fit", "check", "prepare", *ON_A_RUN):
        result = cli(experiment, verb, "--help")
        assert result.code == 0 and "--data.root" in result.out


def test_every_page_is_finished_and_its_pictures_are_there_and_small() -> None:
    for page in [ROOT / "README.md", *ROOT.glob("experiments/*/README.md")]:
        text = page.read_text()
        assert not re.search(r"^\*?[A-Z_]{5,}\*?$|TBD", text, re.MULTILINE), page
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            target = page.parent / link
            assert target.is_file(), f"{page}: {link}"
            assert target.suffix != ".png" or target.stat().st_size <= 300_000


def test_training_that_is_no_number_any_more_stops_and_keeps_the_good_checkpoint(
    workspace: Path, experiment: str, cli: Cli
) -> None:
    folder = workspace / "runs" / experiment / "first"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    rates = [k for k in config["model"]["init_args"] if k == "lr" or k.endswith("_lr")]
    typed = [word for name in rates for word in (f"--model.{name}", "1e30")]
    before = (folder / "checkpoints/last.ckpt").read_bytes()
    allowed = ",".join(f"model.init_args.{name}" for name in rates)
    resume = [experiment, "fit", *at(workspace, "first"), "--resume", "true"]
    resume += ["--budget.images_seen", "300", "--allow-change", allowed]
    result = cli(*resume, *typed)
    refuses(result, 6, "is NaN or Inf", "step ", "learning rate 1e+30", "batch: ", "is kept")
    assert (folder / "checkpoints/last.ckpt").read_bytes() == before
    assert "UserError" in (folder / "run.log").read_text()
    gentle = [word for name in rates for word in (f"--model.{name}", "1e-4")]
    result = cli(*resume, *gentle)
    assert result.code == 0, result.err


def test_a_run_that_another_process_writes_is_refused_with_that_process(
    workspace: Path, experiment: str, cli: Cli
) -> None:
    folder = workspace / "runs" / experiment
    for name in ("first", "new"):
        other = RunLock(folder / name)
        other.acquire()
        files = {path: path.read_bytes() for path in (folder / name).rglob("*.*")}
        fit = [experiment, "fit", *smoke(experiment), *at(workspace, name)]
        refuses(cli(*fit), 5, f"process {os.getpid()} on ", "nothing was changed")
        if name == "first":
            more = ["--resume", "true", "--budget.images_seen", "160"]
            refuses(cli(*fit, *more), 5, f"process {os.getpid()} on ", "RUN=")
            assert cli(experiment, "generate", *at(workspace, name), "--n", "1").code == 0
        assert all(path.read_bytes() == content for path, content in files.items())
        other.release()
    assert [path.name for path in (folder / "new").iterdir()] == [TRAINING]
    assert cli(experiment, "fit", *smoke(experiment), *at(workspace, "new")).code == 0
