"""Movies of every container are read frame by frame, and nothing else is believed."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import tifffile
import zarr

from common.data import movies
from common.data.cards import load_card
from common.data.image_decoded import Image
from common.data.image_io import write_ome_tiff, write_png
from common.data.manifest import frames_of
from common.data.raw_files import digest_of, state_of
from common.data.reading import Reading, planes
from common.errors import UserError

REAL = Path(__file__).parents[3] / "shared/data/real"
FRAMES = np.random.default_rng(0).integers(0, 60_000, (5, 12, 16)).astype(np.uint16)


def pixels(path: Path) -> np.ndarray:
    return np.stack([frame.pixels for frame in movies.read_frames(path)])


def write_zarr(path: Path, array: np.ndarray, axes: str, version: int = 2) -> Path:
    scale = [{"t": 2.5, "z": 0.3}.get(axis, 0.1) for axis in axes]
    units = {"t": "second", "z": "micrometer", "y": "micrometer", "x": "micrometer"}
    described = [{"name": a} | ({"unit": units[a]} if a in units else {}) for a in axes]
    image = {
        "axes": described,
        "datasets": [
            {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        ],
    }
    group = zarr.open_group(path, mode="w", zarr_format=version)
    group.create_array("0", data=array)
    told = {"multiscales": [image]}
    group.attrs.update({"ome": told} if version == 3 else told)
    return path


def write_video(
    path: Path, frames: np.ndarray, codec: str, form: str, options: dict[str, str] | None = None
) -> Path:
    """Frames [T, H, W] of grey levels, or [T, H, W, 3] of colours."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], form
        given = "rgb24" if frames.ndim == 4 else ("gray16le" if frames.itemsize == 2 else "gray")
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format=given)))
        container.mux(stream.encode())
    return path


def test_frames_of_a_tiff_come_in_their_order_with_size_and_interval(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    metadata = {"axes": "TYX", "PhysicalSizeX": 0.1, "PhysicalSizeY": 0.1, "TimeIncrement": 4.5}
    tifffile.imwrite(path, FRAMES, ome=True, metadata=metadata, photometric="minisblack")
    assert movies.count_frames(path) == 5
    found = list(movies.read_frames(path))
    np.testing.assert_array_equal(np.stack([frame.pixels for frame in found]), FRAMES)
    assert {frame.axes for frame in found} == {"YX"}
    assert {(frame.pixel_size_um, frame.interval_s) for frame in found} == {((0.1, 0.1), 4.5)}


@pytest.mark.parametrize("axes", ["TZYX", "ZTYX", "TCYX"])
def test_every_frame_has_all_its_planes_whatever_their_order(tmp_path: Path, axes: str) -> None:
    shape = tuple({"T": 3, "Z": 4, "C": 2, "Y": 10, "X": 8}[axis] for axis in axes)
    stored = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stored, metadata={"axes": axes}, photometric="minisblack")
    expected = np.moveaxis(stored, axes.index("T"), 0)
    assert movies.count_frames(path) == 3
    np.testing.assert_array_equal(pixels(path), expected)
    assert next(movies.read_frames(path)).axes == axes.replace("T", "")


def test_an_imagej_stack_tells_its_interval(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, FRAMES, imagej=True, metadata={"axes": "TYX", "finterval": 0.5})
    assert [frame.interval_s for frame in movies.read_frames(path)] == [0.5] * 5
    np.testing.assert_array_equal(pixels(path), FRAMES)


def test_pages_of_unknown_meaning_are_moments(tmp_path: Path) -> None:
    path = tmp_path / "plain.tif"
    with tifffile.TiffWriter(path) as writer:
        for frame in FRAMES:
            writer.write(frame, metadata=None, contiguous=False)
    assert movies.count_frames(path) == 5
    np.testing.assert_array_equal(pixels(path), FRAMES)


def test_a_still_is_a_movie_of_one_moment(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", FRAMES[0])
    assert movies.count_frames(tmp_path / "a.png") == 1
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), FRAMES[:1])


@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr_gives_frames_sizes_and_interval(tmp_path: Path, version: int) -> None:
    stored = np.stack([FRAMES, FRAMES[::-1]], 1)
    path = write_zarr(tmp_path / "a.zarr", stored, "tzyx", version)
    assert movies.count_frames(path, tmp_path) == 5
    found = list(movies.read_frames(path, tmp_path))
    np.testing.assert_array_equal(np.stack([frame.pixels for frame in found]), stored)
    assert found[0].axes == "ZYX"
    assert (found[0].pixel_size_um, found[0].interval_s) == ((0.1, 0.1), 2.5)


@pytest.mark.parametrize("axes", ["ztyx", "ctyx", "zctyx"])
def test_moments_of_ome_zarr_follow_its_time_wherever_that_stands(
    tmp_path: Path, axes: str
) -> None:
    # Channels as many as moments: taken for each other they would not show in the shapes.
    shape = tuple({"t": 3, "z": 4, "c": 3, "y": 10, "x": 8}[axis] for axis in axes)
    stored = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    path = write_zarr(tmp_path / "a.zarr", stored, axes)
    assert movies.count_frames(path) == 3
    np.testing.assert_array_equal(pixels(path), np.moveaxis(stored, axes.index("t"), 0))
    first = next(movies.read_frames(path))
    assert (first.axes, first.interval_s) == (axes.upper().replace("T", ""), 2.5)


def test_ome_zarr_without_time_is_one_moment(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", FRAMES, "zyx")
    assert movies.count_frames(path) == 1
    np.testing.assert_array_equal(pixels(path)[0], FRAMES)


def change(path: Path, name: str, **values: object) -> None:
    facts = json.loads((path / name).read_text())
    (path / name).write_text(json.dumps(facts | values))


@pytest.mark.parametrize(
    ("name", "values", "problem"),
    [
        ("0/.zarray", {"filters": [{"id": "pickle"}]}, "Zarr codec pickle"),
        ("0/.zarray", {"dtype": "|O"}, "a pixel type that is not read"),
        ("0/.zarray", {"shape": "many"}, "damaged description"),
        ("0/.zarray", {"shape": [5, 2**20, 2**20]}, "declares planes"),
        ("0/.zarray", {"shape": [2**40, 2, 2]}, "declares 4398046511104 values"),
        (".zattrs", {"multiscales": []}, "multiscales are not told"),
        (".zattrs", {"multiscales": [{"datasets": [{"path": "../b"}]}]}, "outside itself"),
        (".zattrs", {"multiscales": [{"datasets": [{"path": "0"}], "axes": ["x", "y", "t"]}]},
         "has the axes XYT"),
        (".zattrs", {"multiscales": [{"datasets": [{"path": "0"}], "axes": ["w", "y", "x"]}]},
         "has the axes WYX"),
    ],
)  # fmt: skip
def test_ome_zarr_that_promises_something_else_is_refused(
    tmp_path: Path, name: str, values: dict, problem: str
) -> None:
    path = write_zarr(tmp_path / "a.zarr", FRAMES, "zyx")
    change(path, name, **values)
    with pytest.raises(UserError, match=problem):
        list(movies.read_frames(path, tmp_path))


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_folder_without_a_description_is_no_ome_zarr(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.zarr"
    path.mkdir()
    if content:
        (path / ".zattrs").write_text(content)
    with pytest.raises(UserError, match=r"no OME-Zarr image|no readable \.zattrs"):
        movies.count_frames(path)


@pytest.mark.parametrize(("suffix", "codec"), [(".avi", "ffv1"), (".mkv", "ffv1")])
def test_grey_video_without_loss_comes_back_exactly(
    tmp_path: Path, suffix: str, codec: str
) -> None:
    path = write_video(tmp_path / f"a{suffix}", FRAMES, codec, "gray16le")
    assert movies.count_frames(path) == 5
    np.testing.assert_array_equal(pixels(path), FRAMES)
    assert next(movies.read_frames(path)).bits == 16
    bytes_ = (FRAMES >> 8).astype(np.uint8)
    path = write_video(tmp_path / f"b{suffix}", bytes_, codec, "gray")
    np.testing.assert_array_equal(pixels(path), bytes_)


def test_colours_of_a_video_are_channels(tmp_path: Path) -> None:
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    frames[..., 1] = 200
    path = write_video(tmp_path / "a.mp4", frames, "mpeg4", "yuv420p")
    found = list(movies.read_frames(path))
    assert len(found) == movies.count_frames(path) == 4
    assert found[0].channel_names == ("red", "green", "blue") and found[0].interval_s is None
    red, green, blue = found[0].pixels.mean((1, 2))
    assert green > 180 and max(red, blue) < 20


def test_a_name_alone_makes_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("#EXTM3U\nfile:///etc/hostname\n")
    with pytest.raises(UserError, match="is no AVI, MP4 or Matroska video"):
        movies.count_frames(path)


@pytest.mark.parametrize("told", [1, 3])
def test_frames_beyond_those_an_avi_tells_of_count(tmp_path: Path, told: int) -> None:
    path = write_video(tmp_path / "a.avi", FRAMES, "ffv1", "gray16le")
    content = bytearray(path.read_bytes())
    length = content.index(b"strh") + 40
    assert content[length : length + 4] == (5).to_bytes(4, "little")
    content[length : length + 4] = told.to_bytes(4, "little")
    path.write_bytes(content)
    assert movies.count_frames(path) == 5
    np.testing.assert_array_equal(pixels(path), FRAMES)


def test_frames_beyond_the_first_fragment_of_an_mp4_count(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    frames = np.zeros((40, 32, 32), np.uint8)
    write_video(path, frames, "mpeg4", "yuv420p", {"movflags": "frag_keyframe"})
    assert len(pixels(path)) == movies.count_frames(path) == 40


def test_a_video_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", np.repeat(FRAMES, 20, 0), "ffv1", "gray16le")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"can be decoded|damaged or cut short"):
        list(movies.read_frames(path))


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4608), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(UserError, match="holds no video stream"):
        movies.count_frames(path)


def test_movies_are_found_once_and_folders_are_not_looked_into(tmp_path: Path) -> None:
    write_zarr(tmp_path / "a.zarr", FRAMES, "tyx")
    write_png(tmp_path / "a.zarr/thumbnail.png", FRAMES[0])
    (tmp_path / "b").mkdir()
    write_ome_tiff(tmp_path / "b/c.ome.tif", FRAMES, "TYX")
    (tmp_path / "d.MP4").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("x")
    found = [path.relative_to(tmp_path).as_posix() for path in movies.find_movies(tmp_path)]
    assert found == ["a.zarr", "b/c.ome.tif", "d.MP4"]


def test_any_change_within_a_folder_changes_its_state_and_digest(tmp_path: Path) -> None:
    path = write_zarr(tmp_path / "a.zarr", FRAMES, "tyx")
    digest, state = digest_of(path), state_of(path)
    chunk = next(p for p in path.rglob("*") if p.is_file() and p.name[0].isdigit())
    chunk.write_bytes(chunk.read_bytes() + b"x")
    assert digest_of(path) != digest and state_of(path)[0] == state[0] + 1
    chunk.rename(chunk.with_name("renamed"))
    assert digest_of(path) != digest
    assert state_of(tmp_path / "nothing") == [0, 0, 0]


def test_frames_share_their_file_and_have_names_of_their_own() -> None:
    samples = frames_of("a/b#1.tif", "a/b", 3)
    assert [s.name for s in samples] == [f"a/b#1.tif#000{k}" for k in range(3)]
    assert {s.file for s in samples} == {"a/b#1.tif"} and {s.group for s in samples} == {"a/b"}
    (single,) = frames_of("a/b#0000", "a", 1)
    assert single.file == single.name == "a/b#0000" and single.frame == -1


CARD = load_card("mito_videos")


def decoded(array: np.ndarray, axes: str, names: tuple[str, ...] = ()) -> Image:
    return Image(array, axes, None, names, 16)


def test_stacks_are_projected_as_told() -> None:
    image = decoded(FRAMES, "ZYX")
    np.testing.assert_array_equal(planes(image, CARD, Reading("max"))[0], FRAMES.max(0))
    np.testing.assert_array_equal(planes(image, CARD, Reading("middle"))[0], FRAMES[2])
    mean = planes(image, CARD, Reading("mean"))[0]
    assert mean.dtype == np.uint16
    np.testing.assert_array_equal(mean, np.rint(FRAMES.mean(0)))
    with pytest.raises(ValueError, match="5 planes along Z"):
        planes(image, CARD)


def test_one_channel_is_taken_by_name_or_position() -> None:
    image = decoded(FRAMES[:3], "CYX", ("red", "green", "blue"))
    np.testing.assert_array_equal(planes(image, CARD, Reading(channel="green"))[0], FRAMES[1])
    np.testing.assert_array_equal(planes(image, CARD, Reading(channel="2"))[0], FRAMES[2])
    with pytest.raises(ValueError, match="has no channel 3, only red, green, blue, 0, 1, 2"):
        planes(image, CARD, Reading(channel="3"))
    with pytest.raises(ValueError, match="has 3 channels"):
        planes(image, CARD)


def test_coloured_grey_levels_are_one_channel() -> None:
    blank = np.zeros_like(FRAMES[0])
    image = decoded(np.stack([blank, FRAMES[0], blank]), "CYX", ("red", "green", "blue"))
    np.testing.assert_array_equal(planes(image, CARD)[0], FRAMES[0])
    np.testing.assert_array_equal(planes(image, CARD, Reading(channel="0"))[0], FRAMES[0])
    assert not planes(image, CARD, Reading(channel="0"), of_movie=True).any()


def test_the_channel_that_was_asked_for_is_taken_also_where_it_is_blank() -> None:
    image = decoded(np.stack([np.full_like(FRAMES[0], 7), FRAMES[0]]), "CYX", ("dark", "other"))
    for channel in ("dark", "0"):
        assert (planes(image, CARD, Reading(channel=channel)) == 7).all()


@pytest.mark.skipif(not REAL.is_dir(), reason="no real images here")
@pytest.mark.parametrize(
    ("name", "frames", "axes", "size_um", "interval_s"),
    [
        ("nellie_yeast/yeast_3d_mitochondria_t00-01.ome.tif", 2, "ZYX", 0.0655, 4.536),
        ("nellie_yeast/yeast_3d_mitochondria_t00-19_zmax.ome.tif", 20, "YX", 0.0655, 4.536),
        ("nellie_yeast/yeast_3d_mitochondria_t00.ome.zarr", 1, "ZYX", 0.0655, 4.536),
        ("plant_mito_mp4/GFP1_AthalianaHypocotyl_15fps_492x276_254kbps.mp4", 120, "CYX", 0, 0),
        ("mitograph_yeast/MitoGraphTest001.tif", 1, "ZYX", 0, 0),
    ],
)
def test_real_movies_have_the_frames_and_sizes_of_their_records(
    name: str, frames: int, axes: str, size_um: float, interval_s: float
) -> None:
    path = REAL / "mitogan" / name
    found = list(movies.read_frames(path, REAL))
    assert len(found) == movies.count_frames(path, REAL) == frames
    assert {frame.axes for frame in found} == {axes}
    size = found[0].pixel_size_um
    assert (size[1] if size else 0) == pytest.approx(size_um, abs=1e-6)
    assert (found[0].interval_s or 0) == pytest.approx(interval_s, abs=1e-3)


@pytest.mark.skipif(not REAL.is_dir(), reason="no real images here")
def test_the_real_zarr_holds_the_pixels_of_the_real_tiff() -> None:
    folder = REAL / "mitogan/nellie_yeast"
    (zarr_frame,) = movies.read_frames(folder / "yeast_3d_mitochondria_t00.ome.zarr")
    tiff_frame = next(movies.read_frames(folder / "yeast_3d_mitochondria_t00-01.ome.tif"))
    np.testing.assert_array_equal(zarr_frame.pixels, tiff_frame.pixels)
