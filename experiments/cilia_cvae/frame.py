"""Where the axoneme lies in an image, and the coordinates in which it is round.

The membrane's outline gives a rough ellipse, the ring of doublets the exact one, and undoing that
ellipse undoes an oblique cut.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from experiments.cilia_cvae.ring import (
    CENTRE_SPREAD,
    ORDERS,
    RING_NM,
    SHEAR_SPREAD,
    at,
    fit,
    polar,
    profile,
    symmetric,
)

# Doublets end where seven tenths of the way to the membrane's outside are covered.
RIM = 0.72
# Membrane's outside in radii of a ring of nine doublets: simulated cilia 1.67 (standard deviation
# 2.5 %), real ones 1.61 to 1.78.
REACH = 1.67
# Size of a ring without a membrane, of which the outline is its own, in sizes of one with.
BARE = 1.35
# Contrast of the ring's tubules in standard deviations of the image, and share of its order.
LEAST_CONTRAST, LEAST_SHARE = 0.1, 0.15
# Weight of how far a ring is off the membrane beside the logarithm of its order's share.
_PRIOR_WEIGHT = 0.25


@dataclass(frozen=True)
class Frame:
    """The axoneme's own coordinates, in which its ring of doublets is the unit circle.

    Attributes:
        centre: x, y in pixels.
        matrix: [2, 2], takes the frame's plane to pixels around `centre`.
        count: rotational order of the ring.
        spectrum: power of the angular orders 0 to 14 of the darkest stain around the ring.
        rim: in ring radii, where the space under the membrane begins and doublets end.
        membrane_radius: in ring radii; NaN where no outline surrounds the ring.
    """

    centre: np.ndarray
    matrix: np.ndarray
    count: int
    spectrum: np.ndarray
    rim: float
    membrane_radius: float

    @property
    def radius(self) -> float:
        """Mean radius of the ring in pixels."""
        return float(np.sqrt(np.linalg.det(self.matrix)))

    @property
    def nm(self) -> float:
        """Nanometres per ring radius."""
        return RING_NM * float(np.sqrt(self.count / 9))


def locate(pixels: np.ndarray) -> Frame | None:
    """Finds the axoneme in an image [H, W] of unit variance, structures dark.

    Returns:
        None where there is no dark body in the middle or no periodic ring in it.
    """
    outline = _outline(pixels)
    if outline is None:
        return None
    middle, membrane = outline
    best, found = -np.inf, None
    for count, centre, matrix in _starts(pixels, middle, membrane / REACH):
        seen = profile(pixels, centre, matrix)
        centre, matrix = fit(seen, count, centre, matrix, middle, membrane)
        seen = profile(pixels, centre, matrix)
        score = seen.regularity(count) + 3 * np.log(max(seen.contrast, 1e-9))
        score -= _PRIOR_WEIGHT * _surprise(centre, matrix, count, middle, membrane)
        if score > best:
            best, found = score, (count, centre, matrix, seen)
    count, centre, matrix, seen = found
    for _ in range(4):
        before = np.linalg.det(matrix)
        centre, matrix = fit(seen, count, centre, matrix, middle, membrane)
        seen = profile(pixels, centre, matrix)
        # Where the outline is the ring's own and no membrane's, its size is found step by step.
        if abs(np.log(np.linalg.det(matrix) / before)) < 0.05:
            break
    if seen.contrast < LEAST_CONTRAST or seen.share(count) < LEAST_SHARE:
        return None
    reach = float(np.sqrt(np.linalg.det(membrane) / np.linalg.det(matrix)))
    rim, seen_membrane = max(1.1, RIM * reach), reach if reach > 1.5 else np.nan
    return Frame(centre, matrix, count, seen.power, rim, seen_membrane)


def sample(image: np.ndarray, frame: Frame, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values of an image at points given in the axoneme's frame."""
    return at(image, frame.centre, frame.matrix, x, y)


def band(image: np.ndarray, fine: float, coarse: float) -> np.ndarray:
    """Difference of two Gaussian blurs: what is larger than `fine` and smaller than `coarse`."""
    return ndimage.gaussian_filter(image, fine) - ndimage.gaussian_filter(image, coarse)


def shifts(reach: float, step: float) -> np.ndarray:
    """Points [N, 2] of a square grid within a circle around zero."""
    axis = np.arange(-int(reach / step + 1e-9), int(reach / step + 1e-9) + 1) * step
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    return grid[np.linalg.norm(grid, axis=1) <= reach + 1e-9]


def _outline(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Centre and half-axes matrix of the dark body in the middle of the image."""
    side = np.sqrt(pixels.size)
    scale = min(1.0, 96 / side)
    blurred = ndimage.gaussian_filter(pixels, 0.02 * side)
    small = ndimage.zoom(blurred, scale, order=1, grid_mode=True, mode="nearest")
    height, width = small.shape
    y, x = np.mgrid[:height, :width]
    core = np.hypot((x + 0.5) / width - 0.5, (y + 0.5) / height - 0.5) < 0.3
    light = np.percentile(small, 92)
    dark = small < light - 0.35 * (light - small[core].mean())
    for closing in (0, 0.03, 0.06, 0.1):
        body = _body(dark, core, closing * scale * side, 0.04 * scale * side)
        if body is not None:
            rows, columns = np.nonzero(body)
            factor = np.array([pixels.shape[1] / width, pixels.shape[0] / height])
            points = (np.stack([columns, rows], 1) + 0.5) * factor - 0.5
            # A filled ellipse of half-axes a has variance a² / 4 along them.
            variance, axes = np.linalg.eigh(np.cov(points.T))
            return _without_bulges(points, points.mean(0), axes * (2 * np.sqrt(variance)) @ axes.T)
    return None


def _without_bulges(
    points: np.ndarray, middle: np.ndarray, matrix: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The ellipse around a body's points [N, 2], its pointed bulges and creases left aside."""
    angles = np.arange(72) * 2 * np.pi / 72
    waves = np.stack([np.ones(72), *(f(n * angles) for n in (1, 2) for f in (np.cos, np.sin))], 1)
    for _ in range(2):
        x, y = np.linalg.solve(matrix, (points - middle).T)
        edge = np.zeros(72)
        sector = np.rint(np.arctan2(y, x) / (2 * np.pi) * 72).astype(int) % 72
        np.maximum.at(edge, sector, np.hypot(x, y))
        wave = np.array([np.median(edge), 0, 0, 0, 0])
        for _ in range(8):
            weight = (edge > 0) / (1 + ((edge - waves @ wave) / 0.08) ** 2)
            wave = np.linalg.solve(waves.T @ (waves * weight[:, None]), waves.T @ (weight * edge))
        middle = middle + matrix @ wave[1:3]
        size, flat, skew = wave[0], wave[3], wave[4]
        matrix = symmetric(matrix @ np.array([[size + flat, skew], [skew, size - flat]]))
    return middle, matrix


def _body(dark: np.ndarray, core: np.ndarray, closing: float, opening: float) -> np.ndarray | None:
    """The filled component that covers most of the core; None where none does."""
    margin = int(closing) + 2
    mask = np.pad(dark, margin)
    if closing:
        mask = ndimage.binary_closing(mask, _disc(closing))
    mask = ndimage.binary_opening(ndimage.binary_fill_holes(mask), _disc(opening))
    names, count = ndimage.label(mask[margin:-margin, margin:-margin])
    cover = np.bincount(names[core], minlength=count + 1)
    cover[0] = 0
    body = names == np.argmax(cover)
    return body if cover.max() > 0.8 * core.sum() and body.mean() > 0.15 else None


def _starts(
    pixels: np.ndarray, middle: np.ndarray, matrix: np.ndarray
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """The likeliest counts, and for each from where the ring looks most regular.

    Displaced doublets and bulges of the membrane pull a centre off; seen from the true one the
    angles are regular again.
    """
    radius = np.sqrt(np.linalg.det(matrix))
    stain = band(-pixels, 0.08 * radius, 0.25 * radius)
    x, y = polar(np.linspace(0.62, 1.12, 10), np.arange(96) * 2 * np.pi / 96)
    best = np.full(len(ORDERS), -np.inf)
    centres = np.tile(middle, (len(ORDERS), 1))
    for shift in shifts(0.24, 0.06):
        ray = at(stain, middle + matrix @ shift, matrix, x, y).max(0)
        power = np.abs(np.fft.rfft(ray)[:15]) ** 2
        score = np.log(power[ORDERS] / (power[3:].sum() + 1e-30) + 1e-9)
        score -= _PRIOR_WEIGHT * _heavy_tail(shift @ shift / CENTRE_SPREAD**2)
        better = score > best
        best[better], centres[better] = score[better], middle + matrix @ shift
    first, second = np.argsort(-best)[:2]
    sizes = ((first, 1), (second, 1), (first, BARE))
    return [(int(ORDERS[k]), centres[k], matrix * size) for k, size in sizes]


def _surprise(
    centre: np.ndarray, matrix: np.ndarray, count: int, middle: np.ndarray, membrane: np.ndarray
) -> float:
    """How unlikely a ring is inside this membrane, as minus a log-likelihood."""
    shape = np.linalg.solve(membrane, matrix)
    size = np.sqrt(np.linalg.det(shape))
    flat, skew = (shape[0, 0] - shape[1, 1]) / size, (shape[0, 1] + shape[1, 0]) / size
    shift = np.linalg.solve(matrix, centre - middle)
    scale = np.log(size * REACH / np.sqrt(count / 9))
    # Without a membrane the outline is nearer to the ring, never further.
    return float(
        _heavy_tail(
            shift @ shift / CENTRE_SPREAD**2 + (flat**2 + skew**2) / (2 * SHEAR_SPREAD) ** 2
        )
        + _heavy_tail((scale / (0.06 if scale < 0 else 0.25)) ** 2)
    )


def _heavy_tail(square: float) -> float:
    """Half a squared deviation, as a logarithm where that is large: outliers do occur."""
    return 2 * np.log1p(square / 4)


def _disc(radius: float) -> np.ndarray:
    axis = np.arange(-int(radius), int(radius) + 1)
    return np.hypot(axis[:, None], axis[None]) <= max(radius, 0.5)
