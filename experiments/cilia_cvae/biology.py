"""What a biologist reads off a cross-section of a cilium, from its pixels alone.

The axoneme is found first: the membrane's outline gives a rough ellipse, the ring of doublets
the exact one, and undoing that ellipse undoes an oblique cut. Everything else is read in the
axoneme's own frame, where a nine-doublet ring has the radius it has in every cilium.
"""

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from experiments.cilia_cvae.doublets import Arms, doublet_slots, read_arms
from experiments.cilia_cvae.frame import Frame, band, locate, sample, shifts

KEYS = (
    "doublet_count",
    "rotational_order",
    "order9_power",
    "central_pair",
    "outer_arm_score",
    "inner_arm_score",
    "membrane_radius",
    "ellipticity",
    "sharpness",
)
# Most arms are there where the score exceeds this: half-way between the 2 % of simulated cilia with
# arms that score lowest and the 2 % without that score highest.
OUTER_ARMS_PRESENT, INNER_ARMS_PRESENT = 0.41, 0.27
# Distance of central microtubules from the middle between them, nanometres.
CENTRAL_NM = 14.5
# Squared error that drawn tubules explain, on 3 nm pixels scaled by the stain around.
LEAST_CENTRAL = 25.0
_STEP_NM = 3.0
_SMALLEST = 24


class Reading(NamedTuple):
    """What is found in one cross-section.

    Attributes:
        frame: coordinates in which the ring of doublets is the unit circle.
        doublets: radius in ring radii, angle, and turn about itself of each, in radians [n, 3].
        arms: the side that they belong to, and how much of them there is.
        central: x and y of the central microtubules in ring radii [m, 2].
    """

    frame: Frame
    doublets: np.ndarray
    arms: Arms
    central: np.ndarray


def measure(image: np.ndarray) -> dict[str, float]:
    """Measures one cross-section.

    Args:
        image: floats [C, H, W], of which the first channel counts, or [H, W]; structures dark.
            Any affine change of grey levels is without effect.

    Returns:
        The numbers named in `KEYS`:

        * ``doublet_count``: doublets on and off the ring.
        * ``rotational_order``: how many doublets a ring without gaps would have, 6 to 12.
        * ``order9_power``: share of angular order 9 in the power of orders 3 to 14, in [0, 1].
        * ``central_pair``: central microtubules, 0, 1, 2 (normal) or 4.
        * ``outer_arm_score``, ``inner_arm_score``: stain of drawn dynein arms in units of that of
          the tubules, mean over doublets; 0 is none.
        * ``membrane_radius``: in ring radii; NaN also where no membrane is seen.
        * ``ellipticity``: major over minor axis of the ring.
        * ``sharpness``: share of the image's standard deviation finer than a microtubule's wall.

        All are NaN for a flat image and for one below 24 pixels; all but `sharpness` where no
        dark body with a periodic ring is found. Texture can pass for a ring: `order9_power`
        is then low.
    """
    pixels = _normalised(image)
    result = dict.fromkeys(KEYS, float("nan"))
    if pixels is None:
        return result
    fine = 0.006 * np.sqrt(pixels.size)
    result["sharpness"] = float(np.std(band(pixels, fine, 2 * fine)))
    found = _read(pixels)
    if found is None:
        return result
    frame = found.frame
    singular = np.linalg.svd(frame.matrix, compute_uv=False)
    return result | {
        "doublet_count": float(len(found.doublets)),
        "rotational_order": float(frame.count),
        "order9_power": float(frame.spectrum[9] / np.sum(frame.spectrum[3:])),
        "central_pair": float(len(found.central)),
        "outer_arm_score": found.arms.outer,
        "inner_arm_score": found.arms.inner,
        "membrane_radius": frame.membrane_radius,
        "ellipticity": float(singular[0] / singular[1]),
    }


def state(measured: Mapping[str, float]) -> dict[str, float | bool]:
    """What the numbers of `measure` say of a cilium; nothing is present where they are NaN."""
    return {
        "doublets": measured["doublet_count"],
        "nine_fold": measured["rotational_order"] == 9,
        "central_microtubules": measured["central_pair"],
        "outer_arms": measured["outer_arm_score"] > OUTER_ARMS_PRESENT,
        "inner_arms": measured["inner_arm_score"] > INNER_ARMS_PRESENT,
    }


def read(image: np.ndarray) -> Reading | None:
    """Finds the parts of one cross-section; argument as of `measure`.

    Returns:
        None where no axoneme is found.
    """
    pixels = _normalised(image)
    return None if pixels is None else _read(pixels)


def _normalised(image: np.ndarray) -> np.ndarray | None:
    """The first channel, mean 0 and variance 1; None where there is nothing to measure."""
    pixels = np.asarray(image[0] if image.ndim == 3 else image, np.float64)
    spread = float(np.std(pixels)) if min(pixels.shape) >= _SMALLEST else 0.0
    if spread <= 1e-6 * float(np.max(np.abs(pixels), initial=0)):
        return None
    return (pixels - pixels.mean()) / spread


def _read(pixels: np.ndarray) -> Reading | None:
    frame = locate(pixels)
    if frame is None:
        return None
    slots = doublet_slots(pixels, frame)
    arms, places = read_arms(pixels, frame, slots)
    doublets = places[slots[:, 2] > 0.5 * np.median(slots[:, 2])]
    return Reading(frame, doublets, arms, central_microtubules(pixels, frame))


def central_microtubules(pixels: np.ndarray, frame: Frame) -> np.ndarray:
    """Microtubules in the centre [m, 2] in ring radii: the best of drawn 0, 1, 2 and 4."""
    grid = np.arange(-37, 38) * _STEP_NM
    x, y = np.meshgrid(grid, grid)
    blurred = ndimage.gaussian_filter(-pixels, 0.02 * frame.radius)
    stain = sample(blurred, frame, x / frame.nm, y / frame.nm)
    inside, templates, spots = _central_templates()
    patch = stain[22:53, 22:53][inside]
    low, high = np.percentile(stain[np.hypot(x, y) < 110], (20, 97))
    match = templates @ (patch - patch.mean()) / (high - low + 1e-12)
    fill = (patch.mean() - low) / (high - low + 1e-12)
    # By how much each drawing lowers the squared error.
    explained = np.maximum(match, 0) ** 2
    if explained.max() + 40 * fill < LEAST_CENTRAL:
        return np.zeros((0, 2))
    # A drawn pair also fits half-way to a single one, which leaves the centre emptier.
    single = np.array([len(points) == 1 for points in spots])
    explained[single] *= np.exp(0.44 - 2.5 * (fill - 0.28))
    return spots[int(np.argmax(explained))] / frame.nm


@cache
def _central_templates() -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """A mask [31, 31], unit vectors [T, mask] of drawn tubules, and where each draws them in nm."""
    grid = np.arange(-15, 16) * _STEP_NM
    x, y = np.meshgrid(grid, grid)
    inside = np.hypot(x, y) <= 40
    pair = np.array([(-CENTRAL_NM, 0), (CENTRAL_NM, 0)])
    apart = np.array([0, 15])
    pairs = np.concatenate([pair - apart, pair + apart])
    layouts = [np.zeros((1, 2))]
    for angle in np.arange(12) * np.pi / 12:
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        layouts += [pair @ turn.T, pairs @ turn.T]
    drawn, places = [], []
    for spots in layouts:
        for shift in shifts(12 if len(spots) == 1 else 9, _STEP_NM):
            far = np.hypot(*(np.stack([x, y])[..., None] - (spots + shift).T[:, None, None]))
            vector = np.exp(-0.5 * ((far - 10) / 4) ** 2).sum(-1)[inside]
            vector -= vector.mean()
            drawn.append(vector / np.linalg.norm(vector))
            places.append(spots + shift)
    return inside, np.array(drawn), places
