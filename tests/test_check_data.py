"""`check` and the same look at the start of `prepare`, with the real command line."""

import json
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from common.data.image_io import (
    count_frames,
    find_images,
    read_frames,
    read_image,
    write_ome_tiff,
    write_png,
)
from common.data.manifest import read_manifest
from running import ROOT, Cli, Result, call_cli, refuses, smoke

pytestmark = pytest.mark.one_experiment


@pytest.fixture(scope="session")
def simulated(experiment: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Workspace with simulated raw images, nothing prepared; tests copy them."""
    workspace = tmp_path_factory.mktemp(f"raw-{experiment}")
    assert call_cli(experiment, "check", *smoke(experiment), "--workspace", workspace) == 0
    return workspace


@pytest.fixture
def raw(simulated: Path, tmp_path: Path) -> Path:
    """The simulated images, each in a file of its own."""
    (source,) = simulated.glob("data/raw/*")
    copy = shutil.copytree(source, tmp_path / "raw")
    for path in find_images(copy):
        if count_frames(path) > 1:
            for k, frame in enumerate(read_frames(path)):
                name = copy / path.name.split(".")[0] / f"frame_{k:03d}.ome.tif"
                name.parent.mkdir(exist_ok=True)
                write_ome_tiff(name, frame.pixels, frame.axes, frame.pixel_size_um)
            path.unlink()
    return copy


class Commands:
    """The verbs on one workspace."""

    def __init__(self, cli: Cli, experiment: str, workspace: Path) -> None:
        self._cli, self._experiment, self.workspace = cli, experiment, workspace

    def __call__(self, verb: str, root: Path, *more: str) -> Result:
        where = ["--workspace", self.workspace, "--data.root", root, *more]
        return self._cli(self._experiment, verb, *smoke(self._experiment), *where)

    @property
    def report(self) -> dict:
        path = self.workspace / f"data/processed/{self._experiment}-report.json"
        return json.loads(path.read_bytes())

    def prepared(self) -> list[Path]:
        return sorted(self.workspace.glob("data/processed/*/"))


@pytest.fixture
def run(experiment: str, cli: Cli, tmp_path: Path) -> Commands:
    return Commands(cli, experiment, tmp_path / "w")


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def named(root: Path) -> list[Path]:
    """Files that images are named by: of a moment with a file a channel, brightfield's."""
    return [path for path in find_images(root) if "-GFP_" not in path.name]


def spoil(root: Path, count: int) -> list[str]:
    """Damages every other image, so that no class is lost."""
    victims = named(root)[: 2 * count : 2]
    for k, path in enumerate(victims):
        path.write_bytes(path.read_bytes()[: k % 3 * 40])
    return [path.relative_to(root).as_posix() for path in victims]


def test_a_check_says_what_there_is_and_packs_nothing(run: Commands, raw: Path) -> None:
    before = contents(raw)
    result = run("check", raw)
    assert result.code == 0 and not result.err
    images = named(raw)
    assert f"checking {len(images)} images" in result.out
    assert f"data: {len(images)} images can be used" in result.out
    assert "next:       make prepare" in result.out and "DATA=" in result.out
    assert contents(raw) == before
    assert [p.name for p in run.workspace.rglob("*") if p.is_file()] == [
        f"{run._experiment}-report.json"
    ]
    assert run.report["images"] == len(images) and not run.report["bad_files"]
    assert sum(run.report["split"]["images"].values()) == len(images)
    pixels = [read_image(path).pixels for path in find_images(raw)]
    ends = [one["grey_values"] for one in run.report["classes"].values()]
    assert min(low for low, _ in ends) == min(p.min() for p in pixels)
    assert max(high for _, high in ends) == max(p.max() for p in pixels)
    assert sum(one["images"] for one in run.report["classes"].values()) == len(images)
    for name, summary in run.report["classes"].items():
        assert re.search(rf"^{re.escape(name) or '.all.'} +{summary['images']} ", result.out, re.M)


def test_simulated_images_raise_no_false_alarm(simulated: Path, experiment: str) -> None:
    (path,) = simulated.glob("data/processed/*.json")
    report = json.loads(path.read_bytes())
    assert report["near_duplicates"] == {"count": 0, "closest": []}
    assert report["leaks"] == report["joined"] == report["bad_files"] == []


@pytest.mark.parametrize("verb", ["check", "prepare"])
def test_all_bad_files_are_listed_at_once(verb: str, run: Commands, raw: Path) -> None:
    victims = spoil(raw, 22)
    before = contents(raw)
    result = run(verb, raw)
    refuses(result, 3, f"22 of {len(named(raw))} images", victims[0], "--skip-bad 22")
    listed = [line for line in result.out.splitlines() if line.startswith("bad: ")]
    assert len(listed) == 21 and listed[-1].startswith("bad: and 2 more; all are in ")
    for name, line in zip(victims, listed[:20], strict=False):
        assert line.startswith(f"bad: {name} ")
    assert [bad["name"] for bad in run.report["bad_files"]] == victims
    assert all(bad["problem"] for bad in run.report["bad_files"])
    assert not run.prepared() and contents(raw) == before


def test_a_check_and_a_prepare_find_the_same(run: Commands, raw: Path) -> None:
    spoil(raw, 4)
    assert run("check", raw).code == 3
    found = run.report
    assert run("prepare", raw).code == 3
    assert run.report == found


def test_up_to_that_many_bad_files_are_left_out_and_never_forgotten(
    run: Commands, raw: Path
) -> None:
    victims = spoil(raw, 3)
    for verb in ("check", "prepare"):
        refuses(run(verb, raw, "--skip-bad", "2"), 3, "3 of", "more than the 2 of --skip-bad")
    assert not run.prepared()
    assert "warning: 3 bad images were skipped" in run("check", raw, "--skip-bad", "3").out
    result = run("prepare", raw, "--skip-bad", "5")
    assert result.code == 0, result.err
    (folder,) = run.prepared()
    assert json.loads((folder / "dataset.json").read_bytes())["skipped"] == 3
    names = {sample.name for sample in read_manifest(folder / "manifest.csv")}
    everything = {path.relative_to(raw).as_posix() for path in named(raw)}
    assert names == everything - set(victims)
    # Later starts need no option and prepare nothing, but say it; from the folder alone as well.
    for root in (raw, folder):
        later = run("prepare", root)
        assert later.code == 0 and "preparing" not in later.out
        (warning,) = [line for line in later.out.splitlines() if line.startswith("warning: 3 ")]
        listed = run.workspace.parent / "w/data/processed" / Path(warning.split()[-1]).parent.name
        report = json.loads((listed / Path(warning).name).read_bytes())
        assert [bad["name"] for bad in report["bad_files"]] == victims


def test_a_mended_file_is_used_again(run: Commands, raw: Path) -> None:
    (victim,) = find_images(raw)[:1]
    good = victim.read_bytes()
    victim.write_bytes(bytes(len(good)))
    assert run("prepare", raw, "--skip-bad", "1").code == 0
    victim.write_bytes(good)
    result = run("prepare", raw)
    assert result.code == 0 and "preparing" in result.out and "warning" not in result.out


def test_a_negative_number_to_skip_is_refused(run: Commands, raw: Path) -> None:
    refuses(run("check", raw, "--skip-bad", "-1"), 2, "skip_bad")


def test_an_exchanged_file_of_equal_size_and_older_date_is_noticed(
    run: Commands, raw: Path
) -> None:
    assert run("prepare", raw).code == 0
    assert "preparing" not in run("prepare", raw).out
    victim = find_images(raw)[0]
    other = raw.parent / "other"
    other.write_bytes(bytes(victim.stat().st_size))
    os.utime(other, (1000, 1000))
    other.rename(victim)
    refuses(run("prepare", raw), 3, victim.name)


@pytest.mark.parametrize("ending", ["zip", "tar.gz"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_archive_is_as_good_as_the_folder_in_it(
    ending: str, wrapped: bool, run: Commands, raw: Path, tmp_path: Path
) -> None:
    archive = tmp_path / f"images.{ending}"
    inside = "images 2024/" if wrapped else ""
    if ending == "zip":
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr("__MACOSX/x", "") if wrapped else None
            for path in find_images(raw):
                packed.write(path, inside + path.relative_to(raw).as_posix())
    else:
        with tarfile.open(archive, "w:gz") as packed:
            for path in find_images(raw):
                packed.add(path, inside + path.relative_to(raw).as_posix())
    before = archive.read_bytes()
    assert run("prepare", raw).code == 0
    (expected,) = run.prepared()
    first, *later = (run("prepare", archive) for _ in range(2))
    assert first.code == 0 and "extracting" in first.out, first.err
    assert all(one.code == 0 and "extracting" not in one.out for one in later)
    assert run.prepared() == [expected] and "preparing" not in first.out + later[0].out
    assert archive.read_bytes() == before
    (folder,) = run.workspace.glob("data/raw/*")
    assert re.fullmatch(r"images-[0-9a-f]{8}", folder.name)


def test_a_hostile_archive_is_named_with_its_member(
    run: Commands, raw: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in find_images(raw)[:5]:
            packed.write(path, path.relative_to(raw).as_posix())
        packed.writestr("../../evil.png", "evil")
    for verb in ("check", "prepare"):
        refuses(run(verb, archive), 3, "images.zip", "../../evil.png", "nothing was imported")
    assert not list(run.workspace.rglob("*.png")) and not list(tmp_path.rglob("evil*"))


def test_what_is_neither_folder_nor_archive_is_named(run: Commands, raw: Path) -> None:
    refuses(run("check", find_images(raw)[0]), 3, "is not a folder, nor an archive")


def test_near_duplicates_across_the_split_are_told_and_not_fatal(run: Commands, raw: Path) -> None:
    assert run("prepare", raw).code == 0
    rows = read_manifest(run.prepared()[0] / "manifest.csv")
    source = next(row.name for row in rows if row.split == "train")
    image = read_image(raw / source)
    for k in range(8):
        pixels = image.pixels.copy()
        pixels[..., k, k] ^= 1
        if pixels.dtype == "uint8" and pixels.ndim == 2:
            write_png((raw / source).with_name(f"again{k}.png"), pixels)
    result = run("check", raw)
    assert result.code == 0, result.err
    found = run.report["near_duplicates"]
    if found["count"]:
        assert f"note: {found['count']} pair" in result.out
        assert all("again" in pair["first"] + pair["second"] for pair in found["closest"])


def test_a_prepared_folder_is_checked_as_one(run: Commands, raw: Path) -> None:
    assert run("prepare", raw).code == 0
    (folder,) = run.prepared()
    assert "data: " in run("check", folder).out
    (folder / "test.npy").write_bytes((folder / "test.npy").read_bytes()[:-1])
    refuses(run("check", folder), 3, "test.npy")


def test_what_a_killed_prepare_left_is_swept_by_the_next(run: Commands, raw: Path) -> None:
    left = run.workspace / f"data/processed/.{run._experiment}-0123456789ab.a1b2c3d4"
    left.mkdir(parents=True)
    (left / "scratch.bin").write_bytes(b"half")
    assert run("prepare", raw).code == 0
    assert not left.exists()


def test_make_has_a_target_for_it(experiment: str) -> None:
    arguments = [f"EXP={experiment}", "CONFIG=smoke", "DATA=a folder.zip", "ARGS=--skip-bad 3"]
    command = ["make", "-n", "-o", ".venv/.ready", "check-data", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "cli.py check --config experiments/" in done.stdout
    assert '--data.root "a folder.zip" --skip-bad 3' in done.stdout
