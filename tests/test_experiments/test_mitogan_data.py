"""Videos, sequences and single frames in, images of one pipeline out."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from common.data.image_io import read_image, write_ome_tiff, write_png
from common.data.manifest import SPLITS
from common.data.prepared import Prepared
from common.preprocess.pipeline import Pipeline
from experiments.mitogan import interpret, pictures
from experiments.mitogan.datamodule import MitoDataModule
from experiments.mitogan.module import MitoGAN
from experiments.mitogan.simulator import draw_video
from made_previews import preview
from running import ROOT, Cli, refuses, smoke

REAL = ROOT.parent / "shared/data/real/mitogan"
ON_REAL = pytest.mark.skipif(not REAL.is_dir(), reason="no real images here")


def frame(seed: int, size: int = 40) -> np.ndarray:
    """A bright line on a dark, noisy ground, elsewhere in each frame."""
    rng = np.random.default_rng(seed)
    image = rng.normal(200, 5, (size, size))
    row = int(rng.integers(5, size - 8))
    image[row : row + 3, 4:-4] += 300
    return image.clip(0).astype(np.uint16)


def prepared(root: Path, workspace: Path, **arguments: object) -> Prepared:
    settings = {"image_size": 32, "val_fraction": 0.3, **arguments}
    data = MitoDataModule(root=str(root), workspace=str(workspace), **settings)
    data.prepare_data()
    data.setup("fit")
    return data.prepared


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    root = tmp_path / "raw"
    root.mkdir()
    for video in range(5):
        frames = np.stack([frame(10 * video + k) for k in range(4)])
        write_ome_tiff(root / f"v{video}.ome.tif", frames, "TYX", (0.1, 0.1))
    return root


def test_no_video_is_in_two_splits_and_every_frame_is_there(videos: Path, tmp_path: Path) -> None:
    found = prepared(videos, tmp_path / "w").manifest
    assert len(found) == 20 and {s.frame for s in found} == {0, 1, 2, 3}
    splits = {s.group: {x.split for x in found if x.group == s.group} for s in found}
    assert set(splits) == {f"v{k}" for k in range(5)}
    assert all(len(of_video) == 1 for of_video in splits.values())
    assert {s.split for s in found} == {"train", "val", "test"}
    assert {s.pixel_size_um for s in found} == {0.1}


def test_preparing_movies_twice_gives_the_same_bytes(videos: Path, tmp_path: Path) -> None:
    folders = [prepared(videos, tmp_path / name).folder for name in ("one", "two")]
    for path in folders[0].iterdir():
        assert path.read_bytes() == (folders[1] / path.name).read_bytes(), path.name
    with (folders[0] / "pipeline.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 20 and {"name", "top", "shift_x", "noise_sigma"} <= set(rows[0])


def test_another_pipeline_is_another_data_set(videos: Path, tmp_path: Path) -> None:
    first = prepared(videos, tmp_path).folder
    second = prepared(videos, tmp_path, pipeline=Pipeline(laplacian=0)).folder
    assert first != second
    assert (first / "train.npy").read_bytes() != (second / "train.npy").read_bytes()


@pytest.mark.parametrize(
    ("output", "channels"),
    [
        ("image", ["mitochondria"]),
        ("mask", ["mask"]),
        ("skeleton", ["skeleton"]),
        ("image+mask", ["mitochondria", "mask"]),
    ],
)
def test_the_pipeline_decides_the_channels(
    videos: Path, tmp_path: Path, output: str, channels: list[str]
) -> None:
    threshold = "none" if output == "image" else "otsu"
    found = prepared(videos, tmp_path, pipeline=Pipeline(threshold=threshold, output=output))
    assert found.facts["channels"] == channels
    pixels = found.dataset("train").pixels
    assert pixels.shape[1] == len(channels) and pixels.dtype == np.uint16
    if output != "image":
        assert set(np.unique(pixels[:, -1])) == {0, 65535}


@pytest.mark.parametrize(
    ("window", "pipeline"),
    [
        ("[100, 300]", Pipeline()),
        ("{percentiles: [20, 80]}", Pipeline()),
        ("{mitochondria: [100, 300]}", Pipeline(threshold="otsu", output="mask")),
        ("{mitochondria: dtype}", Pipeline(threshold="otsu", output="image+mask")),
    ],
)
def test_the_window_of_the_card_is_not_that_of_what_a_pipeline_made(
    videos: Path, tmp_path: Path, window: str, pipeline: Pipeline
) -> None:
    text = (ROOT / "data_cards/mito_videos.md").read_text()
    card = tmp_path / "other.md"
    card.write_text(re.sub("name: .*", "name: other", text, count=1).replace("dtype", window, 1))
    found = prepared(videos, tmp_path, card=str(card), pipeline=pipeline)
    bundled = prepared(videos, tmp_path, pipeline=pipeline)
    assert found.facts["window"] == bundled.facts["window"] == [0, 65535]
    np.testing.assert_array_equal(*(one.dataset("train").pixels for one in (found, bundled)))


def test_figures_show_frames_as_the_discriminator_sees_them(tmp_path: Path) -> None:
    for video in range(3):
        frames = np.stack([frame(10 * video + k)[:30] for k in range(2)])
        (tmp_path / "raw").mkdir(exist_ok=True)
        write_ome_tiff(tmp_path / f"raw/v{video}.ome.tif", frames, "TYX")
    data = MitoDataModule(root=str(tmp_path / "raw"), workspace=str(tmp_path), image_size=32)
    data.prepare_data()
    images, groups = pictures._frames(data, torch.device("cpu"))
    assert len(images) == len(groups) == 2
    black = (images == -1).all((1, 3))
    assert black[:, :4].all() and black[:, 28:].all() and not black[:, 4:28].any()


def test_figures_of_a_generator_that_draws_black_alone_are_drawn(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {"_TREES": 5, "_FOLDS": 2, "_PERMUTATIONS": 2, "_WINDOW": 1 / 4, "_STRIDE": 1 / 4}
    for name, value in quick.items():
        monkeypatch.setattr(interpret, name, value)
    monkeypatch.setattr(pictures, "_LEARNT", 6)
    monkeypatch.setattr(pictures, "_CHECKED", 4)
    data = MitoDataModule(root=str(videos), workspace=str(tmp_path), image_size=32)
    data.prepare_data()
    model = MitoGAN(image_size=32, latent_dim=8, width=4, max_width=8).eval()
    model.generator.drawn = lambda styles, noise: -torch.ones(len(styles), 1, 32, 32)
    names = pictures.draw(tmp_path, model, data, 2, 0)
    assert all((tmp_path / name).stat().st_size for name in names)
    written = (tmp_path / pictures.NUMBERS).read_text()
    numbers = json.loads(written, parse_constant=pytest.fail)
    assert numbers["images"] == [4, 6] and None in numbers["surrogate"]["correlation"].values()
    with (tmp_path / pictures.NAMES).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows and {row["changes_most"] for row in rows} == {""}


def test_a_test_split_of_further_videos_is_simulated(tmp_path: Path) -> None:
    data = MitoDataModule(
        workspace=str(tmp_path), image_size=32, val_fraction=0.4, simulated_images=8,
        simulated_size=64, simulated_frames=2, simulated_test=6, simulated_test_frames=2,
    )  # fmt: skip
    data.prepare_data()
    found = data.prepared.manifest
    groups = {split: {s.group for s in found if s.split == split} for split in SPLITS}
    assert groups["test"] == {f"cell_00{k}" for k in (5, 6, 7)}
    assert groups["train"] | groups["val"] == {f"cell_00{k}" for k in (1, 2, 3, 4)}
    assert len(found) == 14 and len({s.pixels_sha256 for s in found}) == 14
    data.simulated_test_frames, name = 1, data.simulated_name
    assert data.simulated_name != name


def test_simulated_cells_of_one_frame_are_a_group_each(tmp_path: Path) -> None:
    settings = {"image_size": 32, "simulated_size": 64, "workspace": str(tmp_path)}
    still = MitoDataModule(simulated_images=6, simulated_frames=1, val_fraction=0.3, **settings)
    still.prepare_data()
    assert {s.group for s in still.prepared.manifest} == {f"cell_00{k}" for k in range(1, 7)}
    further = MitoDataModule(
        simulated_images=4, simulated_frames=2, simulated_test=3, val_fraction=0.4, **settings
    )
    further.prepare_data()
    assert {s.group for s in further.prepared.samples("test")} == {f"cell_00{k}" for k in (3, 4, 5)}


def test_frames_in_files_of_their_own_are_grouped_by_name(tmp_path: Path) -> None:
    names = [f"cell{c}_h{k}_w{3 * k}.png" for c in range(3) for k in range(4)]
    names += [f"movie{m}/frame_{k:03d}.png" for m in range(2) for k in range(3)]
    for seed, name in enumerate(names):
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        write_png(tmp_path / "raw" / name, frame(seed))
    groups = {s.name: s.group for s in prepared(tmp_path / "raw", tmp_path).manifest}
    assert groups["cell1_h2_w6.png"] == "cell1"
    assert groups["movie0/frame_002.png"] == "movie0/frame"
    assert len(set(groups.values())) == 5


def test_frames_of_one_video_that_are_previews_in_part_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "raw").mkdir()
    rng = np.random.default_rng([78, 0])
    for cell, cut in enumerate((0, 2, 3)):
        for k, image in enumerate(draw_video(rng, 3, 128, "low").frames):
            shown = preview(image[None], rng)[0][0] if k < cut else image
            write_png(tmp_path / f"raw/cell{cell}_{k}.png", shown)
    folder = prepared(tmp_path / "raw", tmp_path).folder
    assert json.loads((folder / "mitogan-report.json").read_text())["previews"] == {"cell1": [2, 3]}
    notes = [line for line in capsys.readouterr().out.splitlines() if "panel" in line]
    assert len(notes) == 1 and notes[0].startswith("note: 2 of 3 images of group cell1 are cut")


@pytest.mark.parametrize(("kind", "expected"), [("cell", "cell{}"), ("video", "cell{}_{}")])
def test_videos_of_one_cell_stay_together_where_the_group_is_not_the_video(
    tmp_path: Path, kind: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, card = tmp_path / "raw", tmp_path / "other.md"
    root.mkdir()
    moments = [(cell, moment) for cell in range(4) for moment in ("after", "before")]
    for seed, (cell, moment) in enumerate(moments):
        pair = np.stack([frame(2 * seed), frame(2 * seed + 1)])
        write_ome_tiff(root / f"cell{cell}_{moment}.ome.tif", pair, "TYX")
    text = (ROOT / "data_cards/mito_videos.md").read_text()
    for key, value in (("name", "other"), ("group", r"'(cell\d+)'"), ("group_kind", kind)):
        text = re.sub(rf"(?m)^{key}: .*", lambda _, line=f"{key}: {value}": line, text, count=1)
    card.write_text(text)
    found = prepared(root, tmp_path, card=str(card)).manifest
    assert {s.file: s.group for s in found} == {
        f"cell{cell}_{moment}.ome.tif": expected.format(cell, moment) for cell, moment in moments
    }
    told = "note: each file of several frames is a group, whatever `group` of the data card says"
    assert (told in capsys.readouterr().out) == (kind == "video")


def test_a_movie_that_ends_too_early_is_named_and_the_others_are_taken(
    videos: Path, tmp_path: Path
) -> None:
    path = videos / "v3.ome.tif"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(Exception, match=r"v3\.ome\.tif has a chain of pages that leads nowhere"):
        prepared(videos, tmp_path)
    assert len(prepared(videos, tmp_path, skip_bad=1).manifest) == 16


def test_a_dark_frame_of_the_channel_that_was_asked_for_is_bad(
    videos: Path, tmp_path: Path
) -> None:
    frames = np.stack([[frame(100 + k), frame(200 + k)] for k in range(4)])
    frames[2, 1] = 0
    write_ome_tiff(videos / "v5.ome.tif", frames, "TCYX")
    with pytest.raises(Exception, match=r"v5\.ome\.tif#0002 is blank: every pixel is 0"):
        prepared(videos, tmp_path, channel="1")


def test_frames_of_one_video_that_differ_in_size_are_refused(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline()
    start = pipeline.begin(frame(0)[None])
    with pytest.raises(Exception, match="split the video"):
        pipeline.apply(frame(0, 36)[None], start)


def test_the_pipeline_of_a_frame_is_drawn(videos: Path, tmp_path: Path, cli: Cli) -> None:
    where = ["--workspace", tmp_path, "--data.root", videos]
    result = cli("mitogan", "pipeline", *smoke("mitogan"), *where, "--image", "v1.ome.tif#0002")
    assert result.code == 0, result.err
    path = tmp_path / "data/processed/mitogan-pipeline.png"
    assert read_image(path).pixels.shape[2] > 1000 and "v1.ome.tif#0002" in result.out
    before = path.read_bytes()
    assert cli("mitogan", "pipeline", *smoke("mitogan"), *where).code == 0
    assert path.read_bytes() != before
    wrong = cli("mitogan", "pipeline", *smoke("mitogan"), *where, "--image", "v9.tif")
    refuses(wrong, 2, "--image v9.tif: is no image of the data")
    write_ome_tiff(videos / "a.ome.tif", np.stack([frame(0), frame(1)]), "CYX")
    refuses(cli("mitogan", "pipeline", *smoke("mitogan"), *where), 3, "has 2 channels")
    none = cli("cilia_cvae", "pipeline", *smoke("cilia_cvae"), *where)
    refuses(none, 2, "cilia_cvae: has no pipeline")


@ON_REAL
def test_fifty_real_crops_train_with_their_cells_as_groups(tmp_path: Path, cli: Cli) -> None:
    shutil.copytree(REAL / "cbmi_mito_lowsnr", tmp_path / "raw")
    where = ["--workspace", tmp_path, "--data.root", tmp_path / "raw", "--run", "real"]
    result = cli("mitogan", "fit", *smoke("mitogan"), *where)
    assert result.code == 0, result.err
    (folder,) = (tmp_path / "data/processed").glob("mitogan-*/")
    samples = Prepared.open(folder).manifest
    assert len(samples) == 50 and {s.group for s in samples} == {"001t01", "cell0", "cell8"}


@ON_REAL
def test_a_mixed_folder_is_told_file_by_file(tmp_path: Path, cli: Cli) -> None:
    where = ["--workspace", tmp_path, "--data.root", REAL]
    result = cli("mitogan", "check", *smoke("mitogan"), *where)
    refuses(result, 3)
    for told in (
        "mitograph_Temp_sgi_depth.tif",
        "keeps a volume in one page",
        "hela-cells.tif",
        "has 3 channels",
    ):
        assert told in result.out + result.err
    green = ["--data.channel", "1", "--skip-bad", "1"]
    result = cli("mitogan", "check", *smoke("mitogan"), *where, *green)
    assert result.code == 0, result.err
    assert "1 bad image was skipped" in result.out
