"""Generated sequences on disk: one OME-TIFF each, and beside it what people look at."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from common.callbacks import ImageWriter
from common.data.image_io import write_gif, write_ome_tiff, write_png
from common.errors import Exit, UserError
from common.generation import grey_to_unit, in_a_name

# What comes beside the OME-TIFF.
_Shown = Literal["mp4", "gif", "strip"]
SHOWN = get_args(_Shown)
SequenceFormat = Literal["tiff", _Shown]
FileFormat = Literal["auto", "png", SequenceFormat]
# Red, green and blue of each channel: transmitted light is grey, then fluorescence.
_TINTS = ((1.0, 1.0, 1.0), (0.1, 1.0, 0.2), (1.0, 0.2, 0.1))
# Frames a second: slow enough to see a bud.
_RATE = 2


class SequenceWriter(ImageWriter):
    """Writes each sequence [C, T, H, W] as ``<name>.ome.tiff`` with the axes TCYX.

    Args:
        folder: receives these.
        facts: of the training data.
        file_format: "auto" and "tiff" write nothing else; "mp4" and "gif" also a film in colours,
            one channel below the other; "strip" also a PNG of each channel, its frames side by
            side, as the published work shows them.
        shapes: as of `ImageWriter`.
        shown: receives the films and strips.

    Raises:
        UserError: PNG was asked for.
    """

    def __init__(
        self,
        folder: Path,
        facts: dict[str, Any],
        file_format: FileFormat,
        shapes: Sequence[tuple[int, int]] | None,
        shown: Path,
    ) -> None:
        super().__init__(folder, facts, "tiff", shapes)
        if file_format == "png":
            problem = "cannot hold sequences"
            raise UserError(Exit.USAGE, "--file_format png", problem, "choose tiff or strip")
        self.shown_as = file_format if file_format in SHOWN else ""
        self.shown = shown

    def _write_tiff(self, path: Path, image: np.ndarray) -> None:
        names = tuple(self.facts["channels"])
        # The OME-TIFF comes last: where it is, all of a sample is there.
        if self.shown_as:
            self.shown.mkdir(parents=True, exist_ok=True)
            stem = self.shown / path.name.removesuffix(self.suffix)
            self._show(stem, grey_to_unit(image, self.facts["window"]), names)
        write_ome_tiff(path, image.swapaxes(0, 1), "TCYX", self._pixel_size(), names)

    def _show(self, stem: Path, unit: np.ndarray, names: Sequence[str]) -> None:
        if self.shown_as == "strip":
            for name, channel in zip(names, _strips(unit), strict=True):
                write_png(stem.with_name(f"{stem.name}_{in_a_name(name)}.png"), channel)
        elif self.shown_as == "gif":
            write_gif(stem.with_suffix(".gif"), film(unit), _RATE)
        else:
            # Training has to work without a library of videos.
            from common.data.movie_video import write_video

            write_video(stem.with_suffix(".mp4"), film(unit), _RATE)


def writer_of(
    frames: int,
    folder: Path,
    facts: dict[str, Any],
    file_format: FileFormat,
    shapes: Sequence[tuple[int, int]] | None,
    shown: Path,
) -> ImageWriter:
    """What writes generated images, or sequences.

    Args:
        frames: of a sequence, 0 for single images.
        folder: as of the writers, like all that follow.
        facts: of the training data.
        file_format: of the files.
        shapes: of the images.
        shown: only of sequences.

    Raises:
        UserError: the format is not one of these images.
    """
    if frames:
        return SequenceWriter(folder, facts, file_format, shapes, shown)
    if file_format in SHOWN:
        problem, remedy = "shows sequences, and these are single images", "choose png or tiff"
        raise UserError(Exit.USAGE, f"--file_format {file_format}", problem, remedy)
    return ImageWriter(folder, facts, file_format, shapes)


def film(unit: np.ndarray) -> np.ndarray:
    """Colours uint8 [T, C * H, W, 3] of a sequence [C, T, H, W] in [0, 1].

    One channel is below the other: the first one grey, the second green, further ones red.
    """
    tints = [np.array(_TINTS[min(k, len(_TINTS) - 1)], np.float32) for k in range(len(unit))]
    coloured = [channel[..., None] * tint for channel, tint in zip(unit, tints, strict=True)]
    return np.rint(np.concatenate(coloured, 1) * 255).astype(np.uint8)


def _strips(unit: np.ndarray) -> np.ndarray:
    """Frames side by side: uint8 [C, H, T * W] of [C, T, H, W] in [0, 1]."""
    channels, _, height, _ = unit.shape
    rows = unit.swapaxes(1, 2).reshape(channels, height, -1)
    return np.rint(rows * 255).astype(np.uint8)
