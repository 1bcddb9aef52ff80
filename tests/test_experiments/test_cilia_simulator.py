import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from experiments.cilia_cvae.anatomy import Axoneme, doublet_positions, stretch
from experiments.cilia_cvae.simulator import (
    CLASS_FREQUENCIES,
    CLASSES,
    class_counts,
    render,
    sample_shape,
    sample_truth,
    simulate,
)


def truths(label: str, count: int = 40, shape: tuple[int, int] = (128, 128)) -> list[Axoneme]:
    return [sample_truth(label, np.random.default_rng([3, k]), shape) for k in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cilia")
    simulate(root, 24, seed=5, mean_size=72)
    return root


@pytest.fixture(scope="module")
def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "tables" / "ground_truth.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("label", CLASSES)
def test_a_class_differs_from_normal_by_its_own_defect_alone(label: str) -> None:
    drawn = truths(label)
    outer = np.mean(np.concatenate([t.outer_arms for t in drawn]))
    inner = np.mean(np.concatenate([t.inner_arms for t in drawn]))
    displaced = [sum(t.displaced) for t in drawn]
    assert outer < 0.1 if label in ("ODA", "ODA_IDA") else outer > 0.93
    assert inner < 0.1 if label in ("IDA", "ODA_IDA", "IDA_Disarranged") else inner > 0.93
    counts = {8, 10} if label == "Microtub Abnorm" else {9}
    assert {t.num_doublets for t in drawn} == counts
    central = {"No CP": 0, "Subtle CP": 1, "CP 2": 4}.get(label, 2)
    assert {t.central_microtubules for t in drawn} == {central}
    assert set(displaced) == ({2, 3, 4} if "Disarranged" in label else {0})


def test_displaced_doublets_lie_inside_the_ring_and_overlap_no_other() -> None:
    for truth in truths("Disarranged"):
        radii, displaced = np.array(truth.radii_um), np.array(truth.displaced)
        assert radii[displaced].max() < truth.ring_radius_um - 0.015
        assert np.abs(radii[~displaced] - truth.ring_radius_um).max() < 0.007
        centres = doublet_positions(truth) * truth.pixel_size_um
        apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
        assert apart[~np.eye(9, dtype=bool)].min() > 0.035


@pytest.mark.parametrize("clockwise", [True, False])
@pytest.mark.parametrize(
    ("field", "along", "outward"), [("outer_arms", 25, 9), ("inner_arms", 24, -17)]
)
def test_an_arm_darkens_its_own_place_and_nothing_else(
    field: str, along: float, outward: float, clockwise: bool
) -> None:
    truth = replace(truths("Normal", 1)[0], clockwise=clockwise, ellipticity=1.3)
    with_arms = replace(truth, **{field: (True,) * 9})
    without = replace(truth, **{field: (False,) * 9})
    images = [render(t, np.random.default_rng(8)).astype(float) for t in (without, with_arms)]
    darker = images[0] - images[1]
    out = np.stack([np.cos(truth.angles), np.sin(truth.angles)], 1)
    side = np.stack([-out[:, 1], out[:, 0]], 1) * (1 if truth.clockwise else -1)
    offset = (along * side + outward * out) @ stretch(truth).T / (1e3 * truth.pixel_size_um)
    x, y = np.rint(doublet_positions(truth) + offset).astype(int).T
    assert darker[y, x].mean() > 20
    assert darker[y, x].min() > 5
    centre = darker[56:72, 56:72]
    assert np.abs(centre).max() < 10
    assert np.abs(darker[:8, :8]).max() < 3


def test_doublets_are_the_dark_spots_of_the_ring() -> None:
    for truth in truths("ODA_IDA", 5):
        image = render(truth, np.random.default_rng(1)).astype(float)
        gaps = replace(truth, angles=tuple(np.array(truth.angles) + np.pi / 9))
        grey = [
            image[tuple(np.rint(doublet_positions(t)).astype(int).T[::-1])].mean()
            for t in (truth, gaps)
        ]
        assert grey[0] < grey[1] - 40


def test_the_centre_is_darker_the_more_microtubules_stand_in_it() -> None:
    middle = np.hypot(*(np.indices((96, 96)) - 47.5)) < 12
    grey = [
        np.mean(
            [
                render(t, np.random.default_rng(k))[middle]
                for k, t in enumerate(truths(c, 8, (96, 96)))
            ]
        )
        for c in ("No CP", "Subtle CP", "Normal", "CP 2")
    ]
    assert np.all(np.diff(grey) < -4), grey


def test_the_cut_stretches_the_plane_without_changing_its_area() -> None:
    for truth in truths("Normal", 10, (100, 130)):
        values = np.linalg.svd(stretch(truth), compute_uv=False)
        assert np.isclose(values[0] * values[1], 1) and np.isclose(
            values[0] / values[1], truth.ellipticity
        )
        direction = (np.cos(truth.ellipse_angle), np.sin(truth.ellipse_angle))
        np.testing.assert_allclose(np.linalg.norm(stretch(truth) @ direction), values[0])


def test_a_wide_image_shows_a_wide_cilium() -> None:
    angles = [t.ellipse_angle for t in truths("Normal", 30, (100, 140))]
    assert np.mean(np.abs(np.cos(angles))) > 0.95


def test_the_cilium_fills_most_of_the_image_on_a_light_ground() -> None:
    image = render(truths("Normal", 1)[0], np.random.default_rng(0)).astype(float)
    assert image.shape == (128, 128)
    far = np.hypot(*(np.indices((128, 128)) - 63.5))
    assert np.median(image[far > 75]) > np.median(image[far < 45]) + 40


def test_files_follow_the_clinical_layout(folder: Path, table: list[dict[str, str]]) -> None:
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    assert files == sorted(row["image"] for row in table) and len(files) == 24
    for name in files:
        label, number = re.fullmatch(r"([^/]+)/\1_(\d{4})\.png", name).groups()
        assert label in CLASSES and int(number) >= 1
    assert "CP 2/CP 2_0001.png" in files


def test_the_table_says_what_the_images_show(folder: Path, table: list[dict[str, str]]) -> None:
    for row in table:
        with Image.open(folder / row["image"]) as image:
            assert image.mode == "L" and image.size == (int(row["width"]), int(row["height"]))
        count = int(row["num_doublets"])
        assert re.fullmatch(f"[01]{{{count}}}", row["outer_arms"])
        assert re.fullmatch(f"[01]{{{count}}}", row["inner_arms"])
        assert len(row["angles"].split()) == count
        assert row["image"].startswith(row["label"] + "/")


def test_a_second_run_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    simulate(tmp_path, 24, seed=5, mean_size=72)
    for path in folder.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes()


def test_image_k_depends_only_on_seed_k_and_its_class(
    folder: Path, table: list[dict[str, str]]
) -> None:
    rng = np.random.default_rng([5, 7])
    alone = render(sample_truth(table[7]["label"], rng, sample_shape(rng, 72)), rng)
    with Image.open(folder / table[7]["image"]) as image:
        np.testing.assert_array_equal(np.asarray(image), alone)


def test_classes_share_images_by_largest_remainder() -> None:
    assert np.isclose(sum(CLASS_FREQUENCIES), 1) and len(CLASS_FREQUENCIES) == len(CLASSES)
    for total in (100, 1200, 5210):
        quota = np.array(CLASS_FREQUENCIES) * total
        expected = np.floor(quota).astype(int)
        order = np.argsort(expected - quota)
        expected[order[: total - expected.sum()]] += 1
        assert class_counts(total) == expected.tolist()


@pytest.mark.parametrize("total", [0, 3, 10, 11, 17, 40])
def test_small_sets_add_up_and_from_ten_on_lack_no_class(total: int) -> None:
    counts = class_counts(total)
    assert sum(counts) == total and min(counts) >= (1 if total >= 10 else 0)


def test_sizes_and_aspects_spread_like_the_published_ones() -> None:
    rng = np.random.default_rng(0)
    height, width = np.array([sample_shape(rng, 192) for _ in range(4000)]).T
    size, aspect = np.sqrt(height * width), width / height
    assert np.isclose(size.mean(), 192, rtol=0.02) and np.isclose(size.std() / 192, 0.33, atol=0.02)
    assert np.isclose(aspect.mean(), 1.04, atol=0.01) and np.isclose(aspect.std(), 0.117, atol=0.01)


def test_an_unknown_class_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"Normale.*Subtle CP"):
        sample_truth("Normale", np.random.default_rng(0), (64, 64))
