"""Numbers of moments, windows of them, and grey windows by channel."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from common.callbacks import frames_of, image_grid, to_grey_levels
from common.data.cards import load_card
from common.data.manifest import Sample, partners_of, read_manifest, write_manifest
from common.data.packing import Scratch, Storage
from common.data.sequences import apart, describe, numbered, usual_step, windows_of
from common.data.windows import card_window, ends, text_of
from common.errors import UserError
from common.generation import grey_to_unit
from running import ROOT

STORAGE = Storage("uint16", "identity", 1.0, 0.0, 16, "uint16")


def moment(sequence: str, number: int, split: str = "train", side: int = 8) -> Sample:
    name = f"{sequence}-{number}"
    return Sample(
        name, "g", split=split, height=side, width=side, partners=partners_of([f"{name}.b", "c/d"]),
        sequence=sequence, moment=number,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("times", "step", "numbers"),
    [
        ([0, 1, 2], 1, [0, 1, 2]),
        ([7], 1, [0]),
        ([0, 10, 20, 50, 60], 10, [0, 1, 2, 5, 6]),
        # Neither half a step nor one that is a little too long counts as the next moment.
        ([0, 5, 16], 10, [0, 2, 4]),
    ],
)
def test_a_moment_follows_after_exactly_one_step(
    times: list[int], step: int, numbers: list[int]
) -> None:
    assert numbered(times, step) == numbers


def test_the_usual_step_is_the_most_frequent_one() -> None:
    assert usual_step([[0, 10, 20, 50], [5, 15]]) == 10
    assert usual_step([[0, 10], [0, 3]]) == 3
    assert usual_step([[4], []]) == 1


def test_windows_stay_in_a_sequence_a_split_and_a_size() -> None:
    samples = [
        *(moment("a", k) for k in (3, 0, 1, 2, 6, 7)),
        *(moment("b", k, side=8 + (k > 1)) for k in range(4)),
        *(moment("c", k, "val" if k > 1 else "train") for k in range(3)),
    ]
    names = [[samples[k].name for k in rows] for rows in windows_of(samples, 2)]
    assert names == [
        *(["a-0", "a-1"], ["a-1", "a-2"], ["a-2", "a-3"], ["a-6", "a-7"]),
        *(["b-0", "b-1"], ["b-2", "b-3"], ["c-0", "c-1"]),
    ]
    assert windows_of(samples, 5).shape == (0, 5)


def test_windows_apart_share_no_moment_and_are_as_many_as_fit() -> None:
    windows = windows_of([moment("a", k) for k in range(8)], 3)
    chosen = apart(windows)
    assert windows[chosen].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert apart(np.zeros((0, 3), int)).tolist() == []


def test_what_is_said_of_sequences_counts_gaps() -> None:
    samples = [moment("a", k) for k in (0, 1, 4, 6)] + [moment("b", 0)]
    assert describe(samples, 2) == {"sequences": 2, "moments": 5, "gaps": 2, "left_out": 2}
    assert describe([Sample("x", "g")], 0) == {}


def test_a_manifest_of_moments_reads_back_and_one_of_images_has_no_new_columns(
    tmp_path: Path,
) -> None:
    path = tmp_path / "manifest.csv"
    rows = [moment("a", 0), moment("b", 3)]
    write_manifest(path, rows)
    assert read_manifest(path) == rows
    assert rows[0].files == ("a-0", "a-0.b", "c/d") and rows[0].file == "a-0"
    write_manifest(path, [Sample("x", "g", "label", "test", 4)])
    assert path.read_bytes() == (
        b"name,group,label,split,index,height,width,dtype,pixel_size_um,sha256,pixels_sha256,"
        b"frame,interval_s\r\nx,g,label,test,4,0,0,,0.0,,,-1,0.0\r\n"
    )
    assert read_manifest(path)[0].files == ("x",)


def packed(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    pixels = np.stack([rng.integers(0, 100, (5, 4, 4)), rng.integers(500, 900, (5, 4, 4))], 1)
    np.save(folder / "train.npy", pixels.astype(np.uint16))
    return folder / "train.npy"


def test_each_channel_has_the_window_of_its_rule(tmp_path: Path) -> None:
    path, channels = packed(tmp_path), ("a", "b")
    rule = {"b": {"percentiles": (0.0, 100.0)}, "a": (5.0, 50.0)}
    found = card_window(rule, channels, STORAGE, path)
    own = np.load(path)[:, 1]
    assert found == [(5.0, 50.0), (float(own.min()), float(own.max()))]
    assert card_window((1.0, 2.0), channels, STORAGE, path) == (1.0, 2.0)
    assert text_of(found[:1], "a") == "a 5 to 50" and text_of((0, 255), channels) == "0 to 255"
    with pytest.raises(UserError, match="comes down to one grey value"):
        card_window({"a": (5.0, 50.0), "b": {"percentiles": (0.0, 0.1)}}, channels, STORAGE, path)


def test_pixel_types_do_not_mix_where_one_channel_has_fixed_grey_values(tmp_path: Path) -> None:
    rule = {"a": {"percentiles": (0.0, 100.0)}, "b": (0.0, 50.0)}
    with Scratch(tmp_path) as scratch:
        scratch.append(np.zeros((2, 4, 4), np.uint8), 8)
        scratch.append(np.ones((2, 4, 4), np.uint16), 16)
        with pytest.raises(UserError, match="mixes the pixel types"):
            scratch.storage([0, 1], rule)


@pytest.mark.parametrize("shape", [(2, 6, 5), (2, 3, 6, 5)])
def test_windows_by_channel_are_inverted_exactly(shape: tuple[int, ...]) -> None:
    facts = {"window": [[90, 4000], [150, 2350]], "storage": {"source": "uint16"}}
    rng = np.random.default_rng(0)
    grey = np.stack(
        [rng.integers(*pair, shape[1:], np.uint16, endpoint=True) for pair in facts["window"]]
    )
    unit = grey_to_unit(grey, facts["window"])
    assert unit.dtype == np.float32 and unit.min() >= 0 and unit.max() <= 1
    np.testing.assert_array_equal(to_grey_levels(unit * 2 - 1, facts), grey)
    low, high = ends(facts["window"], len(shape))
    assert low.shape == (2, *[1] * (len(shape) - 1)) and high.ravel().tolist() == [4000, 2350]


def write_card(folder: Path, window: object) -> None:
    head = yaml.safe_load((ROOT / "data_cards/yeast_traps.md").read_text().split("---\n")[1])
    text = yaml.safe_dump(head | {"name": "mine", "window": window})
    (folder / "mine.md").write_text(f"---\n{text}---\n")


def test_a_card_may_name_a_window_for_each_channel(tmp_path: Path) -> None:
    write_card(tmp_path, {"BF": "dtype", "GFP": [150, 2350]})
    assert load_card("mine", tmp_path).window == {"BF": "dtype", "GFP": (150.0, 2350.0)}
    assert load_card("yeast_traps").window["GFP"] == (150.0, 2350.0)


@pytest.mark.parametrize(
    ("window", "words"),
    [
        ({"BF": "dtype"}, "nor one of these for each of `channels`"),
        ({"BF": "dtype", "GFP": [1, 2], "RFP": [1, 2]}, "nor one of these for each of"),
        ({"BF": {"BF": "dtype"}, "GFP": [1, 2]}, "of one channel names channels"),
        ({"BF": [2, 1], "GFP": [1, 2]}, "2 is not below 1"),
        ({}, "is not dtype"),
    ],
)
def test_a_card_names_its_own_channels_alone(tmp_path: Path, window: object, words: str) -> None:
    write_card(tmp_path, window)
    with pytest.raises(UserError, match=words):
        load_card("mine", tmp_path)


def test_a_grid_shows_frames_side_by_side_and_channels_below_each_other() -> None:
    values = np.arange(2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 3, 1, 1)
    grid = image_grid(values + np.zeros((2, 2, 3, 4, 5), np.uint8), columns=1, gap=1)
    assert grid.shape == (2 * 8 + 1, 15)
    for image in range(2):
        for channel in range(2):
            for frame in range(3):
                top, left = image * 9 + channel * 4, frame * 5
                shown = grid[top : top + 4, left : left + 5]
                assert (shown == values[image, channel, frame, 0, 0]).all()


def test_frames_of_sequences_keep_their_channels_together() -> None:
    sequences = torch.arange(2 * 2 * 3).reshape(2, 2, 3, 1, 1)
    assert frames_of(sequences)[4].flatten().tolist() == sequences[1, :, 1].flatten().tolist()
    assert frames_of(sequences[:, :, 0]).shape == (2, 2, 1, 1)
