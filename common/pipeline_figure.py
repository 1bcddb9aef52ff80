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
# Grey levels beyond these percentiles are drawn as these: one hot pixel would leave all else black.
_DARKEST, _BRIGHTEST = 0.1, 99.9


def draw_pipeline(stages: Iterable[tuple[str, np.ndarray]], path: Path) -> None:
    """Draws the chain from left to right as a PNG.

    Channels are drawn as their mean. The histogram counts all pixels, on a logarithmic axis; its
    title says the range of grey levels.

    Args:
        stages: name and image [C, H, W] of each stage.
        path: of the file; missing folders are made.

    Raises:
        UserError: the storage is full or not writable.
    """
    shown = list(stages)
    figure = Figure((_WIDTH * len(shown), _HEIGHT), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(shown), squeeze=False, height_ratios=(2, 1))
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
    axes.hist(plane.ravel(), bins=_BINS, color="#0072b2", log=True)
    axes.set_title(f"{plane.min():.3g} to {plane.max():.3g}", fontsize=7)
    axes.tick_params(labelsize=6)
