"""The doublets of a ring, one by one, and the dynein arms on them.

Every doublet is laid into the same frame: nanometres from its centre, along the arms and outward.
Tubules, arms and neighbours are drawn there and fitted together, so that a neighbour that has
come close does not pass for an arm.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from experiments.cilia_cvae.frame import Frame, band, sample
from experiments.cilia_cvae.ring import polar

_STEP_NM = 3.0
_ALONG, _OUTWARD = np.meshgrid(np.arange(-39, 40, _STEP_NM), np.arange(-39, 40, _STEP_NM))
# Centres of the A and the B tubule, and where the arms of an axoneme are drawn in cross-section.
A_TUBULE, B_TUBULE = np.array([8.8, -2.7]), np.array([-9.3, 2.7])
_OUTER_ARM = A_TUBULE + np.array(
    [(8, 7), (10, 9), (12, 11), (15, 12), (17, 13), (19, 12), (21, 11), (23, 8)]
)
_INNER_ARM = A_TUBULE + np.array(
    [(8, -8), (9, -11), (11, -13), (15, -15), (18, -15), (20, -14), (21, -10)]
)
# A doublet further off the ring, in ring radii, may be turned, and one beside it on the side of the
# arms may be covered: both count for less.
OFF_RING, _DOUBTFUL_WEIGHT = 0.12, 0.6
# On the ring turns about itself are smaller than the error of reading them: the share of what is
# read that is expected to be true, from 50 simulated sections (errors 0.115, turns 0.078 radians).
_TURN_ON_RING = 0.3
_TURNS = (0.0, -0.5, -0.25, 0.25, 0.5)


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


class Arms(NamedTuple):
    """Dynein arms of one cross-section.

    Attributes:
        side: 1 where they belong at larger angles than their doublets, y pointing down, else -1.
        outer: stain of the outer ones in that of the tubules, mean over doublets.
        inner: that of the inner ones.
    """

    side: int
    outer: float
    inner: float


def read_arms(pixels: np.ndarray, frame: Frame, slots: np.ndarray) -> tuple[Arms, np.ndarray]:
    """Looks for the arms of each doublet, and where exactly it is.

    A lies nearer to the centre than B, so the slant of the doublets tells on which side of them
    arms belong, whether arms are there or not.

    Returns:
        The arms, and of each doublet the radius in ring radii, the angle, and how far it is turned
        about itself, both in radians [count, 3].
    """
    away = np.abs(slots[:, 0] - np.median(slots[:, 0]))
    on_ring = away <= max(OFF_RING, np.median(away))
    turns = np.stack([_tiles(pixels, frame, slots, turn) for turn in _TURNS])
    fits = {side: _aligned(turns[..., ::side], on_ring) for side in (1, -1)}
    side = max(fits, key=lambda one: fits[one].fit)
    found = fits[side]
    tiles = found.tiles
    stain = tiles.reshape(len(tiles), -1)[:, _near()] @ _fit_parts()
    where = _places(found, stain, side, slots, frame.nm)
    where[on_ring, 2] *= _TURN_ON_RING
    stain /= max(float(np.mean(stain[on_ring, 0])), 1e-6)
    doubts = 2 - on_ring - np.roll(on_ring, -side).astype(int)
    weight = _DOUBTFUL_WEIGHT**doubts
    outer, inner = weight @ np.clip(stain[:, 1:3], -0.5, 1.5) / weight.sum()
    return Arms(side, float(outer), float(inner)), where


def _places(
    found: "_Aligned", stain: np.ndarray, side: int, slots: np.ndarray, nm: float
) -> np.ndarray:
    """Radius, angle and turn of each doublet [count, 3].

    Those of its slot, the steps to the drawn doublet, and what the fit adds to these.
    """
    tubules = np.maximum(stain[:, 0], 1e-6)
    limits = (_STEP_NM, _STEP_NM, 1.0)
    fine = stain[:, 3:] * (1, 1, 0.1) / tubules[:, None]
    fine = np.clip(fine, np.negative(limits), limits)
    along, outward = (found.moved + fine[:, :2]).T
    along = along * side
    turn = found.turned
    far = slots[:, 0] + (along * np.sin(turn) + outward * np.cos(turn)) / nm
    aside = (along * np.cos(turn) - outward * np.sin(turn)) / nm
    beyond = np.arctan2(aside, far)
    turned = -turn - side * fine[:, 2] - beyond
    return np.stack([np.hypot(far, aside), slots[:, 1] + beyond, turned], 1)


def _tiles(pixels: np.ndarray, frame: Frame, slots: np.ndarray, turn: float) -> np.ndarray:
    """What surrounds each doublet [count, 27, 27], outward down, arms at the right or the left."""
    radius, angle = slots[:, 0, None, None], slots[:, 1, None, None]
    along = (_ALONG * np.cos(turn) - _OUTWARD * np.sin(turn)) / frame.nm
    far = radius + (_ALONG * np.sin(turn) + _OUTWARD * np.cos(turn)) / frame.nm
    x = far * np.cos(angle) - along * np.sin(angle)
    y = far * np.sin(angle) + along * np.cos(angle)
    blurred = ndimage.gaussian_filter(-pixels, 2.0 * frame.radius / frame.nm)
    return sample(blurred, frame, x, y)


class _Aligned(NamedTuple):
    """Tiles laid on drawn doublets.

    Attributes:
        fit: how well those on the ring fit.
        tiles: moved so that they do [n, 27, 27].
        moved: along the arms and outward in nanometres [n, 2].
        turned: in radians, as for `_tiles` [n].
    """

    fit: float
    tiles: np.ndarray
    moved: np.ndarray
    turned: np.ndarray


def _aligned(turns: np.ndarray, on_ring: np.ndarray) -> _Aligned:
    """Lays tiles on drawn doublets.

    Args:
        turns: tiles [turn, n, 27, 27]; doublets on the ring are taken as in the first.
        on_ring: whether each doublet is on the ring.
    """
    steps = [(down, right) for down in range(-3, 4) for right in range(-3, 4)]
    drawn = np.stack([np.roll(_drawn_doublet(), step, (0, 1)).ravel() for step in steps])
    fit = turns.reshape(*turns.shape[:2], -1) @ drawn.T
    turn = np.where(on_ring, 0, fit.max(2).argmax(0))
    tiles, moved = [], []
    for k, chosen in enumerate(turn):
        down, right = steps[int(fit[chosen, k].argmax())]
        tiles.append(np.roll(turns[chosen, k], (-down, -right), (0, 1)))
        moved.append((right * _STEP_NM, down * _STEP_NM))
    fit_on_ring = float(fit[0].max(1)[on_ring].sum())
    return _Aligned(fit_on_ring, np.array(tiles), np.array(moved), np.array(_TURNS)[turn])


@cache
def _drawn_doublet() -> np.ndarray:
    """Two touching tubules without arms on a light ground, of zero mean."""
    near = (np.abs(_ALONG) <= 20) & (np.abs(_OUTWARD) <= 25)
    far = np.stack([np.hypot(_ALONG - x, _OUTWARD - y) for x, y in ((8.8, -4), (-9.3, 4))])
    tubules = (np.exp(-0.5 * ((far - 9.5) / 3.5) ** 2) + 0.5 * (far < 9.5)).max(0)
    return (tubules - tubules[near].mean()) * near


@cache
def _near() -> np.ndarray:
    """Which pixels of a flat tile the parts are fitted to: without the membrane's."""
    return ((np.abs(_ALONG) <= 38) & (_OUTWARD >= -34) & (_OUTWARD <= 26)).ravel()


@cache
def _fit_parts() -> np.ndarray:
    """Takes pixels to the least-squares stain of tubules, outer arm and inner arm, in columns.

    Three more columns are what the tubules' shift by a nanometre along the arms or outward, or turn
    by 0.1, has to be multiplied by. Fitted with them and dropped are the matrix, its slope outwards
    and the neighbours.
    """
    tubules = _drawn_tubules(0, 0, 0)
    parts = (
        tubules,
        _drawn(_OUTER_ARM, 2.8),
        _drawn(_INNER_ARM, 2.8),
        _drawn_tubules(1, 0, 0) - tubules,
        _drawn_tubules(0, 1, 0) - tubules,
        _drawn_tubules(0, 0, 0.1) - tubules,
        np.ones(_ALONG.size),
        _OUTWARD.ravel() / 30,
        _drawn(np.array([(48, -18)]), 14),
        _drawn(np.array([(-48, -18)]), 14),
    )
    return np.linalg.pinv(np.stack(parts, 1)[_near()]).T[:, :6]


def _drawn_tubules(along: float, outward: float, turn: float) -> np.ndarray:
    """Both tubules of a doublet that is shifted by nanometres and turned by radians, flat."""
    phase = np.arange(13) * 2 * np.pi / 13
    wall = np.stack([np.cos(phase), np.sin(phase)], 1)
    turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    walls = np.concatenate([A_TUBULE + 9.6 * wall, B_TUBULE + 10.2 * wall])
    lumens = np.array([A_TUBULE, B_TUBULE])
    moved = [points @ turned + (along, outward) for points in (walls, lumens)]
    return _drawn(moved[0], 4.2) + 1.5 * _drawn(moved[1], 7)


def _drawn(points: np.ndarray, size: float) -> np.ndarray:
    """Gaussian spots at points [N, 2] of a tile, flat."""
    x, y = points[:, :1] - _ALONG.ravel(), points[:, 1:] - _OUTWARD.ravel()
    return np.exp(-(x**2 + y**2) / (2 * size**2)).sum(0)
