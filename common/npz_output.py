"""A prepared set as one NPZ file of `x_train`, `y_train`, `x_test` and `y_test`, for Keras users.

x is float32 [N, S, S, C] in [0, 1] of the data's window, y int32 [N]: the index of the class in the
data card's list. Validation is part of train, test is the held-out split. Beside it lies
`raw_image_statistics.csv`: mean and standard deviation (of the population) of width, height and
aspect ratio of all raw images, in pixels.

`common.data.npz_input` reads the file; that images of one group belong together is lost in it.
"""

import math
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from common.data.npz_input import SPLITS
from common.data.prepared import Prepared
from common.errors import Exit, UserError, relative
from common.generation import grey_to_unit
from common.storage import whole_file
from common.tables import to_csv

STATISTICS = "raw_image_statistics.csv"
_PARTS = {"train": ("train", "val"), "test": ("test",)}
# The earliest that a zip can hold: the same images give the same bytes on any day.
_NO_DATE = (1980, 1, 1, 0, 0, 0)


def write_npz(prepared: Prepared, path: Path) -> None:
    """Writes both files, each whole or not at all; one image at a time is in memory.

    Args:
        prepared: with the fit "squash": there is no place for a mask.
        path: of the NPZ file.

    Raises:
        UserError: the set keeps aspect ratios, or the storage is full or not writable.
    """
    if prepared.facts["fit"] != "squash":
        problem = "holds squares without a mask, and these images keep their aspect ratio"
        raise UserError(Exit.USAGE, "--npz", problem, "add --data.fit squash")
    size, channels = prepared.facts["image_size"], len(prepared.facts["channels"])
    with whole_file(path, parents=True) as stream, zipfile.ZipFile(stream, "w") as archive:
        for split in SPLITS:
            labels = _labels(prepared, split)
            shape = (len(labels), size, size, channels)
            _add(archive, f"x_{split}", shape, np.dtype("<f4"), _images(prepared, split))
            _add(archive, f"y_{split}", labels.shape, labels.dtype, [labels])
    beside = path.with_name(STATISTICS)
    with whole_file(beside) as stream:
        stream.write(to_csv(statistics(prepared)))
    print(f"{'arrays:':12}{relative(path)}, {relative(beside)}", flush=True)


def statistics(prepared: Prepared) -> list[list[object]]:
    """Names and numbers of the six columns of `raw_image_statistics.csv`."""
    width = np.array([sample.width for sample in prepared.manifest], float)
    height = np.array([sample.height for sample in prepared.manifest], float)
    measured = {"width": width, "height": height, "aspect_ratio": width / height}
    names = [f"{name}_{kind}" for name in measured for kind in ("mean", "std")]
    return [names, [float(f()) for values in measured.values() for f in (values.mean, values.std)]]


def _labels(prepared: Prepared, split: str) -> np.ndarray:
    parts = [prepared.dataset(part).labels.numpy() for part in _PARTS[split]]
    return np.concatenate(parts).astype("<i4")


def _images(prepared: Prepared, split: str) -> Iterator[np.ndarray]:
    """Images [S, S, C] in [0, 1]."""
    storage, window = prepared.facts["storage"], prepared.facts["window"]
    for part in _PARTS[split]:
        for stored in prepared.dataset(part).pixels:
            grey = stored.astype(np.float32) * storage["scale"] + storage["offset"]
            yield np.moveaxis(grey_to_unit(grey, window), 0, -1)


def _add(
    archive: zipfile.ZipFile,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    parts: Iterable[np.ndarray],
) -> None:
    entry = zipfile.ZipInfo(f"{name}.npy", _NO_DATE)
    entry.external_attr = 0o644 << 16
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    is_large = math.prod(shape) * dtype.itemsize > 2**30
    with archive.open(entry, "w", force_zip64=is_large) as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for part in parts:
            stream.write(part.astype(dtype).tobytes())
