"""From a raw fluorescence frame to an image for a model, by settings that have a digest.

Panel, bleaching, drift, zoom, Laplacian, non-local means, top-hat, percentiles, threshold,
skeleton: always in this order, each of them off or on.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from common.errors import Exit, UserError
from common.preprocess import filters, intensity
from common.preprocess.boxes import Box, as_float, crop, whole
from common.preprocess.panels import xy_panel
from common.preprocess.threshold import Rule, mask_of, skeleton
from common.preprocess.zoom import busiest_box

# Of what a frame becomes under the same settings.
VERSION = 1
Panel = Literal["auto", "none"]
Threshold = Literal["none", "otsu", "triangle", "minimum"]
Output = Literal["image", "mask", "skeleton", "image+mask"]


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


@dataclass(frozen=True)
class Pipeline:
    """Settings of the pipeline; the frames of a video go through one by one.

    Args:
        panel: "auto" cuts three-panel previews to their XY panel, "none" keeps frames whole.
        bleach: gives every frame the background and the signal of its video's first.
        drift: moves every frame onto its video's first, by whole pixels.
        zoom: side of the busiest square, which is kept, as a share of the shorter side; 0 keeps
            all.
        laplacian: weight of the Laplacian; 0 is off.
        denoise: strength of non-local means in units of the noise; 0 is off.
        top_hat_px: radius of the disc in pixels; what is wider is removed; 0 is off.
        percentiles: of each channel, that become 0 and 1.
        threshold: what chooses the threshold of the mask, which is that of the mean of channels.
        min_size_px: areas of the mask of fewer pixels are removed.
        output: "image" has the channels of the frame; "mask" and "skeleton" have one; in
            "image+mask" the mask is one more.

    Raises:
        UserError: a setting is out of its range, or a threshold is given without use or missing.
    """

    panel: Panel = "auto"
    bleach: bool = True
    drift: bool = False
    zoom: float = 0.0
    laplacian: float = 1.0
    denoise: float = 1.0
    top_hat_px: float = 0.0
    percentiles: tuple[float, float] = (1.0, 99.8)
    threshold: Threshold = "none"
    min_size_px: int = 16
    output: Output = "image"

    def __post_init__(self) -> None:
        for name, (allowed, meant) in _allowed(self).items():
            if not allowed:
                raise UserError(
                    Exit.USAGE, f"pipeline.{name}", f"is {getattr(self, name)!r}", f"give {meant}"
                )

    @property
    def digest(self) -> str:
        """SHA-256 of the settings and of `VERSION`: equal digests make equal images."""
        plain = {name: _plain(value) for name, value in asdict(self).items()}
        told = json.dumps({**plain, "version": VERSION}, sort_keys=True)
        return hashlib.sha256(told.encode("ascii")).hexdigest()

    def begin(self, first_frame: np.ndarray) -> Start:
        """Decides what all frames of a video share.

        Args:
            first_frame: grey values [C, H, W] of uint8, uint16 or float32.
        """
        panel = xy_panel(first_frame) if self.panel == "auto" else None
        panel = panel or whole(first_frame)
        reference = crop(first_frame, panel).copy()
        zoom = busiest_box(reference, self.zoom) if self.zoom else whole(reference)
        light = intensity.light_of(reference)
        return Start(first_frame.shape, panel, zoom, reference, light)

    def apply(self, frame: np.ndarray, start: Start) -> Processed:
        """Takes one frame through the pipeline.

        Args:
            frame: grey values [C, H, W] of the type of the first frame.
            start: what `begin` made of the first frame of its video.

        Raises:
            UserError: the frame is not of the size of the first.
        """
        notes: dict[str, Any] = {}
        made = dict(self._run(frame, start, notes))
        parts = {
            "image": ["percentiles"],
            "mask": ["threshold"],
            "skeleton": ["skeleton"],
            "image+mask": ["percentiles", "threshold"],
        }[self.output]
        image = np.concatenate([made[part] for part in parts])
        box = (start.panel.top + start.zoom.top, start.panel.left + start.zoom.left)
        return Processed(image, Found(*box, *start.zoom[2:], **notes))

    def stages(self, frame: np.ndarray, start: Start) -> Iterator[tuple[str, np.ndarray]]:
        """Yields the name and the image [C, H, W] of a frame as it comes, then of every stage.

        Stages that are off are left out. Images have the units of the frame up to "percentiles",
        from there on they are in [0, 1].
        """
        return self._run(frame, start, {})

    def _run(
        self, frame: np.ndarray, start: Start, notes: dict[str, Any]
    ) -> Iterator[tuple[str, np.ndarray]]:
        if frame.shape != start.shape:
            problem = f"is of shape {frame.shape}, the first one of its video of {start.shape}"
            raise UserError(Exit.INPUT, "frame", problem, "split the video where its size changes")
        yield "raw", frame
        image = frame
        for name, made in self._placed(image, start, notes):
            image = made
            yield name, image
        for name, made in self._filtered(as_float(image), notes):
            image = made
            yield name, image
        image = intensity.percentile_normalise(image, *self.percentiles)
        yield "percentiles", image
        if self.threshold != "none":
            mask, notes["threshold"] = mask_of(image.mean(0), self.threshold, self.min_size_px)
            yield "threshold", as_float(mask[None])
            if self.output == "skeleton":
                yield "skeleton", as_float(skeleton(mask)[None])

    def _placed(
        self, image: np.ndarray, start: Start, notes: dict[str, Any]
    ) -> Iterator[tuple[str, np.ndarray]]:
        """What makes the frames of a video comparable."""
        if start.panel != whole(image):
            image = crop(image, start.panel)
            yield "panel", image
        if self.bleach:
            light = intensity.light_of(image)
            notes["bleach_factor"] = float(intensity.bleach_factors(light, start.light).mean())
            image = intensity.bleach_correct(image, light, start.light)
            yield "bleach", image
        if self.drift:
            notes["shift_y"], notes["shift_x"] = intensity.drift(image, start.reference)
            image = intensity.shifted(image, (notes["shift_y"], notes["shift_x"]))
            yield "drift", image
        if start.zoom != whole(image):
            image = crop(image, start.zoom)
            yield "zoom", image

    def _filtered(
        self, image: np.ndarray, notes: dict[str, Any]
    ) -> Iterator[tuple[str, np.ndarray]]:
        """What makes structures stand out."""
        # Sharpened noise is no longer white; before, it can be measured.
        sigma = filters.noise_sigma(image) if self.denoise else None
        if self.laplacian:
            image = filters.laplacian_sharpen(image, self.laplacian)
            yield "laplacian", image
        if sigma is not None:
            notes["noise_sigma"] = float(sigma.mean())
            sigma = sigma * filters.noise_gain(self.laplacian)
            image = filters.denoise(image, self.denoise, sigma)
            yield "non-local means", image
        if self.top_hat_px:
            image = filters.top_hat(image, self.top_hat_px)
            yield "top-hat", image


def _allowed(settings: Pipeline) -> dict[str, tuple[bool, str]]:
    """Of each setting, whether it is in its range, and what that is."""
    low, high = settings.percentiles
    shown = settings.output == "image"
    return {
        "panel": (settings.panel in get_args(Panel), "auto or none"),
        "zoom": (0 <= settings.zoom <= 1, "a share from 0 (off) to 1"),
        "laplacian": (0 <= settings.laplacian < np.inf, "0 (off) or a weight above it"),
        "denoise": (0 <= settings.denoise < np.inf, "0 (off) or a strength such as 0.8"),
        "top_hat_px": (
            settings.top_hat_px == 0 or 1 <= settings.top_hat_px < np.inf,
            "0 (off) or a radius of at least 1",
        ),
        "percentiles": (0 <= low < high <= 100, "two that rise from 0 to 100"),
        "min_size_px": (settings.min_size_px >= 1, "1 or more"),
        "output": (settings.output in get_args(Output), " or ".join(get_args(Output))),
        "threshold": (
            settings.threshold in (("none",) if shown else get_args(Rule)),
            f"{'none' if shown else ' or '.join(get_args(Rule))} with output {settings.output}",
        ),
    }


def _plain(value: Any) -> Any:
    """A number as one float, whichever way it was written; texts and truths as they are."""
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return value if isinstance(value, bool | str) else float(value)
