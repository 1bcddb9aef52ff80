import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import ndimage

from common.data.image_io import read_image
from common.errors import UserError
from experiments.multi_stylegan.cells import CELL, ellipse_distance, reach, semi_axes
from experiments.multi_stylegan.growth import relaxed
from experiments.multi_stylegan.microscope import draw_microscope
from experiments.multi_stylegan.position import Position, draw_position
from experiments.multi_stylegan.simulator import (
    CELL_TRUTHS,
    FRAME_TRUTHS,
    OFFICIAL,
    TrapMovie,
    draw_trap,
    simulate,
)
from experiments.multi_stylegan.trap import FIELD, Trap, pear_distance

NAME = "img_{:09d}_{}_{:03d}_trap_{:03d}.tif"


@pytest.fixture(scope="module")
def movies() -> list[TrapMovie]:
    return [draw_trap(np.random.default_rng([4, k]), 10, 64, drawn(k)) for k in range(12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("traps")
    simulate(root, 13, seed=5, mean_size=32, frames_per_trap=3, positions=3, planes=2)
    return root


def drawn(k: int) -> Position:
    return draw_position(np.random.default_rng([3, k]))


def table(root: Path, name: str) -> list[dict[str, str]]:
    with (root / "tables" / f"{name}.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def cell(x: float, y: float, radius: float, number: int = 1, aspect: float = 1.0) -> np.ndarray:
    one = np.zeros(1, CELL)
    one["x"], one["y"], one["radius"], one["id"] = x, y, radius, number
    one["aspect"] = one["rest_aspect"] = aspect
    return one


def test_the_distance_to_a_pear_is_that_to_its_polygon() -> None:
    angles = np.linspace(0, 2 * np.pi, 4000)
    circles = [(27, 0.0), (15, 87 - 27 - 15)]
    points = [np.stack([r * np.cos(angles), r * np.sin(angles) - up], 1) for r, up in circles]
    hull = cv2.convexHull(np.concatenate(points).astype(np.float32))
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-45, 45, 300), rng.uniform(-80, 45, 300)
    found = pear_distance(x, y, 27, 15, 87)
    pairs = zip(x.tolist(), y.tolist(), strict=True)
    true = np.array([-cv2.pointPolygonTest(hull, pair, True) for pair in pairs])
    # Deep inside, the nearest tangent may be the one on the other side of the axis.
    near = true > -12
    np.testing.assert_allclose(found[near], true[near], atol=0.05)
    assert np.all(found[~near] < -11)


def test_the_way_off_a_pillar_is_the_slope_of_the_distance_and_pillars_are_mirrored() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.uniform(-100, 100, 200), rng.uniform(-90, 60, 200)
    trap = Trap(tilt=0.05)
    distance, away = trap.push(x, y, 1)
    for axis, step in enumerate(((1e-5, 0), (0, 1e-5))):
        slope = (trap.distance(x + step[0], y + step[1], 1) - distance) / 1e-5
        assert np.mean(np.abs(slope - away[:, axis]) < 1e-3) > 0.97
    np.testing.assert_allclose(trap.distance(-x, y, 0), distance)


def test_the_distance_to_an_ellipse_is_exact_for_circles_and_near_outlines() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.uniform(-40, 40, (2, 500))
    np.testing.assert_allclose(ellipse_distance(x, y, 20, 20)[0], np.hypot(x, y) - 20, atol=1e-3)
    angles = np.linspace(0, 2 * np.pi, 6000)
    outline = np.stack([24 * np.cos(angles), 18 * np.sin(angles)], 1)
    away = np.sqrt(((np.stack([x, y], 1)[:, None] - outline) ** 2).sum(-1)).min(1)
    found, relative = ellipse_distance(x, y, 24, 18)
    near = away < 4
    np.testing.assert_allclose(np.abs(found)[near], away[near], atol=0.35)
    assert np.array_equal(found < 0, relative < 1)


def test_the_reach_of_a_cell_ends_on_its_outline() -> None:
    one = cell(0, 0, 20, aspect=1.5)
    one["angle"] = 0.7
    way = np.array([[[np.cos(0.7), np.sin(0.7)], [-np.sin(0.7), np.cos(0.7)]]])
    long, short = semi_axes(one)
    np.testing.assert_allclose(reach(one, way)[0], [long[0], short[0]])
    assert np.isclose(long[0] * short[0], 20**2)


def test_cells_that_overlap_are_pushed_apart_and_the_small_one_goes_farther() -> None:
    before = np.concatenate([cell(0, -90, 24, 1), cell(20, -90, 12, 2)])
    after, _ = relaxed(before, Trap())
    assert np.hypot(*(after[0][axis] - after[1][axis] for axis in "xy")) > 36 - 0.2
    assert abs(after["x"][1] - 20) > 3 * abs(after["x"][0])


def test_a_cell_that_is_squeezed_pushes_the_pillars_apart_and_gets_longer() -> None:
    squeezed, trap = relaxed(cell(0, -8, 16), Trap())
    assert trap.widened_gap > Trap().gap + 0.5
    assert squeezed["aspect"][0] > 1
    free, still = relaxed(cell(0, -110, 16), Trap())
    assert still.widened_gap == Trap().gap and free["aspect"][0] == 1


def test_the_same_generator_gives_the_same_movie_and_a_longer_film_begins_alike() -> None:
    first = draw_trap(np.random.default_rng(7), 3, 32, planes=3)
    again = draw_trap(np.random.default_rng(7), 5, 32, planes=3)
    for name in ("bf", "gfp", "labels", "pillars"):
        assert np.array_equal(getattr(first, name), getattr(again, name)[:3])
    assert first.truths == again.truths[:3]
    other = draw_trap(np.random.default_rng(8), 3, 32, planes=3)
    assert np.mean(other.bf != first.bf) > 0.9


def test_every_size_shows_the_same_field() -> None:
    small, large = (draw_trap(np.random.default_rng(11), 2, size) for size in (64, 192))
    assert [row["cell"] for row in small.cells] == [row["cell"] for row in large.cells]
    averaged = cv2.resize(large.gfp[1, 0].astype(float), (64, 64), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(averaged.ravel(), small.gfp[1, 0].ravel())[0, 1] > 0.97
    averaged = cv2.resize(large.bf[1, 0].astype(float), (64, 64), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(averaged.ravel(), small.bf[1, 0].ravel())[0, 1] > 0.95
    # The middle of every third pixel.
    assert np.mean(large.labels[:, 1::3, 1::3] == small.labels) > 0.999
    for key in FRAME_TRUTHS:
        assert np.isclose(large.truths[1][key], 3 * small.truths[1][key], rtol=1e-4)


def test_the_trap_looks_as_described(movies: list[TrapMovie]) -> None:
    to_units = FIELD / 64
    for name, low, high in (("gap_px", 15, 32), ("pillar_width_px", 50, 58)):
        values = [to_units * truth[name] for movie in movies for truth in movie.truths]
        assert low < np.min(values) and np.max(values) < high
    for movie in movies:
        regions, count = ndimage.label(movie.pillars[0])
        assert count == 2
        heights = [part[0].stop - part[0].start for part in ndimage.find_objects(regions)]
        assert np.all(np.abs(np.array(heights) * to_units - 87) < 10)


def test_grey_levels_are_those_of_the_sister_set_and_of_the_window(movies: list[TrapMovie]) -> None:
    brightfield = np.stack([movie.bf for movie in movies]).astype(float)
    assert 5000 < brightfield.mean() < 6500 and 450 < brightfield.std() < 1200
    gfp = np.stack([movie.gfp for movie in movies])
    assert np.percentile(gfp, 0.1) > 150 and np.percentile(gfp, 99.9) < 2350
    assert gfp.dtype == np.uint16 and np.percentile(gfp, 99) > 800


def test_labels_are_where_cells_are_and_no_two_cells_are_one(movies: list[TrapMovie]) -> None:
    for movie in movies:
        for row in movie.cells:
            area = np.sum(movie.labels[row["frame"]] == row["cell"])
            assert area == row["area_px"] > 0
            assert area / 64**2 < 1.1 * row["field_share"] + 4 / 64**2
        known = {(row["frame"], row["cell"]) for row in movie.cells}
        for frame, labels in enumerate(movie.labels):
            assert {(frame, cell) for cell in np.unique(labels).tolist() if cell} <= known
        assert not np.any(movie.pillars & (movie.labels > 0))


def test_the_table_tells_where_in_the_frame_a_cell_is(movies: list[TrapMovie]) -> None:
    apart = []
    for movie in movies:
        for row in movie.cells:
            mask = movie.labels[row["frame"]] == row["cell"]
            x, y, reach = row["x_px"], row["y_px"], 1.2 * row["radius_px"]
            if reach < x < 63 - reach and reach < y < 63 - reach and not row["bud"]:
                apart.append(np.array(ndimage.center_of_mass(mask)) - (y, x))
    assert len(apart) > 50
    assert np.abs(np.mean(apart, axis=0)).max() < 0.1
    assert np.percentile(np.hypot(*np.transpose(apart)), 90) < 0.5


def test_counts_sizes_and_growth_are_those_of_yeast(movies: list[TrapMovie]) -> None:
    counts = [len(np.unique(labels)) - 1 for movie in movies for labels in movie.labels]
    assert 2 < np.mean(counts) < 7 and np.max(counts) <= 12
    free = [row for movie in movies for row in movie.cells if not row["bud"]]
    widths = np.array([2 * row["radius_px"] * FIELD / 64 for row in free])
    assert 30 < np.median(widths) < 50 and widths.max() < 82
    growth = np.array([row["growth_per_frame"] for row in free])
    assert 0.002 < np.median(growth) < 0.05


def test_buds_begin_small_grow_to_25_units_in_two_frames_and_inherit(
    movies: list[TrapMovie],
) -> None:
    first, third, likeness = [], [], []
    for movie in movies:
        rows = {(row["cell"], row["frame"]): row for row in movie.cells}
        for number, ancestry in movie.lineage.items():
            bud = rows.get((number, ancestry.born))
            if bud is None:
                continue
            assert ancestry.mother in movie.lineage and bud["bud"] == 1
            first.append(2 * bud["radius_px"] * FIELD / 64)
            later = rows.get((number, ancestry.born + 2))
            third += [2 * later["radius_px"] * FIELD / 64] if later else []
            mother = rows.get((ancestry.mother, ancestry.born))
            likeness += [np.log(bud["gfp"] / mother["gfp"])] if mother else []
            assert ancestry.separated is None or ancestry.separated > ancestry.born
    assert len(first) > 15
    assert np.min(first) >= 8 and np.max(first) <= 14
    assert 20 < np.mean(third) < 30
    levels = [row["gfp"] for movie in movies for row in movie.cells]
    assert np.std(likeness) < 0.6 * np.std(np.log(levels))


def test_gfp_bleaches_as_the_position_says() -> None:
    dim, bright = (
        draw_trap(np.random.default_rng(3), 8, 32, Position(bleaching=rate)) for rate in (0.1, 0.0)
    )
    for first, second in zip(dim.cells, bright.cells, strict=True):
        assert np.isclose(first["gfp"], second["gfp"] * 0.9 ** first["frame"], rtol=1e-4)
    light = [np.mean(movie.gfp[7] - Position().gfp_background) for movie in (dim, bright)]
    assert np.isclose(light[0] / light[1], 0.9**7, rtol=0.15)


def test_contrast_changes_its_sign_through_focus() -> None:
    movie = draw_trap(np.random.default_rng(2), 1, 128, planes=3)
    rim = movie.pillars[0] & ~ndimage.binary_erosion(movie.pillars[0], iterations=2)
    first, middle, last = (
        movie.bf[0].astype(float) / np.median(movie.bf[0], axis=(1, 2))[:, None, None]
    )
    assert first[rim].mean() < middle[rim].mean() < last[rim].mean()
    assert first[rim].mean() < 0.9 and last[rim].mean() > 1.02


def test_noise_of_both_cameras_is_that_of_their_photons() -> None:
    position = Position(photons=5000)
    microscope = draw_microscope(np.random.default_rng(0), 128, 1, position)
    flat = np.full((1, 128, 128), 6000.0), np.full((1, 128, 128), 1000.0)
    bf, gfp = microscope.photographs(*flat, np.random.default_rng(1))
    assert np.isclose(bf.std(), 6000 * np.sqrt(1 / 5000 + (8 / 5000) ** 2), rtol=0.03)
    assert np.isclose(gfp.std(), 1.1 * np.sqrt(900 / 1.1 + 6**2), rtol=0.03)


def test_the_layout_is_the_published_one(folder: Path) -> None:
    found = {path.relative_to(folder).as_posix() for path in folder.glob("Pos*/*.tif")}
    expected = {
        f"Pos{position}/" + NAME.format(time, channel, plane, trap)
        for position, trap, frames in ((18, 1, 3), (20, 1, 3), (21, 1, 3), (18, 2, 3), (20, 2, 1))
        for time in range(frames)
        for channel in ("01-BF0", "02-GFP")
        for plane in (0, 1)
    }
    assert found == expected
    pixels = read_image(folder / "Pos18" / NAME.format(1, "02-GFP", 1, 2)).pixels
    assert pixels.dtype == np.uint16 and pixels.size == 32 * 32


def test_the_tables_tell_of_every_cell_frame_lineage_and_position(folder: Path) -> None:
    rows = table(folder, "ground_truth")
    assert list(rows[0]) == ["position", "trap", *CELL_TRUTHS]
    with np.load(folder / "ground_truth" / "Pos21_trap_001.npz") as truth:
        labels, pillars = truth["labels"], truth["pillars"]
    assert labels.shape == pillars.shape == (3, 32, 32) and pillars.dtype == bool
    own = [row for row in rows if row["position"] == "Pos21"]
    for row in own:
        area = np.sum(labels[int(row["frame"])] == int(row["cell"]))
        assert area == int(row["area_px"])
    lineage = {row["cell"] for row in table(folder, "lineage") if row["position"] == "Pos21"}
    assert {row["cell"] for row in own} <= lineage
    assert len(table(folder, "frames")) == 13
    assert [row["position"] for row in table(folder, "positions")] == ["Pos18", "Pos20", "Pos21"]


def test_a_trap_depends_only_on_seed_position_and_number(folder: Path, tmp_path: Path) -> None:
    simulate(tmp_path, 12, seed=5, mean_size=32, frames_per_trap=3, positions=2, planes=2)
    for path in [*folder.glob("Pos18/*.tif"), *folder.glob("Pos20/*.tif")]:
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes()
    simulate(tmp_path / "other", 1, seed=6, mean_size=32)
    one = "Pos18/" + NAME.format(0, "01-BF0", 0, 1)
    assert (tmp_path / "other" / one).read_bytes() != (folder / one).read_bytes()


def test_eleven_positions_are_those_of_the_published_split(tmp_path: Path) -> None:
    simulate(tmp_path, 13, mean_size=32, frames_per_trap=1, positions=13)
    names = {path.name for path in tmp_path.glob("Pos*")}
    assert {f"Pos{number}" for number in OFFICIAL} <= names and len(names) == 13
    assert {"Pos27", "Pos29", "Pos31", "Pos32"} <= names


def test_what_cannot_be_simulated_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(UserError, match=r"31 pixels.*too few.*at least 32"):
        draw_trap(rng, 1, 31)
    with pytest.raises(UserError, match=r"4.*no number of focal planes.*1 to 3"):
        draw_trap(rng, 1, 32, planes=4)
    with pytest.raises(UserError, match=r"frames 0.*not positive"):
        draw_trap(rng, 0, 32)
    with pytest.raises(UserError, match=r"num_images 0.*not positive"):
        simulate(tmp_path, 0)
