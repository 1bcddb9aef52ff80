"""The microscope and the stain of one video, and how a frame is taken."""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from common.simulate.camera import expose, quantise
from common.simulate.optics import gaussian_blur, vignetting
from experiments.mitogan.cell import Cell
from experiments.mitogan.imaging import filled_tubes, half_width, splat
from experiments.mitogan.motion import WIDTH_UM

# Photons a pixel at the ridge of a usual tubule, for each level of noise. The levels are assumed;
# "high" is that of live cells in weak light, where thresholds alone begin to fail.
PHOTONS = {"low": (400.0, 1200.0), "middle": (50.0, 150.0), "high": (12.0, 30.0)}
# Standard deviation of the Gaussian nearest to a widefield PSF: 0.225 wavelength / NA (Zhang et al.
# 2007, table 1), from 0.51 µm with NA 1.2 to 0.61 µm with NA 0.9, plus some aberration.
PSF_UM = (0.095, 0.16)
# sCMOS cameras: read noise in electrons, grey levels an electron, offset in grey levels (100 is
# what makers set; real mitochondria videos show 100 to 300).
_READ_NOISE, _GAIN, _OFFSET = (1.0, 1.8), (0.5, 2.2), (95.0, 300.0)
# In units of a usual tubule's ridge; assumed from real images.
_HAZE, _GLOW, _BACKGROUND, _FRAGMENTS = (0.02, 0.15), (0.1, 0.4), (0.005, 0.06), (0.08, 0.3)
# Blur of the haze, of the glow, and of what lies out of plane in blurs of the PSF.
_HAZE_UM, _GLOW_UM, _OUT_OF_PLANE = 0.7, (0.7, 1.3), (2.0, 3.5)
# Share of light that is left at the darkest corner is 1 minus this.
_VIGNETTING = (0.0, 0.3)
# Share of the stain that a whole video bleaches; assumed.
BLEACHED = (0.02, 0.4)
_TOP = 2**16 - 1


@dataclass(frozen=True)
class Microscope:
    """What takes the frames of one video.

    Attributes:
        size: side of a frame in pixels.
        pixel_size_um: µm per pixel.
        psf_um: standard deviation of the point spread function.
        glow: weight and standard deviation in µm of light from out of focus.
        background: light from elsewhere, in ridges of a usual tubule.
        lamp: illumination [size, size].
        photons: of the ridge of a usual tubule.
        read_noise: of the camera in electrons.
        gain: grey levels an electron.
        offset: grey levels without light.
    """

    size: int
    pixel_size_um: float
    psf_um: float
    glow: tuple[float, float]
    background: float
    lamp: np.ndarray
    photons: float
    read_noise: float
    gain: float
    offset: float

    def light_of(self, xy: np.ndarray, radii: np.ndarray, brightness: np.ndarray) -> np.ndarray:
        """Tubules in focus and their glow, ridges of usual ones near 1 [size, size].

        Args:
            xy: runs of vertices in pixels [V, 2].
            radii: in pixels [V].
            brightness: of each vertex [V], 0 between two runs.
        """
        points, weights = filled_tubes(xy, _normals(xy), radii)
        sharp = self.blurred(splat(points, weights * np.tile(brightness, 4), self.size))
        weight, reach = self.glow
        return sharp + weight * gaussian_blur(sharp, reach / self.pixel_size_um)

    def blurred(self, light: np.ndarray, widening: float = 1.0) -> np.ndarray:
        """By the point spread function, or one that is wider by a factor."""
        return gaussian_blur(light, widening * self.psf_um / self.pixel_size_um)

    def half_width(self, radii: np.ndarray) -> np.ndarray:
        """How far from its axis a tubule's image is half as bright as on it; all in pixels."""
        return half_width(radii, self.psf_um / self.pixel_size_um)

    def expected(self, light: np.ndarray, stain: float) -> np.ndarray:
        """Grey levels without noise of an amount of light, float32 [size, size]."""
        signal = (stain * light + self.background) * self.lamp
        return (self.offset + self.gain * self.photons * signal).astype(np.float32)

    def photograph(self, expected: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Grey levels with shot and read noise, uint16 [size, size]."""
        signal = (expected - self.offset) / (self.gain * self.photons)
        noisy = expose(signal, self.photons, self.read_noise, rng)
        return quantise((self.offset + self.gain * self.photons * noisy) / _TOP, bits=16)


def draw_microscope(
    rng: np.random.Generator, size: int, pixel_size_um: float, noise: str
) -> Microscope:
    """Draws what takes a video; noise is a key of `PHOTONS`."""
    return Microscope(
        size,
        pixel_size_um,
        rng.uniform(*PSF_UM),
        (rng.uniform(*_GLOW), rng.uniform(*_GLOW_UM)),
        rng.uniform(*_BACKGROUND),
        vignetting((size, size), rng.uniform(*_VIGNETTING), rng.uniform(0, 2 * np.pi)),
        float(np.exp(rng.uniform(*np.log(PHOTONS[noise])))),
        rng.uniform(*_READ_NOISE),
        rng.uniform(*_GAIN),
        rng.uniform(*_OFFSET),
    )


def draw_surroundings(
    rng: np.random.Generator, microscope: Microscope, cell: Cell, centre: np.ndarray
) -> np.ndarray:
    """Draws what is not in focus: haze, brightest beside the nucleus, and fragments over it.

    Args:
        rng: source of everything that varies.
        microscope: that looks.
        cell: that is seen.
        centre: of the cell in the first frame, x, y in pixels [2].

    Returns:
        Light in ridges of a usual tubule [size, size].
    """
    size, pixel = microscope.size, microscope.pixel_size_um
    haze = np.zeros((size, size), np.float32)
    for depth, level in ((1.0, 0.55), (0.75, 0.75), (0.45, 1.0), (0.0, 0.35)):
        curve = np.rint((centre + cell.curve(depth) / pixel) * 16).astype(np.int32)
        cv2.fillPoly(haze, [curve], level, cv2.LINE_8, 4)
    haze = gaussian_blur(haze, _HAZE_UM / pixel)
    cloud = gaussian_blur(rng.standard_normal((size, size), dtype=np.float32), 1.2 / pixel)
    haze *= 1 + 0.2 * cloud / cloud.std()
    light = rng.uniform(*_HAZE) * haze
    for _ in range(rng.poisson(5)):
        light += rng.uniform(*_FRAGMENTS) * _fragment(rng, microscope, cell, centre)
    return light


def shifted(light: np.ndarray, drift: np.ndarray) -> np.ndarray:
    """An image [H, W] moved by x, y in pixels [2]; its border fills what comes into view."""
    return ndimage.shift(light, drift[::-1], order=1, mode="nearest")


def ridge(radius: float, sigma: float) -> float:
    """Peak of a blurred filled cylinder of unit density, all lengths in pixels."""
    angles = np.arange(1, 64) * np.pi / 64
    weights = 2 * np.pi / 64 * np.sin(angles) ** 2 * radius**2
    profile = np.exp(-((radius * np.cos(angles) / sigma) ** 2) / 2) / np.sqrt(2 * np.pi) / sigma
    return float(weights @ profile)


def _fragment(
    rng: np.random.Generator, microscope: Microscope, cell: Cell, centre: np.ndarray
) -> np.ndarray:
    """A short curved piece somewhere over the nucleus, blurred, with its peak at 1."""
    middle = np.array(cell.point(-rng.uniform(0.15, 0.95) * 0.6, rng.uniform(0, 2 * np.pi)))
    steps = np.cumsum(rng.normal(0, 0.25, 24)) * 0.3 + rng.uniform(0, 2 * np.pi)
    count = int(rng.integers(3, 24))
    path = np.cumsum(np.stack([np.cos(steps), np.sin(steps)], 1)[:count] * 0.1, axis=0)
    xy = centre + (middle + path - path.mean(0)) / microscope.pixel_size_um
    light = splat(xy, np.full(count, np.mean(WIDTH_UM)), microscope.size)
    light = microscope.blurred(light, rng.uniform(*_OUT_OF_PLANE))
    return light / max(float(light.max()), 1e-9)


def _normals(xy: np.ndarray) -> np.ndarray:
    step = np.gradient(xy, axis=0)
    across = np.stack([-step[:, 1], step[:, 0]], 1)
    return across / np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-9)
