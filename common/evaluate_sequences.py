"""A run's generated sequences against the held-out ones.

Features of images are taken frame by frame: `kernel_distance` of all channels side by side, and of
each channel alone. Features of clips are of whole sequences, and so is the biology. Held-out
windows that share a moment would count it twice, so only windows without a common one are taken.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from common.data.near_duplicates import descriptor
from common.data.sequence_datamodule import SequenceDataModule
from common.data.sequences import apart
from common.errors import Exit, UserError, relative
from common.evaluate import coarse_copies, leakage, show, update_records
from common.evaluation_files import Judged, write_evaluation
from common.generation import read_samples_manifest
from common.metrics.clip_features import ClipExtractor
from common.metrics.evaluation import (
    Side,
    evaluate,
    evaluate_clips,
    look,
    look_at_clips,
    measured_records,
)
from common.metrics.features import Extractor
from common.metrics.protocol import Record
from common.progress import images_bar
from common.run_images import Seen, evaluation_context, generated_images, packed_images
from common.runs.folder import RunFolder

# Of a split: bounds the time as `evaluate.MAX_TRAIN` does, and is printed.
MAX_WINDOWS = 3000


def evaluate_sequences(
    folder: RunFolder,
    data: SequenceDataModule,
    network: Extractor,
    device: torch.device,
    clips: ClipExtractor,
) -> list[Record]:
    """Measures `samples` against the test split and writes `records.jsonl`.

    Args:
        folder: of the run, with samples.
        data: set up; its test split is read here.
        network: gives the features of frames.
        device: where it does.
        clips: gives the features of whole sequences.

    Raises:
        UserError: nothing was generated, or no window is held out.
    """
    rows = read_samples_manifest(folder)
    real, train = (windows_apart(data, split) for split in ("test", "train"))
    if not real:
        raise UserError(
            Exit.INPUT,
            relative(data.prepared.folder),
            f"the test split has no window of {data.frames} consecutive moments",
            "train a run with a lower --data.frames, or on data with longer sequences",
        )
    eyes = _Eyes(data, network, device)
    held_out = eyes.look("held-out", packed_images(data, "test", real), len(real))
    fake = eyes.look("generated", generated_images(folder, data, rows), len(rows))
    known = eyes.look("training", packed_images(data, "train", train), len(train), False)
    whole = {
        "held-out": look_at_clips(_clips(packed_images(data, "test", real)), clips, device),
        "generated": look_at_clips(_clips(generated_images(folder, data, rows)), clips, device),
    }
    sides = (
        replace(whole["held-out"], biology=held_out.biology),
        replace(whole["generated"], biology=fake.biology),
    )
    context = evaluation_context(folder, data)
    records = [
        *evaluate(held_out.frames, fake.frames, network, context, known.frames).records,
        *evaluate_clips(*whole.values(), clips, context),
        *measured_records(*sides, context),
        *coarse_copies(held_out.faces, fake.faces, known.faces, context),
        *leakage(data, real, train, held_out.faces + known.faces, context),
    ]
    # Killed in between, a run has numbers without pictures and never those of another evaluation.
    shutil.rmtree(folder.evaluation, ignore_errors=True)
    update_records(folder, records)
    # Neighbours are of frames, and no picture is of one frame.
    write_evaluation(folder, data, Judged(*sides, real, rows, train, None))
    show(records)
    return records


def windows_apart(data: SequenceDataModule, split: str) -> list[int]:
    """Windows of a split that share no moment, at most `MAX_WINDOWS`; says how many of how many.

    Args:
        data: set up.
        split: "train", "val" or "test".
    """
    windows = data.dataset(split).windows
    chosen = apart(windows)
    if len(chosen) > MAX_WINDOWS:
        drawn = np.random.default_rng(0).choice(chosen, MAX_WINDOWS, replace=False)
        chosen = np.sort(drawn)
    counts = f"{len(chosen)} of {len(windows)} windows"
    print(f"{split}: {counts}, none with a common moment", flush=True)
    return chosen.tolist()


@dataclass
class _Looked:
    """One side: features of its frames, and what each of its sequences shows."""

    frames: Side
    faces: list[np.ndarray]
    biology: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class _Eyes:
    """All that sides are seen through."""

    data: SequenceDataModule
    network: Extractor
    device: torch.device

    def look(self, name: str, side: Iterator[Seen], total: int, measured: bool = True) -> _Looked:
        scalars: list[Mapping[str, float]] = []
        faces: list[np.ndarray] = []
        with images_bar(f"{name} sequences", total) as bar:

            def frames() -> Iterator[tuple[np.ndarray, Mapping[str, float]]]:
                for seen in side:
                    faces.append(descriptor(seen.image))
                    scalars.append(self.data.measure(seen.image) if measured else {})
                    for frame in seen.canvas.swapaxes(0, 1):
                        yield np.ascontiguousarray(frame), {}
                    bar.update()

            found = look(frames(), self.network, device=self.device)
        names = scalars[0] if scalars else {}
        biology = {key: np.array([row[key] for row in scalars]) for key in names}
        return _Looked(found, faces, biology)


def _clips(side: Iterator[Seen]) -> Iterator[np.ndarray]:
    """Each sequence as uint8 [T, C, S, S]."""
    return (np.ascontiguousarray(seen.canvas.swapaxes(0, 1)) for seen in side)
