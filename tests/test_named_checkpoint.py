"""Training may save the next checkpoint while a verb works with the one that it has read."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from common import restoring
from common.export import read_facts
from common.generation import read_samples_manifest
from common.runs.checkpoints import DurableCheckpointIO, sha256_of
from common.runs.folder import RunFolder
from running import Cli, at


@pytest.mark.one_experiment
@pytest.mark.parametrize("verb", ["generate", "export"])
def test_a_verb_names_the_checkpoint_whose_weights_it_has(
    workspace: Path, experiment: str, verb: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, load = RunFolder(workspace, experiment, "first"), restoring.load_weights
    read = sha256_of(folder.checkpoint("best"))

    def load_and_save(model: pl.LightningModule, checkpoint: dict[str, Any], path: Path) -> None:
        load(model, checkpoint, path)
        DurableCheckpointIO().save_checkpoint(checkpoint | {"epoch": 99}, str(path))

    monkeypatch.setattr(restoring, "load_weights", load_and_save)
    assert cli(experiment, verb, *at(workspace, "first")).code == 0
    assert sha256_of(folder.checkpoint("best")) != read
    if verb == "generate":
        assert {row["checkpoint_sha256"] for row in read_samples_manifest(folder)} == {read}
    else:
        assert read_facts(folder.export)["checkpoint"]["sha256"] == read
