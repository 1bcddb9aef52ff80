"""Yeast cells as ellipses: what is known of each, and where their outlines are.

Lengths are units of the field and the origin is the trap's, see `trap`.
"""

import numpy as np

# One row a cell. Radius: of the circle of equal area. Aspect: long over short axis, now and when
# nothing squeezes. Angle: of the long axis. Mature: radius at which growth slows down. Rate: of the
# radius per frame. Wait: frames until the next bud. Log level: of GFP, natural logarithm over a
# usual cell. Height: over the focus, in steps between focal planes. Mother: 0 for none. Born,
# separated: frames, below 0 before the film; `NEVER` while a bud hangs on its mother.
CELL = np.dtype(
    [
        ("id", "i4"),
        ("x", "f8"),
        ("y", "f8"),
        ("radius", "f8"),
        ("grown", "f8"),
        ("aspect", "f8"),
        ("rest_aspect", "f8"),
        ("angle", "f8"),
        ("mature", "f8"),
        ("rate", "f8"),
        ("wait", "f8"),
        ("log_level", "f8"),
        ("own_log_level", "f8"),
        ("height", "f8"),
        ("grain", "i8"),
        ("mother", "i4"),
        ("born", "i4"),
        ("separated", "i4"),
    ]
)
NEVER = 10**6


def semi_axes(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Long and short semi-axis of each cell [N], [N]."""
    root = np.sqrt(cells["aspect"])
    return cells["radius"] * root, cells["radius"] / root


def attached(cells: np.ndarray) -> np.ndarray:
    """Which cells are buds that hang on their mothers, bool [N]."""
    return cells["separated"] == NEVER


def reach(cells: np.ndarray, ways: np.ndarray) -> np.ndarray:
    """From each cell's centre to its outline along directions.

    Args:
        cells: `CELL` [N].
        ways: unit vectors [N, ..., 2].

    Returns:
        Lengths [N, ...].
    """
    more = (slice(None), *[None] * (ways.ndim - 2))
    cosine, sine = np.cos(cells["angle"])[more], np.sin(cells["angle"])[more]
    first, second = (axis[more] for axis in semi_axes(cells))
    along = ways[..., 0] * cosine + ways[..., 1] * sine
    across = ways[..., 1] * cosine - ways[..., 0] * sine
    return 1 / np.sqrt(np.maximum((along / first) ** 2 + (across / second) ** 2, 1e-12))


def ellipse_distance(
    along: np.ndarray, across: np.ndarray, first: float, second: float
) -> tuple[np.ndarray, np.ndarray]:
    """Distance to an ellipse to first order, and the relative radius.

    The distance is the relative radius less 1 over the length of its gradient: exact for a
    circle, and to first order next to the outline of any ellipse.

    Args:
        along: coordinate along the first axis, from the centre.
        across: coordinate along the second axis, same shape.
        first: semi-axis.
        second: semi-axis.

    Returns:
        Signed distance, below 0 inside; and the relative radius, 1 on the outline.
    """
    relative = np.sqrt((along / first) ** 2 + (across / second) ** 2) + 1e-6
    slope = np.sqrt((along / first**2) ** 2 + (across / second**2) ** 2) + 1e-6 / first
    return (relative - 1) * relative / slope, relative
