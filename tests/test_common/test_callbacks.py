import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import Namespace

from common.callbacks import (
    ImagesSeen,
    ImageWriter,
    PreviewGrid,
    RunConfig,
    configuration_yaml,
    image_grid,
    to_grey_levels,
    to_uint8,
)
from common.data.canvas import rectangle_mask
from common.data.image_io import read_image
from common.errors import Exit, UserError
from common.runs.folder import RunFolder


def trainer_of(world_size: int = 1, **attributes: Any) -> SimpleNamespace:
    logger = SimpleNamespace(images_seen=0)
    return SimpleNamespace(
        world_size=world_size, loggers=[logger], should_stop=False, images_seen=0, **attributes
    )


@pytest.mark.parametrize("world_size", [1, 4])
def test_images_are_counted_over_all_ranks_and_published_before_the_step(world_size: int) -> None:
    counter, trainer = ImagesSeen(), trainer_of(world_size)
    counter.on_fit_start(trainer, None)
    for step, size in enumerate((3, 5), start=1):
        counter.on_train_batch_start(trainer, None, {"image": torch.zeros(size, 1, 2, 2)}, 0)
        expected = {1: 3, 2: 8}[step] * world_size
        assert (trainer.images_seen, trainer.loggers[0].images_seen) == (expected, expected)
        counter.on_train_batch_end(trainer, None, None, None, 0)
    assert not trainer.should_stop
    assert counter.state_dict() == {"count": 8 * world_size}


def test_a_run_stops_with_the_first_batch_that_spends_the_budget() -> None:
    counter, trainer = ImagesSeen(images_seen=20), trainer_of()
    counter.on_fit_start(trainer, None)
    batch, steps = {"image": torch.zeros(8, 1)}, 0
    while not trainer.should_stop:
        counter.on_train_batch_start(trainer, None, batch, steps)
        counter.on_train_batch_end(trainer, None, None, batch, steps)
        steps += 1
    assert (steps, counter.count) == (3, 24)


def test_a_resumed_run_goes_on_counting_and_stops_at_once_when_nothing_is_left() -> None:
    counter, trainer = ImagesSeen(images_seen=30), trainer_of()
    counter.load_state_dict({"count": 24})
    counter.on_fit_start(trainer, None)
    assert trainer.images_seen == trainer.loggers[0].images_seen == 24
    assert not trainer.should_stop
    spent = ImagesSeen(images_seen=24)
    spent.load_state_dict({"count": 24})
    spent.on_fit_start(trainer, None)
    assert trainer.should_stop


def test_the_rate_leaves_validation_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, logged = iter([10.0, 12.0]), {}
    monkeypatch.setattr("common.callbacks.time.perf_counter", lambda: next(clock))
    counter, trainer = ImagesSeen(), trainer_of()
    module = SimpleNamespace(log=logged.__setitem__)
    counter.on_train_epoch_start(trainer, module)
    counter.on_train_batch_start(trainer, module, {"image": torch.zeros(8, 1)}, 0)
    counter.on_validation_start(trainer, module)
    counter.on_train_epoch_end(trainer, module)
    assert logged == {"train/images_per_s": 4.0}


def test_a_run_that_is_resumed_within_an_epoch_measures_its_rate_from_its_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, logged = iter([1000.0, 1002.0]), {}
    monkeypatch.setattr("common.callbacks.time.perf_counter", lambda: next(clock))
    counter, trainer = ImagesSeen(), trainer_of()
    counter.load_state_dict({"count": 4000})
    # Lightning does not begin an epoch that it goes on with.
    counter.on_train_start(trainer, None)
    counter.on_train_batch_start(trainer, None, {"image": torch.zeros(8, 1)}, 0)
    counter.on_train_epoch_end(trainer, SimpleNamespace(log=logged.__setitem__))
    assert logged == {"train/images_per_s": 4.0}


def test_the_ends_of_the_range_are_black_and_white() -> None:
    values = torch.tensor([-9.0, -1.0, -1 + 1 / 255, 0.0, 1.0, 1.1]).reshape(6, 1, 1, 1)
    assert to_uint8(values).ravel().tolist() == [0, 0, 0, 128, 255, 255]
    assert to_uint8(values).dtype == np.uint8


def test_every_byte_survives_the_unit_range() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    assert np.array_equal(to_uint8(torch.from_numpy(levels).float() * (2 / 255) - 1), levels)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
@pytest.mark.parametrize("part", ["all", "window"])
def test_every_grey_level_survives_the_unit_range(dtype: str, part: str) -> None:
    limits = np.iinfo(dtype)
    low, high = (limits.min, limits.max) if part == "all" else (17, 201)
    levels = np.arange(low, high + 1).astype(dtype).reshape(1, 1, 1, -1)
    unit = (levels.astype(np.float32) - low) * np.float32(2 / (high - low)) - 1
    facts = {"window": (low, high), "storage": {"source": dtype}}
    grey = to_grey_levels(unit, facts)
    assert grey.dtype == dtype and np.array_equal(grey, levels)
    assert to_grey_levels(np.full((1, 1, 1, 1), 1e6), facts).item() == limits.max


def test_floating_images_keep_their_unit() -> None:
    facts = {"window": (-2.5, 7.5), "storage": {"source": "float32"}}
    grey = to_grey_levels(np.array([-1, 0, 0.5, 1, 1.2], np.float32).reshape(1, 1, 1, 5), facts)
    assert grey.dtype == np.float32
    np.testing.assert_allclose(grey.ravel(), [-2.5, 2.5, 5.0, 7.5, 8.5], rtol=1e-6)


def test_a_grid_shows_every_image_in_reading_order() -> None:
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1) + np.zeros((1, 1, 4, 3), np.uint8)
    grid = image_grid(images, columns=2, gap=1)
    assert grid.shape == (3 * 4 + 2, 2 * 3 + 1) and grid.dtype == np.uint8
    for k in range(5):
        top, left = k // 2 * 5, k % 2 * 4
        assert (grid[top : top + 4, left : left + 3] == k).all()
    assert (grid[4] == 255).all() and (grid[:, 3] == 255).all() and (grid[10:, 4:] == 255).all()


def test_a_grid_puts_the_channels_of_an_image_side_by_side() -> None:
    images = np.zeros((1, 2, 4, 3), np.uint8)
    images[:, 1] = 9
    grid = image_grid(images)
    assert grid.shape == (4, 6) and (grid[:, :3] == 0).all() and (grid[:, 3:] == 9).all()


def facts_of(*channels: str, source: str = "uint8", pixel_size_um: float | None = 0.5) -> dict:
    top = 1.0 if source == "float32" else np.iinfo(source).max
    return {
        "channels": channels,
        "storage": {"source": source},
        "window": (0, top),
        "pixel_size_um": pixel_size_um,
        "canvas_pixel_size_um": [pixel_size_um * 3] * 2 if pixel_size_um else None,
    }


def write(folder: Path, facts: dict[str, Any], file_format: str = "auto") -> np.ndarray:
    """Writes two images of 8 x 8 pixels cut to 4 x 8; returns what they show, in [-1, 1]."""
    images = torch.rand(2, len(facts["channels"]), 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.from_numpy(np.stack([rectangle_mask(4, 8, 8), rectangle_mask(8, 2, 8)]))
    outputs = {"name": ["000003", "000004"], "image": images * 2 - 1, "mask": mask}
    ImageWriter(folder, facts, file_format).on_predict_batch_end(None, None, outputs)
    return images.numpy()


@pytest.mark.parametrize("source", ["uint8", "uint16"])
def test_one_channel_becomes_png_cut_to_the_mask(tmp_path: Path, source: str) -> None:
    images = write(tmp_path, facts_of("tem", source=source))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000003.png", "000004.png"]
    first, second = (read_image(tmp_path / f"{name}.png").pixels for name in ("000003", "000004"))
    assert first.dtype == source and first.shape == (4, 8) and second.shape == (8, 2)
    expected = images * np.iinfo(source).max
    assert np.abs(first - expected[0, 0, 2:6]).max() <= 0.51
    assert np.abs(second - expected[1, 0, :, 3:5]).max() <= 0.51


@pytest.mark.parametrize("source", ["uint8", "uint16", "float32"])
def test_two_channels_become_ome_tiff_with_names_and_pixel_size(
    tmp_path: Path, source: str
) -> None:
    images = write(tmp_path, facts_of("nucleus", "actin", source=source))
    image = read_image(tmp_path / "000003.ome.tiff")
    assert image.axes == "CYX" and image.pixels.shape == (2, 4, 8) and image.pixels.dtype == source
    assert image.channel_names == ("nucleus", "actin")
    assert image.pixel_size_um == pytest.approx((1.5, 1.5))
    top = facts_of("a", source=source)["window"][1]
    assert np.abs(image.pixels - images[0, :, 2:6] * top).max() <= (0.51 if top > 1 else 1e-6)


def test_one_channel_becomes_tiff_where_asked_for_or_where_png_cannot_hold_it(
    tmp_path: Path,
) -> None:
    for name, facts, file_format in (
        ("asked", facts_of("tem", pixel_size_um=None), "tiff"),
        ("float", facts_of("tem", source="float32"), "auto"),
    ):
        (tmp_path / name).mkdir()
        write(tmp_path / name, facts, file_format)
        image = read_image(tmp_path / name / "000003.ome.tiff")
        assert image.pixels.shape == (4, 8) and image.channel_names == ("tem",)
        assert (image.pixel_size_um is None) == (name == "asked")


@pytest.mark.parametrize("source", ["uint8", "uint16"])
@pytest.mark.parametrize("file_format", ["png", "tiff"])
@pytest.mark.parametrize("window", ["all", "part"])
def test_a_file_holds_exactly_the_grey_levels_that_the_window_maps_to(
    tmp_path: Path, source: str, file_format: str, window: str
) -> None:
    facts = facts_of("tem", source=source)
    low, high = (0, np.iinfo(source).max) if window == "all" else (17, 201)
    facts["window"] = (low, high)
    levels = np.resize(np.arange(low, high + 1), (256, 256)).astype(source)
    unit = (levels.astype(np.float32) - low) * np.float32(2 / (high - low)) - 1
    outputs = {
        "name": ["000000"],
        "image": torch.from_numpy(unit)[None, None],
        "mask": torch.ones(1, 1, 256, 256),
    }
    writer = ImageWriter(tmp_path, facts, file_format)
    writer.on_predict_batch_end(None, None, outputs)
    pixels = read_image(tmp_path / f"000000{writer.suffix}").pixels
    assert pixels.dtype == source and np.array_equal(pixels, levels)


@pytest.mark.parametrize("source", ["uint8", "float32"])
def test_a_resampled_image_has_its_shape_the_pixel_size_of_the_raw_ones_and_no_new_extremes(
    tmp_path: Path, source: str
) -> None:
    facts = facts_of("tem", source=source)
    image = torch.full((2, 1, 8, 8), -1.0)
    image[..., 4:] = 1
    outputs = {"name": ["000001", "000000"], "image": image, "mask": torch.ones(2, 1, 8, 8)}
    writer = ImageWriter(tmp_path, facts, "tiff", shapes=[(21, 30), (4, 6)])
    writer.on_predict_batch_end(None, None, outputs)
    for name, shape in (("000000", (21, 30)), ("000001", (4, 6))):
        written = read_image(tmp_path / f"{name}.ome.tiff")
        assert written.pixels.shape == shape and written.pixel_size_um == (0.5, 0.5)
        low, high = facts["window"]
        assert (written.pixels.min(), written.pixels.max()) == (low, high)


class Painter:
    """Stands for module and data module: image k is as bright as its seed."""

    device = torch.device("cpu")

    def example_batch(self, count: int, seed: int, device: torch.device) -> dict[str, Any]:
        return {"seed": torch.arange(seed, seed + count, device=device), "name": ["a"] * count}

    def predict_step(self, batch: dict[str, Any], index: int) -> dict[str, Any]:
        level = batch["seed"].float() / 127.5 - 1
        return {"image": level.reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4)}


@pytest.mark.parametrize(
    ("count", "sanity", "zero", "drawn"),
    [(3, False, True, 1), (0, False, True, 0), (3, True, True, 0), (3, False, False, 0)],
)
def test_a_preview_shows_its_seeds_and_is_named_by_images_seen(
    tmp_path: Path, count: int, sanity: bool, zero: bool, drawn: int
) -> None:
    preview, painter, grids = PreviewGrid(count, seed=5), Painter(), []
    preview.folder = RunFolder(tmp_path, "exp", "first")
    preview.folder.previews.mkdir(parents=True)
    trainer = trainer_of(datamodule=painter, sanity_checking=sanity, is_global_zero=zero)
    trainer.images_seen = 96
    trainer.loggers[0].log_grid = lambda key, grid: grids.append(grid)
    preview.on_validation_epoch_start(trainer, painter)
    assert len(grids) == drawn
    files = list(preview.folder.previews.glob("*"))
    assert [path.name for path in files] == ["0000000096.png"] * drawn
    if drawn:
        pixels = read_image(files[0]).pixels
        assert np.array_equal(pixels, grids[0]) and pixels[0, ::6].tolist() == [5, 6, 7]


DUMPING = SimpleNamespace(dump=lambda config, **options: str(config.as_dict()))


def test_a_configuration_keeps_its_text_but_for_secrets() -> None:
    plain = Namespace(model=Namespace(lr=1), tracking=Namespace(wandb="offline"))
    assert configuration_yaml(DUMPING, plain) == str(plain.as_dict())
    secret = Namespace(model=Namespace(lr=1), tracking=Namespace(wandb="offline", api_key="abc"))
    text = configuration_yaml(DUMPING, secret)
    assert "abc" not in text
    assert yaml.safe_load(text) == {
        "model": {"lr": 1},
        "tracking": {"wandb": "offline", "api_key": "***"},
    }
    assert secret.tracking.api_key == "abc"


def test_the_configuration_is_replaced_whole_and_names_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path, "exp", "first")
    folder.path.mkdir(parents=True)
    folder.config.write_text("old: 1\n")
    logged = []
    trainer = SimpleNamespace(loggers=[SimpleNamespace(log_hyperparams=logged.append)])
    config = Namespace(model=Namespace(lr=1), workspace="/somewhere", resume=True, run="first")
    config["allow_change"] = "model.lr"

    callback = RunConfig(DUMPING, config, folder=folder)
    callback.save_config(trainer, None, "predict")
    assert folder.config.read_text() == "old: 1\n"
    callback.save_config(trainer, None, "fit")
    assert folder.config.read_text() == "{'model': {'lr': 1}}"
    assert logged == [{"model": {"lr": 1}}]
    assert [path.name for path in folder.path.iterdir()] == ["config.yaml"]

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space") as caught:
        callback.save_config(trainer, None, "fit")
    assert caught.value.code == Exit.STORAGE
    assert [path.name for path in folder.path.iterdir()] == ["config.yaml"]
    assert folder.config.read_text() == "{'model': {'lr': 1}}"
