"""Leaks between the splits of data that came split are found, and clean data raise no alarm."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from common.data.datamodule import ImageDataModule
from common.data.image_io import find_images, write_ome_tiff, write_png
from common.data.manifest import Sample
from common.data.preparation import check_data
from common.data.splits import SPLIT_FOLDERS, group_of
from common.errors import Exit, UserError

pytestmark = pytest.mark.faults

CARD = """---
{name: cells, title: t, url: u, licence: l, channels: [grey], pixel_size_um: null, window: dtype,
classes: [], group: GROUP, group_kind: k, derivative_suffixes: [_mirrored], collapse_grey: true}
---
"""
VIDEO, SUBJECT = r"'(video\d+)_'", r"'sub-(\w+)/'"
WELL, PLATE = r"'(plate\d+/[A-H]\d+)_'", r"'(plate\d+)/'"
BY_FILE = r"'(.+)\.'"


class CellsDataModule(ImageDataModule):
    """Images anywhere, in folders called train, val and test where they came split."""

    default_card = ""

    def scan(self, root: Path) -> list[Sample]:
        names = [path.relative_to(root).as_posix() for path in find_images(root)]
        suffixes = self.card.derivative_suffixes
        return [
            Sample(
                name, group_of(name, self.card.group, suffixes), split=SPLIT_FOLDERS.get(first, "")
            )
            for name in names
            for first in [name.split("/")[0]]
        ]

    def simulate(self, root: Path) -> None:
        raise AssertionError("these tests bring their own images")


class Laboratory:
    """A raw folder that grows by pictures nobody has seen before, and its check."""

    def __init__(self, home: Path) -> None:
        self.root = home / "raw"
        self._home = home
        self._drawn = np.random.default_rng(len(str(home)))

    def draw(self, *names: str) -> None:
        for name in names:
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, self._drawn.integers(0, 256, (24, 30), np.uint8))

    def check(self, group: str) -> str:
        """What is refused, "" for nothing."""
        (self._home / "cells.md").write_text(CARD.replace("GROUP", group))
        data = CellsDataModule(
            str(self.root), str(self._home / "cells.md"), 16, workspace=str(self._home)
        )
        try:
            check_data(data)
        except UserError as error:
            assert error.code == Exit.INPUT
            return str(error)
        return ""


@pytest.fixture
def laboratory(tmp_path: Path) -> Laboratory:
    return Laboratory(tmp_path)


def same_bytes(lab: Laboratory) -> tuple[str, str, str]:
    lab.draw(*(f"{split}/{split}{k}.png" for split in ("train", "val", "test") for k in range(4)))
    (lab.root / "test/again.png").write_bytes((lab.root / "train/train2.png").read_bytes())
    return BY_FILE, "train/train2.png", "test/again.png"


def same_pixels_in_another_container(lab: Laboratory) -> tuple[str, str, str]:
    lab.draw(*(f"{split}/{split}{k}.png" for split in ("train", "test") for k in range(4)))
    with PillowImage.open(lab.root / "test/test1.png") as image:
        pixels = np.asarray(image)
    write_ome_tiff(lab.root / "train/x.tif", np.ascontiguousarray(np.rot90(pixels)), "YX")
    return BY_FILE, "train/x.tif", "test/test1.png"


def same_video(lab: Laboratory) -> tuple[str, str, str]:
    lab.draw(*(f"train/video0{k}_frame{f}.png" for k in range(3) for f in range(3)))
    lab.draw("test/video07_frame0.png", "test/video01_frame9.png", "val/video05_frame0.png")
    return VIDEO, "train/video01_frame0.png", "test/video01_frame9.png"


def same_subject(lab: Laboratory) -> tuple[str, str, str]:
    lab.draw(*(f"train/sub-{s}/{k}.png" for s in ("anna", "bert", "carl") for k in range(2)))
    lab.draw("test/sub-dora/0.png", "val/sub-bert/7.png", "val/sub-emil/0.png")
    return SUBJECT, "train/sub-bert/0.png", "val/sub-bert/7.png"


def same_well(lab: Laboratory) -> tuple[str, str, str]:
    lab.draw(*(f"train/plate{p}/{w}_site1.png" for p in (1, 2) for w in ("A1", "B2", "C3")))
    lab.draw("test/plate1/D4_site1.png", "test/plate2/B2_site4.png", "val/plate1/E5_site1.png")
    return WELL, "train/plate2/B2_site1.png", "test/plate2/B2_site4.png"


def same_plate(lab: Laboratory) -> tuple[str, str, str]:
    lab.draw(*(f"train/plate{p}/{w}_site1.png" for p in (1, 2) for w in ("A1", "B2")))
    lab.draw("val/plate3/A1_site1.png", "test/plate4/A1_site1.png", "test/plate5/A1_site1.png")
    lab.draw("val/plate5/C3_site1.png")
    return PLATE, "val/plate5/C3_site1.png", "test/plate5/A1_site1.png"


def plates_apart_with_wells_of_one_name(lab: Laboratory) -> str:
    for split, plate in (("train", 1), ("train", 2), ("val", 3), ("test", 4)):
        lab.draw(
            *(f"{split}/plate{plate}/{well}_site{k}.png" for well in ("A1", "B2") for k in (1, 2))
        )
    return WELL


def numbers_that_begin_anew_in_each_split(lab: Laboratory) -> str:
    lab.draw(*(f"{split}/{k:04}.png" for split in ("train", "val", "test") for k in range(4)))
    return BY_FILE


def mirrored_copies_in_data_without_a_split(lab: Laboratory) -> str:
    lab.draw(*(f"{k:02}.png" for k in range(12)))
    for k in range(0, 12, 3):
        with PillowImage.open(lab.root / f"{k:02}.png") as image:
            write_png(lab.root / f"{k:02}_mirrored.png", np.asarray(image)[:, ::-1].copy())
    return "null"


@pytest.mark.parametrize(
    "plant",
    [same_bytes, same_pixels_in_another_container, same_video, same_subject, same_well, same_plate],
    ids=lambda plant: plant.__name__,
)
def test_a_planted_leak_is_found_with_both_names(
    plant: Callable[[Laboratory], tuple[str, str, str]],
    laboratory: Laboratory,
    tally: Callable[[str, int, int], None],
) -> None:
    group, *names = plant(laboratory)
    refused = laboratory.check(group)
    tally("L1", int(all(name in refused for name in names)), 1)
    for name in names:
        assert f"{name} ({name.split('/')[0]})" in refused
    # Not for another reason: without the second file there is nothing to refuse.
    (laboratory.root / names[1]).unlink()
    assert laboratory.check(group) == ""


@pytest.mark.parametrize(
    "draw",
    [
        plates_apart_with_wells_of_one_name,
        numbers_that_begin_anew_in_each_split,
        mirrored_copies_in_data_without_a_split,
    ],
    ids=lambda draw: draw.__name__,
)
def test_clean_data_raise_no_alarm(
    draw: Callable[[Laboratory], str],
    laboratory: Laboratory,
    tally: Callable[[str, int, int], None],
) -> None:
    refused = laboratory.check(draw(laboratory))
    tally("L1", int(refused == ""), 1)
    assert refused == ""
