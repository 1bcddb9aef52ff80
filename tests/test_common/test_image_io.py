"""What the reader returns is what was put into the file, in every format."""

import io
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage

from bad_input.encoders import packed_bits, plain_tiff
from common.data.image_io import Image, read_image, write_ome_tiff, write_png

RNG = np.random.default_rng(7)


def stored(path: Path, data: bytes) -> Image:
    path.write_bytes(data)
    return read_image(path)


def saved(path: Path, image: PillowImage.Image, kind: str, **options: object) -> Image:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stored(path, stream.getvalue())


def levels(dtype: str, *shape: int) -> np.ndarray:
    """Random numbers that use the whole range of the type."""
    if np.dtype(dtype).kind == "f":
        return RNG.normal(size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("shape", [(7, 9), (1, 7, 9), (3, 7, 9)])
def test_a_written_png_has_the_same_grey_levels(
    tmp_path: Path, dtype: str, shape: tuple[int, ...]
) -> None:
    pixels = levels(dtype, *shape)
    if (dtype, shape[0]) == ("u2", 3):
        with pytest.raises(ValueError, match="no PNG"):
            write_png(tmp_path / "a.png", pixels)
        data = cv2.imencode(".png", np.moveaxis(pixels[::-1], 0, -1))[1]
        (tmp_path / "a.png").write_bytes(data.tobytes())
    else:
        write_png(tmp_path / "a.png", pixels)
    image = read_image(tmp_path / "a.png")
    assert (image.axes, image.bits) == ("CYX" if shape[0] == 3 else "YX", 8 * int(dtype[1]))
    np.testing.assert_array_equal(image.pixels, pixels.squeeze())
    theirs = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    theirs = theirs if theirs.ndim == 2 else np.moveaxis(theirs[..., ::-1], -1, 0)
    np.testing.assert_array_equal(theirs, pixels.squeeze())


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
@pytest.mark.parametrize("axes", ["YX", "CYX", "TYX", "ZYX", "TCYX", "TZCYX"])
def test_a_written_ome_tiff_comes_back_here_and_in_tifffile(
    tmp_path: Path, dtype: str, axes: str
) -> None:
    pixels = levels(dtype, *{"T": 2, "Z": 3, "C": 4, "Y": 16, "X": 21}.values())
    pixels = pixels[tuple(slice(None) if a in axes else 0 for a in "TZCYX")]
    names = ("DAPI & <GFP>", 'µ "alpha"', "brightfield", "x") if "C" in axes else ()
    size = (0.1 + 0.2, 1 / 3)
    path = tmp_path / "a.ome.tiff"
    write_ome_tiff(path, pixels, axes, size, names)
    image = read_image(path)
    assert (image.axes, image.pixel_size_um, image.channel_names) == (axes, size, names)
    np.testing.assert_array_equal(image.pixels, pixels)
    with tifffile.TiffFile(path) as tiff:
        np.testing.assert_array_equal(tiff.asarray(), pixels)
        assert tiff.series[0].axes == axes
        written = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
        assert (written["PhysicalSizeY"], written["PhysicalSizeX"]) == size
        assert written["PhysicalSizeXUnit"] == "µm"
        assert not names or tuple(c["Name"] for c in written["Channel"]) == names
        assert tiff.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE


def test_a_written_ome_tiff_says_how_far_its_frames_are_apart(tmp_path: Path) -> None:
    for axes, shape in (("TYX", (3, 8, 9)), ("TCYX", (3, 2, 8, 9))):
        write_ome_tiff(tmp_path / axes, np.zeros(shape, np.uint16), axes, interval_s=2.5)
        with tifffile.TiffFile(tmp_path / axes) as tiff:
            written = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
        assert (written["TimeIncrement"], written["TimeIncrementUnit"]) == (2.5, "s")


def test_the_same_pixels_make_the_same_ome_tiff(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_ome_tiff(tmp_path / name, np.eye(8, dtype=np.uint8), "YX", (0.5, 0.5))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">", "bigtiff": True},
        {"compression": "lzw", "predictor": True, "rowsperstrip": 5},
        {"compression": "zlib", "tile": (16, 16)},
        {"compression": "packbits"},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_every_pixel_type_survives_every_storage(
    tmp_path: Path, dtype: str, options: dict[str, object]
) -> None:
    pixels = levels(dtype, 33, 21)
    if "predictor" in options and pixels.dtype == "f2":
        options = {**options, "predictor": False}
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    image = stored(tmp_path / "a.tif", stream.getvalue())
    assert (image.axes, image.bits) == ("YX", 8 * int(dtype[1]))
    assert image.pixels.dtype == np.dtype(dtype) and image.pixels.dtype.isnative
    np.testing.assert_array_equal(image.pixels, pixels)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_colour_samples_of_a_tiff_become_channels_in_their_order(
    tmp_path: Path, planar: str
) -> None:
    pixels = levels("u2", 3, 12, 10)
    array = pixels if planar == "separate" else np.moveaxis(pixels, 0, -1)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", planarconfig=planar)
    image = read_image(tmp_path / "a.tif")
    assert (image.axes, image.channel_names) == ("CYX", ("red", "green", "blue"))
    np.testing.assert_array_equal(image.pixels, pixels)


@pytest.mark.parametrize(
    ("axes", "canonical"), [("ZTCYX", "TZCYX"), ("CTZYX", "TZCYX"), ("CTYX", "TCYX")]
)
def test_planes_come_in_the_canonical_order(tmp_path: Path, axes: str, canonical: str) -> None:
    pixels = levels("u2", *range(2, 2 + len(axes)))
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="minisblack", ome=True, metadata={"axes": axes}
    )
    image = read_image(tmp_path / "a.tif")
    assert image.axes == canonical
    expected = pixels.transpose([axes.index(letter) for letter in canonical])
    np.testing.assert_array_equal(image.pixels, expected)


@pytest.mark.parametrize("contiguous", [False, True])
def test_an_imagej_hyperstack_has_its_axes_and_micrometres(
    tmp_path: Path, contiguous: bool
) -> None:
    pixels = levels("u2", 2, 3, 4, 10, 12)
    tifffile.imwrite(
        tmp_path / "a.tif",
        pixels,
        imagej=True,
        resolution=(4, 2),
        metadata={"axes": "TZCYX", "unit": "um"},
        truncate=contiguous,
    )
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert len(tiff.pages) == (1 if contiguous else 24)
    image = read_image(tmp_path / "a.tif")
    assert (image.axes, image.pixel_size_um) == ("TZCYX", (0.5, 0.25))
    np.testing.assert_array_equal(image.pixels, pixels)


def test_pages_of_unknown_meaning_all_come_on_axis_i(tmp_path: Path) -> None:
    pixels = levels("u1", 5, 8, 9)
    with tifffile.TiffWriter(tmp_path / "pages.tif") as tiff:
        for page in pixels:
            tiff.write(page)
    tifffile.imwrite(tmp_path / "depth.tif", pixels, metadata={"axes": "ZYX"})
    tifffile.imwrite(tmp_path / "two.tif", np.stack([pixels] * 2), metadata={"axes": "QRYX"})
    images = {name: read_image(tmp_path / f"{name}.tif") for name in ("pages", "depth", "two")}
    assert [image.axes for image in images.values()] == ["IYX", "ZYX", "IYX"]
    np.testing.assert_array_equal(images["pages"].pixels, pixels)
    np.testing.assert_array_equal(images["two"].pixels, np.concatenate([pixels] * 2))


def test_planes_behind_the_only_page_of_a_metamorph_stack_are_read(tmp_path: Path) -> None:
    pixels = levels("u1", 3, 4, 6)
    data = plain_tiff(pixels.tobytes(), 6, 4, t279=24, t33628=(0, 0), t33629=(0,) * 3)
    image = stored(tmp_path / "a.tif", data)
    assert image.axes == "IYX"
    np.testing.assert_array_equal(image.pixels, pixels)


def test_reduced_pages_are_left_out(tmp_path: Path) -> None:
    pixels = levels("u1", 32, 32)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(pixels)
        tiff.write(pixels[::2, ::2], subfiletype=1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels, pixels)


@pytest.mark.parametrize(("bits", "scale"), [(1, 255), (2, 85), (4, 17), (12, 1)])
def test_packed_bits_are_unpacked_and_told(tmp_path: Path, bits: int, scale: int) -> None:
    numbers = RNG.integers(0, 2**bits, (5, 24)).astype(np.uint16)
    packed = packed_bits(numbers, bits)
    dark = stored(tmp_path / "a.tif", plain_tiff(packed, 24, 5, t258=bits))
    light = stored(tmp_path / "b.tif", plain_tiff(packed, 24, 5, t258=bits, t262=0))
    assert (dark.axes, dark.bits, light.bits) == ("YX", bits, bits)
    assert dark.pixels.dtype == (np.uint16 if bits == 12 else np.uint8)
    np.testing.assert_array_equal(dark.pixels, numbers * scale)
    np.testing.assert_array_equal(light.pixels, (2**bits - 1 - numbers) * scale)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
def test_bright_is_large_where_white_is_zero(tmp_path: Path, dtype: str) -> None:
    pixels = levels(dtype, 6, 7)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="miniswhite")
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.pixels, np.iinfo(dtype).max - pixels)


@pytest.mark.parametrize("codec", ["group3", "group4", "jpeg"])
def test_fax_and_jpeg_tiffs_match_pillow(tmp_path: Path, codec: str) -> None:
    smooth = np.add.outer(np.arange(64), np.arange(80)).astype(np.uint8)
    picture = PillowImage.fromarray(smooth if codec == "jpeg" else smooth % 50 > 20)
    image = saved(tmp_path / "a.tif", picture, "TIFF", compression=codec)
    theirs = np.asarray(PillowImage.open(tmp_path / "a.tif"))
    scale = 255 if theirs.dtype == bool else 1
    np.testing.assert_array_equal(image.pixels, theirs * np.uint8(scale))


def indexed(numbers: np.ndarray, palette: np.ndarray) -> PillowImage.Image:
    picture = PillowImage.fromarray(numbers).convert("L")
    picture.putpalette(palette.astype(np.uint8).tobytes())
    return picture


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF"])
def test_indices_come_as_the_colours_they_stand_for(tmp_path: Path, kind: str) -> None:
    numbers = RNG.integers(0, 256, (16, 16), np.uint8)
    greys = np.repeat(np.arange(256)[::-1, None], 3, axis=1)
    greens = np.arange(256)[:, None] * (0, 1, 0)
    grey = saved(tmp_path / "grey", indexed(numbers, greys), kind)
    green = saved(tmp_path / "green", indexed(numbers, greens), kind)
    dark = saved(tmp_path / "dark", indexed(numbers * 0, greens), kind)
    assert (grey.axes, green.axes, grey.bits, green.bits) == ("YX", "CYX", 8, 8)
    np.testing.assert_array_equal(grey.pixels, 255 - numbers)
    np.testing.assert_array_equal(green.pixels, [numbers * 0, numbers, numbers * 0])
    # A table with colours counts as coloured even when unused; GIF's writer cuts the table.
    assert dark.axes == ("YX" if kind == "GIF" else "CYX")


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("samples", [2, 4])
def test_alpha_is_kept_where_it_varies_and_dropped_where_opaque(
    tmp_path: Path, dtype: str, samples: int
) -> None:
    pixels = levels(dtype, 9, 8, samples)
    varying = stored(tmp_path / "a.png", imagecodecs.png_encode(pixels))
    tifffile.imwrite(
        tmp_path / "a.tif",
        pixels,
        photometric="rgb" if samples == 4 else "minisblack",
        planarconfig="contig",
        extrasamples=["unassalpha"],
    )
    names = ("red", "green", "blue", "alpha") if samples == 4 else ("grey", "alpha")
    for image in (varying, read_image(tmp_path / "a.tif")):
        assert (image.axes, image.channel_names) == ("CYX", names)
        np.testing.assert_array_equal(image.pixels, np.moveaxis(pixels, -1, 0))
    pixels[..., -1] = np.iinfo(dtype).max
    opaque = stored(tmp_path / "b.png", imagecodecs.png_encode(pixels))
    assert opaque.axes == ("CYX" if samples == 4 else "YX")
    np.testing.assert_array_equal(opaque.pixels, np.moveaxis(pixels[..., :-1], -1, 0).squeeze())


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_colour_of_a_palette_is_alpha(tmp_path: Path, kind: str) -> None:
    numbers = np.arange(16, dtype=np.uint8).reshape(4, 4)
    picture = indexed(numbers, np.arange(256)[:, None] * (1, 2, 0))
    image = saved(tmp_path / "a", picture, kind, transparency=3)
    assert image.channel_names == ("red", "green", "blue", "alpha")
    np.testing.assert_array_equal(image.pixels[3], np.where(numbers == 3, 0, 255))


def test_all_frames_of_a_gif_come(tmp_path: Path) -> None:
    frames = [PillowImage.fromarray(levels("u1", 6, 7)) for _ in range(4)]
    image = saved(tmp_path / "a.gif", frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert image.axes == "TYX"
    np.testing.assert_array_equal(image.pixels, np.stack([np.asarray(f) for f in frames]))


def test_a_camera_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    picture = PillowImage.fromarray(np.full((16, 24), 99, np.uint8))
    assert saved(tmp_path / "a.jpg", picture, "JPEG", exif=exif).pixels.shape == (16, 24)


def test_the_content_decides_what_a_file_is(tmp_path: Path) -> None:
    picture = PillowImage.fromarray(levels("u1", 16, 24))
    image = saved(tmp_path / "a.tif", picture, "PNG")
    np.testing.assert_array_equal(image.pixels, np.asarray(picture))


def test_a_resolution_is_a_pixel_size_only_where_a_microscope_could_mean_it(
    tmp_path: Path,
) -> None:
    def size(resolution: float, unit: str) -> tuple[float, float] | None:
        pixels = np.zeros((4, 4), np.uint8)
        resolutions = (resolution, resolution)
        tifffile.imwrite(
            tmp_path / "a.tif", pixels, resolution=resolutions, resolutionunit=unit, metadata=None
        )
        return read_image(tmp_path / "a.tif").pixel_size_um

    assert size(100_000, "centimeter") == (0.1, 0.1)
    assert size(25_400, "inch") == (1.0, 1.0)
    assert [size(dpi, "inch") for dpi in (72, 96, 300, 2400)] == [None] * 4
    assert size(100_000, "none") is None
    picture = PillowImage.fromarray(np.zeros((4, 4), np.uint8))
    assert saved(tmp_path / "a.png", picture, "PNG", dpi=(50_000, 50_000)).pixel_size_um is None


def with_ome_text(path: Path, old: str, new: str, pixels: np.ndarray | None = None) -> Image:
    """A two-plane OME-TIFF whose XML was edited."""
    pixels = levels("u2", 2, 8, 8) if pixels is None else pixels
    xml = tifffile.OmeXml()
    xml.addimage("uint16", pixels.shape, (2, 1, 1, 8, 8, 1), axes="CYX", PhysicalSizeX=0.5,
                 PhysicalSizeY=0.25, SignificantBits=12)  # fmt: skip
    text = xml.tostring()
    assert old in text
    tifffile.imwrite(path, pixels, description=text.replace(old, new).encode(), metadata=None)
    return read_image(path)


def test_ome_units_and_significant_bits_are_understood(tmp_path: Path) -> None:
    few = RNG.integers(0, 4096, (2, 8, 8)).astype(np.uint16)
    image = with_ome_text(tmp_path / "a.tif", "PhysicalSizeX", "PhysicalSizeX", few)
    assert (image.axes, image.pixel_size_um, image.bits) == ("CYX", (0.25, 0.5), 12)
    nanometres = 'PhysicalSizeXUnit="nm" PhysicalSizeYUnit="nm" PhysicalSizeX'
    image = with_ome_text(tmp_path / "a.tif", "PhysicalSizeX", nanometres, few)
    assert image.pixel_size_um == pytest.approx((0.00025, 0.0005))
    image = with_ome_text(tmp_path / "a.tif", 'SizeX="0.5"', 'SizeX="0,5"', few)
    assert image.pixel_size_um is None
    image = with_ome_text(tmp_path / "a.tif", "PhysicalSizeX", "PhysicalSizeX", few | 4096)
    assert image.bits == 16  # the file says 12, its pixels need 13
