import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from wandb_server import end_runs

from common.callbacks import ImagesSeen
from common.data.canvas import rectangle_mask
from common.data.datasets import Batch
from common.errors import Exit, UserError
from common.losses.variational import gaussian_nll
from common.metrics.protocol import read_records
from common.report.runs import read_run
from common.runs.checkpoints import DurableCheckpointIO, load_checkpoint
from common.runs.ema import EMA
from common.runs.saving import LastCheckpoint
from common.tables import from_csv, named_cells
from common.tracking.names import SAMPLES
from common.trainer import ExperimentTrainer
from experiments.cilia_cvae.module import CiliaCVAE
from running import ROOT, Cli, at, call_cli, smoke
from wandb_log import logs_of, tables_of

CLASSES = ["Normal", "ODA", "No CP"]
TINY = {"latent_dim": 8, "width": 8, "condition_dim": 8}


@pytest.fixture(autouse=True)
def _reproducible(one_thread: None) -> None:
    torch.manual_seed(0)


def model_of(image_size: int = 32, num_channels: int = 1, **changes: float) -> CiliaCVAE:
    return CiliaCVAE(CLASSES, image_size, num_channels, **TINY | changes)


def attached(model: CiliaCVAE, images_seen: int = 0) -> tuple[CiliaCVAE, ExperimentTrainer]:
    """A model that can step without a loop; the model holds its trainer only weakly."""
    trainer = ExperimentTrainer(accelerator="cpu", barebones=True)
    trainer.images_seen = images_seen
    model.trainer = trainer
    model.log_dict = lambda values, **options: None
    return model, trainer


def batch_of(size: int = 32, channels: int = 1, count: int = 4) -> Batch:
    """Smooth pictures, every second one half as wide as high."""
    rng = np.random.default_rng(0)
    masks = [rectangle_mask(size, size if k % 2 else size // 2, size) for k in range(count)]
    coarse = torch.from_numpy(rng.uniform(-1, 1, (count, channels, 4, 4))).float()
    return {
        "name": [str(k) for k in range(count)],
        "image": torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear"),
        "mask": torch.from_numpy(np.stack(masks)).float(),
        "label": torch.arange(count) % len(CLASSES),
        "seed": torch.arange(count),
    }


def steps(model: CiliaCVAE, batch: Batch, count: int) -> list[float]:
    optimizer = model.configure_optimizers()
    losses = []
    for _ in range(count):
        loss = model.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("size", [32, 64, 96, 224])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_image_size_comes_back_in_its_shape(size: int, channels: int) -> None:
    model, _trainer = attached(model_of(size, channels))
    batch = batch_of(size, channels, count=2)
    loss = model.training_step(batch, 0)
    loss.backward()
    assert loss.ndim == 0 and loss.isfinite()
    with torch.no_grad():
        made = model.predict_step(batch, 0)
    assert made["image"].shape == batch["image"].shape
    assert made["image"].abs().max() <= 1
    assert made["name"] == batch["name"] and torch.equal(made["seed"], batch["seed"])


@pytest.mark.parametrize("size", [0, 16, 31, 33, 100, -32])
def test_a_size_that_cannot_be_halved_five_times_is_refused(size: int) -> None:
    with pytest.raises(UserError, match="is not a multiple of 32") as caught:
        model_of(size)
    assert caught.value.code == Exit.USAGE


@pytest.mark.parametrize("name", ["latent_dim", "width", "condition_dim", "lr"])
def test_a_model_without_any_width_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"--model.{name} 0: is not positive"):
        model_of(**{name: 0})


def test_every_parameter_learns_within_two_steps() -> None:
    model, _trainer = attached(model_of(), images_seen=10_000)
    batch = batch_of(count=6)
    # Blocks start as their skip path, so what lies behind a zero gets its gradient a step later.
    steps(model, batch, 2)
    model.zero_grad()
    model.training_step(batch, 0).backward()
    still = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert not still


def test_the_bound_is_reconstruction_plus_weighted_kl() -> None:
    model, trainer = attached(model_of(kl_weight=3.0, kl_warmup_images=100))
    batch, logged = batch_of(), {}
    model.log_dict = lambda values, **options: logged.update(values)
    for images_seen, weight in ((0, 0.0), (50, 1.5), (100, 3.0), (500, 3.0)):
        trainer.images_seen = images_seen
        loss = model.training_step(batch, 0)
        expected = logged["train/reconstruction"] + weight * logged["train/kl"]
        expected = expected + logged["train/density"]
        torch.testing.assert_close(loss, expected)
        assert logged["train/loss"] is loss
    model.eval().validation_step(batch, 0)
    expected = logged["val/reconstruction"] + 3.0 * logged["val/kl"]
    torch.testing.assert_close(logged["val/loss"], expected)
    mse, variance = logged["val/mse"], model.variance
    per_pixel = 0.5 * (math.log(2 * math.pi) + variance.log() + mse / variance)
    torch.testing.assert_close(logged["val/reconstruction"], per_pixel)
    torch.testing.assert_close(gaussian_nll(mse, variance, 1), per_pixel)


def loss_of(model: CiliaCVAE, batch: Batch) -> Tensor:
    torch.manual_seed(1)
    return model.training_step(batch, 0).detach()


def trained(**changes: float) -> tuple[CiliaCVAE, ExperimentTrainer]:
    """A model that has left its zeros."""
    model, trainer = attached(model_of(**changes))
    steps(model, batch_of(channels=model.hparams.num_channels), 5)
    return model, trainer


def test_pixels_outside_the_mask_do_not_change_the_loss() -> None:
    model, _trainer = trained()
    batch, variance = batch_of(), model.variance.clone()
    before = loss_of(model, batch)
    model.variance.copy_(variance)
    noise = torch.randn_like(batch["image"]) * (1 - batch["mask"])
    assert torch.equal(loss_of(model, {**batch, "image": batch["image"] + noise}), before)
    model.variance.copy_(variance)
    inside = {**batch, "image": batch["image"] + 0.1 * batch["mask"]}
    assert not torch.equal(loss_of(model, inside), before)


def test_class_and_aspect_ratio_change_the_image() -> None:
    model, _trainer = trained()
    z, mask = torch.zeros(3, TINY["latent_dim"]), torch.ones(3, 1, 32, 32)
    with torch.no_grad():
        images = model.decode(z, torch.arange(3), mask)
        mask[:, :, :, 16:] = 0
        narrow = model.decode(z, torch.arange(3), mask)
    assert torch.unique(images.flatten(1), dim=0).shape[0] == 3
    assert not torch.equal(images, narrow)


def test_samples_differ_by_seed_and_depend_on_nothing_else() -> None:
    model, _trainer = trained()
    batch = {key: value for key, value in batch_of(count=6).items() if key != "image"}
    batch["label"], batch["mask"] = torch.zeros(6, dtype=torch.long), torch.ones(6, 1, 32, 32)
    with torch.no_grad():
        images = model.predict_step(batch, 0)["image"]
        alone = model.predict_step({key: value[4:5] for key, value in batch.items()}, 0)["image"]
    assert torch.unique(images.flatten(1), dim=0).shape[0] == 6
    assert torch.equal(alone[0], images[4])


def test_four_images_are_learned_by_heart() -> None:
    model, trainer = attached(model_of(lr=4e-3, width=16))
    batch, history = batch_of(), []
    model.log_dict = lambda values, **options: history.append(values["train/mse"].item())
    trainer.images_seen = 0
    steps(model, batch, 90)
    assert np.mean(history[-5:]) < np.mean(history[:3]) / 5


def test_the_variance_follows_the_error_of_recent_batches() -> None:
    model, _trainer = attached(model_of())
    batch, errors = batch_of(), []
    model.log_dict = lambda values, **options: errors.append(values["train/mse"].item())
    for _ in range(5):
        model.training_step(batch, 0)
    expected = 0.1
    for error in errors:
        expected += 0.05 * (max(error, (2 / 255) ** 2) - expected)
    assert float(model.variance) == pytest.approx(expected, rel=1e-5)


class _Images(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 4

    def __getitems__(self, indices: list[int]) -> Batch:
        return batch_of()


def test_a_checkpoint_alone_gives_the_model_back(tmp_path: Path) -> None:
    last = LastCheckpoint()
    last.path = tmp_path / "last.ckpt"
    trainer = ExperimentTrainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=2,
        callbacks=[ImagesSeen(), EMA(), last],
        plugins=[DurableCheckpointIO()],
    )
    model = model_of()
    loader = torch.utils.data.DataLoader(_Images(), 4, collate_fn=lambda batch: batch)
    trainer.fit(model, loader)
    saved = load_checkpoint(tmp_path / "last.ckpt")
    assert saved["hyper_parameters"]["classes"] == CLASSES
    assert saved["hyper_parameters"]["latent_dim"] == TINY["latent_dim"]
    again = CiliaCVAE.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert again.hparams == model.hparams
    for name, value in saved["state_dict"].items():
        assert torch.equal(again.state_dict()[name].cpu(), value), name


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a smoke run called `first`; tests do not change it."""
    workspace = tmp_path_factory.mktemp("cilia")
    assert call_cli("cilia_cvae", "fit", *smoke("cilia_cvae"), *at(workspace, "first")) == 0
    return workspace


def test_a_checkpoint_of_the_command_line_needs_no_command_line(finished: Path) -> None:
    path = finished / "runs/cilia_cvae/first/checkpoints/best.ckpt"
    model = CiliaCVAE.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    saved = load_checkpoint(path)
    assert list(model.hparams.classes) == list(saved["hyper_parameters"]["classes"])
    assert len(model.hparams.classes) == len(model.condition.sets)
    weights = saved["state_dict"]
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("verb", [["generate"], ["fit", "--resume", "true"]])
def test_options_that_do_not_fit_the_checkpoint_are_refused(
    finished: Path, verb: list[str], cli: Cli
) -> None:
    width = ["--model.width", "16", "--allow-change", "model"]
    result = cli("cilia_cvae", *verb, *at(finished, "first"), *width)
    assert result.code == 4 and "another model" in result.err and "Traceback" not in result.err


def test_images_around_training_images_are_marked_as_such(finished: Path, cli: Cli) -> None:
    folder = finished / "runs/cilia_cvae/first"
    options = ["--n", "6", "--labels", "balanced", "--around_training"]
    made = {}
    for around in ("false", "true"):
        result = cli("cilia_cvae", "generate", *at(finished, "first"), *options, around)
        assert result.code == 0, result.err
        assert ("near copy" in result.out) == (around == "true")
        rows = named_cells(from_csv((folder / "samples/manifest.csv").read_bytes()))
        made[around] = [row["label"] for row in rows], [row["sha256"] for row in rows]
        assert {row["origin"] for row in rows} == {
            "around training images" if around == "true" else "sampled"
        }
    assert made["true"][0] == made["false"][0] and not {*made["true"][1]} & {*made["false"][1]}
    offline = ["--tracking.wandb", "offline", "--extractor", "random-conv"]
    assert cli("cilia_cvae", "evaluate", *at(finished, "first"), *offline).code == 0
    end_runs()
    table = tables_of(logs_of(folder)[-1], finished)[SAMPLES]
    assert [row[:2] for row in table["data"]] == [
        ["drawn around training images, one each, and near copies of them: no picture is sent", k]
        for k in range(6)
    ]
    assert table["columns"][:3] == ["note", "seed", "label"] and len(table["columns"]) > 3
    assert not [path for path in (folder / "wandb").rglob("*") if path.suffix == ".png"]
    assert any("near copies" in note for note in read_run(folder).notes)
    quiz = cli("cilia_cvae", "quiz", *at(finished, "first"), "--n", "1")
    assert quiz.code == 0 and "near copies" in (folder / "quiz/index.html").read_text(), quiz.err
    records = read_records(folder / "records.jsonl")
    assert all("drawn around training images" in record.preprocessing for record in records)
    assert cli("cilia_cvae", "card", *at(finished, "first")).code == 0
    cards = [path.read_text(encoding="utf-8") for path in (folder / "card").glob("*.md")]
    assert any("near copies" in card and "--around_training true" in card for card in cards)


def test_settings_that_were_typed_for_sampling_are_told(finished: Path, cli: Cli) -> None:
    folder = finished / "runs/cilia_cvae/first"
    protocols = {}
    for typed, settings in ([], ""), (["--model.truncation", "0.5"], '{"truncation": 0.5}'):
        result = cli("cilia_cvae", "generate", *at(finished, "first"), "--n", "6", *typed)
        assert result.code == 0, result.err
        rows = named_cells(from_csv((folder / "samples/manifest.csv").read_bytes()))
        assert {row["settings"] for row in rows} == {settings}
        assert cli("cilia_cvae", "evaluate", *at(finished, "first")).code == 0
        records = read_records(folder / "records.jsonl")
        assert {record.settings for record in records} == {settings}
        protocols[settings] = {record.protocol for record in records}
    # What is compared is the sampler, so its settings are no part of how it is compared.
    assert len({frozenset(found) for found in protocols.values()}) == 1
    assert any("truncation" in note for note in read_run(folder).notes)
    assert cli("cilia_cvae", "card", *at(finished, "first")).code == 0
    model_card, data_card = (
        (folder / "card" / name).read_text(encoding="utf-8")
        for name in ("model_card.md", "data_card.md")
    )
    assert "settings of the model other than in training: `truncation` 0.5" in data_card
    assert all("--model.truncation 0.5" in card for card in (model_card, data_card))


def test_resuming_a_finished_run_changes_no_number(finished: Path, cli: Cli) -> None:
    folder = finished / "runs/cilia_cvae/first"
    names = ("metrics.csv", "config.yaml", "checkpoints/last.ckpt", "checkpoints/best.ckpt")
    before = [(folder / name).read_bytes() for name in names]
    result = cli("cilia_cvae", "fit", *at(finished, "first"), "--resume", "true")
    assert result.code == 0 and "96 images seen" in result.out
    assert [(folder / name).read_bytes() for name in names] == before


def test_two_processes_train_it_with_plain_ddp(tmp_path: Path) -> None:
    """Every parameter takes part in every step, so DDP need not search for unused ones."""
    script = str(ROOT / "experiments/cilia_cvae/cli.py")
    ddp = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    env = {k: v for k, v in os.environ.items() if k != "SYNTHETIC_MICROSCOPY_RUN"}
    done = subprocess.run(
        [sys.executable, script, "fit", *smoke("cilia_cvae"), *at(tmp_path, "two"), *ddp],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/cilia_cvae/two/checkpoints/best.ckpt").is_file()
