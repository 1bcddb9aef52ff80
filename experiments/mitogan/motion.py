"""How a network lives: tubules wobble, grow, shrink, pearl, divide and fuse from frame to frame."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from experiments.mitogan.tubules import STEP_UM, Network

# Mean diameter of the tubules of a cell in µm, and spacing of the pearls of one in µm, seconds that
# pearling lasts, share of tubules that pearl within ten minutes: Mitochondrial_Pearling, figure 1.
WIDTH_UM, PEARL_UM = (0.34, 0.46), (0.92, 1.43)
_PEARLING_S, _PEARLING = (15.0, 27.0), (0.01, 0.22)
# Cells in which pearling was induced: how many, and which share of their tubules; assumed.
_INDUCED, _INDUCED_SHARE = 0.2, (0.3, 0.85)
# A pearl's radius over the mean is 1 plus this, a neck's 1 minus this; assumed.
_BULGE = (0.35, 0.55)
# Largest change of length of a tubule: Mitochondrial_Pearling, figure 1.
ELONGATION = 0.2
# Fissions and fusions per µm of tubule and second. Assumed, at the upper end of what living cells
# show, so that a video of a minute or two holds several.
_EVENTS = (1e-4, 6e-4)
# Gap of a fission at once and in the end, µm, and how fast it opens, µm/s; assumed.
_GAP_UM, _WIDEST_UM, _OPENING = 0.5, (0.7, 1.2), 0.03
# Standard deviation of positions in µm, and their memory in seconds; assumed.
_WOBBLE_UM, _MEMORY_S = (0.06, 0.14), 20.0
_MODES = 7
# What may not lie beside a cut or a tip, in vertices; shorter pieces vanish.
_CLEAR, _SHORTEST = 10, 4


class Cut(NamedTuple):
    """A place where a tubule divides or fuses in a frame."""

    vertex: int
    frame: int
    fission: bool
    widest: float


class State(NamedTuple):
    """A network in one frame: vertices in µm [V, 2], which are there, radius and brightness."""

    points: np.ndarray
    visible: np.ndarray
    radii: np.ndarray
    brightness: np.ndarray


@dataclass(frozen=True)
class Pearls:
    """Bulges along tubules: of each tubule when they begin and end, how strong, how far apart."""

    begin: np.ndarray
    end: np.ndarray
    bulge: np.ndarray
    spacing: np.ndarray
    phase: np.ndarray

    def strength(self, seconds: float) -> np.ndarray:
        """Of each tubule's bulges now; they come and go within three seconds."""
        inside = np.minimum(seconds - self.begin, self.end - seconds)
        return self.bulge * np.clip(inside / 3 + 1, 0, 1)


@dataclass(frozen=True)
class Motion:
    """Everything that moves a network; `at` is a function of the frame alone.

    Attributes:
        network: at rest.
        interval_s: seconds between frames.
        radii: of each vertex at rest, µm [V].
        brightness: of each vertex, mean 1 [V].
        flicker: factor of each tubule's brightness in each frame [T, N].
        modes: wave vectors in 1/µm [M, 2], directions in µm [M, 2].
        swing: amplitude of each mode in each frame [T, M].
        phases: of each vertex's component in each mode [V, M].
        pearls: of each tubule.
        growth: amplitude, period in frames and phase of the length of each tubule [N, 3].
        cuts: fissions and fusions.
    """

    network: Network
    interval_s: float
    radii: np.ndarray
    brightness: np.ndarray
    flicker: np.ndarray
    modes: tuple[np.ndarray, np.ndarray]
    swing: np.ndarray
    phases: np.ndarray
    pearls: Pearls
    growth: np.ndarray
    cuts: tuple[Cut, ...]

    def at(self, frame: int) -> State:
        """The network in one frame."""
        tubules, (waves, ways) = self.network.tubules, self.modes
        turns = np.sin(self.network.points @ waves.T + self.phases)
        points = self.network.points + (turns * self.swing[frame]) @ ways
        strength = self.pearls.strength(frame * self.interval_s)[tubules]
        along = _along(tubules) * STEP_UM
        wave = np.cos(2 * np.pi * along / self.pearls.spacing[tubules] + self.pearls.phase[tubules])
        radii = self.radii * (1 + strength * wave)
        visible = self._uncut(frame) & self._within_length(frame)
        brightness = self.brightness * self.flicker[frame][tubules]
        return State(points, _long_enough(visible, tubules), radii, brightness)

    def events(self, frame: int, fission: bool) -> int:
        """Fissions, or fusions, up to and with this frame."""
        return sum(cut.fission == fission and cut.frame <= frame for cut in self.cuts)

    def pearling(self, frame: int) -> np.ndarray:
        """Which tubules have pearls in this frame [N]."""
        return self.pearls.strength(frame * self.interval_s) > 0.25

    def _uncut(self, frame: int) -> np.ndarray:
        tubules = self.network.tubules
        uncut = np.ones(len(tubules), bool)
        for cut in self.cuts:
            since = (frame - cut.frame if cut.fission else cut.frame - 1 - frame) * self.interval_s
            if since >= 0:
                reach = int(min(_GAP_UM + _OPENING * since, cut.widest) / STEP_UM / 2)
                near = slice(max(cut.vertex - reach, 0), cut.vertex + reach + 1)
                uncut[near] &= tubules[near] != tubules[cut.vertex]
        return uncut

    def _within_length(self, frame: int) -> np.ndarray:
        size, period, phase = self.growth.T
        share = 1 + size * np.sin(2 * np.pi * frame / period + phase)
        counts = np.bincount(self.network.tubules)
        reach = np.rint(counts * share / (1 + size))
        return _along(self.network.tubules) < reach[self.network.tubules]


def draw_motion(
    rng: np.random.Generator, network: Network, frames: int, interval_s: float
) -> Motion:
    """Draws how a network moves over some frames."""
    count = int(network.tubules[-1]) + 1
    vertices = len(network.tubules)
    width = rng.uniform(*WIDTH_UM)
    each = (width * rng.normal(1, 0.05, count).clip(0.85, 1.15))[network.tubules]
    grain = np.exp(rng.normal(0, 0.22, count))[network.tubules] * _grain(rng, vertices)
    cuts = _draw_cuts(rng, network, frames, interval_s)
    length = 2 * np.pi / rng.uniform(1.5, 9, (_MODES, 1))
    waves = length * _directions(rng)
    # One mode moves whole components; the others bend them.
    waves[0] = 0
    ways = rng.uniform(*_WOBBLE_UM) * _directions(rng)
    return Motion(
        network,
        interval_s,
        each / 2,
        grain,
        np.exp(0.05 * _memory(rng, frames, count, interval_s)),
        (waves, ways),
        _memory(rng, frames, _MODES, interval_s),
        rng.uniform(0, 2 * np.pi, (vertices, _MODES))[_components(network)],
        _draw_pearls(rng, count, frames * interval_s),
        _draw_growth(rng, network, cuts, interval_s),
        cuts,
    )


def _draw_pearls(rng: np.random.Generator, count: int, seconds: float) -> Pearls:
    induced = rng.random() < _INDUCED
    share = rng.uniform(*(_INDUCED_SHARE if induced else _PEARLING))
    begin = rng.uniform(-_PEARLING_S[1], seconds, count)
    end = begin + rng.uniform(*_PEARLING_S, count)
    if induced:
        begin, end = rng.uniform(-30, 0, count), np.full(count, np.inf)
    bulge = np.where(rng.random(count) < share, rng.uniform(*_BULGE, count), 0)
    spacing = rng.uniform(*PEARL_UM) * rng.normal(1, 0.03, count)
    return Pearls(begin, end, bulge, spacing, rng.uniform(0, 2 * np.pi, count))


def _draw_growth(
    rng: np.random.Generator, network: Network, cuts: tuple[Cut, ...], interval_s: float
) -> np.ndarray:
    """Tubules that end freely grow and shrink, unless something sits on the part that would go."""
    counts = np.bincount(network.tubules)
    ends = np.cumsum(counts) - 1
    size = ELONGATION * rng.uniform(0.2, 1, len(counts))
    along = _along(network.tubules)
    busy = [*network.attachments.ravel().tolist(), *(cut.vertex for cut in cuts)]
    last = np.zeros(len(counts))
    np.maximum.at(last, network.tubules[busy], along[busy] + _CLEAR)
    size *= ~np.isin(ends, network.attachments) & (last < counts * (1 - size) / (1 + size))
    period = rng.uniform(60, 240, len(counts)) / interval_s
    return np.stack([size, period, rng.uniform(0, 2 * np.pi, len(counts))], 1)


def _draw_cuts(
    rng: np.random.Generator, network: Network, frames: int, interval_s: float
) -> tuple[Cut, ...]:
    """Places for events: within tubules, or at the root of a branch, apart from one another."""
    counts = np.bincount(network.tubules)
    along, size = _along(network.tubules), counts[network.tubules]
    free = (along >= 2 * _CLEAR) & (along < 0.6 * size - _CLEAR)
    for vertex in network.attachments.ravel().tolist():
        free[max(vertex - _CLEAR, 0) : vertex + _CLEAR + 1] = False
    roots = [first for first, host in network.attachments.tolist() if size[first] > 3 * _CLEAR]
    places = np.array([*np.flatnonzero(free).tolist(), *roots * _CLEAR], int)
    number = rng.poisson(rng.uniform(*_EVENTS) * network.length * interval_s * (frames - 1))
    cuts: list[Cut] = []
    for vertex in rng.permutation(places)[: 4 * number].tolist():
        apart = all(abs(vertex - cut.vertex) > 2 * _CLEAR for cut in cuts)
        if apart and len(cuts) < number:
            frame, fission = int(rng.integers(1, frames)), bool(rng.random() < 0.5)
            cuts.append(Cut(vertex, frame, fission, rng.uniform(*_WIDEST_UM)))
    return tuple(cuts)


def _components(network: Network) -> np.ndarray:
    """Which vertices hang together at rest [V]."""
    vertices = len(network.tubules)
    along = np.flatnonzero(np.diff(network.tubules) == 0)
    first = np.concatenate([along, network.attachments[:, 0]])
    second = np.concatenate([along + 1, network.attachments[:, 1]])
    graph = coo_array((np.ones(len(first)), (first, second)), (vertices, vertices))
    return connected_components(graph, directed=False)[1]


def _along(tubules: np.ndarray) -> np.ndarray:
    """Number of each vertex within its tubule [V]."""
    counts = np.bincount(tubules)
    return np.arange(len(tubules)) - np.repeat(np.cumsum(counts) - counts, counts)


def _long_enough(visible: np.ndarray, tubules: np.ndarray) -> np.ndarray:
    """Without pieces too short to be a mitochondrion."""
    starts = np.diff(tubules, prepend=-1) != 0
    starts[1:] |= visible[1:] != visible[:-1]
    piece = np.cumsum(starts) - 1
    return visible & (np.bincount(piece)[piece] >= _SHORTEST)


def _memory(rng: np.random.Generator, frames: int, count: int, interval_s: float) -> np.ndarray:
    """Stationary Gaussian sequences of variance 1 that forget within `_MEMORY_S` [T, count]."""
    keep = np.exp(-interval_s / _MEMORY_S)
    drawn = rng.standard_normal((frames, count))
    for frame in range(1, frames):
        drawn[frame] = keep * drawn[frame - 1] + np.sqrt(1 - keep**2) * drawn[frame]
    return drawn


def _grain(rng: np.random.Generator, vertices: int) -> np.ndarray:
    """Uneven stain along tubules, correlated over some 0.6 µm, mean 1."""
    steps = rng.standard_normal(vertices + 16)
    smooth = np.convolve(steps, np.ones(17) / np.sqrt(17), "valid")[:vertices]
    return np.exp(0.13 * smooth)


def _directions(rng: np.random.Generator) -> np.ndarray:
    angles = rng.uniform(0, 2 * np.pi, _MODES)
    return np.stack([np.cos(angles), np.sin(angles)], 1)
