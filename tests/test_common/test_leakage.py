import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from common.data import leakage
from common.data.cards import load_card
from common.data.leakage import Leak, pixels_digest, refuse_leaks
from common.data.manifest import Sample
from common.data.splits import assign_splits
from common.errors import Exit, UserError

SUFFIXES = load_card("cilia_tem").derivative_suffixes
audit = partial(leakage.audit, derivative_suffixes=SUFFIXES)
merge_duplicates = partial(leakage.merge_duplicates, derivative_suffixes=SUFFIXES)


def digest(seed: int) -> str:
    return pixels_digest(np.random.default_rng(seed).integers(0, 256, (1, 9, 7), np.uint8))


def image(number: int, split: str = "", label: str = "a", **facts: str) -> Sample:
    name = facts.pop("name", f"{label}/{number:03}.png")
    facts = {"group": name, "sha256": f"file {number}", "pixels_sha256": digest(number)} | facts
    return Sample(name=name, label=label, split=split, **facts)


def clean() -> list[Sample]:
    return [image(k, split) for k, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 3)]


def exact_copy() -> list[Sample]:
    return [*clean(), image(0, "test", name="a/copy.png")]


def same_pixels_in_another_format() -> list[Sample]:
    return [*clean(), image(0, "test", name="a/x.tif", sha256="other bytes")]


def turned_copy() -> list[Sample]:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 9, 7), np.uint8)
    turned = pixels_digest(np.rot90(pixels, axes=(1, 2))[..., ::-1])
    return [*clean(), image(99, "test", name="a/x.png", pixels_sha256=turned)]


def split_group() -> list[Sample]:
    return [*clean(), image(98, "train", group="mouse 7"), image(99, "test", group="mouse 7")]


def derived_name() -> list[Sample]:
    return [*clean(), image(99, "val", name="a/000_rot90_mirrored.jpg")]


def two_labels() -> list[Sample]:
    samples = clean()
    return [*samples, replace(samples[0], name="b/x.png", group="b/x.png", label="b")]


PLANTED = [
    (exact_copy, Leak("same bytes", "a/000.png", "a/copy.png", "train", "test")),
    (same_pixels_in_another_format, Leak("same pixels", "a/000.png", "a/x.tif", "train", "test")),
    (turned_copy, Leak("same pixels", "a/000.png", "a/x.png", "train", "test")),
    (split_group, Leak("same group", "a/098.png", "a/099.png", "train", "test")),
    (
        derived_name,
        Leak("derivative name", "a/000.png", "a/000_rot90_mirrored.jpg", "train", "val"),
    ),
    (two_labels, Leak("contradictory label", "a/000.png", "b/x.png", "train", "train")),
]


@pytest.mark.parametrize(("plant", "leak"), PLANTED, ids=lambda x: getattr(x, "__name__", ""))
def test_every_planted_leak_is_found_and_nothing_else(
    plant: Callable[[], list[Sample]], leak: Leak
) -> None:
    samples = plant()
    assert audit(samples) == [leak]
    for seed in range(5):
        random.Random(seed).shuffle(samples)
        assert audit(samples) == [leak]


@pytest.mark.parametrize(("plant", "leak"), PLANTED, ids=lambda x: getattr(x, "__name__", ""))
def test_a_leak_is_refused_with_both_files_and_both_splits(
    plant: Callable[[], list[Sample]], leak: Leak
) -> None:
    with pytest.raises(UserError) as caught:
        refuse_leaks(audit(plant()))
    assert caught.value.code == Exit.INPUT
    expected = f"{leak.kind}: {leak.first} ({leak.first_split}) and "
    assert expected + f"{leak.second} ({leak.second_split})" in str(caught.value)


def shared_folder_numbers() -> list[Sample]:
    """A published split that counts anew in each folder."""
    return [
        image(k, split, name=f"{split}/{k % 3:04}.png")
        for k, split in enumerate(["train"] * 3 + ["val"] * 3 + ["test"] * 3)
    ]


def copies_beside_their_originals() -> list[Sample]:
    samples = clean()
    copies = [
        replace(s, name=s.name.replace(".png", "_mirrored.jpg"), sha256=f"{s.sha256} mirrored")
        for s in samples
    ]
    return samples + copies


def no_hashes_yet() -> list[Sample]:
    return [replace(sample, sha256="", pixels_sha256="") for sample in clean()]


@pytest.mark.parametrize(
    "samples", [clean, shared_folder_numbers, copies_beside_their_originals, no_hashes_yet]
)
def test_a_clean_set_raises_no_alarm(samples: Callable[[], list[Sample]]) -> None:
    assert audit(samples()) == []
    refuse_leaks(audit(samples()))
    merged, findings = merge_duplicates(samples())
    assert findings == []
    assert merged == samples()


def test_one_pair_is_one_leak_under_its_strongest_kind() -> None:
    same = image(0, "train", group="g")
    copy = replace(same, name="a/000_mirrored.png", split="test")
    assert [leak.kind for leak in audit([same, copy])] == ["same bytes"]


def test_every_copy_in_another_split_is_listed() -> None:
    copies = [image(0, "test", name=f"z/copy{k}.png") for k in range(30)]
    leaks = audit([*clean(), *copies])
    assert {leak.second for leak in leaks} == {copy.name for copy in copies}


def test_other_derivative_endings_come_from_the_card() -> None:
    samples = [*clean(), image(99, "test", name="a/000-turned.png")]
    assert audit(samples) == []
    assert [leak.kind for leak in leakage.audit(samples, ["-turned"])] == ["derivative name"]


def test_the_message_stays_short_and_shows_hostile_names_escaped() -> None:
    copies = [image(0, "test", name=f"z/\x1b[2J\n{k}.png") for k in range(500)]
    with pytest.raises(UserError) as caught:
        refuse_leaks(audit([*clean(), *copies]))
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert "500 pairs" in text
    assert "and 497 more" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    "plant", [exact_copy, same_pixels_in_another_format, turned_copy, derived_name]
)
def test_an_automatic_split_cannot_separate_what_was_merged(
    plant: Callable[[], list[Sample]],
) -> None:
    samples = [replace(sample, split="") for sample in plant()]
    merged, findings = merge_duplicates(samples)
    assert len(findings) == 1
    assert len({s.group for s in merged}) == len({s.group for s in samples}) - 1
    for seed in range(20):
        assert audit(assign_splits(merged, (0.3, 0.4), seed)) == []


def test_merging_joins_chains_of_whole_groups() -> None:
    samples = [
        image(1, group="c", sha256="x"),
        image(2, group="b", sha256="x"),
        image(3, group="b", pixels_sha256="y"),
        image(4, group="a", pixels_sha256="y"),
        image(5, group="d"),
    ]
    merged, findings = merge_duplicates(samples)
    assert [sample.group for sample in merged] == ["a", "a", "a", "a", "d"]
    assert [str(finding) for finding in findings] == [
        "same bytes: a/001.png and a/002.png",
        "same pixels: a/003.png and a/004.png",
    ]


def test_merging_twice_changes_nothing() -> None:
    draw = random.Random(4)
    samples = [image(draw.randrange(60), name=f"a/{k}.png") for k in range(100)]
    merged, findings = merge_duplicates(samples)
    assert findings
    assert merge_duplicates(merged) == (merged, [])
    shuffled = draw.sample(samples, len(samples))
    assert sorted(merge_duplicates(shuffled)[0], key=lambda s: s.name) == sorted(
        merged, key=lambda s: s.name
    )


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (2, 5, 9), (6, 1, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_digest_is_one_for_all_eight_orientations(
    shape: tuple[int, ...], dtype: type[np.generic]
) -> None:
    # Few values, so that several orientations share their first row.
    pixels = np.random.default_rng(1).integers(0, 2, shape).astype(dtype)
    turned = [np.rot90(pixels, k, axes=(1, 2)) for k in range(4)]
    digests = {pixels_digest(t) for t in turned} | {pixels_digest(t[..., ::-1]) for t in turned}
    assert len(digests) == 1


def test_the_digest_tells_apart_what_differs() -> None:
    pixels = np.random.default_rng(2).integers(0, 200, (2, 6, 8), np.uint8)
    changed = pixels.copy()
    changed[1, 5, 7] += 1
    others = [changed, pixels[::-1], pixels.reshape(2, 4, 12), pixels.astype(np.uint16), pixels[:1]]
    assert len({pixels_digest(array) for array in [pixels, *others]}) == 6


def test_the_digest_tells_shapes_of_the_same_bytes_apart() -> None:
    shapes = [(1, 4, 9), (1, 6, 6), (1, 3, 12), (4, 3, 3), (9, 2, 2), (36, 1, 1)]
    assert len({pixels_digest(np.zeros(shape, np.uint8)) for shape in shapes}) == len(shapes)


def test_an_ambiguous_border_does_not_decide_the_digest() -> None:
    framed = np.zeros((1, 8, 8), np.uint8)
    framed[0, 2, 3] = 9
    moved = np.roll(framed, 1, axis=2)
    assert pixels_digest(framed) == pixels_digest(framed[..., ::-1])
    assert pixels_digest(framed) != pixels_digest(np.roll(framed, 2, axis=1))
    # Column 3 and column 4 are mirror images of each other.
    assert pixels_digest(framed) == pixels_digest(moved)


def test_byte_order_and_a_single_channel_axis_do_not_count() -> None:
    pixels = np.random.default_rng(3).integers(0, 60000, (5, 7), np.uint16)
    assert pixels_digest(pixels) == pixels_digest(pixels[None].astype(">u2"))
    assert pixels_digest(pixels) != pixels_digest(np.stack([pixels] * 3))
