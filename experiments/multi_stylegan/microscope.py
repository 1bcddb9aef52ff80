"""The microscope: from a scene to grey levels of the brightfield and the GFP camera."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from common.simulate.camera import expose, quantise
from common.simulate.optics import vignetting
from experiments.multi_stylegan.position import Position
from experiments.multi_stylegan.scene import Scene, draw_scene, edges
from experiments.multi_stylegan.trap import FIELD, Trap

# Displacement of each focal plane from the focus, in steps: contrast falls, and changes its sign.
PLANES = (-1.0, -0.3, 0.65)
# Contrast is minus the hyperbolic tangent of this many times the displacement; assumed.
_CONTRAST_PER_STEP = 1.4
# Blur of each plane: brightfield and GFP, standard deviation in units; GFP glow: share and reach.
_BLUR, _GFP_BLUR, _GLOW, _GLOW_REACH = (1.5, 1.1, 1.7), (5.0, 6.0, 7.5), 0.3, 26.0
# Contrast of pillars over cells, and their height over the focus.
_PILLAR_CONTRAST, _PILLAR_HEIGHT = 1.1, 0.05
# Uneven brightfield that stays with the camera: spread of the mottle, specks of dust: mean number,
# strength and size in units.
_MOTTLE, _SPECKS, _SPECK, _SPECK_SIZE = 0.006, 1.5, (-0.06, 0.03), (2.5, 8.0)
# Read noise in electrons, offset and grey levels an electron of the GFP camera.
_BF_READ_NOISE, _READ_NOISE, _OFFSET, _GAIN = 8.0, 6.0, 100.0, 1.1
# Points along a side below which a frame is computed on a finer grid and averaged.
_LEAST_POINTS = 128
_TOP = 2**16 - 1


@dataclass(frozen=True)
class Microscope:
    """What takes the frames of one trap.

    Attributes:
        size: side of a frame in pixels.
        planes: number of focal planes.
        position: where the stage is.
        lamp: brightfield without any object, in grey levels [size, size].
    """

    size: int
    planes: int
    position: Position
    lamp: np.ndarray

    @property
    def fineness(self) -> int:
        """Points of the grid along a pixel; odd, so that one lies in each pixel's middle."""
        return 2 * math.ceil(max(_LEAST_POINTS / self.size - 1, 0) / 2) + 1

    def gains(self, heights: np.ndarray) -> np.ndarray:
        """Contrast of objects in each plane [Z, N + 2], pillars last.

        Args:
            heights: of the cells over the focus, in steps [N].
        """
        focus = np.array(PLANES[: self.planes])[:, None] + self.position.focus
        gain = -np.tanh(_CONTRAST_PER_STEP * (focus + np.append(heights, [_PILLAR_HEIGHT] * 2)))
        gain[:, -2:] *= _PILLAR_CONTRAST
        return gain.astype(np.float32)

    def look(self, cells: np.ndarray, trap: Trap, shift: np.ndarray) -> tuple[Scene, np.ndarray]:
        """The scene on the fine grid, and its brightfield over the background [Z, N, N]."""
        gains = self.gains(cells["height"])
        scene = draw_scene(cells, trap, shift, self.size * self.fineness, gains)
        angle, slant = self.position.slant_angle, self.position.slant
        return scene, edges(scene, gains, (slant * np.cos(angle), slant * np.sin(angle)))

    def brightfield(self, light: np.ndarray) -> np.ndarray:
        """Expected grey levels of each plane, float32 [Z, size, size]."""
        seen = [self._taken(p, blur) for p, blur in zip(light, _BLUR, strict=False)]
        return np.stack([self.lamp * (1 + self.position.contrast * plane) for plane in seen])

    def gfp(self, light: np.ndarray, frame: int) -> np.ndarray:
        """Expected grey levels of each plane in a frame, float32 [Z, size, size]."""
        position = self.position
        gain = position.gfp_gain * (1 - position.bleaching) ** frame
        glow = _GLOW * _wide_blur(light, _GLOW_REACH * len(light) / FIELD)
        planes = [self._taken(light + glow, blur) for blur in _GFP_BLUR[: self.planes]]
        return (position.gfp_background + gain * np.stack(planes)).astype(np.float32)

    def photographs(
        self, brightfield: np.ndarray, gfp: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Both cameras' noisy grey levels, uint16 [Z, size, size]; a pixel's noise has no size."""
        photons, brightness = self.position.photons, self.position.brightness
        noisy = expose(brightfield / brightness, photons, _BF_READ_NOISE, rng) * brightness
        second = expose(gfp - _OFFSET, 1 / _GAIN, _READ_NOISE, rng) + _OFFSET
        return quantise(noisy / _TOP, bits=16), quantise(second / _TOP, bits=16)

    def middles(self, fine: np.ndarray) -> np.ndarray:
        """Values in the middle of each pixel of a fine image [N, N]."""
        return fine[self.fineness // 2 :: self.fineness, self.fineness // 2 :: self.fineness]

    def _taken(self, light: np.ndarray, blur: float) -> np.ndarray:
        sigma = blur * len(light) / FIELD
        sharp = cv2.GaussianBlur(np.float32(light), (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
        return cv2.resize(sharp, (self.size, self.size), interpolation=cv2.INTER_AREA)


def draw_microscope(
    rng: np.random.Generator, size: int, planes: int, position: Position
) -> Microscope:
    """Draws what stays with the camera: dust and mottle.

    Args:
        rng: source of everything that varies.
        size: side of a frame in pixels.
        planes: number of focal planes, 1 to 3.
        position: where the stage is.
    """
    mottle = _MOTTLE * rng.standard_normal((12, 12)).astype(np.float32)
    even = cv2.resize(mottle, (size, size), interpolation=cv2.INTER_CUBIC)
    x, y = np.meshgrid(*[(np.arange(size) + 0.5) * FIELD / size] * 2)
    for _ in range(rng.poisson(_SPECKS)):
        strength, width = rng.uniform(*_SPECK), rng.uniform(*_SPECK_SIZE)
        right, down = x - rng.uniform(0, FIELD), y - rng.uniform(0, FIELD)
        even += strength * np.exp(-(right**2 + down**2) / (2 * width**2))
    shade = vignetting((size, size), position.shade, position.shade_angle)
    return Microscope(size, planes, position, np.float32(position.brightness * shade * (1 + even)))


def _wide_blur(light: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian of many pixels, on a coarse copy."""
    coarse = cv2.resize(light, (32, 32), interpolation=cv2.INTER_AREA)
    sigma *= 32 / len(light)
    blurred = cv2.GaussianBlur(coarse, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    return cv2.resize(blurred, light.shape[::-1], interpolation=cv2.INTER_CUBIC)
