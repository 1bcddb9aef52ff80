"""Recordings with a file for each channel in, windows of moments out."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from common.data.datasets import Batch
from common.data.image_io import read_image, write_ome_tiff
from common.data.manifest import SPLITS, read_manifest
from common.data.preparation import check_data, ensure_prepared
from common.data.raw_files import digest_of_all
from common.errors import UserError
from experiments.multi_stylegan import tlfm
from experiments.multi_stylegan.datamodule import YeastDataModule
from made_traps import frame, name_of, write_traps
from running import ROOT

REAL = ROOT.parent / "shared/data/real/multi_stylegan"
ON_REAL = pytest.mark.skipif(not REAL.is_dir(), reason="no real images here")
MOVIE = r"im(?P<time>\d+)_(?:(?P<BF>channel1_phase)|(?P<GFP>channel2_cdc))"
PAIRS = (
    r"(?P<position>pos\d+)_(?P<trap>trap\d+)_tp(?P<time>\d+)_(?:(?P<BF>Brightfield)|(?P<GFP>GFP))"
)
SIZE = 16


def module(root: Path, workspace: Path, **arguments: object) -> YeastDataModule:
    settings = {"image_size": SIZE, "batch_size": 2, "val_fraction": 0.25, **arguments}
    return YeastDataModule(root=str(root), workspace=str(workspace), **settings)


def opened(root: Path, workspace: Path, **arguments: object) -> YeastDataModule:
    data = module(root, workspace, **arguments)
    data.prepare_data()
    data.setup("fit")
    return data


def batches(data: YeastDataModule, split: str = "train") -> Iterator[Batch]:
    loader = data.train_dataloader() if split == "train" else data.val_dataloader()
    for batch in loader:
        yield data.on_after_batch_transfer(batch, 0)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return write_traps(tmp_path / "raw")


def remove(root: Path, position: str, time: int, *channels: str) -> None:
    for channel in channels:
        (root / name_of(position, 0, 0, time, channel)).unlink()


def test_a_moment_is_all_of_its_files(raw: Path, tmp_path: Path) -> None:
    data = opened(raw, tmp_path / "w")
    rows = read_manifest(data.prepared.folder / "manifest.csv")
    assert len(rows) == 25 and {row.sequence for row in rows} == {
        f"Pos{k}/000/000" for k in range(1, 6)
    }
    for row in rows:
        expected = [name_of(row.group, 0, 0, row.moment, channel) for channel in ("BF", "GFP")]
        assert row.files == tuple(expected) and row.sha256 == digest_of_all(raw, expected)
    sample = data.prepared.samples("train")[4]
    pixels = data.prepared.dataset("train").pixels[4]
    for plane, name in zip(pixels, sample.files, strict=True):
        # The mean survives the smaller canvas.
        assert abs(plane.mean() - read_image(raw / name).pixels.mean()) < 20


def test_a_video_is_no_recording(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/film.avi").write_bytes(b"RIFF")
    with pytest.raises(UserError, match=r"film\.avi: is a video, .*--data.file_pattern"):
        opened(tmp_path / "raw", tmp_path / "w")


def test_traps_are_shown_upright_and_mirrored_or_not_unless_asked(
    raw: Path, tmp_path: Path
) -> None:
    data = opened(raw, tmp_path / "w")
    dataset = data.dataset("train")
    whole = dataset.__getitems__([(0, row) for row in range(len(dataset))])
    windows = data.on_after_batch_transfer(whole, 0)["image"]
    shown = torch.cat([batch["image"] for batch in batches(data)])
    mirrored = windows.flip(-1)
    as_is, turned = (
        [bool((those == one).flatten(1).all(1).any()) for one in shown]
        for those in (windows, mirrored)
    )
    assert all(a != b for a, b in zip(as_is, turned, strict=True)) and any(as_is) and any(turned)
    turned = opened(raw, tmp_path / "w", augment="d4")
    shown = torch.cat([batch["image"] for batch in batches(turned)])
    assert not all((windows == one).flatten(1).all(1).any() for one in shown)


@pytest.mark.parametrize("frames", [1, 3, 5])
def test_windows_are_consecutive_moments_of_one_sequence(
    raw: Path, tmp_path: Path, frames: int
) -> None:
    data = opened(raw, tmp_path / "w", frames=frames)
    windows = data.dataset("train")
    assert len(windows) == 3 * (5 - frames + 1)
    rows = data.prepared.samples("train")
    for number, positions in enumerate(windows.windows):
        members = [rows[k] for k in positions]
        assert len({one.sequence for one in members}) == 1
        assert [one.moment for one in members] == [members[0].moment + k for k in range(frames)]
        expected = np.stack([windows.pixels[k] for k in positions], 1)
        np.testing.assert_array_equal(windows.stored(number), expected)


def test_batches_are_windows_in_the_range_of_the_card(raw: Path, tmp_path: Path) -> None:
    data = opened(raw, tmp_path / "w", augment="none")
    batch = next(batches(data))
    assert batch["image"].shape == (2, 2, 3, SIZE, SIZE) and batch["image"].dtype == torch.float32
    assert data.facts["window"][1] == [150, 2350]
    names = [one.name for one in data.dataset("train").samples]
    stored = data.dataset("train").stored(names.index(batch["name"][0])).astype(np.float64)
    for shown, grey, (low, high) in zip(
        batch["image"][0], stored, data.facts["window"], strict=True
    ):
        expected = (2 * (grey - low) / (high - low) - 1).clip(-1, 1)
        np.testing.assert_allclose(shown.numpy(), expected, atol=1e-5)


def test_no_window_reaches_over_a_gap_or_a_lost_partner(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remove(raw, "Pos1", 2, "BF", "GFP")
    remove(raw, "Pos2", 3, "GFP")
    data = opened(raw, tmp_path / "w", frames=2)
    out = capsys.readouterr().out
    told = "sequences: 5 of 23 moments, 2 gaps in time, 1 files left out"
    assert out.count(told) == 1
    opened(raw, tmp_path / "w", frames=2)
    assert capsys.readouterr().out.count(told) == 1
    lost = name_of("Pos2", 0, 0, 3, "BF")
    assert f"note: {lost} is left out: its moment has no GFP file" in out
    assert "passed over" not in out
    shown = [window for split in ("train", "val", "test") for window in data.dataset(split).samples]
    starts = {k: [w.moment for w in shown if w.group == f"Pos{k}"] for k in (1, 2, 3)}
    assert starts == {1: [0, 3], 2: [0, 1], 3: [0, 1, 2, 3]}
    report = json.loads(next((tmp_path / "w/data/processed").glob("*-report.json")).read_text())
    assert report["left_out"] == [{"name": lost, "problem": "its moment has no GFP file"}]


def test_check_reports_without_packing(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remove(raw, "Pos1", 0, "GFP")
    check_data(module(raw, tmp_path / "w"))
    assert "0 gaps in time, 1 files left out" in capsys.readouterr().out
    assert not list((tmp_path / "w").rglob("train.npy"))


def test_one_bad_file_makes_its_moment_bad(raw: Path, tmp_path: Path) -> None:
    bad = raw / name_of("Pos3", 0, 0, 2, "GFP")
    bad.write_bytes(bad.read_bytes()[:100])
    with pytest.raises(UserError, match=r"00-BF0_000_trap_000.tif has the partner .*01-GFP"):
        opened(raw, tmp_path / "w")
    data = opened(raw, tmp_path / "w", skip_bad=1)
    assert data.facts["sequences"]["gaps"] == 1 and data.facts["skipped"] == 1


def test_partners_of_another_size_or_type_are_refused(raw: Path, tmp_path: Path) -> None:
    write_ome_tiff(raw / name_of("Pos1", 0, 0, 0, "GFP"), frame((9,), 0, "GFP", 20), "YX")
    shown = frame((9,), 0, "GFP", 24) // 256
    write_ome_tiff(raw / name_of("Pos1", 0, 0, 1, "GFP"), shown.astype(np.uint8), "YX")
    with pytest.raises(UserError, match=r"is uint16 24 x 24, and its partner .* 20 x 20.*uint8 24"):
        opened(raw, tmp_path / "w")


def test_a_partner_with_several_planes_is_refused(raw: Path, tmp_path: Path) -> None:
    stack = np.stack([frame((9,), k, "GFP", 24) for k in range(3)])
    write_ome_tiff(raw / name_of("Pos1", 0, 0, 0, "GFP"), stack, "ZYX")
    with pytest.raises(UserError, match=r"partner .* holds 3 planes along Z"):
        opened(raw, tmp_path / "w")


def test_a_changed_partner_is_seen(raw: Path, tmp_path: Path) -> None:
    first = opened(raw, tmp_path / "w").prepared
    partner = raw / name_of("Pos1", 0, 0, 0, "GFP")
    content = partner.read_bytes()
    partner.write_bytes(content)
    assert opened(raw, tmp_path / "w").prepared.folder == first.folder
    before = (first.folder / "manifest.csv").read_bytes()
    write_ome_tiff(partner, 2500 - read_image(partner).pixels.clip(0, 2400), "YX")
    after = opened(raw, tmp_path / "w").prepared
    assert (after.folder / "manifest.csv").read_bytes() != before


def test_preparing_twice_gives_the_same_bytes(raw: Path, tmp_path: Path) -> None:
    found = [opened(raw, tmp_path / k, normalise="sequence").prepared.folder for k in ("a", "b")]
    assert (found[0] / "levels.csv").is_file()
    for path in found[0].iterdir():
        assert path.read_bytes() == (found[1] / path.name).read_bytes(), path.name


def test_each_sequence_has_levels_of_its_own_that_can_be_inverted(
    raw: Path, tmp_path: Path
) -> None:
    data = opened(raw, tmp_path / "w", normalise="sequence", augment="none")
    windows = data.dataset("train")
    batch = next(batches(data))
    pixels = windows.pixels
    rows = [k for k, s in enumerate(data.prepared.samples("train")) if s.name in batch["name"][0]]
    sequence = data.prepared.samples("train")[rows[0]].sequence
    own = [k for k, s in enumerate(data.prepared.samples("train")) if s.sequence == sequence]
    for channel in range(2):
        expected = np.percentile(pixels[own, channel], (0.1, 99.9), method="inverted_cdf")
        np.testing.assert_array_equal(batch["levels"][0, channel].numpy(), expected)
    low, high = batch["levels"][0, :, None, None, None].unbind(-1)
    grey = (batch["image"][0] + 1) / 2 * (high - low) + low
    number = [one.name for one in windows.samples].index(batch["name"][0])
    stored = torch.from_numpy(windows.stored(number).astype(np.float32))
    torch.testing.assert_close(grey, stored.clamp(low, high), rtol=0, atol=0.05)


def test_a_constant_channel_never_gives_nan(raw: Path, tmp_path: Path) -> None:
    for position in ("Pos1", "Pos2", "Pos3", "Pos4", "Pos5"):
        for time in range(5):
            blank = np.full((24, 24), 700, np.uint16)
            write_ome_tiff(raw / name_of(position, 0, 0, time, "GFP"), blank, "YX")
    data = opened(raw, tmp_path / "w", normalise="sequence")
    image = next(batches(data))["image"]
    assert image.isfinite().all() and (image[:, 1] == -1).all() and (image[:, 0] > 0).any()


def test_augmentation_is_the_same_for_all_frames_and_channels(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    ramp = np.linspace(1000, 9000, 24 * 24).reshape(24, 24)
    for place in range(5):
        (root / f"Pos{place}").mkdir(parents=True)
        for time in range(4):
            pixels = (ramp * (1 + place / 10)).astype(np.uint16)
            # Turning makes neither images nor groups of the same pixels.
            pixels[0, time] += 1
            for channel in ("BF", "GFP"):
                write_ome_tiff(root / name_of(f"Pos{place}", 0, 0, time, channel), pixels, "YX")
    data = opened(root, tmp_path / "w", augment="d4+affine")
    windows = data.dataset("train", "d4+affine")
    views = [windows[(epoch, 0)]["image"][0].float() for epoch in range(6)]
    for view in views:
        assert (view - view[:1, :1]).abs().max() < 30
    assert max((view - views[0]).abs().max() for view in views) > 1000


def test_an_epoch_goes_on_where_it_stopped_and_ranks_share_it(raw: Path, tmp_path: Path) -> None:
    data = opened(raw, tmp_path / "w")
    whole = [batch["name"] for batch in batches(data)]
    names = {name for batch in whole for name in batch}
    loader = data.train_dataloader()
    loader.sampler.resume(0, 2)
    assert [batch["name"] for batch in loader] == whole[1:]
    other = opened(raw, tmp_path / "w", num_workers=1)
    for one, two in zip(batches(data), batches(other), strict=True):
        assert one["name"] == two["name"] and torch.equal(one["image"], two["image"])
    shares = []
    for rank in range(2):
        data._rank = lambda rank=rank: (rank, 2)
        shares.append([name for batch in data.train_dataloader() for name in batch["name"]])
    assert len(shares[0]) == len(shares[1]) and {*shares[0], *shares[1]} == names


def test_split_by_position_or_as_published(tmp_path: Path) -> None:
    positions = [*tlfm.OFFICIAL, "Pos31"]
    raw = write_traps(tmp_path / "raw", positions, times=range(3), size=16)
    found = opened(raw, tmp_path / "w").prepared.manifest
    splits = {sample.group: sample.split for sample in found}
    assert splits == {**tlfm.OFFICIAL, "Pos31": "train"}
    shutil.rmtree(raw / "Pos29")
    drawn = opened(raw, tmp_path / "w").prepared.manifest
    assert len({sample.split for sample in drawn}) == 3
    assert {sample.group for sample in drawn} == set(positions) - {"Pos29"}


def test_names_are_parsed_below_the_root_only(tmp_path: Path) -> None:
    root = write_traps(tmp_path / "trap_999/img_000000777_00-BF0_000_trap_001.tif", traps=2)
    samples = module(root, tmp_path / "w").scan(root)
    assert {sample.sequence for sample in samples} == {
        f"Pos{k}/{trap:03d}/000" for k in range(1, 6) for trap in range(2)
    }


def test_focal_planes_and_traps_are_sequences_of_one_group(tmp_path: Path) -> None:
    root = write_traps(tmp_path / "raw", ("Pos1", "Pos2"), 2, 3, range(2), 16)
    samples = module(root, tmp_path / "w").scan(root)
    assert len({s.sequence for s in samples}) == 12 and {s.group for s in samples} == {
        "Pos1",
        "Pos2",
    }
    by_trap = module(root, tmp_path / "w", split_by="trap").scan(root)
    assert {s.group for s in by_trap} == {f"Pos{k}/00{t}" for k in (1, 2) for t in (0, 1)}


@pytest.mark.parametrize(
    ("times", "frames", "groups"),
    [
        (range(7), 2, [0, 0, 1, 1, 2, 2, 2]),
        (range(0, 60, 10), 3, [0, 0, 0, 1, 1, 1]),
        (range(2), 3, [0, 0]),
    ],
)
def test_pieces_of_time_are_whole(
    tmp_path: Path, times: Sequence[int], frames: int, groups: list[int]
) -> None:
    root = write_traps(tmp_path / "raw", ["Pos1"], planes=2, times=times, size=16)
    samples = module(root, tmp_path / "w", split_by="time", frames=frames).scan(root)
    for plane in ("000", "001"):
        found = [s.group for s in samples if s.sequence == f"Pos1/000/{plane}"]
        assert found == [f"Pos1/000@{k:04d}" for k in groups]
    assert [s.moment for s in samples][: len(times)] == list(range(len(times)))


def test_a_channel_that_occurs_twice_is_refused(raw: Path, tmp_path: Path) -> None:
    name = name_of("Pos1", 0, 0, 0, "GFP")
    shutil.copy(raw / name, raw / name.replace("01-GFP", "02-GFP"))
    with pytest.raises(UserError, match="is the channel GFP of the same moment"):
        module(raw, tmp_path / "w").scan(raw)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(", "is not a regular expression"),
        (r"(?P<time>\d+)", "has no group named channel"),
        (r"(?P<channel>BF|GFP)", "has no group named time"),
    ],
)
def test_a_pattern_lacks_nothing(tmp_path: Path, pattern: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        module(tmp_path, tmp_path, file_pattern=pattern)


def test_names_that_do_not_match_are_shown(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"matches --data.file_pattern, only such as Pos1/img_000000000"
    ):
        module(raw, tmp_path / "w", file_pattern=MOVIE).scan(raw)
    words = r"(?P<time>img)_.*-(?P<channel>BF|GFP)"
    with pytest.raises(UserError, match="has the time 'img', which is no number"):
        module(raw, tmp_path / "w", file_pattern=words).scan(raw)
    for path in raw.rglob("*GFP*"):
        path.unlink()
    with pytest.raises(UserError, match="cannot be used: its moment has no GFP file"):
        module(raw, tmp_path / "w").scan(raw)


def test_too_short_sequences_and_another_reading_are_refused(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the train split has no window of 6 consecutive moments"):
        opened(raw, tmp_path / "w", frames=6)
    folder = opened(raw, tmp_path / "w").prepared.folder
    with pytest.raises(UserError, match="prepared with normalise fixed, not sequence"):
        opened(folder, tmp_path / "w", normalise="sequence")


def test_other_channels_are_passed_over_and_counted(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = name_of("Pos1", 0, 0, 0, "GFP")
    shutil.copy(raw / name, raw / name.replace("01-GFP", "02-RFP"))
    ensure_prepared(module(raw, tmp_path / "w"))
    assert "passed over: 1 .tif" in capsys.readouterr().out


@ON_REAL
def test_the_real_movie_of_two_channels_goes_through(tmp_path: Path) -> None:
    root = REAL / "yeastvision_movie"
    data = opened(root, tmp_path, file_pattern=MOVIE, split_by="time", frames=2, image_size=64)
    batch = next(batches(data))
    assert batch["image"].shape == (2, 2, 2, 64, 64)
    assert batch["mask"][0].mean().item() == pytest.approx(520 / 692, abs=0.02)
    assert data.facts["sequences"] == {"gaps": 0, "left_out": 0, "moments": 7, "sequences": 1}
    sample = data.prepared.samples("train")[0]
    assert sample.files[0].replace("channel1_phase", "channel2_cdc") == sample.files[1]


@ON_REAL
def test_real_strips_of_focal_planes_and_videos_are_refused(tmp_path: Path) -> None:
    pairs = {"file_pattern": PAIRS, "frames": 1, "split_by": "trap"}
    with pytest.raises(UserError, match="has 117 x 585 pixels, several views side by side"):
        opened(REAL / "aliby_traps", tmp_path, **pairs)
    with pytest.raises(UserError, match="is a video, and recordings have a file for each channel"):
        opened(REAL / "video", tmp_path)


def test_a_test_split_of_further_positions_is_simulated(tmp_path: Path) -> None:
    data = YeastDataModule(
        workspace=str(tmp_path), image_size=16, val_fraction=0.5, simulated_images=24,
        simulated_size=32, simulated_test=84,
    )  # fmt: skip
    data.prepare_data()
    found = data.prepared.manifest
    groups = {split: {s.group for s in found if s.split == split} for split in SPLITS}
    # The last trap is the second one of its position.
    assert groups["test"] == {"test/Pos18", "test/Pos20"}
    assert groups["train"] | groups["val"] == {"train/Pos18", "train/Pos20"}
    assert len(found) == len({s.pixels_sha256 for s in found}) == 24 + 84


def test_focal_planes_are_simulated_as_sequences_of_their_own(tmp_path: Path) -> None:
    options = {"workspace": str(tmp_path), "image_size": 16, "frames": 3, "simulated_images": 36}
    flat = YeastDataModule(**options, simulated_size=32)
    deep = YeastDataModule(**options, simulated_size=32, simulated_planes=3)
    assert flat.simulated_name != deep.simulated_name
    deep.simulate(tmp_path / "raw")
    found = deep.scan(tmp_path / "raw")
    assert len(found) == 3 * 36
    assert len({sample.sequence for sample in found}) == 3 * len({s.group for s in found}) == 9


def test_folders_are_a_split_that_came_with_the_data(tmp_path: Path) -> None:
    for split in ("Training", "val", "test"):
        write_traps(tmp_path / "raw" / split)
    found = module(tmp_path / "raw", tmp_path).scan(tmp_path / "raw")
    assert {s.group.split("/")[0]: s.split for s in found} == {
        "Training": "train", "val": "val", "test": "test",
    }  # fmt: skip
