"""What a biologist reads off a cross-section of a cilium, from its pixels alone.

The axoneme is found first: the membrane's outline gives a rough ellipse, the ring of doublets
the exact one, and undoing that ellipse undoes an oblique cut. Everything else is read in the
axoneme's own frame, where a nine-doublet ring has the radius it has in every cilium.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage

from experiments.cilia_cvae.frame import Frame, band, locate, sample, shifts
from experiments.cilia_cvae.ring import polar

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
# Where dynein arms lie beside a doublet's centre: nanometres along the arms, outward.
OUTER_ARM, INNER_ARM = (25.0, 8.0), (24.0, -18.0)
_STEP_NM = 3.0
_ALONG, _OUTWARD = np.meshgrid(np.arange(-39, 40, _STEP_NM), np.arange(-39, 40, _STEP_NM))
_SMALLEST = 24
# What the match of so many drawn central microtubules is multiplied by.
_FAIRNESS = {1: 1.24, 2: 1.0, 4: 1.03}


@dataclass(frozen=True)
class Reading:
    """What is found in one cross-section.

    Attributes:
        frame: coordinates in which the ring of doublets is the unit circle.
        doublets: radius in ring radii and angle in radians of each [n, 2].
        side: 1 where arms lie at larger angles than their doublets, y pointing down, else -1.
        stain: mean stain around a doublet, [y, x] in steps of 3 nm.
        central: x and y of the central microtubules in ring radii [m, 2].
    """

    frame: Frame
    doublets: np.ndarray
    side: int
    stain: np.ndarray
    central: np.ndarray


def measure(image: np.ndarray) -> dict[str, float]:
    """Measures one cross-section.

    Args:
        image: floats [C, H, W], of which the first channel counts, or [H, W]; structures dark.
            Any affine change of grey levels is without effect.

    Returns:
        The numbers named in `KEYS`:

        * ``doublet_count``: doublets on and off the ring.
        * ``order9_power``: share of angular order 9 in the power of orders 3 to 14, in [0, 1].
        * ``central_pair``: central microtubules, 0, 1, 2 (normal) or 4.
        * ``outer_arm_score``, ``inner_arm_score``: stain where dynein arms belong, mean over
          doublets; 0 is the matrix, 1 the doublets.
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
    outer, inner = arm_scores(found.stain)
    frame = found.frame
    singular = np.linalg.svd(frame.matrix, compute_uv=False)
    return result | {
        "doublet_count": float(len(found.doublets)),
        "rotational_order": float(frame.count),
        "order9_power": float(frame.spectrum[9] / np.sum(frame.spectrum[3:])),
        "central_pair": float(len(found.central)),
        "outer_arm_score": outer,
        "inner_arm_score": inner,
        "membrane_radius": frame.membrane_radius,
        "ellipticity": float(singular[0] / singular[1]),
    }


def read(image: np.ndarray) -> Reading | None:
    """Finds the microtubules of one cross-section; argument as of `measure`.

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
    side, stain = doublet_stain(pixels, frame, slots)
    doublets = slots[slots[:, 2] > 0.5 * np.median(slots[:, 2])]
    return Reading(frame, doublets[:, :2], side, stain, central_microtubules(pixels, frame))


def doublet_slots(pixels: np.ndarray, frame: Frame) -> np.ndarray:
    """The darkest spot of each of the ring's `count` sectors.

    Returns:
        [count, 3]: radius in ring radii, angle in radians, contrast of the spot.
    """
    radii, angles = np.linspace(0.6, frame.rim, 24), np.radians(np.arange(360))
    stain = band(-pixels, 0.09 * frame.radius, 0.25 * frame.radius)
    rays = sample(stain, frame, *polar(radii, angles))
    wave = np.fft.rfft(rays.max(0))[frame.count]
    pitch = 360 / frame.count
    middle = np.degrees(-np.angle(wave)) / frame.count + pitch * np.arange(frame.count)
    window = np.arange(-int(pitch / 6), int(pitch / 6) + 1)
    slots = []
    for column in np.rint(middle).astype(int):
        sector = rays[:, (column + window) % 360]
        row, best = np.unravel_index(np.argmax(sector), sector.shape)
        slots.append((radii[row], np.radians(column + window[best]), sector[row, best]))
    return np.array(slots)


def doublet_stain(pixels: np.ndarray, frame: Frame, slots: np.ndarray) -> tuple[int, np.ndarray]:
    """On which side of the doublets arms belong, and the mean stain around a doublet.

    A lies nearer to the centre than B, so the slant of the doublets tells the side, whether arms
    are there or not.
    """
    away = np.abs(slots[:, 0] - np.median(slots[:, 0]))
    on_ring = slots[away <= max(0.12, np.median(away))]
    radius, angle = on_ring[:, 0, None, None], on_ring[:, 1, None, None]
    far = radius + _OUTWARD / frame.nm
    x = far * np.cos(angle) - _ALONG / frame.nm * np.sin(angle)
    y = far * np.sin(angle) + _ALONG / frame.nm * np.cos(angle)
    blurred = ndimage.gaussian_filter(-pixels, 2.0 * frame.radius / frame.nm)
    tiles = sample(blurred, frame, x, y)
    fits = {side: _aligned(tiles[:, :, ::side]) for side in (1, -1)}
    side = max(fits, key=lambda one: fits[one][0])
    return side, fits[side][1]


def arm_scores(stain: np.ndarray) -> tuple[float, float]:
    """Stain at the outer and at the inner dynein arms, 0 as the matrix, 1 as the doublets."""
    matrix = float(np.percentile(stain, 15))
    scale = max(_stain_at(stain, 0, 0, 10) - matrix, 1e-6)
    outer, inner = (
        (_stain_at(stain, *spot, 3) - matrix) / scale for spot in (OUTER_ARM, INNER_ARM)
    )
    return outer, inner


def central_microtubules(pixels: np.ndarray, frame: Frame) -> np.ndarray:
    """Microtubules in the centre [m, 2] in ring radii: the best of drawn 0, 1, 2 and 4."""
    grid = np.arange(-37, 38) * _STEP_NM
    x, y = np.meshgrid(grid, grid)
    blurred = ndimage.gaussian_filter(-pixels, 0.02 * frame.radius)
    stain = sample(blurred, frame, x / frame.nm, y / frame.nm)
    inside, templates, spots = _central_templates()
    patch = stain[22:53, 22:53][inside]
    match = templates @ (patch - patch.mean())
    low, high = np.percentile(stain[np.hypot(x, y) < 110], (20, 97))
    fill = (patch.mean() - low) / (high - low + 1e-12)
    if match.max() / (high - low + 1e-12) + 8 * fill < 5.4:
        return np.zeros((0, 2))
    # A drawn pair also fits half-way to a single one, and two pairs to one.
    fairness = np.array([_FAIRNESS[len(points)] for points in spots])
    return spots[int(np.argmax(match * fairness))] / frame.nm


def _aligned(tiles: np.ndarray) -> tuple[float, np.ndarray]:
    """How well a drawn doublet fits the tiles [n, y, x], and their mean when laid on it."""
    steps = [(down, right) for down in range(-3, 4) for right in range(-3, 4)]
    drawn = np.stack([np.roll(_drawn_doublet(), step, (0, 1)).ravel() for step in steps])
    fit = tiles.reshape(len(tiles), -1) @ drawn.T
    moved = [
        np.roll(tile, (-steps[best][0], -steps[best][1]), (0, 1))
        for tile, best in zip(tiles, fit.argmax(1), strict=True)
    ]
    return float(fit.max(1).sum()), np.mean(moved, 0)


@cache
def _drawn_doublet() -> np.ndarray:
    """Two touching tubules without arms on a light ground, of zero mean."""
    near = (np.abs(_ALONG) <= 20) & (np.abs(_OUTWARD) <= 25)
    far = np.stack([np.hypot(_ALONG - x, _OUTWARD - y) for x, y in ((8.8, -4), (-9.3, 4))])
    tubules = (np.exp(-0.5 * ((far - 9.5) / 3.5) ** 2) + 0.5 * (far < 9.5)).max(0)
    return (tubules - tubules[near].mean()) * near


def _stain_at(stain: np.ndarray, along: float, outward: float, size: float) -> float:
    weight = np.exp(-((_ALONG - along) ** 2 + (_OUTWARD - outward) ** 2) / (2 * size**2))
    return float(np.sum(weight * stain) / np.sum(weight))


@cache
def _central_templates() -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """A mask [31, 31], unit vectors [T, mask] of drawn tubules, and where each draws them in nm."""
    grid = np.arange(-15, 16) * _STEP_NM
    x, y = np.meshgrid(grid, grid)
    inside = np.hypot(x, y) <= 39
    pair = np.array([(-14.5, 0), (14.5, 0)])
    pairs = np.array([(-14.5, -15), (14.5, -15), (-14.5, 15), (14.5, 15)])
    layouts = [np.zeros((1, 2))]
    for angle in np.arange(12) * np.pi / 12:
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        layouts += [pair @ turn.T, pairs @ turn.T]
    drawn, places = [], []
    for spots in layouts:
        for shift in shifts(10 if len(spots) == 1 else 7, _STEP_NM):
            far = np.hypot(*(np.stack([x, y])[..., None] - (spots + shift).T[:, None, None]))
            tubules = np.exp(-0.5 * ((far - 10) / 4) ** 2) + 0.4 * (far < 10)
            vector = tubules.sum(-1)[inside]
            vector -= vector.mean()
            drawn.append(vector / np.linalg.norm(vector))
            places.append(spots + shift)
    return inside, np.array(drawn), places
