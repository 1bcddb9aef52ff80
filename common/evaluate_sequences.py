"""A run's generated sequences against the held-out ones.

Features of images are taken frame by frame: `kernel_distance` of all channels side by side, and of
each channel alone. Features of clips are of whole sequences, and so is the biology. Held-out
windows that share a moment would count it twice, so only windows without a common one are taken.
Intervals are over whole sequences, but that of the classifier score; a record's n counts frames
where it is about frames, and its note says of how many sequences.
What takes whole sets at once, such as a classifier, is the experiment's (`sequence_records`).
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from common.data.near_duplicates import descriptor
from common.data.sequence_datamodule import SequenceDataModule
from common.data.sequences import apart
from common.evaluate import coarse_copies, leakage, show, update_records
from common.evaluation_files import Judged, write_evaluation
from common.generation import read_samples_manifest
from common.metrics.clip_features import ClipExtractor
from common.metrics.evaluation import (
    Looking,
    Side,
    evaluate,
    evaluate_clips,
    measured_records,
)
from common.metrics.features import Extractor
from common.metrics.protocol import Record
from common.progress import images_bar
from common.run_images import Seen, evaluation_context, generated_images, packed_images
from common.runs.folder import RunFolder

# Of a split: bounds the time as `evaluate.MAX_TRAIN` does, and is printed.
MAX_WINDOWS = 3000
# What to do where the test split has no window: the run's cannot be changed any more.
LONGER = "train a run with a lower --data.frames, or on data with longer sequences"


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
        raise data.without_window("test", LONGER)
    eyes = _Eyes(data, network, clips, device)
    held_out = eyes.look("held-out", packed_images(data, "test", real), len(real))
    fake = eyes.look("generated", generated_images(folder, data, rows), len(rows))
    known = eyes.look("training", packed_images(data, "train", train), len(train), False)
    sides = (held_out.clips, fake.clips)
    glances = (np.stack(side.glances) for side in (known, held_out, fake))
    context = evaluation_context(folder, data, real)
    records = [
        *evaluate(held_out.frames, fake.frames, network, context, known.frames).records,
        *evaluate_clips(*sides, clips, context),
        *measured_records(*sides, context),
        *data.sequence_records(*glances, context.record),
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


@dataclass(frozen=True)
class _Looked:
    """One side: its frames, its sequences with their biology, and what is kept of each of these."""

    frames: Side
    clips: Side
    faces: list[np.ndarray]
    glances: list[np.ndarray]


@dataclass(frozen=True)
class _Eyes:
    """All that sides are seen through."""

    data: SequenceDataModule
    network: Extractor
    clips: ClipExtractor
    device: torch.device

    def look(self, name: str, side: Iterator[Seen], total: int, whole: bool = True) -> _Looked:
        """Reads a side once; without ``whole`` its sequences are neither seen nor measured."""
        frames, clips = (Looking(network, self.device) for network in (self.network, self.clips))
        faces, glances = [], []
        with images_bar(f"{name} sequences", total) as bar:
            for seen in side:
                faces.append(descriptor(seen.image))
                glances.append(self.data.glance(seen.canvas))
                clip = np.ascontiguousarray(seen.canvas.swapaxes(0, 1))  # [T, C, S, S]
                for frame in clip:
                    frames.add(frame)
                if whole:
                    clips.add(clip, self.data.measure(seen.image))
                bar.update()
        of_sequences = frames.side(frames=self.data.frames)
        return _Looked(of_sequences, clips.side(), faces, glances)
