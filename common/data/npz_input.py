"""One NPZ file as a data set: `x_train`, `y_train`, `x_test` and `y_test`, as Keras users keep it.

x is [N, H, W, 1] of floating type in [0, 1]; y is the index of the class in the data card's list,
[N], or one-hot [N, classes]. The file is unpacked once into `<train|test>/<class>/<class>_<k>.png`
of 16 bits, where 0 to 65535 stand for 0 to 1: numbers that were k / 255 come out exactly, others to
the nearest 1 / 65535, which is how floating images are packed anyway. k counts on from train to
test, so whoever moves the two folders together gets a split by group instead of the given one.

Nothing in the file is believed: no Python object is ever read from it, and one image at a time is
in memory.
"""

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from common.data.archive_members import Refused, damage
from common.data.archives import unpacked
from common.data.cards import Card
from common.errors import Exit, UserError, relative

SPLITS = ("train", "test")
# What rounding may leave of a value beyond 0 and 1.
_ROUNDING = 1e-4
_WHITE = 65535
# Of one image, as for image files.
_MOST_PIXELS = 64 * 2**20
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def npz_of(path: Path) -> Path | None:
    """The NPZ file that a path names, or that a folder without images holds; None for any other.

    Raises:
        UserError: the folder holds several.
    """
    if path.is_file():
        return path if path.suffix.lower() == ".npz" else None
    found = sorted(path.glob("*.npz"))
    if not found:
        return None
    # Image libraries are imported only where something has to be read.
    from common.data.image_io import find_images

    if find_images(path):
        return None
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        problem = f"holds {len(found)} NPZ files, which may show the same images ({names})"
        raise UserError(Exit.INPUT, relative(path), problem, "name one of them with DATA=")
    return found[0]


def unpack_npz(path: Path, home: Path, card: Card) -> Path:
    """Unpacks an NPZ file, unless that was done before.

    Args:
        path: of the file.
        home: where the folder appears.
        card: gives the names of the classes.

    Returns:
        The folder.

    Raises:
        UserError: the file is damaged or holds something else, or the storage is too small, full or
            not writable.
    """

    def measure() -> tuple[int, int]:
        with _opened(path) as opened:
            shapes = _shapes(opened, len(card.classes))
        images = sum(shape[0] for shape in shapes)
        return images, images * math.prod(shapes[0][1:]) * 2

    def write(folder: Path) -> None:
        print(
            f"note: the split of {path.name} is kept, and its images have no names: copies of one "
            f"image can lie on both sides, and those that look alike are listed "
            f"(data_cards/{card.name}.md)",
            flush=True,
        )
        with _opened(path) as opened:
            _write(opened, folder, card.classes)

    remedy = "save x_train, y_train, x_test and y_test as data_cards/README.md describes them"
    return unpacked(path, home, measure, write, remedy, rule="\n".join(card.classes))


class _Array(NamedTuple):
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    stream: IO[bytes]


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with damage(""):
        opened = zipfile.ZipFile(path)
    with opened:
        yield opened


@contextmanager
def _array(opened: zipfile.ZipFile, name: str) -> Iterator[_Array]:
    if f"{name}.npy" not in opened.namelist():
        raise Refused("", f"lacks {name}")
    with damage(name):
        stream = opened.open(f"{name}.npy")
    with stream:
        yield _described(name, stream)


def _described(name: str, stream: IO[bytes]) -> _Array:
    with damage(name):
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise Refused(name, f"is of the unknown version {version[0]}.{version[1]}")
        shape, is_fortran, dtype = _HEADERS[version](stream)
    if dtype.hasobject:
        raise Refused(name, "holds Python objects, which could run code when they are read")
    if is_fortran:
        raise Refused(name, "is in Fortran order")
    return _Array(name, shape, dtype, stream)


def _shapes(opened: zipfile.ZipFile, classes: int) -> list[tuple[int, ...]]:
    """Shapes of `x_train` and `x_test`, once all four arrays are known to go together."""
    shapes: list[tuple[int, ...]] = []
    for split in SPLITS:
        with _array(opened, f"x_{split}") as x:
            _refuse_no_images(x)
        with _array(opened, f"y_{split}") as y:
            _refuse_no_labels(y, x.shape[0], classes)
        shapes.append(x.shape)
    if shapes[0][1:] != shapes[1][1:]:
        raise Refused("x_test", f"has the shape {shapes[1]}, and x_train has {shapes[0]}")
    return shapes


def _refuse_no_images(x: _Array) -> None:
    if x.dtype.kind != "f":
        raise Refused(x.name, f"is {x.dtype}, not a floating type")
    if len(x.shape) != 4 or x.shape[3] != 1 or 0 in x.shape[1:3]:
        raise Refused(x.name, f"has the shape {x.shape}, not (N, height, width, 1)")
    if x.shape[1] * x.shape[2] > _MOST_PIXELS:
        raise Refused(x.name, f"has {x.shape[1] * x.shape[2]} pixels in an image")


def _refuse_no_labels(y: _Array, images: int, classes: int) -> None:
    if y.shape not in ((images,), (images, classes)):
        wanted = f"({images},) or ({images}, {classes})"
        raise Refused(y.name, f"has the shape {y.shape}, not {wanted}")
    if y.dtype.kind not in ("iu" if len(y.shape) == 1 else "biuf"):
        raise Refused(y.name, f"is {y.dtype}, which are no labels")


def _write(opened: zipfile.ZipFile, folder: Path, classes: tuple[str, ...]) -> None:
    from common.data.image_io import stored_png

    number = 0
    for split in SPLITS:
        with _array(opened, f"y_{split}") as y:
            labels = _labels(y, len(classes))
        for name in {classes[label] for label in labels}:
            (folder / split / name).mkdir(parents=True)
        with _array(opened, f"x_{split}") as x:
            for label, image in zip(labels, _images(x), strict=True):
                name = classes[label]
                grey = np.rint(image.clip(0, 1) * _WHITE).astype(np.uint16)
                # Not compressed: noise of 16 bits hardly shrinks, and takes long.
                path = folder / split / name / f"{name}_{number:06d}.png"
                path.write_bytes(stored_png(grey))
                number += 1


def _labels(y: _Array, classes: int) -> list[int]:
    labels = np.frombuffer(_read(y, math.prod(y.shape)), y.dtype).reshape(y.shape)
    _refuse_more(y)
    if labels.ndim == 2:
        one_hot = (np.isin(labels, (0, 1)).all(1)) & (labels.sum(1) == 1)
        if not one_hot.all():
            raise Refused(y.name, f"is not one-hot in row {int(np.argmin(one_hot))}")
        return labels.argmax(1).tolist()
    known = (labels >= 0) & (labels < classes)
    if not known.all():
        row = int(np.argmin(known))
        told = f"has the label {labels[row]} in row {row}; there are {classes} classes, from 0 on"
        raise Refused(y.name, told)
    return labels.tolist()


def _images(x: _Array) -> Iterator[np.ndarray]:
    """Images [H, W], one after the other."""
    count, height, width, _ = x.shape
    for number in range(count):
        image = np.frombuffer(_read(x, height * width), x.dtype).reshape(height, width)
        low, high = image.min(), image.max()
        # NaN is in no order.
        if not (-_ROUNDING <= low <= high <= 1 + _ROUNDING):
            told = f"holds {low:g} to {high:g} in image {number}, not numbers from 0 to 1"
            raise Refused(x.name, told)
        yield image.astype(np.float64)
    _refuse_more(x)


def _read(array: _Array, numbers: int) -> bytes:
    size = numbers * array.dtype.itemsize
    with damage(array.name):
        data = array.stream.read(size)
    if len(data) < size:
        raise Refused(array.name, "is damaged or cut short")
    return data


def _refuse_more(array: _Array) -> None:
    """The end is where the checksum is looked at, too."""
    with damage(array.name):
        more = array.stream.read(1)
    if more:
        raise Refused(array.name, "is longer than its header says")
