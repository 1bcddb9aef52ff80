"""Every real image has the pixels that an independent reader finds."""

import io
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage

from common.data.image_io import read_image

REAL = Path(__file__).parents[3] / "shared" / "data" / "real"
# Tested in test_image_io_bad_files.py.
UNREADABLE = ("zero_bytes", "truncated_image", "malformed", "multipage", "mitograph_Temp_sgi_depth")
pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # of the other reader
STILLS = sorted(
    path
    for suffix in ("png", "jpg", "tif", "tiff")
    for path in REAL.rglob(f"*.{suffix}")
    if path.stem not in UNREADABLE
)


@pytest.mark.parametrize("path", STILLS or [None], ids=lambda p: p.name if p else "absent")
def test_every_real_image_has_the_pixels_that_another_reader_finds(path: Path | None) -> None:
    if path is None:
        pytest.skip("no real images here")
    image = read_image(path, root=REAL)
    assert len(image.axes) == image.pixels.ndim and image.axes == "".join(
        letter for letter in "ITZCYX" if letter in image.axes
    )
    if path.name == "float16.tiff":
        assert image.pixels.dtype == np.float16  # no other reader here knows it
        return
    ours = image.pixels.reshape(-1, *image.pixels.shape[-2:])
    theirs = by_another_reader(path)
    if path.name == "palette-1c-8b.tiff":
        ours = ours >> 8  # its colour map has 16 bits, of which Pillow drops 8
    if len(theirs) == 4 and "alpha" not in image.channel_names:
        assert (theirs[3] == 255).all()
        theirs = theirs[:3]
    if len(ours) < 3 <= len(theirs) <= 4:  # a grey palette, or grey with alpha
        assert (theirs[1:3] == theirs[0]).all()
        theirs = theirs[[0, 3][: len(ours)]]
    assert ours.shape == theirs.shape
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.skipif(not STILLS, reason="no real images here")
def test_axes_pixel_sizes_and_bits_of_real_files_are_those_of_their_records() -> None:
    def facts(name: str) -> tuple[str, float | None, int]:
        image = read_image(next(path for path in STILLS if path.name == name))
        return image.axes, image.pixel_size_um and round(image.pixel_size_um[0], 4), image.bits

    assert facts("yeast_3d_mitochondria_t00-01.ome.tif") == ("TZYX", 0.0655, 16)
    assert facts("yeast_3d_mitochondria_t00-19_zmax.ome.tif") == ("TYX", 0.0655, 16)
    assert facts("123002002001.tif") == ("ZYX", None, 8)
    assert facts("hela-cells.tif") == ("CYX", 0.0515, 16)
    assert facts("12bit.cropped.tif") == ("YX", None, 12)
    assert facts("seg_axon.tif") == ("YX", None, 1)


def by_another_reader(path: Path) -> np.ndarray:
    """[N, Y, X] by Pillow (TIFF) or OpenCV: planes and channels of equal size, in file order."""
    data = path.read_bytes()
    if data[:2] in (b"II", b"MM"):
        with suppress(PillowImage.UnidentifiedImageError):  # a big-endian BigTIFF
            image = PillowImage.open(io.BytesIO(data))
            if image.mode != "RGB":  # Pillow cuts 16-bit colours to 8
                return by_pillow(image)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels.ndim == 2:
        return pixels[None]
    return np.moveaxis(pixels[..., [2, 1, 0, 3][: pixels.shape[-1]]], -1, 0)


def by_pillow(image: PillowImage.Image) -> np.ndarray:
    size, planes = image.size, []
    for index in range(image.n_frames):
        image.seek(index)
        if image.size != size:  # levels of a pyramid
            continue
        array = np.asarray(image.convert("RGB") if image.mode == "P" else image)
        array = array * np.uint8(255) if array.dtype == bool else array
        planes += [array] if array.ndim == 2 else list(np.moveaxis(array, -1, 0))
    return np.stack(planes)
