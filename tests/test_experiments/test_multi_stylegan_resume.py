"""A run of multi_stylegan with all its switches on goes on where it was stopped, in every state."""

import random
import signal
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from common.adaptive_augment import AdaptiveProbability
from common.runs.checkpoints import load_checkpoint
from experiments.multi_stylegan import module
from experiments.multi_stylegan.module import MultiStyleGAN
from made_traps import write_traps
from outcome import digest, history, state
from running import Cli, at, run_folder, smoke

EXPERIMENT = "multi_stylegan"
# Two epochs of 30 windows, filled up to a batch of 4; the stop is within the second.
BUDGET, STOP = 64, 40
SWITCHES = {
    **{"model.mixing_prob": 0.9, "model.r1_every": 2, "model.path_length_every": 3},
    **{"model.augment_prob": -1, "model.adaptive_images": 80, "model.cutmix_images": 60},
    **{"model.top_k_from": 0, "model.top_k_to": 90, "model.top_k_share": 0.5},
    **{"model.order_from": 12, "model.order_share": 0.5},
    **{"data.image_size": 16, "data.val_fraction": 0.25, "ema.half_life_images": 40},
    **{"budget.images_seen": BUDGET, "preview.count": 0, "hardware.threads": 1},
}
# Logged numbers that say that a switch is on.
TERMS = ("r1", "path_length", "cutmix", "consistency", "cutmix_prob", "order_share", "augment_prob")
MOVED = (
    *("adaptive.probability", "adaptive.signs", "adaptive.seen", "path_length.mean"),
    "generator.mapping.average",
)


class Trained(NamedTuple):
    """A run's folder, how it ended, and digests of all generators by images seen."""

    folder: Path
    code: int
    drawn: dict[int, str]


class Runs:
    """Starts runs on the same recordings, by the command line."""

    def __init__(self, cli: Cli, workspace: Path, patch: pytest.MonkeyPatch) -> None:
        self.cli, self.workspace, self.patch = cli, workspace, patch
        self.raw = write_traps(workspace / "raw", times=range(12), size=16)

    def fit(self, name: str, *more: str, stop: int = 0) -> Trained:
        """Trains; a signal comes in the step that has seen ``stop`` images."""
        drawn: dict[int, str] = {}
        step = MultiStyleGAN.training_step

        def watched(model: MultiStyleGAN, *args: Any) -> None:
            step(model, *args)
            seen = model.trainer.images_seen
            drawn[seen] = digest([torch.get_rng_state(), *_states()])
            if seen == stop:
                signal.raise_signal(signal.SIGTERM)

        options = [word for key, value in SWITCHES.items() for word in (f"--{key}", str(value))]
        fit = ["fit", *smoke(EXPERIMENT), *at(self.workspace, name), *options, *more]
        with self.patch.context() as patch:
            patch.setattr(MultiStyleGAN, "training_step", watched)
            result = self.cli(EXPERIMENT, *fit, "--data.root", self.raw)
        return Trained(run_folder(self.workspace, EXPERIMENT, name), result.code, drawn)


def _states() -> list[object]:
    name, keys, *rest = np.random.get_state()
    return [name, keys.tolist(), *rest, random.getstate()]


@pytest.fixture
def runs(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Runs:
    # Adjusts the probability within a run of seconds, and whatever the logits are, upwards.
    often = partial(AdaptiveProbability, target=-2.0, every=12)
    monkeypatch.setattr(module, "AdaptiveProbability", often)
    return Runs(cli, tmp_path, monkeypatch)


def test_a_run_with_all_switches_on_goes_on_in_every_state(runs: Runs) -> None:
    whole = runs.fit("whole")
    stopped = runs.fit("parts", stop=STOP)
    assert (whole.code, stopped.code) == (0, 128 + signal.SIGTERM)
    assert max(stopped.drawn) == STOP
    all_has_moved(load_checkpoint(stopped.folder / "checkpoints/last.ckpt", to_resume=True))
    resumed = runs.fit("parts", "--resume", "true")
    assert resumed.code == 0 and min(resumed.drawn) == STOP + 4
    assert stopped.drawn | resumed.drawn == whole.drawn
    assert state(resumed.folder) == state(whole.folder)
    assert history(resumed.folder) == history(whole.folder)
    logged = {row[3]: float(row[4]) for row in history(whole.folder)[1:]}
    above = {row[3] for row in history(whole.folder)[1:] if float(row[4]) > 0}
    assert {f"train/{name}" for name in TERMS} <= above
    assert logged["train/top_k_share"] < 0.7


def all_has_moved(saved: dict[str, Any]) -> None:
    """Where nothing has happened yet, nothing could be lost."""
    training, average = saved["current_model_state"], saved["state_dict"]
    for name in MOVED:
        assert training[name].abs().sum() > 0, name
        assert not torch.equal(training[name], average[name]), name
    assert torch.equal(training["camera.strengths"], average["camera.strengths"])
    assert (training["camera.strengths"] > 0).all()
    assert 0 < training["adaptive.probability"] < 0.8
    assert saved["callbacks"]["ImagesSeen"]["count"] == STOP
    for part, optimizer in zip(
        ("generator", "discriminator"), saved["optimizer_states"], strict=True
    ):
        names = [name for name in training if name.startswith(f"{part}.")]
        assert any(not torch.equal(training[name], average[name]) for name in names), part
        (group,) = optimizer["param_groups"]
        moments = optimizer["state"]
        assert set(moments) == set(group["params"])
        assert all(one["exp_avg_sq"].abs().sum() > 0 for one in moments.values())
