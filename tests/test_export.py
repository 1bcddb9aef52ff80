"""What `export` writes does elsewhere what the trained model does here, or is refused."""

import csv
import getpass
import importlib
import json
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

import common.export
from common.data.canvas import rectangle, rectangle_mask
from common.data.image_io import read_image
from common.errors import Exit, UserError
from common.export import load_export, read_facts
from common.onnx_graph import run_graph, write_graph
from common.runs.checkpoints import load_checkpoint, sha256_of
from running import Cli, at, call_cli, refuses, run_folder

pytestmark = pytest.mark.one_experiment

FILES = {"model.json", "model.safetensors", "sampler.onnx"}
COUNT = 6


@pytest.fixture(scope="module")
def exported(trained: Path, experiment: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Workspace whose run `first` has samples and an export."""
    workspace = tmp_path_factory.mktemp("exported") / "workspace"
    shutil.copytree(trained, workspace, symlinks=True)
    assert call_cli(experiment, "generate", *at(workspace, "first"), "--n", str(COUNT)) == 0
    assert call_cli(experiment, "export", *at(workspace, "first")) == 0
    return workspace


@pytest.fixture
def folder(exported: Path, experiment: str, tmp_path: Path) -> Path:
    """A copy of the three files alone, as a lab would be given them."""
    source = run_folder(exported, experiment, "first") / "export"
    return Path(shutil.copytree(source, tmp_path / "export"))


def module_class(folder: Path) -> type[pl.LightningModule]:
    module, name = read_facts(folder)["class"].rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def sample_rows(run: Path) -> list[dict[str, str]]:
    with (run / "samples/manifest.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def inputs_of(samples: list[dict[str, str]], shapes: list[tuple], facts: dict) -> dict[str, Any]:
    """What the network was fed, from what lies on the disk alone."""
    classes, size = facts["classes"], facts["image_size"]
    labels = [classes.index(row["label"]) if classes else 0 for row in samples]
    masks = [rectangle_mask(*shape, size) for shape in shapes]
    return {
        "seeds": np.array([int(row["seed"]) for row in samples]),
        "label": np.array(labels, np.int64),
        "mask": np.stack(masks).astype(np.float32),
    }


def test_a_process_without_this_project_makes_image_k_from_seed_k(
    exported: Path, folder: Path, experiment: str, tmp_path: Path
) -> None:
    run = run_folder(exported, experiment, "first")
    rows = sample_rows(run)
    images = [read_image(run / "samples" / row["name"]).pixels for row in rows]
    shapes = [image.shape[-2:] for image in images]
    facts = json.loads((folder / "model.json").read_text())["data"]
    np.savez(tmp_path / "inputs.npz", **inputs_of(rows, shapes, facts))
    script = Path(__file__).with_name("standalone_sampling.py")
    files = [folder / "sampler.onnx", tmp_path / "inputs.npz", tmp_path / "output.npz"]
    done = subprocess.run(
        [sys.executable, "-I", "-S", script, sysconfig.get_path("purelib"), *files],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "output.npz")
    low, high = facts["window"]
    for made, image, shape in zip(found["output"], images, shapes, strict=True):
        grey = (made[(..., *rectangle(*shape, made.shape[-1]))] + 1) / 2 * (high - low) + low
        apart = np.abs(np.rint(grey) - image.reshape(grey.shape))
        assert apart.max() <= 1 and (apart > 0).mean() < 0.02
    metadata = {k.removeprefix("metadata_"): json.loads(str(found[k])) for k in found if "_" in k}
    assert metadata == json.loads((folder / "model.json").read_text())


def test_the_facts_name_checkpoint_data_and_every_tensor(
    exported: Path, folder: Path, experiment: str
) -> None:
    assert {path.name for path in folder.iterdir()} == FILES
    facts = read_facts(folder)
    best = run_folder(exported, experiment, "first") / "checkpoints/best.ckpt"
    checkpoint = load_checkpoint(best)
    seen = checkpoint["callbacks"]["ImagesSeen"]["count"]
    assert facts["checkpoint"] == {"name": "best", "sha256": sha256_of(best), "images_seen": seen}
    assert facts["weights"]["sha256"] == sha256_of(folder / "model.safetensors")
    assert facts["experiment"] == experiment and facts["schema"] == 1
    assert {"channels", "classes", "image_size", "window", "pixel_size_um", "storage",
            "log_aspect"} <= set(facts["data"])  # fmt: skip
    given = {k: v for k, v in checkpoint["hyper_parameters"].items() if k[0] != "_"}
    assert facts["hyper_parameters"] == json.loads(json.dumps(given))
    (output,) = facts["sampler"]["outputs"].values()
    size, channels = facts["data"]["image_size"], len(facts["data"]["channels"])
    assert output == {"shape": ["batch", channels, size, size], "dtype": "float32"}


def test_the_weights_come_back_bit_for_bit_in_a_module_that_generates_the_same(
    exported: Path, folder: Path, experiment: str
) -> None:
    best = run_folder(exported, experiment, "first") / "checkpoints/best.ckpt"
    before = load_checkpoint(best)["state_dict"]
    model = load_export(folder, module_class(folder))
    after = model.state_dict()
    assert list(after) == list(before)
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert after[name].numpy().tobytes() == tensor.contiguous().numpy().tobytes(), name
    assert not model.training


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_networks_of_any_number_of_channels_are_exported_with_parity(
    folder: Path, channels: int, tmp_path: Path
) -> None:
    facts = read_facts(folder)
    torch.manual_seed(channels)
    model = module_class(folder)(**facts["hyper_parameters"] | {"num_channels": channels}).eval()
    for parameter in model.parameters():
        # Some begin at 0, and with them whole branches of the network.
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    shape, seeds = facts["data"]["image_size"], torch.arange(7)
    mask = torch.zeros(7, 1, shape, shape)
    mask[:, :, shape // 4 :] = 1
    batch = {"seed": seeds, "label": seeds % max(len(facts["data"]["classes"]), 1), "mask": mask}
    sampler = model.sampler(batch)
    write_graph(tmp_path / "any.onnx", model, sampler, {})
    with torch.no_grad():
        expected = sampler()
    assert expected.shape == (7, channels, shape, shape) and expected.std() > 1e-3
    found = run_graph(tmp_path / "any.onnx", sampler.inputs, (1, 6))
    assert (found - expected).abs().max() <= 1e-4


def test_predict_step_and_export_share_one_network(folder: Path) -> None:
    facts = read_facts(folder)["data"]
    model = load_export(folder, module_class(folder))
    size = facts["image_size"]
    batch = {"seed": torch.arange(3), "label": torch.zeros(3, dtype=torch.int64),
             "mask": torch.ones(3, 1, size, size)}  # fmt: skip
    with torch.no_grad():
        image = model.predict_step(batch, 0)["image"]
    sampler = model.sampler(batch)
    found = run_graph(folder / "sampler.onnx", sampler.inputs, (2, 1))
    assert (found - image).abs().max() <= 1e-4
    assert float(image.abs().max()) <= 1


def test_nothing_of_this_machine_is_in_the_files(folder: Path, trained: Path) -> None:
    words = [str(trained), str(Path.home()), str(Path(common.__file__).parents[1]), ".py"]
    # A short name may stand there by chance.
    words += [name for name in (platform.node(), getpass.getuser()) if len(name) > 4]
    for path in folder.iterdir():
        texts = re.findall(rb"[ -~]{8,}", path.read_bytes())
        assert texts
        assert not [text for text in texts if any(word.encode() in text for word in words)]


def test_exporting_again_gives_the_same_bytes_and_another_checkpoint_others(
    exported: Path, experiment: str, tmp_path: Path, cli: Cli
) -> None:
    workspace = Path(shutil.copytree(exported, tmp_path / "again", symlinks=True))
    export = run_folder(workspace, experiment, "first") / "export"
    before = {path.name: path.read_bytes() for path in export.iterdir()}
    result = cli(experiment, "export", *at(workspace, "first"))
    assert result.code == 0, result.err
    assert result.err == ""
    assert {path.name: path.read_bytes() for path in export.iterdir()} == before
    assert f"runs/{experiment}/first/export\n" in result.out
    assert "torch and onnxruntime differ by " in result.out
    result = cli(experiment, "export", *at(workspace, "first"), "--weights", "previous")
    assert result.code == 0, result.err
    assert read_facts(export)["checkpoint"]["name"] == "previous"
    assert read_facts(export)["weights"] != json.loads(before["model.json"])["weights"]


def _drifted(original: Callable) -> Callable:
    return lambda *args: original(*args) + 2e-4


def _other_weights(original: Callable) -> Callable:
    def loaded(*args: Any) -> pl.LightningModule:
        model = original(*args)
        parameter = next(model.parameters()).data
        parameter.flatten()[0].copy_(torch.nextafter(parameter.flatten()[0], torch.tensor(9.0)))
        return model

    return loaded


@pytest.mark.parametrize(
    ("function", "change", "words"),
    [
        ("run_graph", _drifted, ("sampler.onnx", "differs from torch by 0.0002")),
        ("load_export", _other_weights, ("model.safetensors", "other weights")),
    ],
    ids=["drift", "weights"],
)
def test_an_export_that_does_something_else_is_refused_and_the_earlier_one_kept(
    exported: Path, experiment: str, function: str, change: Callable, words: tuple[str, ...],
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    workspace = Path(shutil.copytree(exported, tmp_path / "kept", symlinks=True))
    run = run_folder(workspace, experiment, "first")
    before = {path: path.read_bytes() for path in run.rglob("*.*") if path.is_file()}
    monkeypatch.setattr(common.export, function, change(getattr(common.export, function)))
    result = cli(experiment, "export", *at(workspace, "first"), "--weights", "last")
    refuses(result, 1, *words, "nothing was exported")
    assert {path: path.read_bytes() for path in run.rglob("*.*") if path.is_file()} == before


def test_a_first_export_that_fails_leaves_nothing(
    workspace: Path, experiment: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_folder(workspace, experiment, "first")
    monkeypatch.setattr(common.export, "run_graph", lambda *args: torch.tensor([torch.nan]))
    refuses(cli(experiment, "export", *at(workspace, "first")), 1, "differs from torch by inf")
    assert not [path for path in run.iterdir() if "export" in path.name]


@pytest.mark.parametrize(("found", "told"), [(torch.nan, "nan"), (torch.inf, "inf")])
def test_a_value_that_is_no_number_is_a_difference(
    folder: Path, found: float, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = read_facts(folder)["data"]
    size = facts["image_size"]
    batch = {"seed": torch.arange(28), "label": torch.zeros(28, dtype=torch.int64),
             "mask": torch.ones(28, 1, size, size)}  # fmt: skip
    sampler = load_export(folder, module_class(folder)).sampler(batch)
    with torch.no_grad():
        expected = sampler()
    assert common.export._difference(folder / "sampler.onnx", sampler, expected) <= 1e-4
    changed = expected.clone()
    changed[5, 0, 1, 2] = found
    monkeypatch.setattr(common.export, "run_graph", lambda *args: changed)
    difference = common.export._difference(folder / "sampler.onnx", sampler, expected)
    assert str(difference) == told and not difference <= common.export.MAX_DIFFERENCE


def test_a_run_without_a_whole_checkpoint_is_not_exported(
    workspace: Path, experiment: str, cli: Cli
) -> None:
    run = run_folder(workspace, experiment, "first")
    (run / "checkpoints/best.ckpt").write_bytes(b"PK\x03\x04" + bytes(100))
    refuses(cli(experiment, "export", *at(workspace, "first")), 4, "best.ckpt", "is damaged")
    (run / "checkpoints/best.ckpt").unlink()
    refuses(cli(experiment, "export", *at(workspace, "first")), 4, "best.ckpt", "does not exist")
    assert not (run / "export").exists()


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _removed(path: Path) -> None:
    path.unlink()


def _edited(**changes: Any) -> Callable[[Path], None]:
    """Facts that somebody has changed, with or without a fitting digest."""

    def edit(path: Path) -> None:
        facts = json.loads(path.read_text()) | changes
        facts = {name: value for name, value in facts.items() if value is not None}
        if "sha256" not in changes:
            facts["sha256"] = common.export._digest(facts)
        path.write_text(json.dumps(facts))

    return edit


def _shifted_window(path: Path) -> None:
    text = path.read_text()
    start = text.index('"window"')
    path.write_text(text[:start] + text[start:].replace("0", "1", 1))


def _nested(path: Path) -> None:
    path.write_text("[" * 100_000)


@pytest.mark.parametrize(
    ("name", "damage", "word"),
    [
        ("model.safetensors", _flipped, "is damaged"),
        ("model.safetensors", _halved, "is damaged"),
        ("model.safetensors", _removed, "cannot be read"),
        ("model.json", _halved, "is damaged"),
        ("model.json", _removed, "cannot be read"),
        ("model.json", _nested, "is damaged"),
        ("model.json", _shifted_window, "is damaged"),
        ("model.json", _edited(sha256=None), "is damaged"),
        ("model.json", _edited(sha256=7), "is damaged"),
        ("model.json", _edited(schema=2), "is of schema 2, this code reads 1"),
        ("model.json", _edited(hyper_parameters={"nonsense": 1}), "does not fit"),
        ("model.json", _edited(hyper_parameters=None), "is damaged"),
        ("model.json", _edited(weights=[]), "is damaged"),
    ],
)
def test_damaged_files_and_other_models_are_refused_in_one_sentence(
    folder: Path, name: str, damage: Callable[[Path], None], word: str
) -> None:
    wanted = module_class(folder)
    damage(folder / name)
    with pytest.raises(UserError, match=word) as refused:
        load_export(folder, wanted)
    assert refused.value.code == Exit.CHECKPOINT
    assert name in refused.value.subject


def test_weights_that_are_no_tensors_are_refused(folder: Path) -> None:
    wanted, content = module_class(folder), b"no tensors"
    (folder / "model.safetensors").write_bytes(content)
    digest = sha256_of(folder / "model.safetensors")
    _edited(weights={"file": "model.safetensors", "sha256": digest})(folder / "model.json")
    with pytest.raises(UserError, match="holds no tensors"):
        load_export(folder, wanted)


def test_the_weights_of_another_class_are_refused(folder: Path) -> None:
    class Other(module_class(folder)):
        pass

    with pytest.raises(UserError, match=r"describes a .*, not a .*Other") as refused:
        load_export(folder, Other)
    assert refused.value.code == Exit.CHECKPOINT
