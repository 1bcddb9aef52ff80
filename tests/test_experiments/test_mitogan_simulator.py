import csv
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from common.data.image_io import read_image
from common.errors import UserError
from experiments.mitogan.cell import draw_cell
from experiments.mitogan.imaging import (
    drawn_lines,
    filled_tubes,
    half_width,
    painted_discs,
    splat,
)
from experiments.mitogan.microscope import PHOTONS, Microscope, draw_microscope, ridge
from experiments.mitogan.motion import (
    ELONGATION,
    PEARL_UM,
    WIDTH_UM,
    Cut,
    Motion,
    State,
    draw_motion,
)
from experiments.mitogan.simulator import (
    NOISES,
    PIXEL_SIZE_UM,
    TRUTHS,
    Video,
    draw_scene,
    draw_video,
    simulate,
)
from experiments.mitogan.topology import Topology, topology
from experiments.mitogan.tubules import STEP_UM, Network, grow_network

Lines = list[list[tuple[float, float]]]


def network(lines: Lines, attachments: list[tuple[int, int]] | None = None) -> Network:
    points = np.array([point for line in lines for point in line], float)
    tubules = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    return Network(points, tubules, np.array(attachments or [], int).reshape(-1, 2))


def line(x: float, y: float, dx: float, dy: float, count: int) -> list[tuple[float, float]]:
    return [(x + dx * k * STEP_UM, y + dy * k * STEP_UM) for k in range(count)]


def counted(drawn: Network, hidden: tuple[int, ...] = ()) -> Topology:
    visible = ~np.isin(np.arange(len(drawn.points)), hidden)
    ones = np.ones(len(drawn.points))
    return topology(drawn, State(drawn.points, visible, ones, ones))


def still(drawn: Network, cuts: tuple[Cut, ...] = (), frames: int = 12) -> Motion:
    """Moves in no way but by its cuts."""
    motion = draw_motion(np.random.default_rng(0), drawn, frames, 2.0)
    flat = {"flicker": np.ones_like(motion.flicker), "brightness": np.ones(len(drawn.points))}
    pearls = replace(motion.pearls, bulge=np.zeros_like(motion.pearls.bulge))
    growth = motion.growth * (0, 1, 1)
    swing = np.zeros_like(motion.swing)
    return replace(motion, swing=swing, pearls=pearls, growth=growth, cuts=cuts, **flat)


def clear(microscope: Microscope) -> Microscope:
    return replace(microscope, glow=(0.0, 1.0), background=0.0, lamp=np.ones_like(microscope.lamp))


def microscope(size: int = 96) -> Microscope:
    return clear(draw_microscope(np.random.default_rng(0), size, PIXEL_SIZE_UM, "low"))


@pytest.fixture(scope="module")
def videos() -> list[Video]:
    return [draw_video(np.random.default_rng([4, k]), 4, 112, NOISES[k % 3]) for k in range(9)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mito")
    simulate(root, 8, seed=5, mean_size=96, frames_per_video=3)
    return root


@pytest.fixture(scope="module")
def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "tables" / "ground_truth.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


RING = [(np.cos(a), np.sin(a)) for a in np.linspace(0, 2 * np.pi, 41)]
FIGURES = {
    "line": (network([line(0, 0, 1, 0, 20)]), (1, 0, 2, 0)),
    "two lines that cross": (
        network([line(0, 0, 1, 0, 21), line(0.8, -0.8, 0, 1, 21)]),
        (2, 0, 4, 0),
    ),
    "Y": (network([line(0, 0, 1, 0, 20), line(0.8, 0, 0, 1, 9)], [(20, 10)]), (1, 1, 3, 0)),
    "X": (
        network(
            [line(0, 0, 1, 0, 20), line(0.8, 0, 0, 1, 9), line(0.8, 0, 0, -1, 9)],
            [(20, 10), (29, 10)],
        ),
        (1, 1, 4, 0),
    ),
    "ring": (network([RING], [(40, 0)]), (1, 0, 0, 1)),
    "ring on a stalk": (network([[*line(-1, 0, 1, 0, 25), *RING]], [(65, 25)]), (1, 1, 1, 1)),
    "two joined end to end": (
        network([line(0, 0, 1, 0, 9), line(0.64, 0, 1, 0, 9)], [(9, 8)]),
        (1, 0, 2, 0),
    ),
    "bridge between two": (
        network(
            [line(0, 0, 1, 0, 20), line(0, 1, 1, 0, 20), line(0.8, 0, 0, 1, 13)],
            [(40, 10), (52, 30)],
        ),
        (1, 2, 4, 0),
    ),
}


@pytest.mark.parametrize("figure", FIGURES)
def test_a_drawn_network_is_counted_by_its_graph(figure: str) -> None:
    drawn, expected = FIGURES[figure]
    found = counted(drawn)
    assert (found.components, found.branch_points, found.end_points, found.loops) == expected


def test_a_gap_in_the_middle_makes_two_of_one_and_opens_a_ring() -> None:
    found = counted(FIGURES["line"][0], hidden=(9, 10))
    assert (found.components, found.branch_points, found.end_points, found.loops) == (2, 0, 4, 0)
    assert np.isclose(found.length_um, 16 * STEP_UM)
    found = counted(FIGURES["ring"][0], hidden=(9, 10))
    assert (found.components, found.branch_points, found.end_points, found.loops) == (1, 0, 2, 0)


def test_a_hidden_root_leaves_a_free_branch() -> None:
    found = counted(FIGURES["Y"][0], hidden=(20, 21))
    assert (found.components, found.branch_points, found.end_points, found.loops) == (2, 0, 4, 0)


def test_the_way_to_the_next_end_is_measured_along_the_tubule() -> None:
    found = counted(FIGURES["Y"][0])
    np.testing.assert_allclose(found.from_end[:20] / STEP_UM, [*range(10), *range(9, -1, -1)])
    np.testing.assert_allclose(found.from_end[20:] / STEP_UM, range(8, -1, -1))
    assert counted(FIGURES["ring"][0]).from_end.min() > 100


def test_a_fission_makes_two_of_one_tubule_and_a_fusion_one_of_two() -> None:
    drawn = network([line(0, 0, 1, 0, 80)])
    for fission in (True, False):
        motion = still(drawn, (Cut(40, 5, fission, 1.0),))
        parts = [topology(drawn, motion.at(k)).components for k in range(12)]
        assert parts == ([1] * 5 + [2] * 7 if fission else [2] * 5 + [1] * 7)
        assert [motion.events(k, fission) for k in (4, 5, 11)] == [0, 1, 1]
        assert motion.events(11, not fission) == 0


def test_a_gap_opens_until_it_is_as_wide_as_drawn() -> None:
    drawn = network([line(0, 0, 1, 0, 80)])
    motion = still(drawn, (Cut(40, 1, True, 0.9),), frames=40)
    gaps = [STEP_UM * np.sum(~motion.at(k).visible) for k in range(40)]
    assert gaps[0] == 0 and 0.4 < gaps[1] < 0.6 and np.all(np.diff(gaps) >= 0)
    assert abs(gaps[-1] - 0.9) < 1.5 * STEP_UM


def test_a_free_tubule_grows_and_shrinks_by_a_fifth_at_most() -> None:
    lines = [line(0, k, 1, 0, 100) for k in range(40)]
    motion = draw_motion(np.random.default_rng(1), network(lines), 300, 2.0)
    motion = replace(motion, cuts=())
    lengths = np.array(
        [np.bincount(motion.network.tubules, motion.at(k).visible) for k in range(300)]
    )
    changes = (lengths.max(0) - lengths.min(0)) / (lengths.max(0) + lengths.min(0))
    assert changes.max() <= ELONGATION + 0.01
    assert changes.max() > 0.15 and changes.min() > 0.02


def test_what_is_attached_stays_attached_while_everything_moves() -> None:
    rng = np.random.default_rng(2)
    cell = draw_cell(rng, 14.0)[0]
    drawn = grow_network(rng, cell)
    motion = draw_motion(rng, drawn, 20, 3.0)
    first, second = drawn.attachments.T
    assert len(first) > 2
    moved = [motion.at(k).points - drawn.points for k in range(20)]
    for points in (motion.at(k).points for k in range(20)):
        np.testing.assert_allclose(points[first], points[second], atol=1e-9)
    assert 0.05 < np.std(moved) < 0.3


def test_pearls_of_a_tubule_are_as_far_apart_as_said_and_pass() -> None:
    drawn = network([line(0, k, 1, 0, 200) for k in range(30)])
    motion = draw_motion(np.random.default_rng(0), drawn, 60, 2.0)
    pearls = replace(
        motion.pearls, bulge=np.full(30, 0.4), begin=np.full(30, 20.0), end=np.full(30, 40.0)
    )
    motion = replace(motion, pearls=pearls)
    assert np.all((pearls.spacing > 0.9 * PEARL_UM[0]) & (pearls.spacing < 1.1 * PEARL_UM[1]))
    radii = motion.at(15).radii.reshape(30, 200)
    for row, spacing in zip(radii, pearls.spacing, strict=True):
        spectrum = np.abs(np.fft.rfft(row - row.mean(), 4096))
        assert np.isclose(np.argmax(spectrum) / 4096 / STEP_UM, 1 / spacing, rtol=0.05)
    np.testing.assert_allclose(motion.at(0).radii, motion.at(59).radii)
    assert (
        motion.pearling(15).all() and not motion.pearling(0).any() and not motion.pearling(59).any()
    )


def test_a_splat_keeps_weight_and_centre() -> None:
    rng = np.random.default_rng(0)
    xy, weights = rng.uniform(3, 27, (50, 2)), rng.random(50)
    light = splat(xy, weights, 32)
    assert np.isclose(light.sum(), weights.sum(), rtol=1e-5)
    centre = np.array(ndimage.center_of_mass(light))[::-1]
    np.testing.assert_allclose(centre, weights @ xy / weights.sum(), atol=1e-4)


def test_a_tube_weighs_as_much_as_its_cross_section() -> None:
    xy = np.array([(5.0, 5.0), (5.0, 6.0)])
    points, weights = filled_tubes(xy, np.array([(1.0, 0.0)] * 2), np.array([0.5, 2.0]))
    by_vertex = weights.reshape(-1, 2)
    np.testing.assert_allclose(by_vertex.sum(0), np.pi * np.array([0.25, 4.0]))
    # Second moment of a disc's projection: r² / 4.
    offset = (points[:, 0] - 5).reshape(-1, 2)
    variance = (by_vertex * offset**2).sum(0) / by_vertex.sum(0)
    np.testing.assert_allclose(variance, [0.0625, 1.0])


def test_the_half_width_is_that_of_a_line_or_of_a_disc_in_the_limits() -> None:
    assert np.isclose(half_width(np.array([0.05]), 1.0)[0], np.sqrt(2 * np.log(2)), rtol=2e-3)
    assert np.isclose(half_width(np.array([10.0]), 1.0)[0], 10 * np.sqrt(3) / 2, rtol=0.03)
    np.testing.assert_allclose(
        half_width(np.array([4.0]), 2.0), 2 * half_width(np.array([2.0]), 1.0)
    )


@pytest.mark.parametrize("radius", [0.5, 1.8, 4.0])
def test_the_half_width_agrees_with_a_profile_that_is_blurred_by_scipy(radius: float) -> None:
    x = np.arange(-20, 20, 0.01)
    profile = 2 * np.sqrt(np.maximum(radius**2 - x**2, 0))
    blurred = ndimage.gaussian_filter1d(profile, 150, truncate=6)
    half = np.ptp(x[blurred > blurred.max() / 2]) / 2
    assert np.isclose(half_width(np.array([radius]), 1.5)[0], half, atol=0.015)
    assert np.isclose(ridge(radius, 1.5), blurred.max(), rtol=2e-3)


def test_discs_are_painted_where_their_radius_reaches() -> None:
    xy, radii = np.array([(10.3, 12.6), (20.0, 5.0)]), np.array([4.2, 2.5])
    y, x = np.indices((24, 24))
    expected = np.zeros((24, 24), bool)
    for (cx, cy), radius in zip(xy, radii, strict=True):
        expected |= np.hypot(x - cx, y - cy) <= radius
    np.testing.assert_array_equal(painted_discs(xy, radii, 24), expected)
    assert not painted_discs(xy[:0], radii[:0], 24).any()


def test_lines_end_where_pieces_change() -> None:
    xy = np.array([(2.0, 3.0), (9.0, 3.0), (12.0, 8.0), (12.0, 14.0)])
    drawn = drawn_lines(xy, np.array([0, 0, 1, 1]), 16)
    expected = np.zeros((16, 16), bool)
    expected[3, 2:10] = expected[8:15, 12] = True
    np.testing.assert_array_equal(drawn, expected)


def test_the_mask_is_where_a_lonely_tubule_is_half_as_bright_as_on_its_axis() -> None:
    for angle in (0.0, 0.4, 1.1):
        drawn = network([line(0, 0, np.cos(angle), np.sin(angle), 60)])
        scene = draw_scene(still(drawn), microscope(), np.array([20.0, 20.3]), 0)
        half = scene.light > 0.5 * np.percentile(scene.light[scene.skeleton], 70)
        dice = 2 * np.sum(half & scene.mask) / (half.sum() + scene.mask.sum())
        assert dice > 0.97
        assert np.isclose(scene.light.max(), 1, atol=0.05)
        length = scene.truth["skeleton_length_um"]
        assert np.isclose(length, 59 * STEP_UM)
        area, width = scene.mask.sum() * PIXEL_SIZE_UM**2, scene.truth["apparent_width_um"]
        # Its ends are half discs, somewhat shortened by the blur.
        assert np.isclose(area, length * width - (1 - np.pi / 4) * width**2, rtol=0.07)


def test_a_dot_shorter_than_it_is_wide_is_seen_too() -> None:
    scene = draw_scene(
        still(network([line(0, 0, 1, 0, 5)])), microscope(), np.array([20.0, 20.0]), 0
    )
    rows, columns = np.nonzero(scene.mask)
    assert 8 < len(rows) < 25 and np.ptp(rows) <= 4 and np.ptp(columns) <= 7
    assert scene.light[20, 21] > 0.4


def test_the_light_of_a_tubule_does_not_depend_on_the_pixel_size() -> None:
    drawn = still(network([line(0, 0, 0.8, 0.6, 60)]))
    fine = replace(microscope(192), pixel_size_um=PIXEL_SIZE_UM / 2, glow=(0.3, 0.8))
    coarse = replace(microscope(96), glow=(0.3, 0.8))
    scene = draw_scene(drawn, coarse, np.array([25.0, 25.0]), 0)
    light = draw_scene(drawn, fine, np.array([50.5, 50.5]), 0).light
    binned = light.reshape(96, 2, 96, 2).mean((1, 3))
    np.testing.assert_allclose(binned, scene.light, atol=0.05)
    assert np.isclose(binned.sum(), scene.light.sum(), rtol=0.01)


def test_where_tubules_cross_their_light_adds_up() -> None:
    drawn = network([line(0, 2, 1, 0, 50), line(2, 0, 0, 1, 50)])
    scene = draw_scene(still(drawn), microscope(), np.array([30.0, 30.0]), 0)
    assert np.isclose(scene.light[50, 50], 2, atol=0.15)
    assert np.isclose(scene.light[50, 38], 1, atol=0.1)


@pytest.mark.parametrize("noise", NOISES)
def test_noise_is_that_of_photons_and_of_the_camera(noise: str) -> None:
    rng = np.random.default_rng(3)
    camera = draw_microscope(rng, 256, PIXEL_SIZE_UM, noise)
    low, high = PHOTONS[noise]
    assert low <= camera.photons <= high
    for light in (0.5, 2.0):
        clean = clear(camera).expected(np.full((256, 256), light, np.float32), 1.0)
        residual = camera.photograph(clean, rng) - clean.astype(np.float64)
        electrons = light * camera.photons + camera.read_noise**2
        assert abs(residual.mean()) < 0.05 * camera.gain * np.sqrt(electrons)
        # Rounding adds a twelfth.
        assert np.isclose(residual.var(), camera.gain**2 * electrons + 1 / 12, rtol=0.03)


def test_bleaching_takes_stain_and_leaves_background_and_offset() -> None:
    camera = draw_microscope(np.random.default_rng(2), 48, PIXEL_SIZE_UM, "middle")
    light = np.random.default_rng(0).random((48, 48))
    for stain in (1.0, 0.4):
        quanta = camera.photons * (stain * light + camera.background) * camera.lamp
        expected = camera.offset + camera.gain * quanta
        np.testing.assert_allclose(camera.expected(light, stain), expected, rtol=1e-5)
    assert 0.6 < camera.lamp.min() < camera.lamp.max() <= 1


def test_the_signal_of_a_video_falls_as_its_stain_does(videos: list[Video]) -> None:
    for video in videos:
        light = [
            clean[mask].mean() - np.median(clean)
            for clean, mask in zip(video.clean, video.mask, strict=True)
        ]
        stain = video.truth["stain"]
        assert np.isclose(light[-1] / light[0], stain[-1] / stain[0], rtol=0.15)


def test_no_tubule_lies_in_the_nucleus_and_most_lie_around_it() -> None:
    densities = []
    for k in range(12):
        rng = np.random.default_rng([6, k])
        cell, _, _ = draw_cell(rng, 16.0)
        drawn = grow_network(rng, cell)
        depths = np.array([cell.depth(x, y) for x, y in drawn.points.tolist()])
        assert np.mean((depths < -0.02) | (depths > 1)) < 0.03
        shells = np.array([cell.area(depth) for depth in (0, 0.3, 0.7, 1)])
        densities.append(np.histogram(depths, (0, 0.3, 0.7, 1))[0] / np.diff(shells))
    near, middle, far = np.mean(densities, axis=0)
    assert near > 1.2 * middle > 1.2 * far


def test_depth_is_nought_on_the_nucleus_and_one_on_the_outline() -> None:
    cell = draw_cell(np.random.default_rng(0), 20.0)[0]
    for depth in (0.0, 0.3, 1.0):
        found = [cell.depth(x, y) for x, y in cell.curve(depth).tolist()]
        np.testing.assert_allclose(found, depth, atol=1e-9)
    first, second = cell.nucleus
    assert np.isclose(cell.area(0), np.pi * first * second, rtol=1e-3)


def test_tubules_of_a_long_cell_run_along_it() -> None:
    shares = {True: [], False: []}
    for k in range(16):
        rng = np.random.default_rng([8, k])
        cell = draw_cell(rng, 20.0)[0]
        drawn = grow_network(rng, cell)
        steps = np.diff(drawn.points, axis=0)[np.diff(drawn.tubules) == 0]
        along = np.arctan2(steps[:, 1], steps[:, 0]) - cell.axis
        shares[cell.elongated].append(np.mean(np.cos(2 * along)))
    assert np.mean(shares[True]) > np.mean(shares[False]) + 0.15


def test_a_video_has_the_promised_arrays(videos: list[Video]) -> None:
    for video in videos:
        assert video.frames.shape == video.clean.shape == video.mask.shape == (4, 112, 112)
        assert video.frames.dtype == np.uint16 and video.clean.dtype == np.float32
        assert video.mask.dtype == video.skeleton.dtype == bool
        assert video.centres.shape == (4, 2)
        assert tuple(video.truth) == TRUTHS and {len(v) for v in video.truth.values()} == {4}
        assert np.percentile(video.frames, 1) > 80


def test_the_cell_stays_in_the_field_with_its_void_in_the_middle(videos: list[Video]) -> None:
    for video in videos:
        assert not video.mask[:, [0, -1]].any() and not video.mask[:, :, [0, -1]].any()
        y, x = np.indices((112, 112))
        for mask, (cx, cy) in zip(video.mask, video.centres, strict=True):
            assert mask[np.hypot(x - cx, y - cy) < 7].mean() < 0.05
            rows, columns = np.nonzero(mask)
            assert abs(rows.mean() - cy) < 20 and abs(columns.mean() - cx) < 20


def test_drift_moves_the_cell_and_never_out_of_the_field() -> None:
    ways = []
    for k in range(4):
        video = draw_video(np.random.default_rng([12, k]), 90, 56)
        border = np.ones((56, 56), bool)
        border[1:-1, 1:-1] = False
        assert not video.mask[:, border].any()
        ways.append(np.linalg.norm(video.centres[-1] - video.centres[0]))
        steps = np.linalg.norm(np.diff(video.centres, axis=0), axis=1)
        assert steps.max() < 1.5
    assert max(ways) > 2


def test_numbers_of_a_frame_fit_its_mask_and_skeleton(videos: list[Video]) -> None:
    for video in videos:
        truth = video.truth
        np.testing.assert_allclose(truth["foreground_fraction"], video.mask.mean((1, 2)))
        assert np.all(
            truth["skeleton_length_um"] > 0.8 * PIXEL_SIZE_UM * video.skeleton.sum((1, 2))
        )
        inside = [
            skeleton[mask].sum() / skeleton.sum()
            for skeleton, mask in zip(video.skeleton, video.mask, strict=True)
        ]
        assert min(inside) > 0.85
        assert np.all(np.diff(truth["fissions"]) >= 0) and np.all(truth["loops"] >= 0)


def test_width_is_that_of_real_tubules_and_foreground_that_of_tight_crops(
    videos: list[Video],
) -> None:
    # The mean over pearls and necks lies a little off the radius at rest.
    widths = [video.truth["tubule_width_um"].mean() for video in videos]
    assert WIDTH_UM[0] - 0.02 < min(widths) and max(widths) < WIDTH_UM[1] + 0.02
    crops = []
    for video in videos:
        rows, columns = np.nonzero(video.mask[0])
        crops.append(video.mask[0, rows.min() : rows.max(), columns.min() : columns.max()].mean())
    assert 0.16 < np.mean(crops) < 0.3


def test_frames_of_a_video_are_alike_and_videos_are_not(videos: list[Video]) -> None:
    within = [np.corrcoef(v.clean[0].ravel(), v.clean[3].ravel())[0, 1] for v in videos]
    between = [
        np.corrcoef(a.clean[0].ravel(), b.clean[0].ravel())[0, 1] for a, b in pairwise(videos)
    ]
    assert min(within) > 0.7 > max(between)
    levels = [np.median(video.frames) for video in videos]
    assert np.std(levels) / np.mean(levels) > 0.1


def test_the_stain_bleaches(videos: list[Video]) -> None:
    for video in videos:
        assert np.all(np.diff(video.truth["stain"]) < 0)
        assert 0.55 < video.truth["stain"][-1] / video.truth["stain"][0] < 1


def test_more_noise_leaves_less_of_the_signal() -> None:
    noises = []
    for noise in NOISES:
        video = draw_video(np.random.default_rng(1), 1, 96, noise)
        signal = np.ptp(np.percentile(video.clean, (5, 99)))
        noises.append(np.std(video.frames - video.clean) / signal)
    assert noises[0] < 0.5 * noises[1] < 0.3 * noises[2]


def test_a_pixel_of_half_the_size_shows_the_same_tubules_twice_as_wide() -> None:
    coarse, fine = (
        draw_video(np.random.default_rng(5), 1, size, "low", pixel)
        for size, pixel in ((96, 0.1), (192, 0.05))
    )
    for name in ("skeleton_length_um", "components", "loops"):
        np.testing.assert_allclose(coarse.truth[name], fine.truth[name])
    np.testing.assert_allclose(
        coarse.truth["foreground_fraction"], fine.truth["foreground_fraction"], rtol=0.03
    )


def test_files_follow_the_layout_and_say_pixel_size_and_interval(
    folder: Path, table: list[dict[str, str]]
) -> None:
    files = sorted(path.name for path in folder.glob("*.ome.tif"))
    assert files == ["cell_001.ome.tif", "cell_002.ome.tif", "cell_003.ome.tif"]
    assert [row["video"] for row in table] == [files[k // 3] for k in range(8)]
    assert [row["frame"] for row in table] == [str(k % 3) for k in range(8)]
    for name, frames in zip(files, (3, 3, 2), strict=True):
        image = read_image(folder / name)
        assert image.axes == "TYX" and image.pixels.dtype == np.uint16
        assert len(image.pixels) == frames and image.pixel_size_um == (0.1, 0.1)
        with tifffile.TiffFile(folder / name) as tiff:
            pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
        (interval,) = {row["interval_s"] for row in table if row["video"] == name}
        assert np.isclose(pixels["TimeIncrement"], float(interval), rtol=1e-5)
        assert 84 <= image.pixels.shape[1] <= 108


def test_masks_and_skeletons_lie_beside_the_videos(
    folder: Path, table: list[dict[str, str]]
) -> None:
    for row in table:
        name = row["video"].removesuffix(".ome.tif")
        with np.load(folder / "ground_truth" / f"{name}.npz") as truth:
            mask, skeleton = truth["mask"], truth["skeleton"]
        assert mask.dtype == skeleton.dtype == bool
        assert mask.shape == skeleton.shape == read_image(folder / row["video"]).pixels.shape
        share = mask[int(row["frame"])].mean()
        assert np.isclose(float(row["foreground_fraction"]), share, rtol=1e-4)
        assert row["noise"] in NOISES


def test_a_second_run_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    simulate(tmp_path, 8, seed=5, mean_size=96, frames_per_video=3)
    for path in folder.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes()


def test_a_video_depends_only_on_seed_and_number(folder: Path, tmp_path: Path) -> None:
    simulate(tmp_path, 6, seed=5, mean_size=96, frames_per_video=3)
    for name in ("cell_001", "cell_002"):
        for path in (f"{name}.ome.tif", f"ground_truth/{name}.npz"):
            assert (tmp_path / path).read_bytes() == (folder / path).read_bytes()
    first, second = (read_image(tmp_path / f"cell_00{k}.ome.tif").pixels for k in (1, 2))
    assert first.shape != second.shape or (first != second).mean() > 0.9


def test_one_level_of_noise_can_be_asked_for(tmp_path: Path) -> None:
    simulate(tmp_path, 3, mean_size=64, frames_per_video=1, noise="high")
    with (tmp_path / "tables" / "ground_truth.csv").open(newline="") as stream:
        assert {row["noise"] for row in csv.DictReader(stream)} == {"high"}


def test_an_unknown_noise_and_a_field_without_room_are_refused() -> None:
    with pytest.raises(UserError, match=r"loud.*low, middle, high"):
        draw_video(np.random.default_rng(0), 1, 96, "loud")
    with pytest.raises(UserError, match=r"40 pixels.*too few.*use at least 48"):
        draw_video(np.random.default_rng(0), 1, 40)
