"""Where microtubules lie: read from simulated images, described, drawn anew."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from read_cards import mlcroissant

from common.data.canvas import rectangle_mask
from common.data.image_io import read_image
from common.errors import Exit, UserError
from common.export import read_facts
from common.tables import from_csv, named_cells
from experiments.cilia_cvae import anatomy
from experiments.cilia_cvae.anatomy import Axoneme, doublet_positions
from experiments.cilia_cvae.datamodule import CiliaDataModule
from experiments.cilia_cvae.doublets import A_TUBULE, B_TUBULE
from experiments.cilia_cvae.layout import (
    KINDS,
    Arrangement,
    Layout,
    _apart,
    describe,
    draw,
    place,
    read,
    sample,
)
from experiments.cilia_cvae.simulator import CLASSES, render, sample_truth
from running import ROOT, Cli, at, refuses, smoke

REAL = ROOT.parent / "shared/data/real/cilia_cvae/Normal"


def cilia(
    label: str, count: int, size: int = 128, first: int = 0
) -> list[tuple[Axoneme, np.ndarray]]:
    made = []
    for k in range(first, count):
        rng = np.random.default_rng([5, CLASSES.index(label), k])
        truth = sample_truth(label, rng, (size, round(size * rng.normal(1.04, 0.08))))
        made.append((truth, render(truth, rng)[None]))
    return made


def even(count: int = 9, central: int = 2, side: int = 1) -> Arrangement:
    angles = 0.2 + 2 * np.pi * np.arange(count) / count
    spots = np.array([[-0.17, 0.0], [0.17, 0.0]])[:central]
    shape, radii, turns = np.array([0, 0, np.log(0.27), 0, 0]), np.ones(count), np.zeros(count)
    return Arrangement(shape, radii, angles, turns, side, spots)


@pytest.mark.parametrize("label", ["Normal", "Disarranged", "Microtub Abnorm", "ODA_IDA"])
def test_doublets_are_found_where_the_simulator_drew_them(label: str) -> None:
    far = []
    for truth, image in cilia(label, 6):
        arrangement = read(image)
        layout = place(arrangement, truth.height, truth.width)
        points = layout.points * [truth.width, truth.height] - 0.5
        a, b = (points[layout.kinds == kind] for kind in (0, 1))
        drawn = doublet_positions(truth)
        away = np.linalg.norm((a + b)[:, None] / 2 - drawn[None], axis=2).min(0)
        far += (away * truth.pixel_size_um * 1e3).tolist()
    assert np.median(far) < 3, "nanometres"
    assert np.mean(np.array(far) < 10) > 0.9


def test_tubules_are_found_where_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    project, part, drawn = anatomy._project, anatomy._doublet_template()[2], []

    def keep(points: np.ndarray, *others: np.ndarray) -> np.ndarray:
        drawn.extend([points] if points.shape[1:2] == part.shape else [])
        return project(points, *others)

    monkeypatch.setattr(anatomy, "_project", keep)
    far = {True: [], False: []}
    for k in range(16):
        truth, image = cilia("Disarranged", k + 1, first=k)[0]
        # The first is the cilium itself, the others are its neighbours.
        points = drawn[0]
        drawn.clear()
        layout = place(read(image), truth.height, truth.width)
        size = np.array([truth.width, truth.height]) * truth.pixel_size_um
        middle = np.array([truth.centre_x, truth.centre_y]) + 0.5
        for kind in (0, 1):
            stands = points[:, part == kind].mean(1) / 1e3 @ anatomy.stretch(truth).T
            stands += middle * truth.pixel_size_um
            found = layout.points[layout.kinds == kind] * size
            away = np.linalg.norm(stands[:, None] - found, axis=2).min(1) * 1e3
            far[truth.clockwise] += away[np.array(truth.displaced)].tolist()
    # Not turned as they are, they would be 4 nm off.
    assert all(len(some) >= 10 and np.median(some) < 3 for some in far.values())


def test_the_side_of_the_arms_is_read() -> None:
    # The simulator's clockwise is along the angle, in which y points down.
    right = [read(image).side == (1 if truth.clockwise else -1) for truth, image in cilia("IDA", 8)]
    assert np.mean(right) >= 0.75


def test_central_microtubules_are_found() -> None:
    for label, number in (("No CP", 0), ("Subtle CP", 1), ("Normal", 2), ("CP 2", 4)):
        found = [len(read(image).central) for _, image in cilia(label, 4)]
        assert np.mean(np.array(found) == number) >= 0.75, label


def test_what_holds_no_axoneme_has_no_layout() -> None:
    assert read(np.full((1, 64, 64), 7, np.uint8)) is None
    assert read(np.random.default_rng(0).integers(0, 255, (1, 64, 64)).astype(np.uint8)) is None


def test_a_layout_follows_the_aspect_ratio_and_the_side() -> None:
    wide = place(even(), 100, 150)
    middle = [wide.points[wide.kinds == kind] for kind in (0, 1)]
    pixels = (middle[0] + middle[1]) / 2 * [150, 100] - [75, 50]
    spread = np.abs(pixels).max(0)
    assert spread[0] / spread[1] == pytest.approx(1.5, rel=0.05)
    mirrored = place(even(side=-1), 100, 150)
    centre = (mirrored.points[mirrored.kinds == 0] + mirrored.points[mirrored.kinds == 1]) / 2
    assert not np.allclose(mirrored.points, wide.points)
    np.testing.assert_allclose(centre, (middle[0] + middle[1]) / 2, atol=0.02)
    far = {}
    for count in (8, 10):
        ring = place(even(count), 128, 128)
        middle = (ring.points[ring.kinds == 0] + ring.points[ring.kinds == 1]) / 2
        far[count] = np.linalg.norm(middle - 0.5, axis=1).mean()
    assert far[10] / far[8] == pytest.approx((10 / 8) ** 0.5, rel=0.01)
    gap = np.hypot(*(A_TUBULE - B_TUBULE)) / 84 * 0.27 * 128
    square = place(even(), 128, 128)
    a, b = (square.points[square.kinds == kind] for kind in (0, 1))
    found = np.linalg.norm(a - b, axis=1) * 128
    np.testing.assert_allclose(found, gap, rtol=1e-6)


@pytest.mark.parametrize("label", ["Normal", "ODA", "IDA", "ODA_IDA", "unheard of"])
def test_arms_are_where_the_class_has_them(label: str) -> None:
    kinds = place(even(), 100, 100, label).kinds
    counts = [int((kinds == KINDS.index(arm)).sum()) for arm in ("outer_arm", "inner_arm")]
    known = label != "unheard of"
    assert counts == [9 * (known and arm not in label) for arm in ("ODA", "IDA")]


def test_training_names_the_classes_whose_arms_are_not_known(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.cilia_cvae.datamodule.read_layouts", lambda *_: [])
    for layout, classes in ((True, ("Normal", "oda", "2")), (False, ("oda",)), (True, CLASSES)):
        data = CiliaDataModule(layout=layout)
        data.card = replace(data.card, classes=classes)
        data.prepare_training()
    assert capsys.readouterr().out.splitlines() == [
        "note: layouts show no arms in oda, 2; "
        "arms are known of classes named as in data_cards/cilia_tem.md"
    ]


@pytest.mark.parametrize("rows", [64, 40])
def test_a_guide_has_a_spot_for_each_microtubule_inside_the_image(rows: int) -> None:
    mask = rectangle_mask(rows, 64, 64)
    layout = Layout(np.array([[0.25, 0.5], [0.75, 0.5], [0.5, 0.25]]), np.array([0, 0, 2]), 0.03)
    guide = draw(layout, mask)
    assert guide.shape == (len(KINDS), 64, 64) and guide.dtype == np.uint8
    top = (64 - rows) // 2
    for kind, x, y in ((0, 15.5, top + rows / 2 - 0.5), (0, 47.5, top + rows / 2 - 0.5),
                       (2, 31.5, top + rows / 4 - 0.5)):  # fmt: skip
        near = guide[kind, int(y) : int(y) + 2, int(x) : int(x) + 2]
        assert near.min() > 200
    assert not guide[1].any() and guide[0, :, 30:34].max() < 10
    assert not draw(None, mask).any()


@pytest.mark.parametrize("side", [1, -1])
def test_a_turned_doublet_takes_its_tubules_with_it(side: int) -> None:
    plain = even(side=side)
    turned = plain._replace(turns=np.full(9, 0.5))
    (a, b), (a_turned, b_turned) = (
        [layout.points[layout.kinds == kind] for kind in (0, 1)]
        for layout in (place(plain, 100, 100), place(turned, 100, 100))
    )
    before, after = ((x - y) @ [1, 1j] for x, y in ((a, b), (a_turned, b_turned)))
    np.testing.assert_allclose(np.angle(after / before), 0.5, atol=1e-6)
    np.testing.assert_allclose(np.abs(after), np.abs(before))


def test_layouts_are_drawn_as_they_were_described() -> None:
    rng = np.random.default_rng(0)
    arrangements, labels = [], []
    for k in range(400):
        count = 9 if k % 2 else int(rng.choice((8, 10)))
        arrangement = even(count, central=2 if k % 2 else 0)
        radii = arrangement.radii + rng.normal(0, 0.02, count)
        turns = rng.normal(0, 0.1, count)
        if k % 2:
            radii[3], turns[3] = 0.7, rng.normal(0, 0.4)
        shape = arrangement.shape + rng.normal(0, [0.01, 0.01, 0.03, 0.02, 0.02])
        arrangements.append(arrangement._replace(radii=radii, turns=turns, shape=shape))
        labels.append("odd" if k % 2 else "even")
    known = describe([*arrangements, None], [*labels, "even"])
    drawn = {name: [sample(known, name, rng) for _ in range(400)] for name in ("even", "odd")}
    assert {len(arrangement.radii) for arrangement in drawn["odd"]} == {9}
    share = np.mean([len(arrangement.radii) == 8 for arrangement in drawn["even"]])
    assert share == pytest.approx(np.mean([len(a.radii) == 8 for a in arrangements[::2]]), abs=0.1)
    assert {len(arrangement.central) for arrangement in drawn["odd"]} == {2}
    assert {len(arrangement.central) for arrangement in drawn["even"]} == {0}
    inside = [np.sum(arrangement.radii < 0.85) for arrangement in drawn["odd"]]
    assert np.mean(inside) == pytest.approx(1, abs=0.05)
    assert not any(np.any(arrangement.radii < 0.85) for arrangement in drawn["even"])
    radii, turns = (
        np.concatenate([getattr(a, of) for a in drawn["odd"]]) for of in ("radii", "turns")
    )
    assert np.std(turns[radii > 0.85]) == pytest.approx(0.1, rel=0.1)
    assert np.std(turns[radii < 0.85]) == pytest.approx(0.4, rel=0.15)
    shapes = np.stack([arrangement.shape for arrangement in drawn["odd"]])
    np.testing.assert_allclose(shapes.std(0), [0.01, 0.01, 0.03, 0.02, 0.02], rtol=0.2)
    assert {arrangement.side for arrangement in drawn["odd"]} == {-1, 1}
    assert sample(known, "unseen", rng) is None


def test_classes_of_one_seed_are_drawn_in_one_place() -> None:
    shapes = np.random.default_rng(0).normal(0, 0.1, (40, 5))
    some = [even(8 + k % 2, central=2 * (k % 2))._replace(shape=s) for k, s in enumerate(shapes)]
    apart = [even()._replace(shape=s, radii=1 - 0.3 * (np.arange(9) == 4)) for s in shapes]
    known = describe(some + apart, ["eight", "nine"] * 20 + ["apart"] * 40)
    one, other = (sample(known, name, np.random.default_rng(7)) for name in ("eight", "nine"))
    np.testing.assert_array_equal(one.shape, other.shape)
    assert (len(one.radii), len(other.radii)) == (8, 9) and one.side == other.side
    assert one.angles[0] == pytest.approx(other.angles[0], abs=0.05)
    ring = known | {"turn": [0.1, 0.1]}
    turns = [sample(ring, name, np.random.default_rng(7)).turns for name in ("nine", "apart")]
    np.testing.assert_array_equal(*turns)


def test_images_without_axonemes_cannot_be_described() -> None:
    with pytest.raises(UserError, match="show an axoneme in 9 of 40 images; "):
        describe([even()] * 9 + [None] * 31, ["Normal"] * 40)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not here")
def test_layouts_of_real_sections_are_nine_and_two() -> None:
    for path in sorted(REAL.iterdir()):
        pixels = read_image(path).pixels
        grey = pixels.mean(0) if pixels.ndim == 3 else pixels
        arrangement = read(grey[None])
        assert len(arrangement.radii) == 9 and len(arrangement.central) == 2, path.name


def test_generated_images_come_with_their_layout(tmp_path: Path, cli: Cli) -> None:
    few = ["--model.init_args.num_steps", "2"]
    fit = ["fit", *smoke("cilia_cvae"), *overlays("diffusion", "layout"), *few, *at(tmp_path, "d")]
    assert cli("cilia_cvae", *fit).code == 0
    assert cli("cilia_cvae", "generate", "--n", "3", *at(tmp_path, "d")).code == 0
    samples = tmp_path / "runs/cilia_cvae/d/samples"
    rows = named_cells(from_csv((samples / "annotations.csv").read_bytes()))
    assert {row["structure"] for row in rows} <= set(KINDS)
    assert all(0 < float(row[axis]) < 1 for row in rows for axis in ("x", "y"))
    first = (samples / "000000.png").read_bytes(), rows
    assert cli("cilia_cvae", "generate", "--n", "2", *at(tmp_path, "d")).code == 0
    again = named_cells(from_csv((samples / "annotations.csv").read_bytes()))
    assert (samples / "000000.png").read_bytes() == first[0]
    assert again == [row for row in rows if row["name"] != "000002.png"]
    annotations_are_vouched_for(tmp_path, cli)
    checkpoint = tmp_path / "runs/cilia_cvae/d/checkpoints/best.ckpt"
    saved = torch.load(checkpoint, weights_only=True)["CiliaDataModule"]["layout"]
    assert set(saved["classes"]) <= set(CLASSES)


def annotations_are_vouched_for(workspace: Path, cli: Cli) -> None:
    """By the table of samples, and by what is handed on with them."""
    run = workspace / "runs/cilia_cvae/d"
    path, card = run / "samples/annotations.csv", ["card", *at(workspace, "d")]
    content, table = path.read_bytes(), run / "samples/manifest.csv"
    digest = hashlib.sha256(content).hexdigest()
    named = table.read_text()
    assert {row["annotations_sha256"] for row in named_cells(from_csv(named.encode()))} == {digest}
    assert cli("cilia_cvae", *card).code == 0
    croissant = run / "card/croissant.json"
    found = {one["@id"]: one for one in json.loads(croissant.read_text())["distribution"]}
    assert found["annotations.csv"]["sha256"] == digest
    assert not mlcroissant(workspace).Dataset(jsonld=croissant).metadata.ctx.issues.errors
    assert "`annotations.csv`, where the structures are" in (run / "card/data_card.md").read_text()
    path.write_bytes(content.replace(b"0.5", b"0.6", 1))
    refuses(cli("cilia_cvae", *card), 3, "annotations.csv: is not the file that manifest.csv names")
    path.unlink()
    refuses(cli("cilia_cvae", *card), 3, "annotations.csv: is gone; manifest.csv names it")
    path.write_bytes(content)
    table.write_text(re.sub(f",{digest}|,annotations_sha256", "", named))
    refuses(cli("cilia_cvae", *card), 3, "annotations.csv: has no SHA-256", "make generate")
    table.write_text(named)
    assert cli("cilia_cvae", *card).code == 0


def test_layouts_of_another_version_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = CiliaDataModule(layout=True)
    counts = {"train": dict.fromkeys(CLASSES, 1)}
    facts = {"classes": CLASSES, "image_size": 32, "log_aspect": [0, 0.1], "counts": counts}
    data.load_state_dict({"facts": facts, "trained_on": [], "layout": {"version": 1}})
    with pytest.raises(UserError, match="another version") as refused:
        data.plan_generation(2, 0, "balanced")
    assert refused.value.code == Exit.CHECKPOINT


def test_layouts_are_read_for_training_alone_and_again_where_damaged(
    tmp_path: Path, cli: Cli
) -> None:
    fit = ["fit", *smoke("cilia_cvae"), *overlays("layout")]
    assert cli("cilia_cvae", *fit, *at(tmp_path, "d")).code == 0
    (kept,) = tmp_path.glob("data/processed/*/layouts-train-*.pt")
    content = kept.read_bytes()
    kept.write_bytes(content[:-100])
    again = cli("cilia_cvae", *fit, *at(tmp_path, "e"))
    assert again.code == 0 and f"{kept.name} is damaged and is made again" in again.out
    kept.unlink()
    other = ["--resume", "true", "--data.test_fraction", "0.4"]
    other += ["--allow-change", "data.test_fraction"]
    refuses(cli("cilia_cvae", "fit", *at(tmp_path, "e"), *other), 3, "is not the data set")
    assert not [*tmp_path.glob("data/processed/*/layouts-train-*.pt")]
    assert cli("cilia_cvae", "generate", "--n", "6", *at(tmp_path, "e")).code == 0
    quick = ["--extractor", "random-conv"]
    assert cli("cilia_cvae", "evaluate", *at(tmp_path, "e"), *quick).code == 0
    assert not kept.exists()


@pytest.mark.parametrize("before", [(), pytest.param(("hierarchical",), marks=pytest.mark.slow)])
def test_other_models_take_layouts_as_well(
    before: tuple[str, ...], tmp_path: Path, cli: Cli
) -> None:
    fit = ["fit", *smoke("cilia_cvae"), *overlays(*before, "layout"), *at(tmp_path, "d")]
    assert cli("cilia_cvae", *fit).code == 0
    assert cli("cilia_cvae", "generate", "--n", "2", *at(tmp_path, "d")).code == 0
    assert (tmp_path / "runs/cilia_cvae/d/samples/annotations.csv").is_file()
    assert cli("cilia_cvae", "export", *at(tmp_path, "d")).code == 0
    guides = read_facts(tmp_path / "runs/cilia_cvae/d/export")["guides"]
    assert guides["channels"] == list(KINDS)
    assert sample(guides["layouts"], "Normal", np.random.default_rng(0)) is not None


def test_layouts_are_told_where_the_model_sees_them_and_nowhere_else(
    tmp_path: Path, cli: Cli
) -> None:
    fit = ["fit", *smoke("cilia_cvae"), "--data.layout", "true", *at(tmp_path, "d")]
    refuses(cli("cilia_cvae", *fit), 2, "--model.guide_channels 0", "5 channels")
    assert cli("cilia_cvae", "fit", *smoke("cilia_cvae"), *at(tmp_path, "e")).code == 0
    made = cli("cilia_cvae", "generate", *at(tmp_path, "e"), "--data.layout", "true")
    refuses(made, 2, "--data.layout true", "trained without")


def test_images_around_training_images_take_their_layouts(tmp_path: Path, cli: Cli) -> None:
    fit = ["fit", *smoke("cilia_cvae"), *overlays("layout"), *at(tmp_path, "d")]
    assert cli("cilia_cvae", *fit).code == 0
    made = cli("cilia_cvae", "generate", *at(tmp_path, "d"), "--around_training", "true")
    assert made.code == 0, made.err
    assert not (tmp_path / "runs/cilia_cvae/d/samples/annotations.csv").exists()


def test_displaced_doublets_are_as_many_as_asked_and_no_neighbours() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        chosen = np.sort(_apart(9, 4, rng))
        assert len(chosen) == 4 and np.all(np.diff(chosen) > 1)
        assert (chosen[0] - chosen[-1]) % 9 != 1


@pytest.mark.parametrize("names", [("diffusion", "layout"), ("layout",)])
def test_a_model_that_wants_layouts_says_so_where_the_data_give_none(
    names: tuple[str, ...], tmp_path: Path, cli: Cli
) -> None:
    off = ["--data.layout", "false"]
    result = cli(
        "cilia_cvae", "fit", *smoke("cilia_cvae"), *overlays(*names), *off, *at(tmp_path, "d")
    )
    refuses(result, 2, "--model.guide_channels 5", "--data.layout true")


def overlays(*names: str) -> list[str]:
    paths = [str(ROOT / f"experiments/cilia_cvae/configs/{name}.yaml") for name in names]
    return [word for path in paths for word in ("--config", path)]
