"""What a cell biologist measures on one image of mitochondria: area, width, network, pearls."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import euler_number
from skimage.morphology import remove_small_holes, remove_small_objects, skeletonize

from common.preprocess.noise import MEDIAN_OF_NORMAL, NOISE_KERNEL, NOISE_KERNEL_NORM
from experiments.mitogan.pearls import pearl_spacing
from experiments.mitogan.skeletons import Branch, branch_points, branches, end_points, pruned

# Unit of each number without a pixel size; with one, px become µm.
UNITS = {
    "foreground_fraction": "1",
    "tubule_width": "px",
    "skeleton_length": "px",
    "branch_points": "count",
    "end_points": "count",
    "components": "count",
    "loops": "count",
    "tortuosity": "1",
    "pearl_spacing": "px",
}
# Below this an image shows nothing of a network.
_SMALLEST = 16
# Blur before thresholds in pixels: least, most, and per unit of noise over contrast.
_BLUR, _BLUR_PER_NOISE = (0.6, 1.6), 12.0
# Blur before curvature in widths of a tubule and at most in pixels, and share of Otsu threshold of
# the curvature that a mitochondrion must pass: chosen, as the other blur, on 80 simulated frames.
_RIDGE_BLUR, _MOST_BLUR, _RIDGE_SHARE = 0.22, 2.0, 0.2
# Objects and holes of fewer pixels are noise.
_LEAST_OBJECT, _LEAST_HOLE = 5, 5
# Branches shorter than this many widths plus pixels are the mask's rough border.
_SPUR, _SPUR_PX = 0.5, 1.0


def units(pixel_size_um: float | None = None) -> dict[str, str]:
    """Unit of each number of `measure`."""
    return {k: u if pixel_size_um is None else u.replace("px", "µm") for k, u in UNITS.items()}


def measure(image: np.ndarray, pixel_size_um: float | None = None) -> dict[str, float]:
    """Reads the mitochondria of one image.

    Args:
        image: floats [C, H, W] or [H, W] in [0, 1]; channel 0 shows mitochondria, bright on dark.
        pixel_size_um: µm per pixel; without it lengths are pixels.

    Returns:
        The keys of `UNITS`, lengths in the units of `units`:

        * ``foreground_fraction``: share of the image that is mitochondria.
        * ``tubule_width``: mean over the skeleton, as wide as the light looks at the threshold.
        * ``skeleton_length``: of all branches together.
        * ``branch_points``, ``end_points``, ``components``, ``loops``: of the skeleton and the mask
          that one sees: tubules that cross are joined.
        * ``tortuosity``: length over chord of branches, mean; 1 is straight.
        * ``pearl_spacing``: period of the brightness along branches; NaN where there is none.

        A flat image and one below 16 pixels has no mitochondria: counts are 0, the rest NaN.
    """
    pixels = np.asarray(image[0] if image.ndim == 3 else image, np.float64)
    mask = segment(pixels)
    if not mask.any():
        nothing = {k: 0.0 if u == "count" else float("nan") for k, u in UNITS.items()}
        return nothing | {"foreground_fraction": 0.0, "skeleton_length": 0.0}
    rough = skeletonize(mask)
    width = tubule_width(mask, rough)
    skeleton = pruned(rough, _SPUR * width + _SPUR_PX)
    found = branches(skeleton)
    scale = pixel_size_um or 1.0
    light = ndimage.gaussian_filter(np.maximum(pixels - np.percentile(pixels, 10), 0), _BLUR[0])
    return {
        "foreground_fraction": float(mask.mean()),
        "tubule_width": scale * width,
        "skeleton_length": scale * skeleton_length(found),
        "branch_points": float(len(branch_points(skeleton, round(width / 2)))),
        "end_points": float(len(end_points(skeleton))),
        "components": float(components(mask)),
        "loops": float(loops(mask)),
        "tortuosity": tortuosity(found, 2 * width),
        "pearl_spacing": scale * pearl_spacing(light, found, width),
    }


def segment(pixels: np.ndarray) -> np.ndarray:
    """Where mitochondria are: brighter than Otsu's threshold, and curved like a ridge.

    Where grey values do not bend down in any direction, the light is haze or a neighbour's. The
    lower one of Otsu's and the triangle's threshold takes in more haze than this on simulated
    frames.

    Args:
        pixels: [H, W], any positive scale.

    Returns:
        bool [H, W]; nowhere for a flat or very small image.
    """
    low, high = np.percentile(pixels, (10, 99.5)) if pixels.size else (0.0, 0.0)
    if min(pixels.shape) < _SMALLEST or high - low <= 1e-6 * max(abs(high), 1e-30):
        return np.zeros(pixels.shape, bool)
    blur = float(np.clip(_BLUR_PER_NOISE * noise(pixels) / (high - low), *_BLUR))
    smooth = ndimage.gaussian_filter(pixels, blur)
    mask = smooth > threshold_otsu(smooth)
    width = tubule_width(mask, skeletonize(mask))
    blur = max(blur, min(_RIDGE_BLUR * width, _MOST_BLUR))
    ridge = _ridge(ndimage.gaussian_filter(pixels, blur))
    mask &= ridge > _RIDGE_SHARE * threshold_otsu(ridge)
    mask = remove_small_objects(mask, max_size=_LEAST_OBJECT - 1, connectivity=2)
    return remove_small_holes(mask, max_size=_LEAST_HOLE - 1)


def noise(pixels: np.ndarray) -> float:
    """Standard deviation of white noise: Immerkær 1996, equation 4, by the median.

    Args:
        pixels: [H, W].
    """
    response = ndimage.convolve(pixels, NOISE_KERNEL, mode="reflect")
    return float(np.median(np.abs(response))) / (NOISE_KERNEL_NORM * MEDIAN_OF_NORMAL)


def tubule_width(mask: np.ndarray, skeleton: np.ndarray) -> float:
    """Mean width in pixels: twice the distance from the skeleton to the border, less one pixel.

    A bar of w rows of pixels, w odd, gives w; bool [H, W] both, NaN without a skeleton.
    """
    if not skeleton.any():
        return float("nan")
    # Outside the image it is as inside: a tubule that is cut by the border is not thinner there.
    away = ndimage.distance_transform_edt(np.pad(mask, 8, mode="edge"))[8:-8, 8:-8]
    return 2 * float(away[skeleton].mean()) - 1


def skeleton_length(found: Sequence[Branch]) -> float:
    """Of all branches, pixels."""
    return sum(branch.length for branch in found)


def components(mask: np.ndarray) -> int:
    """Pieces of a mask whose pixels touch at sides or corners."""
    return int(ndimage.label(mask, np.ones((3, 3)))[1])


def loops(mask: np.ndarray) -> int:
    """Holes of a mask: components minus Euler number."""
    return components(mask) - int(euler_number(mask, connectivity=2))


def tortuosity(found: Sequence[Branch], shortest: float) -> float:
    """Length over chord, mean over branches of at least some pixels; NaN without one.

    Args:
        found: branches; closed ones have no chord and are left out.
        shortest: pixels.
    """
    open_ones = [b for b in found if not b.closed and b.chord > 1 and b.length >= shortest]
    ratios = [branch.length / branch.chord for branch in open_ones]
    return float(np.mean(ratios)) if ratios else float("nan")


def _ridge(smooth: np.ndarray) -> np.ndarray:
    """How sharply grey values bend down in the direction where they do most, >= 0 on a ridge.

    By differences of pixels: Gaussian derivatives of such small widths do not ignore an offset.
    """
    along_y, along_x = (ndimage.correlate1d(smooth, (1, -2, 1), axis) for axis in (0, 1))
    slope = ndimage.correlate1d(smooth, (-0.5, 0, 0.5), 0)
    twist = ndimage.correlate1d(slope, (-0.5, 0, 0.5), 1)
    return np.hypot((along_y - along_x) / 2, twist) - (along_y + along_x) / 2
