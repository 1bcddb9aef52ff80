import errno
import hashlib
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from common.data import packing
from common.data.augment import orient
from common.data.cards import Card
from common.data.check import check
from common.data.image_io import Image, find_images, read_image, write_ome_tiff, write_png
from common.data.manifest import Sample, read_manifest, write_manifest
from common.data.preparation import Recipe
from common.data.prepare import prepare
from common.data.prepared import Prepared
from common.data.reading import planes
from common.errors import Exit, UserError
from common.preprocess.geometry import fit_to_canvas
from common.storage import whole_folder

CARD = Card(
    "blobs", "Blobs", "nowhere", "none", ("grey",), None, "dtype", ("a", "b"), None, "image",
    ("_mirrored", r"_rot\d+"), True,
)  # fmt: skip
SIZE = 16


def picture(seed: int, height: int = 20, width: int = 14) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)


def draw(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tif":
        write_ome_tiff(path, pixels, "YX")
    elif path.suffix == ".png":
        write_png(path, pixels)
    else:
        PillowImage.fromarray(pixels).save(path)
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Twelve images of two classes, of different shapes."""
    for k in range(12):
        draw(tmp_path / f"raw/{'ab'[k % 2]}/{k:02d}.png", picture(k, 20 - k, 14))
    return tmp_path / "raw"


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A clean data set that came split: six, two and four images."""
    for k in range(12):
        split = ["train", "test", "train", "val", "train", "test"][k // 2]
        draw(tmp_path / f"shipped/{split}/{'ab'[k % 2]}/{k:02d}.png", picture(k))
    return tmp_path / "shipped"


def samples(root: Path) -> list[Sample]:
    found = []
    for path in find_images(root):
        name = path.relative_to(root).as_posix()
        first, *rest = name.split("/")
        split = first if first in ("train", "val", "test") else ""
        label, key = (rest[0] if split else first), name.rsplit(".", 1)[0]
        found.append(Sample(name, key, label, split))
    return found


def recipe(**changes: object) -> Recipe:
    return replace(Recipe("blobs", CARD, SIZE, 0.25, 0.25, 0), **changes)


def prepared(root: Path, folder: Path, **changes: object) -> Prepared:
    prepare(root, folder, samples(root), recipe(**changes))
    return Prepared.open(folder)


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def split_of(folder: Prepared) -> dict[str, str]:
    return {sample.name: sample.split for sample in folder.manifest}


def findings(folder: Path) -> dict[str, list[dict[str, str]]]:
    return json.loads((folder.parent / "blobs-report.json").read_text())


def test_the_manifest_says_what_every_file_is(raw: Path, tmp_path: Path) -> None:
    data = prepared(raw, tmp_path / "out")
    assert {s.name for s in data.manifest} == {s.name for s in samples(raw)}
    for sample in data.manifest:
        file = raw / sample.name
        assert sample.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        assert (sample.height, sample.width) == read_image(file).pixels.shape
        assert (sample.dtype, sample.label) == ("uint8", sample.name[0])
    counts = {split: len(data.samples(split)) for split in ("train", "val", "test")}
    assert counts == {"train": 7, "val": 2, "test": 3}
    for split, count in counts.items():
        assert [s.index for s in data.samples(split)] == list(range(count))
        assert sum(data.facts["counts"][split].values()) == count
    ratios = [np.log(s.width / s.height) for s in data.samples("train")]
    np.testing.assert_allclose(data.facts["log_aspect"], [np.mean(ratios), np.std(ratios)])


@pytest.mark.parametrize(
    ("shapes", "fit", "expected"),
    [
        ([(64, 32), (64, 64), (16, 64)], "aspect", [2.0, 2.0]),
        ([(64, 32), (32, 32), (16, 64)], "aspect", None),
        ([(64, 32)] * 3, "squash", [2.0, 1.0]),
        ([(64, 32), (64, 64), (16, 64)], "squash", None),
    ],
)
def test_a_pixel_of_the_canvas_has_a_size_where_all_images_were_scaled_alike(
    shapes: list[tuple[int, int]], fit: str, expected: list[float] | None, tmp_path: Path
) -> None:
    for k in range(12):
        draw(tmp_path / f"raw/{'ab'[k % 2]}/{k:02d}.png", picture(k, *shapes[k % 3]))
    card = replace(CARD, pixel_size_um=0.5)
    facts = prepared(tmp_path / "raw", tmp_path / "out", card=card, fit=fit).facts
    assert (facts["pixel_size_um"], facts["canvas_pixel_size_um"]) == (0.5, expected)
    facts = prepared(tmp_path / "raw", tmp_path / "unknown", fit=fit).facts
    assert facts["pixel_size_um"] is None and facts["canvas_pixel_size_um"] is None


def test_each_row_of_pixels_is_the_image_of_its_name(raw: Path, tmp_path: Path) -> None:
    data = prepared(raw, tmp_path / "out")
    for split in ("train", "val", "test"):
        for sample, packed in zip(data.samples(split), data.dataset(split).pixels, strict=True):
            expected = fit_to_canvas(read_image(raw / sample.name).pixels[None], SIZE)
            np.testing.assert_array_equal(packed, expected)


def test_preparing_twice_gives_the_same_bytes_and_leaves_the_raw_folder_alone(
    raw: Path, tmp_path: Path
) -> None:
    before = contents(raw), sorted(raw.rglob("*"))
    first, second = (prepared(raw, tmp_path / name / "out").folder for name in ("one", "two"))
    assert (contents(raw), sorted(raw.rglob("*"))) == before
    one, two = ({n: b for n, (b, _) in contents(f.parent).items()} for f in (first, second))
    assert one == two
    assert set(one) == {
        "blobs-report.json",
        *("out/blobs-report.json", "out/manifest.csv", "out/dataset.json"),
        *("out/train.npy", "out/val.npy", "out/test.npy"),
    }


def test_the_report_in_a_prepared_set_is_its_own_whatever_is_checked_meanwhile(
    raw: Path, tmp_path: Path
) -> None:
    report = tmp_path / "blobs-report.json"
    prepare(
        raw, tmp_path / "out", samples(raw), recipe(), say=lambda _: report.write_text("of others")
    )
    assert report.read_text() == "of others"
    assert json.loads((tmp_path / "out" / report.name).read_bytes())["images"] == 12


def test_the_listing_order_has_no_influence(raw: Path, tmp_path: Path) -> None:
    prepare(raw, tmp_path / "one", samples(raw), recipe())
    prepare(raw, tmp_path / "two", samples(raw)[::-1], recipe())
    for file in sorted((tmp_path / "one").iterdir()):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def copied(root: Path) -> tuple[str, str]:
    (root / "test/a/x.png").write_bytes((root / "train/a/00.png").read_bytes())
    return "same bytes", "test/a/x.png"


def another_container(root: Path) -> tuple[str, str]:
    draw(root / "test/a/x.tif", picture(0))
    return "same pixels", "test/a/x.tif"


def grey_as_colour(root: Path) -> tuple[str, str]:
    draw(root / "val/a/x.bmp", np.stack([picture(0)] * 3, -1))
    return "same pixels", "val/a/x.bmp"


def turned(root: Path) -> tuple[str, str]:
    draw(root / "test/a/x.png", np.ascontiguousarray(np.rot90(picture(0))[::-1]))
    return "same pixels", "test/a/x.png"


def named(root: Path) -> tuple[str, str]:
    draw(root / "test/a/00_mirrored.jpg", picture(0)[:, ::-1])
    return "derivative name", "test/a/00_mirrored.jpg"


def contradicted(root: Path) -> tuple[str, str]:
    draw(root / "train/b/x.tif", picture(0))
    return "contradictory label", "train/b/x.tif"


@pytest.mark.parametrize(
    "plant", [copied, another_container, grey_as_colour, turned, named, contradicted]
)
def test_a_leak_in_a_shipped_split_is_refused_and_reported(
    plant: Callable[[Path], tuple[str, str]], shipped: Path, tmp_path: Path
) -> None:
    kind, name = plant(shipped)
    with pytest.raises(UserError) as caught:
        prepared(shipped, tmp_path / "w/out")
    assert caught.value.code == Exit.INPUT
    for word in (kind, "train/a/00.png", name, "w/blobs-report.json"):
        assert word in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    (leak,) = findings(tmp_path / "w/out")["leaks"]
    assert leak["kind"] == kind
    assert {leak["first"], leak["second"]} == {"train/a/00.png", name}
    assert {leak["first_split"], leak["second_split"]} == {"train", name.split("/")[0]}
    assert [p.name for p in (tmp_path / "w").iterdir()] == ["blobs-report.json"]


def test_a_clean_shipped_split_is_kept_and_raises_no_alarm(shipped: Path, tmp_path: Path) -> None:
    data = prepared(shipped, tmp_path / "out", val_fraction=0.5)
    assert split_of(data) == {s.name: s.name.split("/")[0] for s in samples(shipped)}
    found = findings(tmp_path / "out")
    assert not found["bad_files"] + found["leaks"] + found["joined"]
    assert found["near_duplicates"] == {"count": 0, "closest": []}
    assert found["split"]["came_with_the_data"]
    assert found["split"]["images"] == {"train": 6, "val": 2, "test": 4}


def test_validation_comes_out_of_training_and_never_moves_the_test_set(
    shipped: Path, raw: Path, tmp_path: Path
) -> None:
    for path in find_images(shipped / "val"):
        path.unlink()
    for name, root in (("s", shipped), ("r", raw)):
        tests = set()
        for k, (fraction, seed) in enumerate(((0.2, 0), (0.5, 0), (0.5, 9))):
            folder = tmp_path / f"{name}{k}"
            data = prepared(root, folder, val_fraction=fraction, split_seed=seed)
            tests.add(frozenset(s.name for s in data.samples("test")))
            held = len(data.samples("val")) + len(data.samples("train"))
            assert len(data.samples("val")) == round(fraction * held)
            groups = [{s.group for s in data.samples(x)} for x in ("train", "val", "test")]
            assert sum(map(len, groups)) == len(set.union(*groups))
        assert len(tests) == 1


def test_copies_are_kept_together_and_listed_in_full(raw: Path, tmp_path: Path) -> None:
    for k in range(0, 12, 2):
        draw(raw / f"a/copy{k}.tif", np.ascontiguousarray(picture(k, 20 - k, 14)[::-1]))
    said: list[str] = []
    prepare(raw, tmp_path / "out", samples(raw), recipe(), say=said.append)
    assert len([line for line in said if "are kept in one split" in line]) == 6
    split = split_of(Prepared.open(tmp_path / "out"))
    for k in range(0, 12, 2):
        assert split[f"a/copy{k}.tif"] == split[f"a/{k:02d}.png"]
    assert len(findings(tmp_path / "out")["joined"]) == 6


def test_every_bad_file_is_reported_by_its_relative_name(raw: Path, tmp_path: Path) -> None:
    for k in range(5):
        (raw / f"a/bad{k}.png").write_bytes(b"\x89PNG\r\n\x1a\n" * k)
    (raw / "a/\x1b[31mred.png").write_bytes(b"")
    texts = []
    for name in ("one", "two"):
        with pytest.raises(UserError, match="6 of 18 images cannot be used") as caught:
            prepared(raw, tmp_path / name / "out")
        texts.append((tmp_path / name / "blobs-report.json").read_bytes())
    message = str(caught.value)
    assert caught.value.code == Exit.INPUT and "two/blobs-report.json" in caught.value.remedy
    assert "a/bad0.png is empty" in message and "and 3 more" in message and "\x1b" not in message
    assert texts[0] == texts[1] and str(tmp_path).encode() not in texts[0]
    listed = [bad["name"] for bad in json.loads(texts[0])["bad_files"]]
    assert listed == ["a/\x1b[31mred.png", *(f"a/bad{k}.png" for k in range(5))]


def test_bad_files_that_are_left_out_are_no_part_of_anything(raw: Path, tmp_path: Path) -> None:
    clean = contents(prepared(raw, tmp_path / "clean/out").folder)
    for k, name in enumerate(("a/bad.png", "b/zz.png", "a/00x.png")):
        (raw / name).write_bytes(b"\x89PNG\r\n\x1a\n" * k)
    with pytest.raises(UserError, match="3 of 15 images cannot be used, more than the 2"):
        prepare(raw, tmp_path / "out", samples(raw), recipe(), skip_bad=2)
    checked = prepare(raw, tmp_path / "out", samples(raw), recipe(), skip_bad=3)
    assert list(checked.bad) == ["a/00x.png", "a/bad.png", "b/zz.png"]
    assert len(checked.samples) == 12 and len(checked.states) == 15
    left_out = contents(tmp_path / "out")
    for name in ("manifest.csv", "train.npy", "val.npy", "test.npy"):
        assert left_out[name][0] == clean[name][0]


def test_data_of_which_nothing_is_left_are_refused(raw: Path, tmp_path: Path) -> None:
    for path in find_images(raw):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="0 groups") as caught:
        prepare(raw, tmp_path / "out", samples(raw), recipe(), skip_bad=99)
    assert caught.value.code == Exit.INPUT


def test_everything_is_looked_for_before_anything_is_refused(shipped: Path, tmp_path: Path) -> None:
    copied(shipped)
    (shipped / "train/a/bad.png").write_bytes(b"")
    with pytest.raises(UserError, match="1 of 14 images cannot be used"):
        prepared(shipped, tmp_path / "out")
    assert len(findings(tmp_path / "out")["leaks"]) == 1


def test_a_check_refuses_types_that_cannot_be_stored_together(raw: Path, tmp_path: Path) -> None:
    write_ome_tiff(raw / "a/deep.tif", picture(50).astype(np.float32), "YX")
    report = tmp_path / "report.json"
    with pytest.raises(UserError, match="mixes the pixel types"):
        check(raw, samples(raw), recipe(), report, packing.Ledger())
    classes = json.loads(report.read_bytes())["classes"]
    assert classes["a"]["dtypes"] == {"float32": 1, "uint8": 6}
    assert classes["b"]["height"] == [9, 19] and classes["b"]["width"] == [14, 14]


def test_the_report_of_an_earlier_failure_does_not_stay(raw: Path, tmp_path: Path) -> None:
    (raw / "a/bad.png").write_bytes(b"")
    with pytest.raises(UserError):
        prepared(raw, tmp_path / "out")
    assert findings(tmp_path / "out")["bad_files"]
    (raw / "a/bad.png").unlink()
    prepared(raw, tmp_path / "out")
    assert findings(tmp_path / "out")["bad_files"] == []


def test_a_folder_prepared_before_survives_a_failure(raw: Path, tmp_path: Path) -> None:
    before = contents(prepared(raw, tmp_path / "out").folder)
    (raw / "a/bad.png").write_bytes(b"")
    with pytest.raises(UserError):
        prepared(raw, tmp_path / "out")
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_an_interrupted_prepare_leaves_nothing(
    error: BaseException, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = np.lib.format.write_array_header_1_0, []

    def fails_at_the_second_split(*args: object) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise error
        write(*args)

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", fails_at_the_second_split)
    full = isinstance(error, OSError)
    with pytest.raises(UserError if full else KeyboardInterrupt) as caught:
        prepared(raw, tmp_path / "w/out")
    if full:
        assert caught.value.code == Exit.STORAGE and "No space left" in str(caught.value)
    assert [p.name for p in (tmp_path / "w").iterdir()] == ["blobs-report.json"]


@pytest.mark.parametrize("moment", ["pack", "_replace"])
def test_a_killed_prepare_leaves_no_folder_that_counts_and_the_next_one_works(
    moment: str, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = os.fork()
    if not child:
        owner = packing.Scratch if moment == "pack" else whole_folder.__wrapped__.__globals__
        patch = monkeypatch.setattr if moment == "pack" else monkeypatch.setitem
        patch(owner, moment, lambda *args: os.kill(os.getpid(), signal.SIGKILL))
        prepared(raw, tmp_path / "w/out")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (tmp_path / "w/out").exists()
    assert len(prepared(raw, tmp_path / "w/out").manifest) == 12


def test_a_workspace_that_cannot_be_written_is_a_storage_error(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/w/out: cannot be written") as caught:
        prepared(raw, tmp_path / "file/w/out")
    assert caught.value.code == Exit.STORAGE


def image(pixels: np.ndarray, axes: str) -> Image:
    return Image(pixels, axes, None, (), 8)


def test_equal_colours_collapse_where_the_card_says_so() -> None:
    grey = picture(0)
    np.testing.assert_array_equal(planes(image(grey, "YX"), CARD), grey[None])
    np.testing.assert_array_equal(planes(image(np.stack([grey] * 3), "CYX"), CARD), grey[None])
    with pytest.raises(ValueError, match=r"has 3 channels; data card blobs names 1 \(grey\)"):
        planes(image(np.stack([grey] * 3), "CYX"), replace(CARD, collapse_grey=False))
    almost = np.stack([grey, grey, grey])
    almost[2, 3, 3] ^= 1
    with pytest.raises(ValueError, match="has 3 channels"):
        planes(image(almost, "CYX"), CARD)
    np.testing.assert_array_equal(
        planes(image(almost, "CYX"), replace(CARD, channels=("r", "g", "b"))), almost
    )


@pytest.mark.parametrize("axis", "TZI")
def test_several_planes_are_refused_and_a_single_one_is_not(axis: str) -> None:
    stack = np.stack([picture(0), picture(1)])
    with pytest.raises(ValueError, match=f"holds 2 planes along {axis}"):
        planes(image(stack, f"{axis}YX"), CARD)
    np.testing.assert_array_equal(planes(image(stack[:1], f"{axis}YX"), CARD), stack[:1])


def test_odd_names_survive_the_manifest(tmp_path: Path) -> None:
    odd = ["a b/c,d.png", 'q"uote.png', "line\nbreak.png", os.fsdecode(b"latin\xe9.png"), "ü/é.png"]
    rows = [Sample(name, name, "a", "train", k, pixel_size_um=0.1) for k, name in enumerate(odd)]
    write_manifest(tmp_path / "manifest.csv", rows)
    assert read_manifest(tmp_path / "manifest.csv") == rows


def test_a_file_name_that_is_not_utf8_is_prepared(raw: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"a/latin\xe9.png")
    try:
        draw(raw / name, picture(99))
    except (OSError, UserError):
        pytest.skip("this file system refuses such names")
    assert name in split_of(prepared(raw, tmp_path / "out"))


def test_all_eight_orientations_of_one_image_are_one_group(raw: Path, tmp_path: Path) -> None:
    for element in range(8):
        draw(raw / f"b/turned{element}.png", np.ascontiguousarray(orient(picture(77), element)))
    data = prepared(raw, tmp_path / "out")
    assert len({s.group for s in data.manifest if "turned" in s.name}) == 1
    assert len({s.split for s in data.manifest if "turned" in s.name}) == 1
