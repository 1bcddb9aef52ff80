"""From a raw fluorescence frame to an image for a model, by settings that have a digest.

Panel, bleaching, drift, zoom, Laplacian, non-local means, top-hat, percentiles, threshold,
skeleton: always in this order, each of them off or on. What does it is in `chain`.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from common.errors import Exit, UserError

if TYPE_CHECKING:
    from common.preprocess.chain import Fitted, Processed, Start

# Of what a frame becomes under the same settings.
VERSION = 1
Panel = Literal["auto", "none"]
Rule = Literal["otsu", "triangle", "minimum"]
Threshold = Literal["none", Rule]
Output = Literal["image", "mask", "skeleton", "image+mask"]


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

    def begin(self, first_frame: np.ndarray) -> "Start":
        """Decides what all frames of a video share.

        Args:
            first_frame: grey values [C, H, W] of uint8, uint16 or float32.
        """
        from common.preprocess import chain

        return chain.begin(self, first_frame)

    def apply(self, frame: np.ndarray, start: "Start", fit: "Fitted | None" = None) -> "Processed":
        """Takes one frame through the pipeline.

        Args:
            frame: grey values [C, H, W] of the type of the first frame.
            start: what `begin` made of the first frame of its video.
            fit: brings the image to the size of a canvas before it is normalised, so that masks
                have two values and skeletons lines of one pixel there.

        Raises:
            UserError: the frame is not of the size of the first.
        """
        from common.preprocess import chain

        return chain.apply(self, frame, start, fit)

    def stages(
        self, frame: np.ndarray, start: "Start", fit: "Fitted | None" = None
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Yields the name and the image [C, H, W] of a frame as it comes, then of every stage.

        Stages that are off are left out. Images have the units of the frame up to "percentiles",
        from there on they are in [0, 1]. Arguments are those of `apply`.
        """
        from common.preprocess import chain

        return chain.stages(self, frame, start, fit)


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
