"""What `Pipeline` does to frames; its settings need no image library, this does."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.errors import Exit, UserError
from common.preprocess import filters, intensity
from common.preprocess.boxes import Box, as_float, crop, whole
from common.preprocess.panels import xy_panel
from common.preprocess.pipeline import Pipeline
from common.preprocess.threshold import mask_of, skeleton
from common.preprocess.zoom import busiest_box

# Brings [C, H, W] to another size.
Fitted = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Start:
    """What the frames of one video share.

    Attributes:
        shape: C, H, W of its frames.
        panel: box of the XY panel in a frame.
        zoom: box of what is kept, in the panel.
        reference: the panel of the first frame.
        light: how bright that is.
    """

    shape: tuple[int, ...]
    panel: Box
    zoom: Box
    reference: np.ndarray
    light: intensity.Light


@dataclass(frozen=True)
class Found:
    """What was decided for one frame, as columns of a table.

    Attributes:
        top: first row of the raw frame that is kept, where nothing drifted.
        left: first column of it.
        height: rows kept.
        width: columns kept.
        panel: 1 where a preview was cut to its XY panel.
        shift_y: pixels by which the frame was moved down.
        shift_x: pixels by which it was moved to the right.
        bleach_factor: on what lies above the background, mean over channels.
        noise_sigma: of the kept pixels before they are sharpened, in grey levels, mean over
            channels; NaN where nothing is denoised.
        threshold: in the normalised image; NaN where there is none.
    """

    top: int
    left: int
    height: int
    width: int
    panel: int = 0
    shift_y: int = 0
    shift_x: int = 0
    bleach_factor: float = 1.0
    noise_sigma: float = float("nan")
    threshold: float = float("nan")


@dataclass(frozen=True)
class Processed:
    """One frame after the pipeline.

    Attributes:
        image: float32 [C', H, W] in [0, 1].
        found: what was decided for it.
    """

    image: np.ndarray
    found: Found


def begin(settings: Pipeline, first_frame: np.ndarray) -> Start:
    """See `Pipeline.begin`."""
    panel = xy_panel(first_frame) if settings.panel == "auto" else None
    panel = panel or whole(first_frame)
    reference = crop(first_frame, panel).copy()
    zoom = busiest_box(reference, settings.zoom) if settings.zoom else whole(reference)
    light = intensity.light_of(reference)
    return Start(first_frame.shape, panel, zoom, reference, light)


def apply(settings: Pipeline, frame: np.ndarray, start: Start, fit: Fitted | None) -> Processed:
    """See `Pipeline.apply`."""
    notes: dict[str, Any] = {}
    made = dict(_run(settings, frame, start, fit, notes))
    parts = {
        "image": ["percentiles"],
        "mask": ["threshold"],
        "skeleton": ["skeleton"],
        "image+mask": ["percentiles", "threshold"],
    }[settings.output]
    image = np.concatenate([made[part] for part in parts])
    box = (start.panel.top + start.zoom.top, start.panel.left + start.zoom.left)
    panel = int(start.panel != whole(frame))
    return Processed(image, Found(*box, *start.zoom[2:], panel, **notes))


def stages(
    settings: Pipeline, frame: np.ndarray, start: Start, fit: Fitted | None
) -> Iterator[tuple[str, np.ndarray]]:
    """See `Pipeline.stages`."""
    return _run(settings, frame, start, fit, {})


def _run(
    settings: Pipeline, frame: np.ndarray, start: Start, fit: Fitted | None, notes: dict[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
    if frame.shape != start.shape:
        problem = f"is of shape {frame.shape}, the first one of its video of {start.shape}"
        raise UserError(Exit.INPUT, "frame", problem, "split the video where its size changes")
    yield "raw", frame
    image = frame
    for name, made in _placed(settings, image, start, notes):
        image = made
        yield name, image
    for name, made in _filtered(settings, as_float(image), notes):
        image = made
        yield name, image
    if fit is not None:
        image = fit(image)
        yield "canvas", image
    image = intensity.percentile_normalise(image, *settings.percentiles)
    yield "percentiles", image
    if settings.threshold != "none":
        mask, notes["threshold"] = mask_of(image.mean(0), settings.threshold, settings.min_size_px)
        yield "threshold", as_float(mask[None])
        if settings.output == "skeleton":
            yield "skeleton", as_float(skeleton(mask)[None])


def _placed(
    settings: Pipeline, image: np.ndarray, start: Start, notes: dict[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
    """What makes the frames of a video comparable."""
    if start.panel != whole(image):
        image = crop(image, start.panel)
        yield "panel", image
    if settings.bleach:
        light = intensity.light_of(image)
        notes["bleach_factor"] = float(intensity.bleach_factors(light, start.light).mean())
        image = intensity.bleach_correct(image, light, start.light)
        yield "bleach", image
    if settings.drift:
        notes["shift_y"], notes["shift_x"] = intensity.drift(image, start.reference)
        image = intensity.shifted(image, (notes["shift_y"], notes["shift_x"]))
        yield "drift", image
    if start.zoom != whole(image):
        image = crop(image, start.zoom)
        yield "zoom", image


def _filtered(
    settings: Pipeline, image: np.ndarray, notes: dict[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
    """What makes structures stand out."""
    # Sharpened noise is no longer white; before, it can be measured.
    sigma = filters.noise_sigma(image) if settings.denoise else None
    if settings.laplacian:
        image = filters.laplacian_sharpen(image, settings.laplacian)
        yield "laplacian", image
    if sigma is not None:
        notes["noise_sigma"] = float(sigma.mean())
        sigma = sigma * filters.noise_gain(settings.laplacian)
        image = filters.denoise(image, settings.denoise, sigma)
        yield "non-local means", image
    if settings.top_hat_px:
        image = filters.top_hat(image, settings.top_hat_px)
        yield "top-hat", image
