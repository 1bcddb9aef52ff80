"""Odd models and odd moments; that an export does what it should is in tests/test_export.py."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from common.errors import Exit, UserError
from common.export import export_run, load_export, read_facts
from common.runs.folder import RunFolder
from common.sampling import Sampler, seeded_noise


class Tied(pl.LightningModule):
    """Maps z to itself through one matrix that it has under two names."""

    def __init__(self, width: int = 4, vgg: str | None = None, api_key: str = "") -> None:
        super().__init__()
        self.save_hyperparameters()
        self.there, self.back = nn.Linear(width, width), nn.Linear(width, width)
        self.back.weight = self.there.weight
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("narrow", torch.tensor([1.5], dtype=torch.bfloat16))

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.back(self.there(z)))

    def sampler(self, batch: dict[str, Tensor]) -> Sampler:
        return Sampler(self.forward, {"z": seeded_noise(batch["seed"], self.there.in_features)})


class Data:
    """What `export` asks of a data module."""

    experiment = "tiny"

    def __init__(self, **facts: Any) -> None:
        self.facts = facts

    def guide_facts(self) -> dict[str, Any]:
        return {"channels": ["spots"], "path": "/home/someone/layouts"}

    def example_batch(self, count: int, seed: int) -> dict[str, Tensor]:
        return {"seed": torch.arange(seed, seed + count)}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path, "tiny", "first")


def export(folder: RunFolder, model: pl.LightningModule, **facts: Any) -> Path:
    seen = {"callbacks": {"ImagesSeen": {"count": 5}}}
    export_run(folder, model, Data(**facts), seen, ("best", "ab"))
    return folder.export


def test_tied_weights_counters_and_other_types_come_back(folder: RunFolder) -> None:
    model = Tied()
    loaded = load_export(export(folder, model), Tied)
    assert loaded.there.weight is loaded.back.weight
    before, after = model.state_dict(), loaded.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert loaded.narrow.dtype == torch.bfloat16 and loaded.count.dtype == torch.int64


def test_paths_and_secrets_stay_and_are_not_needed(folder: RunFolder) -> None:
    model = Tied(width=3, vgg="/home/anna/vgg.pth", api_key="canary4711")
    made = export(folder, model, window=[0.0, 255.0], root="/data/of/anna")
    for path in made.iterdir():
        content = path.read_bytes()
        assert b"anna" not in content and b"canary" not in content
    facts = read_facts(made)
    assert facts["hyper_parameters"] == {"width": 3, "vgg": "(private)", "api_key": "***"}
    assert facts["data"] == {"window": [0.0, 255.0], "root": "(private)"}
    assert facts["guides"] == {"channels": ["spots"], "path": "(private)"}
    loaded = load_export(made, Tied)
    assert loaded.hparams.vgg is None and loaded.hparams.api_key == ""
    assert torch.equal(loaded.there.weight, model.there.weight)


class Scaled(pl.LightningModule):
    """What it does hangs on a table that JSON writes with other keys."""

    def __init__(self, gains: dict[int, float]) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(4, 4)
        self.gain = gains.get(4, 0.5)

    def forward(self, z: Tensor) -> Tensor:
        return self.layer(z) * self.gain

    def sampler(self, batch: dict[str, Tensor]) -> Sampler:
        return Sampler(self.forward, {"z": seeded_noise(batch["seed"], 4)})


def test_hyper_parameters_that_come_back_as_others_are_no_export(folder: RunFolder) -> None:
    with pytest.raises(UserError, match="makes other images"):
        export(folder, Scaled(gains={4: 1.0}))
    assert not folder.export.exists()


def test_the_images_that_a_checkpoint_of_weights_alone_has_seen_are_unknown(
    folder: RunFolder,
) -> None:
    made = export(folder, Tied())
    assert read_facts(made)["checkpoint"]["images_seen"] == 5
    export_run(folder, Tied(), Data(), {"state_dict": {}}, ("best", "ab"))
    assert read_facts(made)["checkpoint"]["images_seen"] is None


def test_a_full_disk_keeps_the_earlier_export(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = export(folder, Tied())
    before = {path: path.read_bytes() for path in made.iterdir()}
    written = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name != "sampler.onnx":
            return written(path, content)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left") as refused:
        export(folder, Tied())
    assert refused.value.code == Exit.STORAGE
    assert {p: p.read_bytes() for p in folder.path.rglob("*.*") if p.is_file()} == before


def test_facts_are_plain_text_that_other_programs_read(folder: RunFolder) -> None:
    made = export(folder, Tied(), classes=["µ", "\x1b[31m"])
    facts = json.loads((made / "model.json").read_text(encoding="ascii"))
    assert facts["data"]["classes"] == ["µ", "\\u001b[31m"]
