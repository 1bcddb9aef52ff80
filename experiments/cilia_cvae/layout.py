"""Where the parts of a cross-section lie: read from images, drawn anew, shown to a network.

A layout is what a person would mark: a point for each A, B and central tubule, and for each dynein
arm that the class is known to have. Microtubules are read from training images by `biology`,
described by a handful of numbers for each class, and drawn from those for generated images, which
then come with their annotation. Whether there are arms is not read from an image: its class says
so, if it is one of `ultrastructure`.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import linalg

from common.data.canvas import crop_to_mask
from common.data.datasets import PackedDataset
from common.data.prepared import Prepared
from common.errors import Exit, UserError, relative
from common.progress import images_bar
from common.storage import whole_file
from experiments.cilia_cvae import biology
from experiments.cilia_cvae.doublets import A_TUBULE, B_TUBULE, OFF_RING
from experiments.cilia_cvae.frame import RING_NM
from experiments.cilia_cvae.ultrastructure import ultrastructure_of

# Channels of a guide: A tubules, B tubules, central ones, dynein arms.
KINDS = ("a_tubule", "b_tubule", "central", "outer_arm", "inner_arm")
# Where the middles of dynein arms are, nanometres from their doublet along the arms and outward.
OUTER_ARM, INNER_ARM = (25.0, 8.0), (24.0, -18.0)
# Of what `describe` gives and `sample` takes, and of what `sample` makes of a seed.
VERSION = 2
# Fewer images say nothing of how they vary.
FEWEST_READ = 10
# Modules that decide what is read from an image.
_READING = ("layout", "biology", "doublets", "frame", "ring")
# Standard deviation of the spot that stands for a tubule, nanometres: about its radius.
_SPOT_NM = 9.0


class Layout(NamedTuple):
    """Parts of one image.

    Attributes:
        points: x and y [N, 2] as shares of the image's width and height.
        kinds: index into `KINDS` [N].
        spot: standard deviation of the spots as a share of the image's longer side.
    """

    points: np.ndarray
    kinds: np.ndarray
    spot: float


class Arrangement(NamedTuple):
    """What is known of the axoneme of one image, in its own frame.

    Attributes:
        shape: centre x and y, logarithm of the radius that the ring would have with nine
            doublets, and the two parts of its ellipticity beyond that of the image; lengths in
            units of the root of the image's area.
        radii: of the doublets in ring radii [n], in the order of their angles.
        angles: of the doublets in radians [n].
        turns: of the doublets about themselves, in radians [n].
        side: 1 where arms point clockwise on the image, -1 where they do not.
        central: x and y of the central microtubules in ring radii [m, 2].
    """

    shape: np.ndarray
    radii: np.ndarray
    angles: np.ndarray
    turns: np.ndarray
    side: int
    central: np.ndarray


def read(image: np.ndarray) -> Arrangement | None:
    """Finds the microtubules of an image.

    Args:
        image: floats [C, H, W], of which the first channel counts; structures dark.

    Returns:
        None where no axoneme is found.
    """
    found = biology.read(image)
    if found is None:
        return None
    frame, doublets = found.frame, found.doublets
    height, width = image.shape[-2:]
    unit = np.sqrt(height * width)
    ring = np.median(doublets[:, 0])
    centre = (frame.centre + 0.5 - np.array([width, height]) / 2) / unit
    turned, stretch = linalg.polar(ring * frame.matrix / unit, side="left")
    log = linalg.logm(stretch).real
    radius = np.trace(log) / 2
    beyond = [log[0, 0] - radius - np.log(width / height) / 2, log[0, 1]]
    angles = doublets[:, 1] + np.arctan2(turned[1, 0], turned[0, 0])
    order = np.argsort(angles)
    shape = np.array([*centre, radius - np.log(_growth(len(order))), *beyond])
    radii, central = doublets[order, 0] / ring, found.central @ turned.T / ring
    turns, side = doublets[order, 2], found.arms.side
    return Arrangement(shape, radii, angles[order], turns, side, central)


def place(arrangement: Arrangement, height: int, width: int, label: str = "Normal") -> Layout:
    """The parts of an axoneme on an image of that size in pixels.

    Args:
        arrangement: the microtubules.
        height: in pixels.
        width: in pixels.
        label: class of the image, which says what arms there are.
    """
    unit = np.sqrt(height * width)
    x, y, radius, along_x, diagonal = arrangement.shape
    stretch = along_x + np.log(width / height) / 2
    growth = _growth(len(arrangement.radii))
    size, nm = np.exp(radius) * growth, RING_NM * growth
    matrix = linalg.expm(np.array([[stretch, diagonal], [diagonal, -stretch]])) * size
    middle = arrangement.radii[:, None] * _directions(arrangement.angles)
    outward = _directions(arrangement.angles + arrangement.turns)
    along = np.stack([-outward[:, 1], outward[:, 0]], 1) * arrangement.side

    def beside(spot: Sequence[float]) -> np.ndarray:
        return middle + (spot[0] * along + spot[1] * outward) / nm

    known = ultrastructure_of(label)
    parts = [beside(A_TUBULE), beside(B_TUBULE), arrangement.central.reshape(-1, 2)]
    parts += [beside(OUTER_ARM)[: len(middle) * known.outer_arms]]
    parts += [beside(INNER_ARM)[: len(middle) * known.inner_arms]]
    plane = np.concatenate(parts)
    kinds = np.repeat(range(len(KINDS)), [len(part) for part in parts])
    points = plane @ matrix.T + [x, y]
    spot = _SPOT_NM / nm * size * unit / max(height, width)
    return Layout(points * unit / [width, height] + 0.5, kinds, float(spot))


def draw(layout: Layout | None, mask: np.ndarray) -> np.ndarray:
    """A guide: one spot for each part.

    Args:
        layout: of the image; None gives an empty guide.
        mask: [1, S, S], 1 where the canvas holds the image.

    Returns:
        uint8 [5, S, S], 255 in the middle of a spot.
    """
    size = mask.shape[-1]
    guide = np.zeros((len(KINDS), size, size), np.float32)
    if layout is None:
        return guide.astype(np.uint8)
    spans = [np.flatnonzero(mask[0].any(axis)) for axis in (0, 1)]
    pixel = np.arange(size)
    waves = []
    for span, share in zip(spans, layout.points.T, strict=True):
        at = span[0] + share * len(span) - 0.5
        waves.append(np.exp(-0.5 * ((pixel - at[:, None]) / (layout.spot * size)) ** 2))
    for kind in range(len(KINDS)):
        chosen = layout.kinds == kind
        if chosen.any():
            columns, rows = (wave[chosen] for wave in waves)
            guide[kind] = (rows[:, :, None] * columns[:, None, :]).max(0)
    return np.rint(255 * guide).astype(np.uint8)


def describe(arrangements: Sequence[Arrangement | None], labels: Sequence[str]) -> dict[str, Any]:
    """What layouts of each class have in common, as plain numbers; no image's own layout is kept.

    Args:
        arrangements: of the training images.
        labels: class of each.

    Returns:
        ``version``: `VERSION`; ``shape``: mean [5] and covariance [5, 5] over all images;
        ``radius`` and ``angle``: standard deviations of doublets on the ring, the latter in units
        of their pitch; ``turn``: standard deviations in radians of the turns of those on the ring
        and of displaced ones;
        ``inward``: mean and standard deviation of what displaced ones have left; ``drift``: of the
        middle of central microtubules; ``classes``: for each, how often there are so many
        doublets, central and displaced ones.

    Raises:
        UserError: an axoneme is found in fewer than ten images.
    """
    pairs = zip(arrangements, labels, strict=True)
    seen = [(found, label) for found, label in pairs if found is not None]
    if len(seen) < FEWEST_READ:
        problem = f"show an axoneme in {len(seen)} of {len(labels)} images"
        remedy = "leave layouts out: --data.layout false and --model.guide_channels 0"
        raise UserError(Exit.INPUT, "the training images", problem, remedy)
    known = [found for found, _ in seen]
    shapes = np.stack([found.shape for found in known])
    off = np.concatenate([1 - found.radii / np.median(found.radii) for found in known])
    gaps = np.concatenate([_unevenness(found.angles) for found in known])
    turns = np.concatenate([found.turns for found in known])
    gone = off > OFF_RING
    left = off[gone]
    middles = [found.central.mean(0) for found in known if len(found.central)]
    classes = {}
    for name in sorted({label for _, label in seen}):
        mine = [found for found, label in seen if label == name]
        classes[name] = {
            "doublets": _shares(len(found.radii) for found in mine),
            "central": _shares(len(found.central) for found in mine),
            "displaced": _shares(int(_displaced(found).sum()) for found in mine),
        }
    return {
        "version": VERSION,
        "shape": {"mean": shapes.mean(0).tolist(), "covariance": np.cov(shapes.T).tolist()},
        "radius": float(np.std(off[~gone])),
        "angle": float(np.std(gaps)),
        "turn": [_spread(turns[~gone]), _spread(turns[gone])],
        "inward": [float(left.mean()), float(left.std())] if len(left) else [0.3, 0.05],
        "drift": float(np.std(middles or [[0, 0]])),
        "classes": classes,
    }


def sample(known: Mapping[str, Any], label: str, rng: np.random.Generator) -> Arrangement | None:
    """Draws the axoneme of an image that does not exist.

    Args:
        known: of `describe`.
        label: class of the image.
        rng: of that image alone.

    Returns:
        None for a class of which no layout was ever read.
    """
    if label not in known["classes"]:
        return None
    # First what no class decides: the same numbers give all classes the same section.
    # Cholesky: the signs of a singular value decomposition differ between machines.
    covariance = np.array(known["shape"]["covariance"]) + 1e-9 * np.eye(5)
    shape = rng.multivariate_normal(known["shape"]["mean"], covariance, method="cholesky")
    side, first, turned = int(rng.choice((-1, 1))), *rng.uniform(0, 2 * np.pi, 2)
    drift = rng.normal(0, known["drift"], 2)
    of_class = known["classes"][label]
    count, number, displaced = (
        int(rng.choice([int(value) for value in shares], p=list(shares.values())))
        for shares in (of_class[key] for key in ("doublets", "central", "displaced"))
    )
    places = np.arange(count) + rng.normal(0, known["angle"], count)
    inward = rng.normal(0, known["radius"], count)
    turns = rng.normal(0, 1, count)
    left = _apart(count, displaced, rng)
    inward[left] = np.maximum(rng.normal(*known["inward"], len(left)), OFF_RING)
    angles = first + 2 * np.pi * places / max(count, 1)
    turns *= np.where(np.isin(np.arange(count), left), *reversed(known["turn"]))
    central = _central(number, turned) / _growth(count) + drift
    return Arrangement(shape, 1 - inward, angles, turns, side, central)


def _directions(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _growth(count: int) -> float:
    """Radius of a ring in units of that of nine doublets, whose pitch the others keep."""
    return float(np.sqrt(max(count, 1) / 9))


def _central(number: int, angle: float) -> np.ndarray:
    spots = {1: [(0, 0)], 2: [(-1, 0), (1, 0)], 4: [(-1, -1), (1, -1), (-1, 1), (1, 1)]}
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return biology.CENTRAL_NM / RING_NM * np.reshape(spots.get(number, []), (-1, 2)) @ turn


def _apart(count: int, number: int, rng: np.random.Generator) -> np.ndarray:
    """So many places of a ring, no two of them neighbours; at most half of all places."""
    while True:
        chosen = rng.choice(count, min(number, count // 2), replace=False)
        if not np.isin((chosen + 1) % count, chosen).any():
            return chosen


def _displaced(arrangement: Arrangement) -> np.ndarray:
    return 1 - arrangement.radii / np.median(arrangement.radii) > OFF_RING


def _unevenness(angles: np.ndarray) -> np.ndarray:
    """How far each doublet stands from its place on an even ring, in units of the pitch."""
    count = len(angles)
    phase = angles / (2 * np.pi) * count - np.arange(count)
    return phase - np.median(phase)


def _spread(values: np.ndarray) -> float:
    return float(np.std(values)) if len(values) else 0.0


def _shares(numbers: Any) -> dict[str, float]:
    counted = Counter(numbers)
    total = sum(counted.values())
    return {str(value): times / total for value, times in sorted(counted.items())}


class LayoutGuides:
    """Guides of images, or of images to come.

    Args:
        arrangements: one an image.
        shapes: height and width of the images in any unit.
        labels: classes of the images.
    """

    def __init__(
        self,
        arrangements: Sequence[Arrangement | None],
        shapes: Sequence[tuple[int, int]],
        labels: Sequence[str],
    ) -> None:
        self.layouts = [
            arrangement and place(arrangement, *shape, label)
            for arrangement, shape, label in zip(arrangements, shapes, labels, strict=True)
        ]

    def __call__(self, index: int, mask: np.ndarray) -> np.ndarray:
        """The guide uint8 [5, S, S] of one image with its mask [1, S, S]."""
        return draw(self.layouts[index], mask)


def read_layouts(prepared: Prepared, split: str) -> list[Arrangement | None]:
    """Layouts of all images of a split, read once and kept beside its pixels.

    What is damaged there is read again, and said so.
    """
    sources = [Path(__file__).with_name(f"{name}.py") for name in _READING]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:8]
    path = prepared.folder / f"layouts-{split}-{digest}.pt"
    if path.is_file():
        try:
            kept = torch.load(path, weights_only=True)
            return [one and Arrangement(*map(_array, one)) for one in kept]
        # Damaged bytes make the unpickler raise whatever they spell.
        except Exception:
            print(f"note: {relative(path)} is damaged and is made again", flush=True)
    found = _read_all(prepared.dataset(split))
    with whole_file(path) as stream:
        torch.save([one and tuple(map(_plain, one)) for one in found], stream)
    return found


def _read_all(dataset: PackedDataset) -> list[Arrangement | None]:
    found = []
    with images_bar("microtubules", len(dataset)) as bar:
        for row in range(len(dataset)):
            seen = dataset.__getitems__([(0, row)])
            found.append(read(crop_to_mask(seen["image"][0].numpy(), seen["mask"][0].numpy())))
            bar.update()
    return found


def _plain(value: np.ndarray | int) -> list | int:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _array(value: list | int) -> np.ndarray | int:
    return np.array(value) if isinstance(value, list) else value
