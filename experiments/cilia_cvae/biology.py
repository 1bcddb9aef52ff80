"""What a biologist reads off a cross-section of a cilium, from its pixels alone.

The axoneme is found first: the membrane's outline gives a rough ellipse, the ring of doublets
the exact one, and undoing that ellipse undoes an oblique cut. Everything else is read in the
axoneme's own frame, where a nine-doublet ring has the radius it has in every cilium.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage, optimize

KEYS = (
    "doublet_count",
    "order9_power",
    "central_pair",
    "outer_arm_score",
    "inner_arm_score",
    "membrane_radius",
    "ellipticity",
    "sharpness",
)
ORDERS = np.arange(6, 13)
# Radius of a ring of nine doublets in nanometres; with other counts the doublets keep their pitch.
RING_NM = 84.0
# Where dynein arms lie beside a doublet's centre: nanometres along the arms, outward.
OUTER_ARM, INNER_ARM = (25.0, 10.0), (21.0, -15.0)
_STEP_NM = 3.0
_SMALLEST = 24


@dataclass(frozen=True)
class Frame:
    """The axoneme's own coordinates, in which its ring of doublets is the unit circle.

    Attributes:
        centre: x, y in pixels.
        matrix: [2, 2], takes the frame's plane to pixels around `centre`.
        count: rotational order of the ring.
        spectrum: power of the angular orders 0 to 14 around the ring.
        membrane_radius: in ring radii; NaN where no outline surrounds the ring.
    """

    centre: np.ndarray
    matrix: np.ndarray
    count: int
    spectrum: np.ndarray
    membrane_radius: float

    @property
    def radius(self) -> float:
        """Mean radius of the ring in pixels."""
        return float(np.sqrt(np.linalg.det(self.matrix)))

    @property
    def nm(self) -> float:
        """Nanometres per ring radius."""
        return RING_NM * float(np.sqrt(self.count / 9))


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

        All are NaN for a flat image, for one below 24 pixels, and where no cilium is found;
        `sharpness` is then NaN only for the first two.
    """
    pixels = np.asarray(image[0] if image.ndim == 3 else image, np.float64)
    result = dict.fromkeys(KEYS, float("nan"))
    spread = float(np.std(pixels)) if min(pixels.shape) >= _SMALLEST else 0.0
    if spread <= 1e-6 * float(np.max(np.abs(pixels), initial=0)):
        return result
    pixels = (pixels - pixels.mean()) / spread
    fine = 0.006 * np.sqrt(pixels.size)
    result["sharpness"] = float(np.std(_band(pixels, fine, 2 * fine)))
    frame = locate(pixels)
    if frame is None:
        return result
    slots = doublet_slots(pixels, frame)
    outer, inner = arm_scores(pixels, frame, slots)
    singular = np.linalg.svd(frame.matrix, compute_uv=False)
    return result | {
        "doublet_count": float(np.sum(slots[:, 2] > 0.3 * np.median(slots[:, 2]))),
        "order9_power": float(frame.spectrum[9] / np.sum(frame.spectrum[3:])),
        "central_pair": float(central_microtubules(pixels, frame)),
        "outer_arm_score": outer,
        "inner_arm_score": inner,
        "membrane_radius": frame.membrane_radius,
        "ellipticity": float(singular[0] / singular[1]),
    }


def locate(pixels: np.ndarray) -> Frame | None:
    """Finds the axoneme in an image [H, W]; None where nothing looks like a cilium."""
    outline = _outline(pixels)
    if outline is None:
        return None
    middle, membrane = outline
    centre, matrix = _fit_ring(pixels, middle, membrane)
    radius = np.sqrt(abs(np.linalg.det(matrix)))
    reach = np.sqrt(np.linalg.det(membrane)) / radius
    matrix = (matrix + membrane / reach) / 2
    drift = np.linalg.solve(matrix, middle - centre)
    stain = _band(-pixels, 0.08 * radius, 0.25 * radius)
    best, found = -np.inf, None
    for shift in _shifts(0.16, 0.04):
        spectrum = _spectrum(stain, centre + matrix @ shift, matrix)
        # Displaced doublets pull the fitted ring off; seen from its true centre the angles are
        # regular again. Both estimates of the centre are trusted to a tenth of the radius.
        power = np.log(spectrum[ORDERS].max() / (spectrum[3:].sum() + 1e-30) + 1e-30)
        score = power - (shift @ shift + (shift - drift) @ (shift - drift)) / (2 * 0.1**2)
        if score > best:
            best, found = score, (centre + matrix @ shift, spectrum)
    count = int(ORDERS[np.argmax(found[1][ORDERS])])
    return Frame(found[0], matrix, count, found[1], reach if reach > 1.25 else float("nan"))


def doublet_slots(pixels: np.ndarray, frame: Frame) -> np.ndarray:
    """The darkest spot of each of the ring's `count` sectors.

    Returns:
        [count, 3]: radius in ring radii, angle in radians, contrast of the spot.
    """
    radii, angles = np.linspace(0.6, 1.15, 23), np.radians(np.arange(360))
    stain = _band(-pixels, 0.09 * frame.radius, 0.25 * frame.radius)
    polar = _sample(stain, frame, *_polar(radii, angles))
    wave = np.fft.rfft(polar.max(0))[frame.count]
    pitch = 360 / frame.count
    middle = np.degrees(-np.angle(wave)) / frame.count + pitch * np.arange(frame.count)
    window = np.arange(-int(pitch / 4), int(pitch / 4) + 1)
    slots = []
    for column in np.rint(middle).astype(int):
        sector = polar[:, (column + window) % 360]
        row, best = np.unravel_index(np.argmax(sector), sector.shape)
        slots.append((radii[row], np.radians(column + window[best]), sector[row, best]))
    return np.array(slots)


def arm_scores(pixels: np.ndarray, frame: Frame, slots: np.ndarray) -> tuple[float, float]:
    """Stain at the outer and at the inner dynein arms, 0 as the matrix, 1 as the doublets.

    A lies nearer to the centre than B, so the slant of the mean doublet tells on which side of
    it arms belong, whether they are there or not.
    """
    grid = np.arange(-39, 40, _STEP_NM)
    along, outward = np.meshgrid(grid, grid)
    on_ring = slots[np.abs(slots[:, 0] - np.median(slots[:, 0])) < 0.12]
    radius, angle = on_ring[:, 0, None, None], on_ring[:, 1, None, None]
    far = radius + outward / frame.nm
    x = far * np.cos(angle) - along / frame.nm * np.sin(angle)
    y = far * np.sin(angle) + along / frame.nm * np.cos(angle)
    blurred = ndimage.gaussian_filter(-pixels, 2.0 * frame.radius / frame.nm)
    stain = _sample(blurred, frame, x, y).mean(0)

    def at(x_nm: float, y_nm: float, size: float = 4.5) -> float:
        weight = np.exp(-((along - x_nm) ** 2 + (outward - y_nm) ** 2) / (2 * size**2))
        return float(np.sum(weight * stain) / np.sum(weight))

    side = 1 if at(-10, 13) + at(10, -13) > at(10, 13) + at(-10, -13) else -1
    matrix = float(np.percentile(stain, 15))
    scale = max(at(0, 0, 10) - matrix, 1e-6)
    outer, inner = ((at(side * x, y) - matrix) / scale for x, y in (OUTER_ARM, INNER_ARM))
    return outer, inner


def central_microtubules(pixels: np.ndarray, frame: Frame) -> int:
    """How many microtubules stand in the centre: the best of drawn 0, 1, 2 and 4."""
    grid = np.arange(-37, 38) * _STEP_NM
    x, y = np.meshgrid(grid, grid)
    blurred = ndimage.gaussian_filter(-pixels, 0.02 * frame.radius)
    stain = _sample(blurred, frame, x / frame.nm, y / frame.nm)
    inside, templates, numbers = _central_templates()
    patch = stain[22:53, 22:53][inside]
    match = templates @ (patch - patch.mean())
    best = np.array([match[numbers == number].max() for number in (1, 2, 4)])
    low, high = np.percentile(stain[np.hypot(x, y) < 110], (20, 97))
    if best.max() < 3.7 * (high - low):
        return 0
    # A pair also fits a single one half-way: the single is given the benefit of the doubt.
    return (1, 2, 4)[int(np.argmax(best * (1.17, 1, 1)))]


@cache
def _central_templates() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A mask [31, 31], unit vectors [T, mask] of drawn tubules, and how many each shows."""
    grid = np.arange(-15, 16) * _STEP_NM
    x, y = np.meshgrid(grid, grid)
    inside = np.hypot(x, y) <= 39
    layouts = [(1, np.zeros((1, 2)))]
    for angle in np.arange(12) * np.pi / 12:
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        pair = np.array([(-14.5, 0), (14.5, 0)])
        layouts.append((2, pair @ turn.T))
        layouts.append((4, np.concatenate([pair + (0, 15), pair - (0, 15)]) @ turn.T))
    drawn, numbers = [], []
    for number, spots in layouts:
        for shift in _shifts(10 if number == 1 else 7, _STEP_NM):
            far = np.hypot(*(np.stack([x, y])[..., None] - (spots + shift).T[:, None, None]))
            tubules = np.exp(-0.5 * ((far - 10) / 4) ** 2) + 0.4 * (far < 10)
            vector = tubules.sum(-1)[inside]
            vector -= vector.mean()
            drawn.append(vector / np.linalg.norm(vector))
            numbers.append(number)
    return inside, np.array(drawn), np.array(numbers)


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
            return points.mean(0), axes * (2 * np.sqrt(variance)) @ axes.T
    return None


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


def _fit_ring(
    pixels: np.ndarray, middle: np.ndarray, membrane: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Ellipse of the ring of doublets: the innermost dark ring inside the outline."""
    size = np.sqrt(np.linalg.det(membrane))
    stain = _band(-pixels, 0.07 * size, 0.2 * size)
    stain /= np.percentile(np.abs(stain), 97) + 1e-30
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)])

    def ellipse(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shape = p[0] * np.array([[np.exp(p[3]), p[4]], [p[4], np.exp(-p[3])]])
        return middle + membrane @ p[1:3], membrane @ shape

    def misfit(p: np.ndarray) -> float:
        centre, matrix = ellipse(p)
        x, y = matrix @ circle + centre[:, None]
        # Saturation: one very dark spot must not buy a ring that misses the others.
        ring = np.tanh(ndimage.map_coordinates(stain, [y, x], order=1, mode="nearest"))
        return 0.075 * float(np.sum((p[1:] / (0.15, 0.15, 0.12, 0.12)) ** 2) - ring.mean() / 0.075)

    radii = np.arange(0.5, 0.96, 0.02)
    fit = -np.array([misfit(np.array([radius, 0, 0, 0, 0])) for radius in radii])
    rising = np.r_[True, fit[1:] >= fit[:-1]] & np.r_[fit[:-1] >= fit[1:], True]
    start = np.array([radii[np.argmax(rising & (fit >= min(0.5 * fit.max(), fit.max())))], 0, 0, 0, 0])
    simplex = start + np.vstack([np.zeros(5), np.diag((0.05, 0.06, 0.06, 0.06, 0.06))])
    options = {"initial_simplex": simplex, "maxfev": 220, "xatol": 2e-3, "fatol": 1e-4}
    return ellipse(optimize.minimize(misfit, start, method="Nelder-Mead", options=options).x)


def _spectrum(stain: np.ndarray, centre: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Power of the angular orders 0 to 14 of the darkest stain along each radius."""
    radii, angles = np.linspace(0.6, 1.1, 12), np.radians(np.arange(0, 360, 2))
    frame = Frame(centre, matrix, 9, np.zeros(0), 0.0)
    ray = _sample(stain, frame, *_polar(radii, angles)).max(0)
    return np.abs(np.fft.rfft(ray)[:15]) ** 2


def _sample(image: np.ndarray, frame: Frame, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values of an image at points given in the axoneme's frame."""
    across = frame.matrix[0, 0] * x + frame.matrix[0, 1] * y + frame.centre[0]
    down = frame.matrix[1, 0] * x + frame.matrix[1, 1] * y + frame.centre[1]
    return ndimage.map_coordinates(image, [down, across], order=1, mode="nearest")


def _polar(radii: np.ndarray, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.outer(radii, np.cos(angles)), np.outer(radii, np.sin(angles))


def _band(image: np.ndarray, fine: float, coarse: float) -> np.ndarray:
    """Difference of two Gaussian blurs: what is larger than `fine` and smaller than `coarse`."""
    return ndimage.gaussian_filter(image, fine) - ndimage.gaussian_filter(image, coarse)


def _shifts(reach: float, step: float) -> np.ndarray:
    """Points [N, 2] of a square grid within a circle around zero."""
    axis = np.arange(-int(reach / step + 1e-9), int(reach / step + 1e-9) + 1) * step
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    return grid[np.linalg.norm(grid, axis=1) <= reach + 1e-9]


def _disc(radius: float) -> np.ndarray:
    axis = np.arange(-int(radius), int(radius) + 1)
    return np.hypot(axis[:, None], axis[None]) <= max(radius, 0.5)
