"""Figures of a trained run: what its discriminator looks at, and walks of its generator."""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from common.callbacks import image_grid, to_uint8
from common.data.canvas import black_outside, rectangle_mask
from common.data.datamodule import ImageDataModule
from common.data.image_io import write_png
from common.data.movie_video import write_video
from common.run_images import packed_images
from common.spread import evenly
from common.storage import whole_file
from common.tables import to_csv
from experiments.mitogan import interpret, latents
from experiments.mitogan.networks import StyleGenerator

if TYPE_CHECKING:
    from experiments.mitogan.module import MitoGAN

PAGE, NUMBERS = "interpretation.png", "interpretation.json"
WALK, DIRECTIONS, NAMES = "interpolation.mp4", "directions.png", "directions.csv"
# Images of either kind that the surrogate learns from; images that maps are checked on.
_LEARNT, _CHECKED = 200, 12
_STEPS, _RATE, _COLUMNS, _DIRECTIONS = 12, 12, 7, 6


def draw(folder: Path, model: "MitoGAN", data: ImageDataModule, count: int, seed: int) -> list[str]:
    """Writes all figures.

    Args:
        folder: gets them.
        model: with the weights of a checkpoint, in evaluation mode.
        data: set up; its validation images are looked at, never its test images.
        count: images of either kind on the page, and seeds of the walk.
        seed: the first of them.

    Returns:
        Names of the files.
    """
    _interpreted(folder, model, data, count, seed)
    walk = latents.interpolation(
        model.generator, model.hparams.latent_dim, range(seed, seed + max(2, count)), _STEPS
    )
    write_video(folder / WALK, to_uint8(walk.cpu())[:, 0], _RATE)
    names = [PAGE, NUMBERS, WALK]
    if isinstance(model.generator, StyleGenerator):
        _named_directions(folder, model, data, seed)
        names += [DIRECTIONS, NAMES]
    return names


def _interpreted(
    folder: Path, model: "MitoGAN", data: ImageDataModule, count: int, seed: int
) -> None:
    real, groups = _frames(data, model.device)
    fake = _samples(model, data, seed)
    company = interpret.InCompany(model.discriminator, real[evenly(len(real), 3)])
    both = torch.cat([real, fake])
    logits = torch.cat([company(part).detach() for part in both.split(interpret.AT_ONCE)])
    rows = [data.measure((image.cpu().numpy() + 1) / 2) for image in both]
    features = np.array([list(row.values()) for row in rows])
    groups += [f"seed {seed + k}" for k in range(len(fake))]
    found = interpret.surrogate(features, list(rows[0]), logits.cpu().numpy(), groups)
    few = both[torch.linspace(0, len(both) - 1, _CHECKED).long()]
    checked = {method: _checked(company, few, method) for method in interpret.METHODS}
    shown = torch.cat([real[evenly(len(real), count)], fake[:count]])
    maps = {method: interpret.attribution(company, shown, method) for method in checked}
    _page(folder / PAGE, shown, maps, found, checked)
    numbers = {"surrogate": vars(found), "maps": checked, "images": [len(real), len(fake)]}
    # JSON has no NaN: what nothing can be said of, such as a feature that never varies, is null.
    numbers = json.loads(json.dumps(numbers), parse_constant=lambda _: None)
    with whole_file(folder / NUMBERS) as stream:
        stream.write((json.dumps(numbers, indent=1, allow_nan=False) + "\n").encode())


def _checked(company: interpret.InCompany, images: Tensor, method: str) -> dict[str, float]:
    """What speaks for the maps of a method, and against them."""
    maps = interpret.attribution(company, images, method)
    generator = torch.Generator().manual_seed(0)
    chance = torch.rand(maps.shape, generator=generator).to(maps)
    own, by_chance = (interpret.curves(company, images, one) for one in (maps, chance))
    # Only the last one is kept.
    ((_, without),) = deque(interpret.randomised(company), maxlen=1)
    of_random = interpret.attribution(without, images, method)
    return {
        "deletion": own.deletion,
        "deletion by chance": by_chance.deletion,
        "insertion": own.insertion,
        "insertion by chance": by_chance.insertion,
        "rank correlation with maps of random weights": interpret.rank_correlation(maps, of_random),
    }


def _frames(data: ImageDataModule, device: torch.device) -> tuple[Tensor, list[str]]:
    """Validation images [N, C, S, S] in [-1, 1], spread over all of them, and their groups.

    As the discriminator is shown them, black on the canvas around them.
    """
    samples, dataset = data.prepared.samples("val"), data.dataset("val")
    rows = range(0, len(samples), -(-len(samples) // _LEARNT))
    seen = np.stack([one.canvas for one in packed_images(data, "val", rows)])
    masks = np.stack([rectangle_mask(*dataset.extent(row), dataset.size) for row in rows])
    images = torch.from_numpy(seen).to(device).float() / 127.5 - 1
    images = black_outside(images, torch.from_numpy(masks).to(device))
    return images, [samples[row].group for row in rows]


def _samples(model: "MitoGAN", data: ImageDataModule, seed: int) -> Tensor:
    batch = data.example_batch(_LEARNT, seed, model.device)
    with torch.no_grad():
        return model.predict_step(batch, 0)["image"]


def _named_directions(folder: Path, model: "MitoGAN", data: ImageDataModule, seed: int) -> None:
    generator, dim = model.generator, model.hparams.latent_dim
    seeds = range(seed, seed + _CHECKED)
    found = latents.directions(generator, dim, data.measure, _DIRECTIONS, seeds)
    walks = [latents.along(generator, dim, one, seed, _COLUMNS) for one in found]
    write_png(folder / DIRECTIONS, image_grid(to_uint8(torch.cat(walks).cpu())[:, :1], _COLUMNS))
    names = sorted({name for one in found for name in one.changes})
    rows: list[list[object]] = [["direction", "share_of_variance", "changes_most", *names]]
    for k, one in enumerate(found):
        changes = [round(one.changes[name], 3) if name in one.changes else None for name in names]
        rows.append([k, round(one.share, 4), one.feature, *changes])
    with whole_file(folder / NAMES) as stream:
        stream.write(to_csv(rows))


def _page(
    path: Path,
    images: Tensor,
    maps: Mapping[str, Tensor],
    found: interpret.Surrogate,
    checked: Mapping[str, Mapping[str, float]],
) -> None:
    rows = 1 + len(maps)
    figure = Figure((max(9.0, 1.4 * len(images)), 1.45 * rows + 3), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subfigures(2, 1, height_ratios=(1.45 * rows, 3))
    axes = above.subplots(rows, len(images), squeeze=False)
    half = len(images) // 2
    for k, image in enumerate(images.cpu().numpy()):
        axes[0, k].imshow(image[0], cmap="gray", vmin=-1, vmax=1)
        axes[0, k].set_title("validation" if k < half else "sample", fontsize=8)
        for row, found_maps in enumerate(maps.values(), 1):
            one = found_maps[k].cpu().numpy()
            most = np.abs(one).max() or 1.0
            axes[row, k].imshow(one, cmap="RdBu_r", vmin=-most, vmax=most)
    for row, name in enumerate(("image", *maps)):
        axes[row, 0].set_ylabel(name, fontsize=8)
    for one in axes.flat:
        one.set_xticks([])
        one.set_yticks([])
    left, right = below.subplots(1, 2)
    _bars(left, found)
    _told(right, checked)
    with whole_file(path, parents=True) as stream:
        figure.savefig(stream, format="png", metadata={"Software": None})


def _bars(axes: Axes, found: interpret.Surrogate) -> None:
    names = list(found.importance)[::-1]
    colours = ["#d55e00" if found.correlation[n] > 0 else "#0072b2" for n in names]
    values = [found.importance[n] for n in names]
    errors = [found.deviation[n] for n in names]
    axes.barh(names, values, xerr=errors, color=colours)
    axes.tick_params(labelsize=7)
    told = "orange: more of it looks real, blue: less of it"
    axes.set_title(f"surrogate: R² {found.r2:.2f} on images left out\n{told}", fontsize=8)
    axes.set_xlabel("loss of R² when exchanged", fontsize=8)


def _told(axes: Axes, checked: Mapping[str, Mapping[str, float]]) -> None:
    axes.set_axis_off()
    columns: Sequence[Any] = list(next(iter(checked.values())))
    cells = [[f"{found[name]:.2f}" for found in checked.values()] for name in columns]
    table = axes.table(cells, rowLabels=columns, colLabels=list(checked), loc="center right")
    table.auto_set_font_size(False)
    table.set_fontsize(7)
    table.auto_set_column_width(range(len(checked)))
