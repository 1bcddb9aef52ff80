"""Draws what a pipeline does to a frame: every stage above the histogram of its grey levels."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from common.storage import whole_file

# Inches of one stage, and dots per inch.
_WIDTH, _HEIGHT, _DPI = 2.2, 3.6, 120
_BINS = 64
_COLOUR = "#0072b2"
# Grey levels beyond these percentiles are drawn as these: one hot pixel would leave all else black.
_DARKEST, _BRIGHTEST = 0.1, 99.9


def draw_pipeline(stages: Iterable[tuple[str, np.ndarray]], path: Path) -> None:
    """Draws the chain from left to right as a PNG.

    Channels are drawn as their mean. The histogram counts all pixels, on a logarithmic axis from
    half a pixel to all of them; below it is the range of grey levels.

    Args:
        stages: name and image [C, H, W] of each stage.
        path: of the file; missing folders are made.

    Raises:
        UserError: the storage is full or not writable.
    """
    shown = list(stages)
    figure = Figure((_WIDTH * len(shown), _HEIGHT), dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(shown), squeeze=False, height_ratios=(2, 1))
    figure.subplots_adjust(0.05 / len(shown), 0.08, 1 - 0.05 / len(shown), 0.93, 0.06, 0.06)
    for (name, image), above, below in zip(shown, *axes, strict=True):
        plane = image.mean(0, dtype=np.float64)
        _picture(above, plane, name)
        _histogram(below, plane)
    with whole_file(path, parents=True) as stream:
        # A date would make each file of the same image another one.
        figure.savefig(stream, format="png", metadata={"Software": None})


def _picture(axes: Axes, plane: np.ndarray, name: str) -> None:
    low, high = np.percentile(plane, (_DARKEST, _BRIGHTEST))
    axes.imshow(plane, cmap="gray", vmin=low, vmax=max(high, low + 1e-9), interpolation="nearest")
    axes.set_title(name, fontsize=9)
    axes.set_axis_off()


def _histogram(axes: Axes, plane: np.ndarray) -> None:
    counts, edges = np.histogram(plane, _BINS)
    axes.stairs(counts, edges, fill=True, color=_COLOUR)
    axes.set_yscale("log")
    axes.set_ylim(0.5, plane.size)
    axes.set_yticks([], minor=False)
    axes.set_yticks([], minor=True)
    axes.set_xticks([])
    axes.set_xlabel(f"{plane.min():.4g} to {plane.max():.4g}", fontsize=7)
