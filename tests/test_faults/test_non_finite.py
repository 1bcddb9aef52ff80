"""N1: NaN and Inf end a run before they reach a file."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch

from common.errors import Exit
from faults import Ended, call, run_all
from outcome import history
from tiny_run import BATCH, TinyRun, images_in, read

pytestmark = pytest.mark.faults

Tiny = Callable[[str, str], TinyRun]


def test_what_is_not_finite_ends_a_run_before_it_is_saved(
    subject: str, tiny: Tiny, tally: Callable
) -> None:
    batch = tiny(subject, "any").epoch_batches + 3
    steps = _optimizers(tiny, subject) * batch
    faults = {
        "loss": call("sabotage:poison_images", nth=batch),
        "gradient": call("sabotage:poison_gradients", nth=steps),
        "weight": call("sabotage:poison_weights", nth=steps),
        "metric": call("sabotage:poison_images", nth=2, split="validating"),
    }
    runs = {name: tiny(subject, name) for name in faults}
    ended = run_all([runs[name].fit(sabotage=[fault]) for name, fault in faults.items()])
    wrong = [
        (name, found, one.err)
        for name, one in zip(faults, ended, strict=True)
        if (found := problems(name, runs[name], one))
    ]
    tally("N1", len(faults) - len(wrong), len(faults))
    assert not wrong


def problems(name: str, run: TinyRun, ended: Ended) -> list[str]:
    found = []
    spoilt = [str(path) for path in run.folder.glob("checkpoints/*.ckpt") if not _is_finite(path)]
    if spoilt:
        found.append(f"not finite: {spoilt}")
    if images_in(run.last) is None:
        found.append("no checkpoint is kept")
    if name == "metric":
        # Training itself was fine, so it may go on; the best must not be what was not measured.
        if ended.code not in (0, Exit.NON_FINITE) or "val/" not in ended.err + ended.out:
            found.append(f"exit {ended.code} without naming the metric")
        return found
    if ended.code != Exit.NON_FINITE or "Traceback" in ended.err:
        found.append(f"exit {ended.code}")
    # Seen where it came up, not by what it has led to a step later.
    words = (f"{name} is NaN or Inf", "train/", "learning rate", *_batch(run))
    found += [f"does not say {word}" for word in words if word not in "".join(ended.errors)]
    if any(not math.isfinite(float(row[4])) for row in history(run.folder)[1:]):
        found.append("metrics.csv holds NaN or Inf")
    return found


def _batch(run: TinyRun) -> Iterator[str]:
    """Some file of the batch in which it happened or, for a weight, was seen."""
    position = run.images_logged() // BATCH % run.epoch_batches
    yield run.samples("train")[run.image_of(1, position)]


def _optimizers(tiny: Tiny, subject: str) -> int:
    run = tiny(subject, "sound")
    (ended,) = run_all([run.fit("--trainer.max_epochs", "1")])
    assert ended.code == 0, ended.err
    assert _is_finite(run.last)
    return len(read(run.last)["optimizer_states"])


def _is_finite(path: object) -> bool:
    return all(torch.isfinite(tensor).all() for tensor in _tensors(read(path)))


def _tensors(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
