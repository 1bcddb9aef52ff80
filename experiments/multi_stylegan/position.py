"""What differs between the positions of a chip that a stage visits."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Position:
    """Everything that traps of one position share; the defaults are a usual position.

    Attributes:
        brightness: brightfield background in grey levels.
        contrast: of edges in brightfield, over the background.
        shade: relative loss of light at the darkest corner, brightfield.
        shade_angle: direction of that loss in radians.
        slant: relative change of contrast from one side of an object to the other, half of it.
        slant_angle: direction of that in radians.
        focus: displacement of the focus, in steps between focal planes.
        photons: of a background pixel in brightfield.
        gfp_gain: grey levels of a usual cell's fluorescence above the background.
        gfp_background: grey levels.
        expression: mean of the natural logarithm of cells' levels over a usual one.
        bleaching: share of the fluorescence that a frame destroys.
        growth: factor of all growth and budding.
        cell_size: factor of the size of grown cells.
        flow: how far the medium carries a free cell in a frame, units.
        drift: standard deviation of the stage's way from frame to frame, units.
    """

    brightness: float = 6000.0
    contrast: float = 0.38
    shade: float = 0.08
    shade_angle: float = 0.0
    slant: float = 0.1
    slant_angle: float = 0.0
    focus: float = 0.0
    photons: float = 6000.0
    gfp_gain: float = 1100.0
    gfp_background: float = 440.0
    expression: float = 0.0
    bleaching: float = 0.015
    growth: float = 1.0
    cell_size: float = 1.0
    flow: float = 1.2
    drift: float = 0.5


def draw_position(rng: np.random.Generator) -> Position:
    """Draws a position. Ranges are assumed, around what the published frames show."""
    return Position(
        brightness=float(rng.normal(6000, 350)),
        contrast=rng.uniform(0.3, 0.46),
        shade=rng.uniform(0.02, 0.16),
        shade_angle=rng.uniform(0, 2 * np.pi),
        slant=rng.uniform(0, 0.25),
        slant_angle=rng.uniform(0, 2 * np.pi),
        focus=float(rng.normal(0, 0.12)),
        photons=rng.uniform(3000, 10000),
        gfp_gain=rng.uniform(850, 1350),
        gfp_background=rng.uniform(380, 520),
        expression=float(rng.normal(0, 0.15)),
        bleaching=rng.uniform(0.005, 0.03),
        growth=rng.uniform(0.7, 1.4),
        cell_size=float(rng.normal(1, 0.06)),
        flow=rng.uniform(0.5, 2.5),
        drift=rng.uniform(0.2, 0.9),
    )
