"""Pictures of what a model has learned: classes side by side, one seed in all classes, its latents.

The folder `figures` of a run holds

- `classes.png`: a column for each class; above, validation images, below, generated ones;
- `class_swap.png`: a row for each seed; nothing but the class changes along it;
- `latent_map.svg`: validation images by the first two principal components of the model's own
  features, coloured by class, where the model has an encoder;
- what the module's ``draw`` adds, which is called with the folder, the data, a number and a seed.
"""

from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytorch_lightning as pl
import torch

from common.callbacks import image_grid, to_uint8
from common.data.datamodule import ImageDataModule
from common.data.image_io import write_png
from common.errors import Exit, UserError, visible
from common.run_images import packed_images
from common.runs.folder import RunFolder
from common.spread import evenly
from common.storage import whole_file

CLASSES, SWAP, MAP = "classes.png", "class_swap.png", "latent_map.svg"
# Points of the map; more of them hide each other.
MOST_POINTS = 2000
_SIDE, _MARGIN, _LEGEND = 480, 12, 170
# Okabe and Ito 2008: told apart with any colour vision; more classes differ by shape, too.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")


def write_figures(
    folder: RunFolder, model: pl.LightningModule, data: ImageDataModule, count: int, seed: int
) -> list[str]:
    """Draws the figures; images of the test split are in none of them.

    Args:
        folder: of the run.
        model: with the weights of a checkpoint, in evaluation mode.
        data: set up; its validation images are shown.
        count: images a class, or seeds.
        seed: the first of them.

    Returns:
        Names of the files.

    Raises:
        UserError: the data have no classes, and the model draws nothing of its own.
    """
    folder.figures.mkdir(parents=True, exist_ok=True)
    drawn = _of_classes(folder, model, data, count, seed)
    if hasattr(model, "draw"):
        drawn += model.draw(folder.figures, data, count, seed)
    if not drawn:
        problem = "has no classes to compare"
        raise UserError(Exit.USAGE, data.card.name, problem, "look at the run's previews instead")
    return drawn


@torch.no_grad()
def _of_classes(
    folder: RunFolder, model: pl.LightningModule, data: ImageDataModule, count: int, seed: int
) -> list[str]:
    present = [name for name in data.classes if data.facts["counts"]["train"].get(name)]
    if not present:
        return []
    made = np.stack([_made(model, data, name, count, seed) for name in present])  # [K, N, C, S, S]
    real = np.stack([_real(data, name, count) for name in present])
    columns = len(present)
    swap = image_grid(made.swapaxes(0, 1).reshape(-1, *made.shape[2:]), columns)
    both = np.concatenate([real, made], 1).swapaxes(0, 1)
    write_png(folder.figures / SWAP, swap)
    write_png(folder.figures / CLASSES, image_grid(both.reshape(-1, *made.shape[2:]), columns))
    if not hasattr(model, "embed"):
        (folder.figures / MAP).unlink(missing_ok=True)
        return [CLASSES, SWAP]
    points, labels, share = _latents(model, data)
    with whole_file(folder.figures / MAP) as stream:
        stream.write(latent_map(points, labels, data.classes, share).encode())
    return [CLASSES, SWAP, MAP]


def principal_components(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates [N, 2] along the two directions of largest variance, and their shares of it.

    Args:
        features: [N, D], D at least 2.
    """
    centred = features - features.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    power = sizes**2
    return left[:, :2] * sizes[:2], power[:2] / max(power.sum(), 1e-30)


def latent_map(
    points: np.ndarray, labels: np.ndarray, classes: Sequence[str], share: np.ndarray
) -> str:
    """An SVG of points [N, 2], coloured and shaped by class.

    Args:
        points: coordinates.
        labels: index of each point's class [N].
        classes: names; index = label.
        share: of the variance along either axis.
    """
    low, high = points.min(0), points.max(0)
    place = (points - low) / np.maximum(high - low, 1e-12) * (_SIDE - 2 * _MARGIN) + _MARGIN
    box = f"0 0 {_SIDE + _LEGEND} {_SIDE}"
    style = {"font-family": "sans-serif", "font-size": "12"}
    svg = ET.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": box, **style})
    told = f"principal components 1 ({share[0]:.0%} of the variance) and 2 ({share[1]:.0%})"
    ET.SubElement(svg, "title").text = told
    _draw(svg, "rect", x=0, y=0, width=_SIDE + _LEGEND, height=_SIDE, fill="#ffffff")
    for (x, y), label in zip(place, labels, strict=True):
        _point(svg, x, _SIDE - y, int(label))
    present = sorted(set(labels.tolist()))
    for row, label in enumerate(present):
        y = 24 + 20 * row
        _point(svg, _SIDE + 14, y, label)
        _draw(svg, "text", x=_SIDE + 26, y=y + 4).text = visible(classes[label])
    _draw(svg, "text", x=_SIDE + 8, y=_SIDE - 34).text = f"across: {share[0]:.0%} of the variance"
    _draw(svg, "text", x=_SIDE + 8, y=_SIDE - 16).text = f"up: {share[1]:.0%} of the variance"
    return ET.tostring(svg, encoding="unicode")


def _point(svg: ET.Element, x: float, y: float, label: int) -> None:
    colour = {"fill": _COLOURS[label % len(_COLOURS)], "fill-opacity": "0.75"}
    if label < len(_COLOURS):
        _draw(svg, "circle", cx=x, cy=y, r=3, **colour)
    else:
        _draw(svg, "rect", x=x - 3, y=y - 3, width=6, height=6, **colour)


def _draw(svg: ET.Element, tag: str, **attributes: Any) -> ET.Element:
    told = {k: v if isinstance(v, str) else f"{v:.1f}" for k, v in attributes.items()}
    return ET.SubElement(svg, tag, told)


def _made(
    model: pl.LightningModule, data: ImageDataModule, label: str, count: int, seed: int
) -> np.ndarray:
    batch = data.example_batch(count, seed, model.device, labels=label)
    return to_uint8(model.predict_step(batch, 0)["image"].cpu())


def _real(data: ImageDataModule, label: str, count: int) -> np.ndarray:
    """The first validation images of a class, followed by white ones where there are too few."""
    samples = data.prepared.samples("val")
    rows = [row for row, sample in enumerate(samples) if sample.label == label]
    seen = [one.canvas for one in packed_images(data, "val", rows[:count])]
    size = data.facts["image_size"]
    blank = np.full((len(data.facts["channels"]), size, size), 255, np.uint8)
    return np.stack([*seen, *[blank] * (count - len(seen))])


def _latents(
    model: pl.LightningModule, data: ImageDataModule
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    samples = data.prepared.samples("val")
    rows = evenly(len(samples), MOST_POINTS)
    features = []
    for one in packed_images(data, "val", rows):
        image = torch.from_numpy(one.canvas).to(model.device)
        features.append(model.embed(image[None].float() / 127.5 - 1)[0].float().cpu().numpy())
    labels = np.array([data.classes.index(samples[row].label) for row in rows])
    points, share = principal_components(np.stack(features).astype(np.float64))
    return points, labels, share
