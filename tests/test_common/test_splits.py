import random
from collections import Counter, defaultdict
from dataclasses import replace

import pytest

from common.data.cards import load_card
from common.data.manifest import Sample
from common.data.splits import assign_splits, group_of
from common.errors import Exit, UserError

# Ten classes that add up to 5,210 and are as unequal as the cilia's.
CLASS_SIZES = (100, 220, 300, 260, 140, 220, 2140, 820, 790, 220)

DERIVATIVES = load_card("cilia_tem").derivative_suffixes


def images(*sizes: int) -> list[Sample]:
    return [
        Sample(name=f"{k}/{i}.png", group=f"{k}/{i}", label=str(k))
        for k, size in enumerate(sizes)
        for i in range(size)
    ]


def grouped(sizes: list[int], labels: int, draw: random.Random) -> list[Sample]:
    return [
        Sample(name=f"g{k}/{i}", group=f"g{k}", label=str(draw.randrange(labels)))
        for k, size in enumerate(sizes)
        for i in range(size)
    ]


def counts(samples: list[Sample]) -> Counter[str]:
    return Counter(sample.split for sample in samples)


def split_of(samples: list[Sample]) -> dict[str, str]:
    return {sample.name: sample.split for sample in samples}


def names(samples: list[Sample], split: str) -> set[str]:
    return {sample.name for sample in samples if sample.split == split}


def reachable(sizes: list[int]) -> set[int]:
    sums = {0}
    for size in sizes:
        sums |= {total + size for total in sums}
    return sums


def nearest_gap(target: int, sizes: list[int]) -> int:
    return min(abs(total - target) for total in reachable(sizes) if total)


def sizes_by_group(samples: list[Sample]) -> dict[str, int]:
    return dict(Counter(sample.group for sample in samples))


def test_the_cilia_set_splits_into_4168_and_1042() -> None:
    found = counts(assign_splits(images(*CLASS_SIZES), (0.1, 0.2), seed=0))
    assert sum(CLASS_SIZES) == 5210
    assert found["test"] == 1042
    assert found["train"] + found["val"] == 4168
    assert found["val"] == round(0.1 * 4168)


def test_every_class_gets_its_share_to_the_image() -> None:
    assigned = assign_splits(images(*CLASS_SIZES), (0.1, 0.2), seed=0)
    for split, fraction in (("test", 0.2), ("val", 0.8 * 0.1)):
        found = Counter(s.label for s in assigned if s.split == split)
        for label, size in enumerate(CLASS_SIZES):
            # Validation is a share of what test left, which is itself rounded.
            assert abs(found[str(label)] - fraction * size) < 1 + (split == "val") * 0.1


def test_what_shares_leave_over_goes_to_the_largest_remainder() -> None:
    assigned = assign_splits(images(7, 13, 33, 47), (0.1, 0.2), 0)
    # Shares 1.4, 2.6, 6.6 and 9.4 of 20: whole numbers give 18, two remainders of 0.6 the rest.
    found = Counter(s.label for s in assigned if s.split == "test")
    assert found == {"0": 1, "1": 3, "2": 7, "3": 9}


def test_four_single_images_become_two_one_one() -> None:
    assert counts(assign_splits(images(4), (0.1, 0.2), 0)) == {"train": 2, "val": 1, "test": 1}


@pytest.mark.parametrize("sizes", [(1, 1, 1), (100, 1, 1), (1, 100, 100), (50, 1, 1, 1)])
def test_three_groups_are_enough_for_three_splits(sizes: tuple[int, ...]) -> None:
    samples = grouped(list(sizes), 1, random.Random(0))
    for fractions in ((0.1, 0.2), (0.9, 0.9), (0.01, 0.01)):
        assigned = assign_splits(samples, fractions, 0)
        assert set(counts(assigned)) == {"train", "val", "test"}


@pytest.mark.parametrize("number", [0, 1, 2])
def test_fewer_than_three_groups_are_refused(number: int) -> None:
    samples = grouped([7] * number, 2, random.Random(0))
    with pytest.raises(UserError, match=f"form {number} group.* 3 are needed") as caught:
        assign_splits(samples, (0.1, 0.2), 0)
    assert caught.value.code == Exit.INPUT
    assert "for images with a file each, a finer `group`" in caught.value.remedy


@pytest.mark.parametrize("case", range(150))
def test_no_group_is_split_and_the_totals_are_the_nearest_possible(case: int) -> None:
    draw = random.Random(case)
    sizes = [draw.randint(1, 5) for _ in range(draw.randint(6, 60))]
    samples = grouped(sizes, draw.randint(1, 4), draw)
    fractions = (draw.uniform(0.05, 0.4), draw.uniform(0.05, 0.4))
    assigned = assign_splits(samples, fractions, seed=case)

    splits = defaultdict(set)
    for sample in assigned:
        splits[sample.group].add(sample.split)
    assert all(len(found) == 1 for found in splits.values())
    assert [replace(s, split="") for s in assigned] == samples

    found = counts(assigned)
    test_target = max(1, round(fractions[1] * len(samples)))
    assert abs(found["test"] - test_target) == nearest_gap(test_target, sizes)
    rest = [sample for sample in assigned if sample.split != "test"]
    val_target = max(1, round(fractions[0] * len(rest)))
    gap = nearest_gap(val_target, list(sizes_by_group(rest).values()))
    assert abs(found["val"] - val_target) == gap


def test_a_total_that_greed_would_miss_is_found() -> None:
    samples = [
        sample
        for k, size in enumerate((3, 3, 3, 2, 2, 2))
        for sample in (Sample(f"g{k}/{i}", f"g{k}") for i in range(size))
    ]
    # 15 images, test 4: no sum with a 3 in it makes 4, whatever the order of the groups.
    assert counts(assign_splits(samples, (0.1, 4 / 15), 0))["test"] == 4


def test_neither_seed_nor_validation_fraction_moves_the_test_set() -> None:
    samples = images(60, 30, 10)
    reference = names(assign_splits(samples, (0.1, 0.2), 0), "test")
    for fractions, seed in (((0.1, 0.2), 1), ((0.4, 0.2), 0), ((0.05, 0.2), 9)):
        assert names(assign_splits(samples, fractions, seed), "test") == reference


def test_the_seed_moves_validation() -> None:
    samples = images(60, 30, 10)
    drawn = [names(assign_splits(samples, (0.2, 0.2), seed), "val") for seed in range(3)]
    assert drawn[0] != drawn[1] != drawn[2]
    assert len({len(found) for found in drawn}) == 1


def test_the_listing_order_has_no_influence() -> None:
    draw = random.Random(3)
    samples = grouped([draw.randint(1, 5) for _ in range(50)], 3, draw)
    reference = split_of(assign_splits(samples, (0.15, 0.25), 5))
    for _ in range(5):
        draw.shuffle(samples)
        assert split_of(assign_splits(samples, (0.15, 0.25), 5)) == reference


@pytest.mark.parametrize("largest", [1, 5])
def test_one_more_group_moves_few_others(largest: int) -> None:
    draw = random.Random(11)
    samples = grouped([draw.randint(1, largest) for _ in range(400)], 3, draw)
    before = split_of(assign_splits(samples, (0.1, 0.2), 0))
    for k in range(10):
        more = [*samples, Sample(f"new{k}/0", f"new{k}", label="1")]
        after = split_of(assign_splits(more, (0.1, 0.2), 0))
        moved = {name.split("/")[0] for name in before if before[name] != after[name]}
        assert len(moved) <= 12


def test_groups_of_several_labels_are_a_stratum_of_their_own() -> None:
    samples = []
    for k in range(500):
        labels = ("a", "b") if k < 400 else ("a", "c")
        samples += [Sample(f"g{k}/{label}", f"g{k:03}", label) for label in labels]
    assigned = assign_splits(samples, (0.1, 0.2), 0)
    held_out = {s.group for s in assigned if s.split == "test"}
    assert len(held_out) == 100
    assert sum(group < "g400" for group in held_out) == 80


def test_a_group_too_large_for_any_quota_comes_from_the_largest_stratum() -> None:
    for prefix in "abcdefgh":
        samples = [
            Sample(f"{prefix}{k}/{i}", f"{prefix}{k}", "often" if k < 3 else f"once {k}")
            for k in range(8)
            for i in range(5)
        ]
        assigned = assign_splits(samples, (0.1, 0.1), 0)
        assert [s.label for s in assigned if s.split == "test"] == ["often"] * 5


def test_a_split_that_comes_with_the_data_is_kept() -> None:
    given = [
        replace(sample, split=("train", "val", "test")[k % 3])
        for k, sample in enumerate(images(30))
    ]
    assert assign_splits(given, (0.5, 0.5), 0) == given


def test_missing_validation_is_taken_out_of_the_given_training_groups() -> None:
    samples = grouped([3] * 20, 2, random.Random(0))
    given = [replace(s, split="test" if s.group < "g12" else "train") for s in samples]
    assigned = assign_splits(given, (0.25, 0.9), 0)
    training = sum(sample.split == "train" for sample in given)
    assert names(assigned, "test") == names(given, "test")
    assert counts(assigned)["val"] == round(0.25 * training / 3) * 3
    assert not {s.group for s in assigned if s.split == "val"} & {
        s.group for s in assigned if s.split == "train"
    }


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (["train", "test", ""], "i2.png: has the split ''"),
        (["train", "test", "dev"], "i2.png: has the split 'dev'"),
        (["train", "train", "val"], "no test images"),
        (["val", "test", "test"], "no train images"),
        (["train", "test", "test"], "training images form 1 group, and 2 are needed"),
    ],
)
def test_an_unusable_given_split_is_refused(splits: list[str], message: str) -> None:
    samples = [Sample(f"i{k}.png", f"i{k}", split=split) for k, split in enumerate(splits)]
    with pytest.raises(UserError, match=message) as caught:
        assign_splits(samples, (0.1, 0.2), 0)
    assert caught.value.code == Exit.INPUT


@pytest.mark.parametrize("fractions", [(0.0, 0.2), (0.1, 1.0), (0.1, -0.2), (float("nan"), 0.2)])
def test_a_fraction_out_of_range_is_a_usage_error(fractions: tuple[float, float]) -> None:
    with pytest.raises(UserError, match="not between 0 and 1") as caught:
        assign_splits(images(10), fractions, 0)
    assert caught.value.code == Exit.USAGE


@pytest.mark.parametrize(
    "copy",
    [
        "Normal/Normal_0030_mirrored.jpg",
        "Normal/Normal_0030_mirrored.tiff",
        "Normal/Normal_0030_Mirrored.PNG",
        "train/Normal/Normal_0030_mirrored.png",
        "Test/Normal/Normal_0030.png",
        "Normal/validation/Normal_0030_rot90_flipped_mirrored.bmp",
        "Normal/Normal_0030_aug12_aug.ome.tif",
    ],
)
def test_a_copy_shares_the_group_of_its_original(copy: str) -> None:
    original = group_of("Normal/Normal_0030.jpg", None, DERIVATIVES)
    assert original == "Normal/Normal_0030"
    assert group_of(copy, None, DERIVATIVES) == original


@pytest.mark.parametrize(
    "other",
    [
        "Normal/Normal_0031_mirrored.jpg",
        "ODA/Normal_0030.jpg",
        "Normal/Normal_0030_mirrored_2.jpg",
        "Normal/Normal_0030_1.5um.jpg",
        "Normal/_mirrored.jpg",
        "mirrored/Normal_0030/a.jpg",
    ],
)
def test_another_image_has_another_group(other: str) -> None:
    assert group_of(other, None, DERIVATIVES) != group_of("Normal/Normal_0030.jpg", None, ())
    assert group_of(other, None, DERIVATIVES)[-1] != "/"


def test_without_suffixes_nothing_is_removed() -> None:
    assert group_of("a/b_mirrored.jpg", None, ()) == "a/b_mirrored"


def test_a_pattern_names_the_group() -> None:
    name = "sub-07/ses-2/image_003_mirrored.png"
    assert group_of(name, r"sub-(\d+)", ()) == "07"
    assert group_of(name, r"(ses)-(?P<group>\d)", ()) == "2"
    assert group_of(name, r"(image_.+)\.png", ["_mirrored"]) == "image_003"


def test_a_file_that_does_not_match_the_pattern_is_named() -> None:
    with pytest.raises(UserError, match=r"stray\.png: does not match") as caught:
        group_of("stray.png", r"sub-(\d+)", ())
    assert caught.value.code == Exit.INPUT
