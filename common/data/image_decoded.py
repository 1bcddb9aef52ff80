"""What comes out of an image file, whatever its format was."""

from dataclasses import dataclass

import numpy as np

from common.data.image_layout import Layout, Refused

AXES = "ITZCYX"
_COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class Image:
    """A decoded image.

    Attributes:
        pixels: native byte order; axes of length one are left out, except Y and X.
        axes: one letter per dimension of `pixels`, a subset of "ITZCYX" in that order. Colour
            samples are channels; I counts pages of unknown meaning.
        pixel_size_um: micrometres per pixel (y, x), from OME-XML, from ImageJ's unit, or from a
            TIFF resolution in inches or centimetres that gives 0.01 nm to 5 µm; else None. The
            dots per inch of PNG and JPEG are never taken for it.
        channel_names: one per channel, or none at all. Colours are red, green, blue; "alpha" comes
            last.
        bits: significant bits of a sample.
        interval_s: seconds from frame to frame, from OME-XML or ImageJ; None where not told.
    """

    pixels: np.ndarray
    axes: str
    pixel_size_um: tuple[float, float] | None
    channel_names: tuple[str, ...]
    bits: int
    interval_s: float | None = None

    @property
    def in_colours(self) -> bool:
        """Whether its channels are what mixes the colour of each pixel."""
        return self.channel_names[:3] == _COLOURS


def image_of(planes: np.ndarray, layout: Layout, has_alpha: bool, bits: int) -> Image:
    """Brings [planes, samples, Y, X] into the canonical order, colour samples as channels."""
    planes = planes.astype(planes.dtype.newbyteorder("="), copy=False)
    _check_finite(planes)
    opaque = 1.0 if planes.dtype.kind == "f" else max(255, 2**bits - 1)
    if has_alpha and (planes[:, -1] == opaque).all():
        planes, has_alpha = planes[:, :-1], False
    lengths = dict(layout.leading)
    stored = list(lengths)
    samples, height, width = planes.shape[1:]
    pixels = planes.reshape(*lengths.values(), samples, height, width)
    order = [stored.index(letter) for letter in sorted(stored, key=AXES.index)]
    pixels = pixels.transpose(*order, -3, -2, -1)
    channels = lengths["C"] = lengths.get("C", 1) * samples
    axes = [letter for letter in AXES[:-2] if lengths.get(letter, 1) > 1]
    pixels = pixels.reshape(*(lengths[letter] for letter in axes), height, width)
    names = _channel_names(layout.channel_names, channels, samples, has_alpha)
    size, interval = layout.pixel_size_um, layout.interval_s
    whole = np.ascontiguousarray(pixels)
    return Image(whole, "".join(axes) + "YX", size, names, bits, interval)


def _channel_names(
    written: tuple[str, ...], channels: int, samples: int, has_alpha: bool
) -> tuple[str, ...]:
    if len(written) == channels and any(written):
        return written
    if channels != samples or samples - has_alpha not in (1, 3) or samples == 1:
        return ()
    return (_COLOURS if samples >= 3 else ("grey",)) + ("alpha",) * has_alpha


def _check_finite(pixels: np.ndarray) -> None:
    if pixels.dtype.kind != "f":
        return
    bad = pixels.size - int(np.count_nonzero(np.isfinite(pixels)))
    if bad:
        raise Refused(f"holds {bad} values that are NaN or Inf", "replace them and save it again")
