"""A sampling network as ONNX, and what onnxruntime makes of it."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir
import onnxruntime
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn

import kernels
from common.errors import Exit, UserError
from common.sampling import Sampler

BATCH = "batch"
_FATAL_ONLY = 4
# Characters of what a library says that a message repeats.
_SHOWN = 200


def write_graph(
    path: Path, module: nn.Module, sampler: Sampler, metadata: Mapping[str, str]
) -> None:
    """Writes the network of ``sampler`` as one file that needs neither torch nor this project.

    Its weights are part of it, its batch axis is dynamic, and it holds standard operators only:
    compiled operators are replaced by their torch references.

    Args:
        path: receives the file.
        module: that the network's weights belong to.
        sampler: network, names and examples of its inputs, name of its output.
        metadata: properties of the model, which every ONNX reader shows.

    Raises:
        UserError: the network cannot be translated.
    """
    try:
        with _quiet(), kernels.using("ref"), torch.no_grad():
            model = _translated(_Network(module, sampler.network).eval(), sampler)
        model.metadata_props.update(metadata)
        proto = onnx_ir.to_proto(model)
        onnx.checker.check_model(proto, full_check=True)
        content = proto.SerializeToString(deterministic=True)
    except Exception as error:  # whatever the libraries make of a network
        cause = _first_cause(error)
        told = " ".join(str(cause).split())[:_SHOWN]
        raise UserError(
            Exit.BUG,
            f"{type(module).__name__}.sampler",
            f"cannot be written as ONNX ({type(cause).__name__}: {told})",
            "build its network of operators that ONNX has, for any number of rows",
        ) from error
    path.write_bytes(content)


def run_graph(path: Path, inputs: Mapping[str, Tensor], batch_sizes: Sequence[int]) -> Tensor:
    """Output of a written network for ``inputs``, run on the CPU in batches of these sizes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    batches = zip(*(tensor.split(list(batch_sizes)) for tensor in inputs.values()), strict=True)
    outputs = [
        session.run(None, {k: v.numpy() for k, v in zip(inputs, batch, strict=True)})[0]
        for batch in batches
    ]
    return torch.cat([torch.from_numpy(output) for output in outputs])


class _Network(nn.Module):
    """Any function of a module as the module that torch.export asks for."""

    def __init__(self, module: nn.Module, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.module = module
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def _translated(network: _Network, sampler: Sampler) -> onnx_ir.Model:
    # The exporter built on torch.export: the older one, built on TorchScript, is deprecated.
    # strict: elsewhere `len(x)` of a tensor is a constant, and so would be the size of the batch.
    rows = tuple({0: torch.export.Dim(BATCH)} for _ in sampler.inputs)
    examples = tuple(sampler.inputs.values())
    graph = torch.export.export(network, examples, dynamic_shapes=(rows,), strict=True)
    program = torch.onnx.export(
        graph,
        dynamo=True,
        verbose=False,
        input_names=list(sampler.inputs),
        output_names=[sampler.output],
        dynamic_shapes=tuple({0: BATCH} for _ in sampler.inputs),
    )
    # The names of source files on this machine, for one.
    ClearMetadataAndDocStringPass()(program.model)
    _clear_values(program.model)
    return program.model


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch warns of itself, and logs screens of what it also raises."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _clear_values(model: onnx_ir.Model) -> None:
    """What that pass leaves."""
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
