"""Held-out recordings of which a model saw the first moments alone, and what it says comes next.

A module can do so that has ``following(known, count, steps, shrinkage)``, which yields frame after
frame, and ``shrinkage(examples, steps)``, by how much the changes that it draws are to be shrunk.
"""

import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from common.continuation_files import Recordings, write_continuation
from common.data.manifest import Sample
from common.data.sequence_datamodule import SequenceDataModule
from common.data.sequence_datasets import SequenceDataset
from common.data.sequences import apart
from common.errors import Exit, UserError
from common.evaluate import show, update_records
from common.evaluate_sequences import LONGER
from common.metrics.bootstrap import share_interval
from common.metrics.continuation import (
    Errors,
    Followed,
    error_records,
    followed_records,
    frame_errors,
)
from common.metrics.evaluation import EvaluationContext
from common.metrics.kinds import CONTINUATION
from common.metrics.protocol import Record
from common.progress import images_bar
from common.run_images import held_out_context, packed_images
from common.runs.folder import RunFolder
from common.sampling import in_chunks
from common.sequence_writer import SequenceFormat

# Training frames at most, whose scalars give the range of each.
_TRAINING = 200
# Validation sequences that tell the model how much of the changes that it draws comes true.
_EXAMPLES = 32


@dataclass(frozen=True)
class Asked:
    """What `continue` is told.

    Attributes:
        count: recordings at most.
        seed: of their choice.
        added: frames.
        steps: of each search.
        file_format: of what shows them.
    """

    count: int
    seed: int
    added: int
    steps: int
    file_format: SequenceFormat


def measure_continuation(
    folder: RunFolder,
    model: pl.LightningModule,
    data: SequenceDataModule,
    asked: Asked,
    drawn: Mapping[str, str],
) -> list[Record]:
    """Continues recordings, writes the folder and the records, and prints the latter.

    Args:
        folder: of the run.
        model: with `following` and `shrinkage`, in evaluation mode, on its device.
        data: set up; its test split is read.
        asked: how many recordings go on, and how far.
        drawn: checkpoint and settings, as of `held_out_context`.

    Raises:
        UserError: sequences have one frame, or no recording is long enough.
    """
    windows = held_out_windows(data, asked.added, asked.count)
    examples = data.spread("val", _EXAMPLES)["image"].to(model.device)
    print(f"judging drawn changes: {len(examples)} validation sequences", flush=True)
    shrinkage = model.shrinkage(examples, asked.steps)
    found = _continued(model, data, windows, asked, shrinkage)
    errors = _errors(found, "added"), _errors(found, "known")
    followed, training = _followed(data, found, asked.seed)
    context = held_out_context(data, "data", seed=asked.seed, **drawn)
    groups = len({sample.group for sample in found.samples})
    record = partial(_record, replace(context, groups=groups), found, asked)
    finite = int(found.added.isfinite().flatten(1).all(1).sum())
    low, high = share_interval(finite, len(found.added))
    share = finite / len(found.added)
    records = [
        record(f"{CONTINUATION}finite_share", True, value=share, low=low, high=high),
        *_shrinkage_records(context, data, shrinkage, len(examples), asked.steps),
        *error_records(*errors, data.facts["channels"], record),
    ]
    for name, seen in followed.items():
        records += followed_records(name, data.followed[name], seen, training, record)
    # Killed in between, a run has numbers without films and never films of other numbers.
    shutil.rmtree(folder.continuation, ignore_errors=True)
    update_records(folder, records, CONTINUATION)
    write_continuation(folder.continuation, data, found, asked.file_format, errors, followed)
    show(records)
    return records


def held_out_windows(data: SequenceDataModule, added: int, count: int) -> SequenceDataset:
    """Windows of the test split that begin with the known moments, as long as enough recordings.

    Args:
        data: set up.
        added: moments after the known ones that are of use.
        count: recordings that have to have such a window, or all that go on where these are fewer;
            shorter ones have none.

    Raises:
        UserError: sequences have one frame, or no recording goes on after the known moments.
    """
    if data.frames < 2:
        problem = "leaves no moment that could be known before the one that is generated"
        remedy = "continue a run that was trained with two or more"
        raise UserError(Exit.USAGE, f"--data.frames {data.frames}", problem, remedy)
    enough = min(count, _recordings(data.samples("test")))
    if not enough:
        raise data.without_window("test", LONGER)
    lengths = (data.windows("test", data.frames - 1 + true) for true in range(added, 0, -1))
    return next(windows for windows in lengths if _recordings(windows.samples) >= enough)


def chosen_rows(samples: Sequence[Sample], count: int, seed: int) -> list[int]:
    """One window of each recording, recordings and windows drawn; the first k of any number agree.

    Args:
        samples: first moments of all windows.
        count: at most.
        seed: of the draw.
    """
    rows = defaultdict(list)
    for row, sample in enumerate(samples):
        rows[sample.sequence].append(row)
    rng = np.random.default_rng(seed)
    names = [sorted(rows)[k] for k in rng.permutation(len(rows))]
    return [int(rng.choice(rows[name])) for name in names[:count]]


def _recordings(samples: Sequence[Sample]) -> int:
    return len({sample.sequence for sample in samples})


def _continued(
    model: pl.LightningModule,
    data: SequenceDataModule,
    windows: SequenceDataset,
    asked: Asked,
    shrinkage: Tensor,
) -> Recordings:
    rows = chosen_rows(windows.samples, asked.count, asked.seed)
    batch = data.on_after_batch_transfer(windows.__getitems__([(0, row) for row in rows]), 0)
    known, true = batch["image"].tensor_split([data.frames - 1], 2)
    recordings = _recordings(data.prepared.samples("test"))
    shorter = recordings - _recordings(windows.samples)
    left_out = f"; {shorter} shorter recordings are left out" if shorter else ""
    print(
        f"continuing: {len(rows)} of {recordings} test recordings, {known.shape[2]} known frames "
        f"and {asked.added} more, of which {true.shape[2]} are known to compare with{left_out}",
        flush=True,
    )
    total = len(rows) * asked.added
    with images_bar("continuing", total, unit="frames") as bar:

        def go_on(part: Tensor) -> Tensor:
            # The last part is filled up with recordings that do not count.
            counting = min(len(part), (total - bar.n) // asked.added)
            frames = []
            for frame in model.following(part, asked.added, asked.steps, shrinkage):
                frames.append(frame)
                bar.update(counting)
            return torch.stack(frames, 2)

        added = in_chunks(go_on, known.to(model.device)).cpu()
    return Recordings([windows.samples[row] for row in rows], batch["mask"], known, true, added)


def _shrinkage_records(
    context: EvaluationContext,
    data: SequenceDataModule,
    shrinkage: Tensor,
    examples: int,
    steps: int,
) -> list[Record]:
    """Of each channel; of validation sequences, unlike all others."""
    groups = len({sample.group for sample in data.samples("val")})
    context = replace(context, split="val", groups=groups)
    rule = f"{data.frames - 1} known frames and the next one; {steps} steps of search"
    counts = {"n_real": examples, "n_fake": examples}
    return [
        context.record(f"{CONTINUATION}shrinkage/{channel}", value=value, rule=rule, **counts)
        for channel, value in zip(data.facts["channels"], shrinkage.tolist(), strict=True)
    ]


def _errors(found: Recordings, part: str) -> Errors:
    """Of added frames, or of the last known one, against the frames that came."""
    length = found.true.shape[2]
    pairs = (
        frame_errors(frames[:, :length] if part == "added" else frames[:, -1:], truth)
        for frames, truth in zip(found.units(part), found.units("true"), strict=True)
    )
    return Errors(*map(np.stack, zip(*pairs, strict=True)))


def _followed(
    data: SequenceDataModule, found: Recordings, seed: int
) -> tuple[dict[str, Followed], str]:
    """Scalars of single frames by name, and which training frames were looked at."""
    if not data.followed:
        return {}, ""
    rows = apart(data.dataset("train").windows)
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[:_TRAINING])
    training = (seen.image[:, :1] for seen in packed_images(data, "train", rows.tolist()))
    sides = {
        "known": (frames[:, :1] for frames in found.units("known")),
        "added": found.units("added"),
        "true": found.units("true"),
        "training": training,
    }
    lengths = found.added.shape[2], found.true.shape[2]
    total = len(found.samples) * (1 + sum(lengths)) + len(rows)
    with images_bar("measuring", total, unit="frames") as bar:

        def scalars(frames: np.ndarray) -> list[list[float]]:
            """Of each frame those that are followed."""
            measured = [data.measure(frames[:, k : k + 1]) for k in range(frames.shape[1])]
            bar.update(len(measured))
            return [[one[name] for name in data.followed] for one in measured]

        of = {side: np.array([scalars(x) for x in frames]) for side, frames in sides.items()}
    parts = {"known": of["known"][:, 0], "training": of["training"][:, 0]}
    values = of | parts
    return {
        name: Followed(**{side: array[..., k] for side, array in values.items()})
        for k, name in enumerate(data.followed)
    }, f"{len(rows)} training frames"


def _record(
    context: EvaluationContext,
    found: Recordings,
    asked: Asked,
    name: str,
    ours: bool,
    rule: str = "",
    **measured: Any,
) -> Record:
    """Without ``ours`` no model is in it, and runs share its protocol."""
    count = len(found.samples)
    rules = [
        f"{found.known.shape[2]} known frames",
        f"{found.true.shape[2]} true ones after them",
        f"recordings by seed {asked.seed}",
        f"{asked.added} added, each by {asked.steps} steps of search" if ours else "",
        rule,
    ]
    counts = {"n_real": count, "n_fake": count if ours else 0}
    return context.record(name, rule="; ".join(filter(None, rules)), **measured | counts)
