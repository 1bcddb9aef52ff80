"""What is true of a network in one frame, counted on its graph and not on an image."""

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from experiments.mitogan.motion import State
from experiments.mitogan.tubules import STEP_UM, Network


class Topology(NamedTuple):
    """Numbers of a graph, and of each vertex how far it is from the next free end in µm."""

    length_um: float
    components: int
    branch_points: int
    end_points: int
    loops: int
    from_end: np.ndarray


def topology(network: Network, state: State) -> Topology:
    """Counts what hangs together where it hangs together: tubules that only cross do not.

    Places of three or more arms are branch points, places of one are end points, and loops are the
    cycle rank: edges minus places plus components.
    """
    tubules, visible = network.tubules, state.visible
    place = _places(network, visible)
    first = np.flatnonzero((np.diff(tubules) == 0) & visible[:-1] & visible[1:])
    edges = np.stack([place[first], place[first + 1]])
    arms = np.bincount(edges.ravel(), minlength=len(place))
    count = len(place)
    graph = coo_array((np.ones(len(first)), tuple(edges)), (count, count))
    # Places that are no vertex's, or only that of a hidden one, are components of their own.
    parts = connected_components(graph, directed=False)[0] - int(np.sum(arms == 0))
    steps = np.linalg.norm(state.points[first + 1] - state.points[first], axis=1)
    return Topology(
        float(steps.sum()),
        parts,
        int(np.sum(arms > 2)),
        int(np.sum(arms == 1)),
        len(first) - int(np.sum(arms > 0)) + parts,
        _from_end(tubules, visible, arms[place] == 1),
    )


def _places(network: Network, visible: np.ndarray) -> np.ndarray:
    """Number of each vertex's place [V]: attached vertices share one while both are there."""
    count = len(visible)
    joined = network.attachments[visible[network.attachments].all(1)]
    graph = coo_array((np.ones(len(joined)), tuple(joined.T)), (count, count))
    return connected_components(graph, directed=False)[1]


def _from_end(tubules: np.ndarray, visible: np.ndarray, is_end: np.ndarray) -> np.ndarray:
    """Way along the tubule to its next free end in µm [V]; large where there is none."""
    ends = np.flatnonzero(is_end & visible)
    far = np.full(len(tubules), 1e3)
    if len(ends) == 0:
        return far
    every = np.arange(len(tubules))
    right = np.searchsorted(ends, every)
    for end in (ends[np.maximum(right - 1, 0)], ends[np.minimum(right, len(ends) - 1)]):
        same = tubules[end] == tubules
        far[same] = np.minimum(far[same], np.abs(end - every)[same] * STEP_UM)
    return far
