from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from common import figures
from common.data.image_io import read_image
from common.errors import UserError
from common.figures import latent_map, principal_components, write_figures
from common.runs.folder import RunFolder
from running import Cli, at, run_folder


def test_principal_components_are_the_axes_of_largest_variance() -> None:
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.standard_normal((5, 5)))
    spread = np.array([9.0, 4.0, 1.0, 0.1, 0.1])
    features = rng.standard_normal((4000, 5)) * spread @ turn.T + 7
    points, share = principal_components(features)
    assert np.abs(points.mean(0)).max() < 1e-9
    np.testing.assert_allclose(points.std(0), spread[:2], rtol=0.05)
    np.testing.assert_allclose(share, (spread**2 / (spread**2).sum())[:2], rtol=0.05)
    expected = (features - features.mean(0)) @ turn[:, :2]
    assert abs(np.corrcoef(points[:, 0], expected[:, 0])[0, 1]) > 0.99


def test_the_map_shows_every_point_once_and_names_the_classes_that_are_there() -> None:
    points = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 1.0]])
    drawn = latent_map(points, np.array([0, 8, 8]), ["<a>", *"bcdefgh", "i"], np.array([0.6, 0.3]))
    svg = ET.fromstring(drawn)
    kinds = [child.tag.rpartition("}")[2] for child in svg]
    texts = [child.text for child in svg if child.tag.endswith("text")]
    # One more of each class in the legend, and the ground.
    assert kinds.count("circle") == 2 and kinds.count("rect") == 4
    assert texts[:2] == ["<a>", "i"] and "60%" in texts[2]


def test_the_map_has_images_of_every_class_where_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = [SimpleNamespace(label=label) for label in "aaaabbbbcccc"]
    draw = np.random.default_rng(0)
    canvas = draw.integers(0, 255, (len(samples), 1, 8, 8), dtype=np.uint8)

    def packed(data: object, split: str, rows: list[int]) -> list[SimpleNamespace]:
        return [SimpleNamespace(canvas=canvas[row]) for row in rows]

    monkeypatch.setattr(figures, "packed_images", packed)
    monkeypatch.setattr(figures, "MOST_POINTS", 7)
    model = SimpleNamespace(device="cpu", embed=lambda image: image.flatten(1))
    data = SimpleNamespace(classes="abc", prepared=SimpleNamespace(samples=lambda split: samples))
    points, labels, _ = figures._latents(model, data)
    assert len(points) == 7 and set(labels.tolist()) == {0, 1, 2}


def test_figures_show_every_class_beside_validation_images(
    trained: Path, experiment: str, cli: Cli
) -> None:
    result = cli(experiment, "figures", "--n", "2", *at(trained, "first"))
    assert result.code == 0, result.err
    figures = run_folder(trained, experiment, "first") / "figures"
    if not (figures / "classes.png").exists():
        # Without classes, what the model itself draws.
        assert [path for path in figures.iterdir() if path.suffix == ".png"]
        return
    swap, both = (read_image(figures / f"{name}.png") for name in ("class_swap", "classes"))
    assert both.pixels.shape[-1] == swap.pixels.shape[-1]
    assert both.pixels.shape[-2] == pytest.approx(2 * swap.pixels.shape[-2], abs=2)


def test_data_without_classes_have_no_classes_to_compare(tmp_path: Path) -> None:
    facts = {"counts": {"train": {"": 9}}}
    data = SimpleNamespace(classes=(), facts=facts, card=SimpleNamespace(name="mito"))
    with pytest.raises(UserError, match="no classes to compare"):
        write_figures(RunFolder(tmp_path, "exp", "first"), None, data, count=2, seed=0)
