"""A trained model for use elsewhere: weights, facts and sampling network, none of them a pickle.

The folder `export` of a run holds

- `model.safetensors`: all weights of the module, those that `generate` uses;
- `model.json`: what they are weights of and what they were trained on; `load_export` reads both;
- `sampler.onnx`: the network that samples, for any ONNX runtime; its metadata repeat `model.json`.
"""

import hashlib
import inspect
import json
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor

from common.code_version import commit, versions
from common.data.datamodule import ImageDataModule
from common.errors import Exit, UserError, relative
from common.onnx_graph import BATCH, run_graph, write_graph
from common.privacy import MASKED, PRIVATE, public
from common.runs.checkpoints import images_in
from common.runs.folder import RunFolder
from common.sampling import Sampler
from common.storage import whole_folder
from common.tensors_file import pack, unpack

SCHEMA = 1
WEIGHTS, FACTS, GRAPH = "model.safetensors", "model.json", "sampler.onnx"
# Between torch and onnxruntime; one grey level of 8 bits in [-1, 1] is 78 times as much.
MAX_DIFFERENCE = 1e-4
# Images that both generate, so many at a time.
BATCH_SIZES = (1, 3, 8, 16)
_LIBRARIES = ("torch", "pytorch-lightning", "safetensors", "onnx", "onnxscript", "onnxruntime")
_DIGEST = "sha256"
# What `load_export` relies on.
_KINDS = {"class": str, "hyper_parameters": dict, "weights": dict, "commit": str}
_AGAIN = "export the run again, or copy the whole folder again"
Module = TypeVar("Module", bound=pl.LightningModule)


@torch.no_grad()
def export_run(
    folder: RunFolder,
    model: pl.LightningModule,
    data: ImageDataModule,
    checkpoint: dict[str, Any],
    named: tuple[str, str],
) -> None:
    """Writes the run's `export`, checks it and says what was measured.

    An earlier export stays until the new one has passed.

    Args:
        folder: of the run.
        model: with the weights of the checkpoint, on the CPU.
        data: with the facts of the checkpoint.
        checkpoint: as it was read.
        named: what it is called, such as "best", and its SHA-256.

    Raises:
        UserError: the network cannot be translated, what was written does not do the same as the
            model, or the storage is full or not writable.
    """
    batch = data.example_batch(sum(BATCH_SIZES), seed=0)
    sampler = model.eval().sampler(batch)
    expected = sampler()
    weights = pack(model.state_dict())
    facts = _facts(model, data, sampler, expected) | {
        "checkpoint": _described(checkpoint, *named),
        "weights": {"file": WEIGHTS, _DIGEST: hashlib.sha256(weights).hexdigest()},
    }
    facts[_DIGEST] = _digest(facts)
    with whole_folder(folder.export) as partial:
        (partial / WEIGHTS).write_bytes(weights)
        (partial / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        metadata = {name: json.dumps(value) for name, value in facts.items()}
        write_graph(partial / GRAPH, model, sampler, metadata)
        loaded = load_export(partial, type(model))
        if pack(loaded.state_dict()) != weights:
            raise _not_the_same(WEIGHTS, "reads back as other weights")
        # Hyper-parameters that did not survive make another network of the same weights.
        if not torch.equal(loaded.sampler(batch)(), expected):
            raise _not_the_same(FACTS, "reads back as a model that makes other images")
        difference = _difference(partial / GRAPH, sampler, expected)
        if not difference <= MAX_DIFFERENCE:
            raise _not_the_same(GRAPH, f"differs from torch by {difference:.2g}")
    _show(folder.export, facts["sampler"], difference)


def load_export(folder: Path, module_class: type[Module]) -> Module:
    """The exported model, on the CPU and ready to sample; nothing in the files is executed.

    Args:
        folder: `export` of a run, or a copy of it; `sampler.onnx` need not be there.
        module_class: the experiment's own, by whose hyper-parameters it was trained.

    Raises:
        UserError: a file is missing or damaged, or of another schema or class.
    """
    facts = read_facts(folder)
    if facts["class"] != _name(module_class):
        problem = f"describes a {facts['class']}, not a {_name(module_class)}"
        raise _unusable(folder / FACTS, problem, "load it as what it is")
    weights = _read_weights(folder / WEIGHTS, facts)
    # What was kept private is not needed: it brought in weights that are all here.
    hidden = (PRIVATE, MASKED)
    arguments = {k: v for k, v in facts["hyper_parameters"].items() if v not in hidden}
    try:
        model = module_class(**arguments)
        model.load_state_dict(weights)
    except (TypeError, ValueError, RuntimeError) as error:
        problem = f"does not fit the {module_class.__name__} of this code"
        remedy = f"use the code of commit {facts['commit'] or 'that exported it'}"
        raise _unusable(folder / FACTS, problem, remedy) from error
    return model.eval()


def read_facts(folder: Path) -> dict[str, Any]:
    """Content of `model.json`, which is also that of the metadata of `sampler.onnx`.

    Raises:
        UserError: it is missing or damaged, or of an unknown schema.
    """
    path = folder / FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        schema, digest = facts["schema"], facts[_DIGEST]
    except OSError as error:
        raise _unusable(path, f"cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _unusable(path, "is damaged or no facts of an export") from error
    if schema != SCHEMA:
        remedy = "use the version of this project that exported it"
        raise _unusable(path, f"is of schema {schema}, this code reads {SCHEMA}", remedy)
    if digest != _digest(facts):
        raise _unusable(path, "is damaged: its SHA-256 is not the one it names")
    if not all(isinstance(facts.get(name), kind) for name, kind in _KINDS.items()):
        raise _unusable(path, "is damaged: what weights are loaded by is missing")
    return facts


def _facts(
    model: pl.LightningModule, data: ImageDataModule, sampler: Sampler, output: Tensor
) -> dict[str, Any]:
    # LightningCLI adds some of its own.
    given = {k: v for k, v in model.hparams.items() if not k.startswith("_")}
    return {
        "schema": SCHEMA,
        "experiment": data.experiment,
        "class": _name(type(model)),
        "hyper_parameters": public(given),
        "data": public(data.facts),
        "guides": public(data.guide_facts()),
        "sampler": {
            "about": inspect.getdoc(sampler.network),
            "inputs": {name: _signature(tensor) for name, tensor in sampler.inputs.items()},
            "outputs": {sampler.output: _signature(output)},
        },
        "versions": versions(_LIBRARIES),
        "commit": commit(),
    }


def _described(checkpoint: dict[str, Any], name: str, digest: str) -> dict[str, Any]:
    # One that was saved with its weights only has not counted.
    seen = images_in(checkpoint) if "callbacks" in checkpoint else None
    return {"name": name, _DIGEST: digest, "images_seen": seen}


def _signature(tensor: Tensor) -> dict[str, Any]:
    kind = str(tensor.dtype).removeprefix("torch.")
    return {"shape": [BATCH, *tensor.shape[1:]], "dtype": kind}


def _read_weights(path: Path, facts: dict[str, Any]) -> dict[str, Tensor]:
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != facts["weights"].get(_DIGEST):
            raise _unusable(path, f"is damaged: its SHA-256 is not the one in {FACTS}")
        return unpack(content)
    except OSError as error:
        raise _unusable(path, f"cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise _unusable(path, str(error)) from error


def _difference(graph: Path, sampler: Sampler, expected: Tensor) -> float:
    """The largest, NaN where either has one."""
    found = run_graph(graph, sampler.inputs, BATCH_SIZES)
    if found.shape != expected.shape:
        return float("inf")
    return float((found - expected).abs().max())


def _digest(facts: dict[str, Any]) -> str:
    """Of everything but the digest itself."""
    rest = {name: value for name, value in facts.items() if name != _DIGEST}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _name(module_class: type) -> str:
    return f"{module_class.__module__}.{module_class.__qualname__}"


def _show(folder: Path, sampler: dict[str, Any], difference: float) -> None:
    def told(tensors: dict[str, Any]) -> str:
        return ", ".join(f"{name} {t['dtype']} {t['shape']}" for name, t in tensors.items())

    sizes = {name: (folder / name).stat().st_size / 1e6 for name in (WEIGHTS, GRAPH)}
    print(f"weights:    {WEIGHTS}, {sizes[WEIGHTS]:.1f} MB, read back bit for bit")
    network = f"{told(sampler['inputs'])} to {told(sampler['outputs'])}".replace("'", "")
    print(f"network:    {GRAPH}, {sizes[GRAPH]:.1f} MB: {network}")
    counts = f"{sum(BATCH_SIZES)} images in batches of {', '.join(map(str, BATCH_SIZES))}"
    limit = f"at most {MAX_DIFFERENCE:g} is allowed"
    print(f"parity:     torch and onnxruntime differ by {difference:.1e} in {counts}; {limit}")


def _not_the_same(name: str, problem: str) -> UserError:
    remedy = "please report it with the run's config.yaml"
    return UserError(Exit.BUG, name, problem, remedy, "nothing was exported")


def _unusable(path: Path, problem: str, remedy: str = _AGAIN) -> UserError:
    return UserError(Exit.CHECKPOINT, relative(path), problem, remedy)
