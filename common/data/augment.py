"""Augmentation as a pure function of (pixels, seed, epoch, index); the door of albumentations.

A policy is one step or several joined by "+", such as "d4+photometric":

- ``none``: the arrays as they are.
- ``mirror``: left and right exchanged or not.
- ``d4``: one of the eight flips and rotations of a square, one of four where sides differ.
- ``affine``: rotation up to 15 degrees, scale 0.9 to 1.1, shift up to 5 %, reflected at the border.
- ``photometric``: brightness, contrast and gamma, each up to 20 %, in float32.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from common.errors import Exit, UserError

Arrays = dict[str, np.ndarray]


def augment(
    arrays: Mapping[str, np.ndarray],
    policy: str,
    seed: int,
    epoch: int,
    index: int,
    images: Sequence[str] = ("image",),
) -> Arrays:
    """Moves an image and its companions together.

    Args:
        arrays: by name; each [H, W] or [..., H, W] of one size. Crop first: the cost goes by area.
        policy: see the module.
        seed: of the run.
        epoch: counted from 0.
        index: of the image in its split.
        images: names of the arrays with grey values: uint8, uint16, or float32 in [0, 1]. They are
            interpolated linearly and share one change of brightness. All others are masks or label
            maps: they are moved by nearest neighbour and keep their values.

    Returns:
        Arrays of the same names, shapes and types; a function of the arguments alone, in any
        process. What did not change may be the array that was given.

    Raises:
        UserError: unknown policy, or albumentations is needed and cannot be imported.
    """
    moved = dict(arrays)
    if policy == "none":
        return moved
    rng = np.random.default_rng((seed, epoch, index))
    for step in policy.split("+"):
        moved = _step(step)(moved, rng, images)
    return moved


def check_policy(policy: str) -> None:
    """Raises the `UserError` that `augment` would raise for this policy's name."""
    if policy != "none":
        for step in policy.split("+"):
            _step(step)


def orient(array: np.ndarray, element: int) -> np.ndarray:
    """View of [..., H, W] in one of the eight orientations of a square.

    Args:
        array: any array of at least two axes.
        element: 0 to 7; 0 is the identity, 0 to 3 keep H and W, 4 to 7 exchange them.
    """
    if element & 4:
        array = array.swapaxes(-1, -2)
    rows = slice(None, None, -1) if element & 1 else slice(None)
    columns = slice(None, None, -1) if element & 2 else slice(None)
    return array[..., rows, columns]


def _step(name: str) -> Callable[[Arrays, np.random.Generator, Sequence[str]], Arrays]:
    steps = {"mirror": _mirror, "d4": _d4, "affine": _affine, "photometric": _photometric}
    if name not in steps:
        raise UserError(
            Exit.USAGE,
            "augmentation",
            f"{name!r} is not a policy",
            f"choose none, or one or more of {', '.join(steps)} joined by +",
        )
    return steps[name]


def _mirror(arrays: Arrays, rng: np.random.Generator, images: Sequence[str]) -> Arrays:
    element = 2 * int(rng.integers(2))
    return {name: np.ascontiguousarray(orient(a, element)) for name, a in arrays.items()}


def _d4(arrays: Arrays, rng: np.random.Generator, images: Sequence[str]) -> Arrays:
    height, width = arrays[images[0]].shape[-2:]
    element = int(rng.integers(8 if height == width else 4))
    return {name: np.ascontiguousarray(orient(a, element)) for name, a in arrays.items()}


def _affine(arrays: Arrays, rng: np.random.Generator, images: Sequence[str]) -> Arrays:
    stacks = [_planes_last(arrays[name]) for name in images]
    masks = {name: _warpable(a) for name, a in arrays.items() if name not in images}
    pipeline = _pipeline("affine")
    pipeline.set_random_seed(int(rng.integers(2**32)))
    warped = pipeline(
        image=np.concatenate(stacks, -1), masks=[_planes_last(mask) for mask in masks.values()]
    )
    moved = _unstack(warped["image"], arrays, images)
    for name, mask in zip(masks, warped["masks"], strict=True):
        moved[name] = _planes_first(mask, arrays[name])
    return {name: moved[name] for name in arrays}


def _photometric(arrays: Arrays, rng: np.random.Generator, images: Sequence[str]) -> Arrays:
    # Several photometric transforms fail or scale wrongly on uint16.
    stacks = [_planes_last(arrays[n]).astype(np.float32) / _full_scale(arrays[n]) for n in images]
    pipeline = _pipeline("photometric")
    pipeline.set_random_seed(int(rng.integers(2**32)))
    changed = pipeline(image=np.concatenate(stacks, -1))["image"].clip(0, 1)
    scale = [_full_scale(arrays[n]) for n in images for _ in range(_num_planes(arrays[n]))]
    return arrays | _unstack(changed * np.array(scale, np.float32), arrays, images)


@lru_cache
def _pipeline(step: str) -> Any:
    try:
        import albumentations
        import cv2
    except ImportError as error:
        raise UserError(
            Exit.USAGE,
            f"augmentation {step}",
            f"needs albumentations, which cannot be imported ({error})",
            "run `pip install -r requirements.txt`, or choose d4",
        ) from error
    # OpenCV's own threads can hang in forked workers, and only compete with them elsewhere.
    cv2.setNumThreads(0)
    if step == "affine":
        transforms = [
            albumentations.Affine(
                scale=(0.9, 1.1),
                translate_percent=(-0.05, 0.05),
                rotate=(-15, 15),
                keep_ratio=True,
                border_mode=cv2.BORDER_REFLECT_101,
                p=1,
            )
        ]
    else:
        transforms = [
            albumentations.RandomBrightnessContrast(0.2, 0.2, p=1),
            albumentations.RandomGamma((80, 120), p=1),
        ]
    return albumentations.Compose(transforms)


def _planes_last(array: np.ndarray) -> np.ndarray:
    planes = array.reshape(-1, *array.shape[-2:])
    return np.ascontiguousarray(planes.transpose(1, 2, 0))


def _planes_first(planes: np.ndarray, like: np.ndarray) -> np.ndarray:
    if like.dtype.kind in "iu" and planes.dtype.kind == "f":
        planes = np.rint(planes)
    first = planes.reshape(*like.shape[-2:], -1).transpose(2, 0, 1)
    return np.ascontiguousarray(first.reshape(like.shape).astype(like.dtype))


def _unstack(stack: np.ndarray, arrays: Arrays, names: Sequence[str]) -> Arrays:
    planes = stack.reshape(*arrays[names[0]].shape[-2:], -1)
    ends = np.cumsum([_num_planes(arrays[name]) for name in names])
    parts = np.split(planes, ends[:-1], axis=-1)
    return {n: _planes_first(part, arrays[n]) for n, part in zip(names, parts, strict=True)}


def _num_planes(array: np.ndarray) -> int:
    return int(np.prod(array.shape[:-2]))


def _full_scale(array: np.ndarray) -> np.float32:
    return np.float32(np.iinfo(array.dtype).max if array.dtype.kind == "u" else 1)


def _warpable(mask: np.ndarray) -> np.ndarray:
    # OpenCV 4 warps neither bool nor int64 nor uint32.
    if mask.dtype in (np.uint8, np.uint16):
        return mask
    return mask.astype(np.float32 if mask.dtype.kind == "f" else np.int32, copy=False)
