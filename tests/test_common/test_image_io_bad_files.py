"""Whatever is wrong with a file, the reader says which file and what to do, and nothing else."""

import io
import os
import random
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from bad_input.encoders import (
    PIXELS,
    chunk,
    encoded,
    many_scans,
    patched,
    plain_tiff,
    png,
    png_header,
    png_of_bits,
    retagged,
    seeds,
    tiff,
)
from common.data.image_io import Limits, find_images, read_image, write_ome_tiff, write_png
from common.errors import Exit, UserError

REAL = Path(__file__).parents[3] / "shared" / "data" / "real"
UNREADABLE = {
    "zero_bytes.png": "is empty",
    "truncated_image.png": "is damaged or cut short",
    "malformed.tif": "leads nowhere",
    "multipage.tiff": "pages that differ in size",
    "mitograph_Temp_sgi_depth.tif": "a volume in one page",
}


def refused(path: Path, words: str, root: Path | None = None, limits: Limits | None = None) -> None:
    """The one way in which a file may fail."""
    with pytest.raises(UserError) as caught:
        read_image(path, root, limits or Limits())
    error = caught.value
    assert error.code == Exit.INPUT == 3
    assert path.name in error.subject
    assert words in error.problem
    assert error.remedy
    assert str(path.parent) not in str(error)


@pytest.mark.parametrize("name", UNREADABLE)
def test_the_unreadable_real_files_are_refused_by_name(name: str) -> None:
    path = next(REAL.rglob(name), None)
    if path is None:
        pytest.skip("no real images here")
    refused(path, UNREADABLE[name], root=REAL)


@pytest.mark.parametrize("name", seeds())
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    data, path = seeds()[name], tmp_path / name
    path.write_bytes(data)
    whole = read_image(path).pixels
    for length in range(0, len(data), 1 + 6 * name.endswith(".tif")):
        path.write_bytes(data[:length])
        try:
            read_image(path)
        except UserError as error:
            assert error.code == Exit.INPUT and name in error.subject
        else:
            # What is behind the last pixel (padding, a checksum of nothing) may go.
            assert length > 0.97 * len(data)
            np.testing.assert_array_equal(read_image(path).pixels, whole)


def test_mutated_files_are_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    chance, originals = random.Random(11), seeds()
    path = tmp_path / "mutant"
    outcomes = {"read": 0, "refused": 0}
    for name in chance.choices(list(originals), k=300):
        data = bytearray(originals[name])
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        else:
            data[chance.randrange(len(data))] = chance.choice((0, 255, chance.randrange(256)))
        path.write_bytes(data)
        try:
            read_image(path)
            outcomes["read"] += 1
        except UserError as error:
            assert error.code == Exit.INPUT
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 30


def test_one_changed_byte_of_a_png_never_passes(tmp_path: Path) -> None:
    data = encoded("PNG")
    for place in range(8, len(data) - 12):  # the rest is the empty end mark
        changed = bytearray(data)
        changed[place] ^= 1
        (tmp_path / "a.png").write_bytes(changed)
        refused(tmp_path / "a.png", "")


@pytest.mark.parametrize(
    "data",
    [
        png_header(60_000, 60_000) + encoded("PNG")[33:],
        patched(encoded("BMP"), 18, (30_000).to_bytes(4, "little") * 2),
        patched(encoded("GIF"), 6, (60_000).to_bytes(2, "little") * 2),
    ],
    ids=["PNG", "BMP", "GIF"],
)
def test_a_huge_plane_in_a_tiny_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bomb").write_bytes(data)
    refused(tmp_path / "bomb", "pixels")


def test_a_tiff_that_declares_more_than_it_holds_reserves_no_memory(tmp_path: Path) -> None:
    wide = {"ImageWidth": 60_000, "ImageLength": 60_000, "RowsPerStrip": 60_000}
    mild = {"ImageWidth": 8000, "ImageLength": 8000, "RowsPerStrip": 8000}
    xml = b'<OME xmlns="x"><Image><Pixels DimensionOrder="XYZCT" SizeX="15" SizeY="12" SizeZ="1" '
    xml += (
        b'SizeC="1" SizeT="1000000000"><TiffData PlaneCount="1000000000"/></Pixels></Image></OME>'
    )
    inner = bytearray(encoded("TIFF", compression="jpeg"))
    frame = inner.index(b"\xff\xc0")
    inner[frame + 5 : frame + 9] = b"\xff\x00\xff\x00"
    tracemalloc.start()
    for name, data, words in (
        ("a", retagged(tiff(), **wide), "beyond its end"),
        ("b", retagged(tiff(compression="zlib"), **wide), "pixels in a plane"),
        ("c", retagged(tiff(compression="zlib"), **mild), "bytes for one of its own"),
        ("planes", tiff(description=xml, metadata=None), "describes 1000000000 planes"),
        ("jpeg", bytes(inner), "JPEG strip that is larger"),
        ("j", tiff(description=b"ImageJ=1\nimages=9999999999\n", metadata=None), "is cut short"),
    ):
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, words)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20


def test_a_closed_or_endless_chain_of_pages_is_refused(tmp_path: Path) -> None:
    data = bytearray(tiff(np.stack([PIXELS] * 3)))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        first, last = file.pages[0].offset, file.pages[2].offset
    tags = int.from_bytes(data[last : last + 2], "little")
    data[last + 2 + 12 * tags : last + 6 + 12 * tags] = first.to_bytes(4, "little")
    (tmp_path / "circle.tif").write_bytes(data)
    refused(tmp_path / "circle.tif", "chain of pages")
    (tmp_path / "many.tif").write_bytes(tiff(np.stack([PIXELS] * 6)))
    refused(tmp_path / "many.tif", "more than 5 pages", limits=Limits(max_pages=5))
    (tmp_path / "many.gif").write_bytes(seeds()["a.gif"])
    refused(tmp_path / "many.gif", "more than 2 frames", limits=Limits(max_pages=2))


@pytest.mark.parametrize(
    "limits",
    [Limits(max_pixels=179), Limits(max_bytes=539), Limits(max_expansion=0), Limits(max_pages=2)],
    ids=["pixels", "bytes", "expansion", "pages"],
)
def test_limits_are_the_callers(tmp_path: Path, limits: Limits) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(np.stack([PIXELS] * 3), metadata=None))
    assert read_image(path, limits=Limits(180, 3, 540, 1)).pixels.shape == (3, 12, 15)
    refused(path, "more than", limits=limits)


def test_what_is_no_regular_file_inside_its_folder_is_never_opened(tmp_path: Path) -> None:
    root, outside = tmp_path / "data", tmp_path / "outside.png"
    root.mkdir()
    for path in (outside, root / "a.png"):
        path.write_bytes(encoded("PNG"))
    os.mkfifo(root / "pipe.png")
    for name, target in {"in": "a.png", "out": outside, "gone": "x", "circle": "circle"}.items():
        (root / name).symlink_to(target)
    refused(root / "pipe.png", "is a pipe or device")
    refused(root, "is a folder")
    refused(root / "missing.png", "cannot be found")
    refused(root / "gone", "leads nowhere")
    refused(root / "circle", "leads nowhere")
    refused(root / "out", "lies outside", root=root)
    refused(root / ".." / "outside.png", "lies outside", root=root)
    np.testing.assert_array_equal(read_image(root / "in", root=root).pixels, PIXELS)
    np.testing.assert_array_equal(read_image(root / "out").pixels, PIXELS)


@pytest.mark.parametrize(
    ("words", "data"),
    [
        ("is empty", b""),
        ("no image of a known kind", b"not an image\n"),
        ("no image of a known kind", bytes(1000)),
        ("is a JPEG 2000 file", imagecodecs.jpeg2k_encode(PIXELS, codecformat="jp2")),
        ("TIFF compression 34712", tiff(compression="jpeg2000")),
        ("CMYK", encoded("JPEG", mode="CMYK")),
        ("TIFF photometric 5", tiff(np.zeros((8, 8, 4), np.uint8), photometric="separated")),
        ("pixel type", tiff(np.zeros((8, 8), np.complex64))),
        ("2 values that are NaN or Inf", tiff(np.float32([[1, np.nan], [np.inf, 2]]))),
        ("describes 9 planes but holds 3", tiff(np.stack([PIXELS] * 3), metadata=None,
                                                description="ImageJ=1\nimages=9\nslices=9\n")),
        ("a damaged OME-XML", tiff(description="<OME><Image></OME>", metadata=None)),
        ("describes 0 images", tiff(description="<OME></OME>", metadata=None)),
        ("lacks some of its pixels", png_header(15, 13) + png(PIXELS)[33:]),
        ("not known (NEWT)", png(PIXELS, chunk(b"NEWT", b"12"))),
        ("wrong checksum in tEXt", png(PIXELS, patched(chunk(b"tEXt", b"a\0b"), 8, b"c"))),
        ("more than 67108864 bytes", png(PIXELS, chunk(b"tEXt", bytes(2**26 + 1)))),
        ("does not define", png_of_bits(PIXELS[:, :8] >> 4, 4, 3, chunk(b"PLTE", bytes(9)))),
        ("no end mark", encoded("JPEG")[:-40] + bytes(2000)),
        ("more than 100 scans", many_scans(encoded("JPEG", progressive=True), 200)),
        ("declares 200000 strips", plain_tiff(b"", 1, 1, t273=(8,) * 200_000)),
        ("far larger than itself", plain_tiff(PIXELS.tobytes(), 15, 12, t322=30_000, t323=30_000,
                                              t273=None, t324=8, t325=180)),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_in_plain_words(
    tmp_path: Path, words: str, data: bytes
) -> None:
    (tmp_path / "a.png").write_bytes(data)
    refused(tmp_path / "a.png", words)


def test_planes_in_another_order_or_file_are_refused(tmp_path: Path) -> None:
    xml = '<OME><Image><Pixels DimensionOrder="XYZCT" SizeX="15" SizeY="12" SizeZ="1" SizeC="2" '
    xml += 'SizeT="1"><TiffData IFD="0" FirstC="1"/><TiffData IFD="1" FirstC="0"/></Pixels></Image>'
    stack = np.stack([PIXELS, 255 - PIXELS])
    (tmp_path / "a.tif").write_bytes(tiff(stack, description=xml + "</OME>", metadata=None))
    refused(tmp_path / "a.tif", "in an unusual order")
    (tmp_path / "a.tif").write_bytes(tiff(stack[:1], description=xml + "</OME>", metadata=None))
    refused(tmp_path / "a.tif", "order")


def test_missing_strips_are_refused_instead_of_black(tmp_path: Path) -> None:
    for counts in ((0, 90), (90, 0)):
        path = tmp_path / "a.tif"
        path.write_bytes(retagged(tiff(rowsperstrip=6), StripByteCounts=counts))
        refused(path, "lacks some of its strips")


@pytest.mark.parametrize("name", [b"new\nline.png", b"\xff\xfe.png", b"\x1b[31m red.png", b" .png"])
def test_any_file_name_can_be_read_and_told(tmp_path: Path, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    write_png(path, PIXELS)
    np.testing.assert_array_equal(read_image(path).pixels, PIXELS)
    assert find_images(tmp_path) == [path]
    path.write_bytes(b"")
    with pytest.raises(UserError) as caught:
        read_image(path)
    assert str(caught.value).isprintable()
    with pytest.raises(UserError):
        read_image(f"{path}\0")


def test_neither_pillow_nor_tifffile_writes_to_the_terminal(tmp_path: Path) -> None:
    for name, data in seeds().items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / f"cut-{name}").write_bytes(data[: len(data) * 2 // 3])
    code = """if True:
        import sys
        from common.data.image_io import find_images, read_image
        from common.errors import UserError
        for path in find_images(sys.argv[1]):
            try:
                read_image(path)
            except UserError:
                pass
        print("done")
    """
    (tmp_path / "odd.jpg").write_bytes(encoded("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff"))
    command = [sys.executable, "-c", code, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.stdout, result.stderr) == ("done\n", "")


def test_threads_do_not_take_each_others_damage(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.tif", tmp_path / "bad.tif"
    good.write_bytes(tiff())
    damaged = bytearray(retagged(tiff(), StripByteCounts=180))
    damaged[damaged.index(b"\x17\x01") + 2] = 99  # the type of a tag: tifffile only logs it
    bad.write_bytes(damaged)

    def outcome(path: Path) -> bool:
        try:
            return bool((read_image(path).pixels == PIXELS).all())
        except UserError:
            return False

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(outcome, [good, bad] * 100)) == [True, False] * 100


@pytest.mark.parametrize("write", [write_png, lambda p, x: write_ome_tiff(p, x, "YX")])
def test_a_failed_write_keeps_the_older_file(
    tmp_path: Path, write: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    write(path, PIXELS)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match="No space left") as caught:
        write(path, PIXELS[::-1])
    assert caught.value.code == Exit.STORAGE
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing: cannot be listed"):
        find_images(tmp_path / "missing")


def test_the_listing_is_sorted_and_knows_only_regular_images(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("b.PNG", "a/x.tiff", "a/notes.txt", ".hidden.png", "__MACOSX/c.png", ".git/d.png",
                 "a/Thumbs.db", "a/._x.tiff", "z.jpeg"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"?")
    (tmp_path / "outside.png").write_bytes(b"?")
    (root / "out.png").symlink_to(tmp_path / "outside.png")
    (root / "nowhere.png").symlink_to("missing")
    (root / "circle.png").symlink_to("circle.png")
    (root / "inside.png").symlink_to("b.PNG")
    (root / "a" / "loop").symlink_to(root)
    names = [path.relative_to(root).as_posix() for path in find_images(root)]
    assert names == ["a/x.tiff", "b.PNG", "inside.png", "z.jpeg"]
