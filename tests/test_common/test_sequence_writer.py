"""Generated sequences on disk, and what is shown beside them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.callbacks import ImageWriter
from common.data.canvas import rectangle_mask
from common.data.image_io import read_image
from common.data.movies import read_frames
from common.errors import UserError
from common.generation import grey_to_unit
from common.sequence_writer import SequenceWriter, film, writer_of

FACTS: dict[str, Any] = {
    "channels": ["BF", "GFP"],
    "storage": {"source": "uint16"},
    "window": [[2000, 9000], [150, 2350]],
    "pixel_size_um": 0.1,
    "canvas_pixel_size_um": [0.2, 0.2],
}


def write(folder: Path, file_format: str = "auto", shapes: Any = None) -> np.ndarray:
    """Writes one sequence of 3 moments, 20 x 16 pixels on a canvas of 20; returns it in [-1, 1]."""
    noise = torch.rand(1, 2, 3, 20, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = torch.from_numpy(rectangle_mask(20, 16, 20)[None])
    writer = writer_of(3, folder, FACTS, file_format, shapes, folder / "shown")
    outputs = {"name": ["000007"], "image": noise, "mask": mask}
    folder.mkdir(exist_ok=True)
    writer.on_predict_batch_end(None, None, outputs)
    return noise[0, ..., 2:18].numpy()


def test_a_sequence_is_an_ome_tiff_with_time_and_the_grey_levels_of_each_window(
    tmp_path: Path,
) -> None:
    shown = write(tmp_path)
    image = read_image(tmp_path / "000007.ome.tiff")
    assert (image.axes, image.pixels.shape) == ("TCYX", (3, 2, 20, 16))
    assert image.channel_names == ("BF", "GFP") and image.pixel_size_um == (0.2, 0.2)
    for channel, (low, high) in enumerate(FACTS["window"]):
        expected = (shown[channel].astype(np.float64) + 1) / 2 * (high - low) + low
        assert np.abs(image.pixels[:, channel] - expected).max() <= 0.51
    assert [path.name for path in tmp_path.iterdir()] == ["000007.ome.tiff"]


@pytest.mark.parametrize("file_format", ["mp4", "gif"])
def test_a_film_shows_brightfield_over_green(tmp_path: Path, file_format: str) -> None:
    write(tmp_path, file_format)
    assert (tmp_path / "000007.ome.tiff").is_file()
    frames = list(read_frames(tmp_path / f"shown/000007.{file_format}"))
    assert len(frames) == 3
    pixels = np.stack([frame.pixels for frame in frames]).astype(float)
    assert pixels.shape == (3, 3, 40, 16)
    red, green, blue = (pixels[:, k, 22:] for k in range(3))
    assert green.mean() > 2 * red.mean() and green.mean() > 2 * blue.mean()
    assert np.ptp(pixels[:, :, :18].mean((0, 2, 3))) < 15


def test_a_film_has_the_colours_of_its_channels() -> None:
    unit = np.ones((3, 2, 4, 5), np.float32)
    shown = film(unit)
    assert shown.shape == (2, 12, 5, 3) and shown.dtype == np.uint8
    colours = [shown[0, row, 0].tolist() for row in (0, 4, 8)]
    assert colours[0] == [255, 255, 255]
    assert np.argmax(colours[1]) == 1 and np.argmax(colours[2]) == 0


def test_a_strip_has_the_frames_of_one_channel_side_by_side(tmp_path: Path) -> None:
    write(tmp_path, "strip")
    assert sorted(path.name for path in (tmp_path / "shown").iterdir()) == [
        "000007_BF.png",
        "000007_GFP.png",
    ]
    written = read_image(tmp_path / "000007.ome.tiff").pixels.swapaxes(0, 1)
    unit = grey_to_unit(written, FACTS["window"])
    strip = read_image(tmp_path / "shown/000007_GFP.png").pixels
    assert strip.shape == (20, 48)
    for moment in range(3):
        expected = np.rint(unit[1, moment] * 255)
        np.testing.assert_array_equal(strip[:, 16 * moment : 16 * moment + 16], expected)


def test_sequences_can_have_the_sizes_of_the_raw_images(tmp_path: Path) -> None:
    write(tmp_path, shapes={7: (30, 24)})
    image = read_image(tmp_path / "000007.ome.tiff")
    assert image.pixels.shape == (3, 2, 30, 24) and image.pixel_size_um == (0.1, 0.1)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--file_format png: cannot hold sequences"):
        writer_of(3, tmp_path, FACTS, "png", None, tmp_path)
    with pytest.raises(UserError, match="--file_format gif: shows sequences"):
        writer_of(0, tmp_path, FACTS, "gif", None, tmp_path)
    assert type(writer_of(0, tmp_path, FACTS, "auto", None, tmp_path)) is ImageWriter
    assert type(writer_of(1, tmp_path, FACTS, "auto", None, tmp_path)) is SequenceWriter
