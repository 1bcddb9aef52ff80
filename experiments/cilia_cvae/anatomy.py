"""A motile cilium as a cloud of stained points: what a section through it projects onto the film.

Lengths are nanometres, x to the right, y down, angles from x towards y. A point is a row
(x, y, weight); its weight is the optical depth it adds, integrated over area (nm²). Sizes follow
the canonical 9+2 axoneme: tubules of 25 nm, a 13-protofilament A and a 10-protofilament B tubule,
arms on A, spokes to the sheath.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

SECTION_DEPTHS = np.linspace(-0.5, 0.5, 7)
PARTS = ("a_tubule", "b_tubule", "outer_arm", "inner_arm", "spoke", "link")
A_CENTRE = np.array([[8.8, -2.7]])
B_CENTRE = np.array([[-9.3, 2.7]])
OUTER_ARM = ((8, 7), (12, 11), (17, 13), (21, 11.5), (23, 7.5))
INNER_ARM = ((7.5, -8), (11, -13), (15, -15.5), (20, -13.5), (21.5, -9.5))


@dataclass(frozen=True)
class Axoneme:
    """Everything that is true of one simulated cross-section.

    Attributes:
        label: one of the ten classes.
        height: rows of the image in pixels.
        width: columns of the image in pixels.
        pixel_size_um: micrometres per pixel.
        centre_x: column of the axoneme's centre in pixels.
        centre_y: row of the axoneme's centre in pixels.
        membrane_radius_um: mean radius of the membrane before `ellipticity`.
        ring_radius_um: radius of the ring of doublets before `ellipticity`.
        ellipticity: major over minor axis of the oblique cut, >= 1.
        ellipse_angle: direction of the major axis in radians.
        rotation: angle of the first doublet in radians.
        clockwise: whether arms point clockwise on the image (seen from the base of the cilium).
        num_doublets: doublets in all, displaced ones included.
        central_microtubules: 0, 1, 2 or 4.
        central_angle: direction of the line through a central pair in radians.
        outer_arms: presence of the outer dynein arm of each doublet.
        inner_arms: presence of the inner dynein arm of each doublet.
        radii_um: distance of each doublet from the centre before `ellipticity`.
        angles: direction of each doublet before `ellipticity`, radians.
        displaced: whether the doublet has left the ring.
    """

    label: str
    height: int
    width: int
    pixel_size_um: float
    centre_x: float
    centre_y: float
    membrane_radius_um: float
    ring_radius_um: float
    ellipticity: float
    ellipse_angle: float
    rotation: float
    clockwise: bool
    num_doublets: int
    central_microtubules: int
    central_angle: float
    outer_arms: tuple[bool, ...]
    inner_arms: tuple[bool, ...]
    radii_um: tuple[float, ...]
    angles: tuple[float, ...]
    displaced: tuple[bool, ...]


def stretch(truth: Axoneme) -> np.ndarray:
    """The area-preserving matrix [2, 2] an oblique cut applies to the axoneme's plane."""
    axis = np.array([np.cos(truth.ellipse_angle), np.sin(truth.ellipse_angle)])
    major = np.sqrt(truth.ellipticity)
    return np.eye(2) / major + (major - 1 / major) * np.outer(axis, axis)


def doublet_positions(truth: Axoneme) -> np.ndarray:
    """Centres of the doublets on the image [num_doublets, 2] as x, y in pixels."""
    polar = np.array(truth.radii_um) * np.exp(1j * np.array(truth.angles))
    plane = np.stack([polar.real, polar.imag], 1) @ stretch(truth).T / truth.pixel_size_um
    return plane + np.array([[truth.centre_x, truth.centre_y]])


def cilium_points(truth: Axoneme, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A whole cilium around its centre, the oblique cut applied.

    Returns:
        Points [N, 3] of what has edges (tubules, arms, spokes, membrane) and of what is diffuse
        (matrix, coat of the membrane).
    """
    smear = np.clip(rng.normal(0, 2.8, 2), -5, 5)
    membrane = _membrane(truth, rng)
    sharp = [
        _doublet_points(truth, smear, rng),
        *_central_points(truth, smear, rng),
        *_leaflet_points(membrane, rng),
    ]
    clouds = np.concatenate(sharp), _diffuse_points(membrane, rng)
    for cloud in clouds:
        cloud[:, :2] @= stretch(truth).T
    return clouds


def _doublet_points(truth: Axoneme, smear: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Doublets with arms, spokes and links, each tilted a little on its own."""
    shape, weight, part, spread = _doublet_template()
    n = truth.num_doublets
    angles = np.array(truth.angles)
    displaced = np.array(truth.displaced)
    turn = np.where(displaced, rng.uniform(-0.6, 0.6, n), rng.normal(0, 0.08, n))
    local = shape + rng.normal(0, 1, (n, *shape.shape)) * spread[:, None]
    local[..., 0] *= 1 if truth.clockwise else -1
    outward = np.stack([np.cos(angles + turn), np.sin(angles + turn)], 1)[:, None]
    along = np.stack([-outward[..., 1], outward[..., 0]], -1)
    centre = 1e3 * np.array(truth.radii_um)[:, None] * np.exp(1j * angles)[:, None]
    plane = local[..., :1] * along + local[..., 1:] * outward
    plane += np.stack([centre.real, centre.imag], -1)
    gains = _part_gains(truth, displaced, rng)
    weights = weight * gains[:, part] * rng.gamma(10, 0.1, (n, len(part)))
    tilt = smear + rng.normal(0, 2.5, (n, 1, 2))
    return _project(plane, weights, np.broadcast_to(tilt, plane.shape))


def _part_gains(truth: Axoneme, displaced: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How darkly each part [num_doublets, parts] of each doublet is stained."""
    n = truth.num_doublets
    gains = rng.uniform(0.85, 1.15, (n, len(PARTS)))
    gains[:, 2] *= truth.outer_arms
    gains[:, 3] *= truth.inner_arms
    gains[:, 4] *= np.where(displaced, 0, rng.uniform(0.3, 1.4, n))
    gains[:, 5] *= np.where(displaced, 0, rng.uniform(0.2, 1.3, n))
    return gains


@cache
def _doublet_template() -> tuple[np.ndarray, ...]:
    """One doublet; x along the arms, y outward.

    Returns:
        Points [T, 2], weights [T], numbers in `PARTS` [T] and irregularity [T] in nanometres.
    """
    a, b = _ring(9.6, 13) + A_CENTRE, _ring(10.2, 16) + B_CENTRE
    b = b[np.linalg.norm(b - A_CENTRE, axis=1) > 10.5]
    spoke = np.r_[np.c_[np.full(9, 5), np.linspace(-14, -38, 9)], [[0, -40], [4, -41], [9, -40]]]
    parts = (
        (a, 28, 0, 0.6),
        (b, 27, 1, 0.6),
        (np.repeat(a, 2, 0), 14, 0, 3.4),
        (np.repeat(b, 2, 0), 14, 1, 3.4),
        (_ring(3, 4) + A_CENTRE, 18, 0, 2.5),
        (_ring(3, 4) + B_CENTRE, 18, 1, 2.5),
        (_polyline(OUTER_ARM, 18) + A_CENTRE, 11, 2, 2.0),
        (_polyline(INNER_ARM, 15) + A_CENTRE, 10, 3, 1.8),
        (spoke, 12, 4, 1.8),
        (_polyline(((17, -6), (26, -4), (34, -3)), 6), 8, 5, 1.8),
    )
    counts = [len(points) for points, *_ in parts]
    columns = [np.repeat(column, counts) for column in list(zip(*parts, strict=True))[1:]]
    return np.concatenate([points for points, *_ in parts]), *columns


def _central_points(
    truth: Axoneme, smear: np.ndarray, rng: np.random.Generator
) -> list[np.ndarray]:
    """Central microtubules, the bridge of each pair and the sheath around them."""
    number = truth.central_microtubules
    if number == 0:
        return []
    x = rng.uniform(-6, 6) if number == 1 else 14.5
    y = 15 if number == 4 else 0
    spots = {1: [(x, 0)], 2: [(-x, 0), (x, 0)], 4: [(-x, -y), (x, -y), (-x, y), (x, y)]}[number]
    rings = np.concatenate([_ring(10, 13) + np.array([spot]) for spot in spots])
    bridges = [_polyline(((-6, y), (6, y)), 4) for y in ({1: [], 2: [0], 4: [-y, y]}[number])]
    sheath = _ring(1, 80) * [[abs(x) + 15, y + 19]]
    parts = (rings, rings, *bridges, sheath)
    strength = (30.0, 26.0, *[18.0] * len(bridges), 9.0)
    spread = (0.6, 3.2, *[2.0] * len(bridges), 3.5)
    counts = [len(part) for part in parts]
    local = np.concatenate(parts)
    local += rng.normal(0, 1, local.shape) * np.repeat(spread, counts)[:, None]
    weight = np.repeat(strength, counts) * rng.gamma(6, 1 / 6, len(local))
    axis = np.array([np.cos(truth.central_angle), np.sin(truth.central_angle)])
    across = np.array([-axis[1], axis[0]])
    plane = local[:, :1] * axis + local[:, 1:] * across + rng.normal(0, 2.5, 2)
    tilt = smear + rng.normal(0, 2.0, 2)
    return [_project(plane, weight, np.broadcast_to(tilt, plane.shape))]


def _membrane(truth: Axoneme, rng: np.random.Generator) -> np.ndarray:
    """Radius of the membrane at 720 even angles: lobes, corners, creases and fine crinkles."""
    phase = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    lobes = 0.035 * _periodic(rng, phase, 2, 10, 1.1)
    crinkles = 0.008 * _periodic(rng, phase, 12, 32, 0.7)
    radius = 1e3 * truth.membrane_radius_um * (1 + lobes + crinkles + _corners(phase, rng))
    return np.maximum(radius, 1e3 * truth.ring_radius_um + 21)


def _leaflet_points(radius: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """The double line of a membrane; where it leans in the section it fades to a grey band."""
    phase = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    normal = np.stack([np.cos(phase), np.sin(phase)], 1)
    length = np.hypot(radius, np.gradient(radius, phase)) * 2 * np.pi / 720
    stain = 4.3 * length * np.clip(1 + 0.3 * _periodic(rng, phase, 1, 9, 0.5), 0.3, 2)
    lean = np.clip(6 * _periodic(rng, phase, 1, 6, 0.5) ** 3, -15, 15)[:, None] * normal
    return [_project((radius + side)[:, None] * normal, stain, lean) for side in (-2.7, 2.7)]


def _diffuse_points(radius: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The granular matrix inside a membrane and the faint coat outside."""
    clumps = rng.integers(0, 720, 3000)
    inside = np.sqrt(rng.random(2400)) * (radius[clumps[:2400]] - 5)
    outside = radius[clumps[2400:]] + 5 + rng.exponential(3.5, 600)
    polar = np.r_[inside, outside] * np.exp(2j * np.pi * clumps / 720)
    centre = np.stack([polar.real, polar.imag], 1)
    waves = rng.normal(0, 2 * np.pi / 70, (2, 12))
    field = np.cos(centre @ waves + rng.uniform(0, 2 * np.pi, 12)).sum(1) / np.sqrt(6)
    mass = rng.gamma(1, 1, 3000) * np.clip(1 + 0.5 * field, 0.15, 2.5)
    mass *= np.repeat([0.38 * np.pi * np.mean(radius**2) / 2400, 3.0], [2400, 600])
    points = np.repeat(centre, 3, 0) + rng.normal(0, 3.5, (9000, 2))
    return np.c_[points, np.repeat(mass / 3, 3)]


def _corners(phase: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pointed bulges and creases of the membrane, as a fraction of its radius."""
    count = rng.integers(4, 10)
    away = np.abs(np.angle(np.exp(1j * (phase[:, None] - rng.uniform(0, 2 * np.pi, count)))))
    height = rng.normal(0.02, 0.085, count)
    bulges = height * np.exp(-away / rng.uniform(0.08, 0.3, count))
    return np.sum(bulges, 1) - np.mean(np.sum(bulges, 1))


def _project(points: np.ndarray, weights: np.ndarray, tilt: np.ndarray) -> np.ndarray:
    """Sums the section's depths: points [..., 2] lean by `tilt` nm from face to face."""
    layers = points + SECTION_DEPTHS.reshape(-1, *[1] * points.ndim) * tilt
    weight = np.broadcast_to(weights / len(SECTION_DEPTHS), layers.shape[:-1])
    return np.c_[layers.reshape(-1, 2), weight.reshape(-1)]


def _periodic(
    rng: np.random.Generator, phase: np.ndarray, low: int, high: int, decay: float
) -> np.ndarray:
    """A random periodic function of unit variance, amplitudes falling as order^-decay."""
    order = np.arange(low, high + 1)
    size = rng.rayleigh(1, len(order)) * order**-decay
    waves = np.cos(np.outer(phase, order) + rng.uniform(0, 2 * np.pi, len(order))) @ size
    return waves / (np.sqrt(np.sum(order ** (-2.0 * decay))) + 1e-9)


def _ring(radius: float, count: int) -> np.ndarray:
    phase = 2 * np.pi * np.arange(count) / count
    return radius * np.stack([np.cos(phase), np.sin(phase)], 1)


def _polyline(corners: tuple[tuple[float, float], ...], count: int) -> np.ndarray:
    """`count` points [count, 2] at even distances along a line of straight pieces."""
    corner = np.array(corners, float)
    length = np.r_[0, np.cumsum(np.linalg.norm(np.diff(corner, axis=0), axis=1))]
    at = np.linspace(0, length[-1], count)
    return np.stack([np.interp(at, length, corner[:, axis]) for axis in (0, 1)], 1)
