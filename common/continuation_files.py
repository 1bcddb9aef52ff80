"""What `continue` leaves of single recordings: sequences, films, a picture and two tables.

The folder `continuation` of a run holds

- `000000.ome.tiff` …: the known and the added frames of each recording, and what shows them;
- `beside_truth.png`: of the first recordings, the same above what came;
- `recordings.csv`: which recording each is, and the scalars that are followed;
- `steps.csv`: errors of every added frame whose truth is known, in each channel, beside those of
  the last known frame.

Real recordings are named as in the tables of `evaluation_files`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common.callbacks import image_grid, to_uint8
from common.data.canvas import crop_to_mask
from common.data.image_io import write_png
from common.data.manifest import Sample
from common.data.sequence_datamodule import SequenceDataModule
from common.metrics.continuation import REPEATED, Errors, Followed
from common.sequence_writer import SequenceFormat, writer_of
from common.storage import whole_file, whole_folder
from common.tables import finite_or_none, to_csv

# Recordings in the picture.
_PICTURED = 4


@dataclass(frozen=True)
class Recordings:
    """N recordings, their pixels in [-1, 1].

    Attributes:
        samples: first known moments.
        masks: of the canvas [N, 1, S, S].
        known: moments [N, C, K, S, S].
        true: moments that came after these [N, C, L, S, S].
        added: what the model says came [N, C, A, S, S].
    """

    samples: Sequence[Sample]
    masks: Tensor
    known: Tensor
    true: Tensor
    added: Tensor

    def units(self, part: str) -> Iterator[np.ndarray]:
        """Of each recording one of the three, in [0, 1] of the window, without the canvas."""
        for mask, frames in zip(self.masks, getattr(self, part), strict=True):
            yield crop_to_mask(((frames + 1) / 2).numpy(), mask.numpy())


def write_continuation(
    path: Path,
    data: SequenceDataModule,
    found: Recordings,
    file_format: SequenceFormat,
    errors: tuple[Errors, Errors],
    followed: Mapping[str, Followed],
) -> None:
    """Writes the whole folder, or nothing of it.

    Args:
        path: of the folder; what it held before is replaced.
        data: whose facts say how pixels are written.
        found: the recordings.
        file_format: of what shows them, beside the OME-TIFF.
        errors: of the added frames, and of the last known one in their place.
        followed: scalars by name.

    Raises:
        UserError: the folder cannot be written.
    """
    names = [f"{k:06d}" for k in range(len(found.samples))]
    # What is no number is black in the files; table and records count it.
    made = torch.cat([found.known, found.added.nan_to_num(-1, 1, -1)], 2)
    with whole_folder(path) as folder:
        writer = writer_of(data.frames, folder, data.facts, file_format, None, folder)
        writer.on_predict_batch_end(None, None, {"name": names, "image": made, "mask": found.masks})
        came = torch.cat([found.known, found.true], 2)
        # White where nothing is known to have come.
        came = F.pad(came, (0, 0, 0, 0, 0, made.shape[2] - came.shape[2]), value=1.0)
        pairs = torch.stack([made, came], 1)[:_PICTURED].flatten(0, 1)
        write_png(folder / "beside_truth.png", image_grid(to_uint8(pairs), columns=1))
        tables = {
            "recordings": _recording_rows(names, found, followed),
            "steps": _step_rows(names, data.facts["channels"], *errors),
        }
        for name, rows in tables.items():
            with whole_file(folder / f"{name}.csv") as stream:
                stream.write(to_csv(rows))


def _recording_rows(
    names: Sequence[str], found: Recordings, followed: Mapping[str, Followed]
) -> Iterator[Sequence[object]]:
    ends = [f"{name}_{end}" for name in followed for end in ("first_known", "last_added")]
    yield ["name", "recording", "moment", "finite", *ends]
    for k, (name, sample) in enumerate(zip(names, found.samples, strict=True)):
        values = [v for one in followed.values() for v in (one.known[k], one.added[k, -1])]
        finite = int(found.added[k].isfinite().all())
        yield [name, sample.alias, sample.moment, finite, *map(finite_or_none, values)]


def _step_rows(
    names: Sequence[str], channels: Sequence[str], made: Errors, repeated: Errors
) -> Iterator[Sequence[object]]:
    columns = [f"{kind}{field}" for kind in ("", REPEATED) for field in Errors._fields]
    yield ["name", "step", "channel", *columns]
    arrays = [*made, *repeated]
    for k, c, t in np.ndindex(made.mae.shape):
        yield [names[k], t + 1, channels[c], *(finite_or_none(array[k, c, t]) for array in arrays)]
