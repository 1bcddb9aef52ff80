"""Three domains, brightfield and two of fluorescence, on the whole path; how pictures show them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from common.data.image_io import read_image
from common.errors import UserError
from common.runs.checkpoints import load_checkpoint
from experiments.multi_stylegan.datamodule import YeastDataModule
from experiments.multi_stylegan.pictures import above
from made_traps import name_of, write_traps
from running import Cli, at, run_folder, smoke

EXPERIMENT, CARD = "multi_stylegan", "yeast_traps_rfp"
CHANNELS = ("BF", "GFP", "RFP")
SIZE = 16


@pytest.mark.usefixtures("one_thread")
def test_a_third_domain_goes_from_its_files_to_generated_ones(tmp_path: Path, cli: Cli) -> None:
    raw = write_traps(tmp_path / "raw", times=range(12), size=SIZE, channels=CHANNELS)
    data = ["--data.card", CARD, "--data.root", raw, "--data.val_fraction", "0.25"]
    few = ["--data.image_size", str(SIZE), "--budget.images_seen", "4", "--hardware.threads", "1"]
    result = cli(EXPERIMENT, "fit", *smoke(EXPERIMENT), *at(tmp_path, "three"), *data, *few)
    assert result.code == 0, result.err
    folder = run_folder(tmp_path, EXPERIMENT, "three")
    saved = load_checkpoint(folder / "checkpoints/last.ckpt")
    assert saved["hyper_parameters"]["num_channels"] == 3
    assert len(saved["state_dict"]["generator.constants"]) == 3
    result = cli(EXPERIMENT, "generate", *at(tmp_path, "three"), "--n", "2")
    assert result.code == 0, result.err
    for number in range(2):
        made = read_image(folder / f"samples/{number:06d}.ome.tiff")
        assert made.pixels.shape == (3, 3, SIZE, SIZE) and made.pixels.dtype == np.uint16
        red = made.pixels[:, 2]
        assert np.ptp(red) > 0 and red.min() >= 20 and red.max() <= 2020
        assert not np.array_equal(red, made.pixels[:, 1])


def test_each_domain_is_its_own_file_in_its_own_window(tmp_path: Path) -> None:
    raw = write_traps(tmp_path / "raw", times=range(3), size=SIZE, channels=CHANNELS)
    data = YeastDataModule(
        root=str(raw), workspace=str(tmp_path), card=CARD, image_size=SIZE, val_fraction=0.25
    )
    data.prepare_data()
    data.setup("fit")
    windows = data.dataset("train")
    image = data.on_after_batch_transfer(windows.__getitems__([(0, 0)]), 0)["image"]
    position = windows.samples[0].group
    for channel, (low, high) in (("GFP", (150, 2350)), ("RFP", (20, 2020))):
        for time in range(3):
            grey = read_image(raw / name_of(position, 0, 0, time, channel)).pixels
            expected = (2 * (grey.astype(np.float64) - low) / (high - low) - 1).clip(-1, 1)
            found = image[0, CHANNELS.index(channel), time]
            np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_recordings_without_the_third_channel_are_refused(tmp_path: Path) -> None:
    raw = write_traps(tmp_path / "raw", times=range(2), size=SIZE)
    data = YeastDataModule(root=str(raw), workspace=str(tmp_path), card=CARD)
    with pytest.raises(UserError, match=r"no RFP file; .*a data card with fewer channels"):
        data.scan(raw)


@pytest.mark.parametrize("domains", [2, 3])
def test_real_sequences_stand_above_generated_ones(domains: int) -> None:
    levels = torch.linspace(-1, 1, 4 * domains * 3).view(4, domains, 3, 1, 1)
    real = levels.expand(-1, -1, -1, 5, 5)
    shown = above(real[:2], -real)
    height, width = domains * 5, 3 * 5
    assert shown.shape == (2 * height + 2, 2 * width + 2)
    assert (shown[height : height + 2] == 255).all() and (shown[:, width : width + 2] == 255).all()
    for row, sequences in enumerate((real, -real)):
        for column in range(2):
            top, left = row * (height + 2), column * (width + 2)
            block = shown[top : top + height, left : left + width]
            frames = block.reshape(domains, 5, 3, 5).transpose(0, 2, 1, 3)
            expected = (sequences[column].numpy() + 1) * 127.5
            assert np.abs(frames - expected).max() <= 0.5
