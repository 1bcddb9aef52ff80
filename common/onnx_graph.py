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
        problem = f"cannot be written as ONNX ({_told(error)})"
        remedy = "build its network of operators that ONNX has, for any number of rows"
        raise UserError(Exit.BUG, f"{type(module).__name__}.sampler", problem, remedy) from error
    path.write_bytes(content)


def run_graph(path: Path, inputs: Mapping[str, Tensor], batch_sizes: Sequence[int]) -> Tensor:
    """Output of a written network for ``inputs``, run on the CPU in batches of these sizes.

    Raises:
        UserError: the network cannot be read, or fails.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    batches = zip(*(tensor.split(list(batch_sizes)) for tensor in inputs.values()), strict=True)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        outputs = [
            session.run(None, {k: v.numpy() for k, v in zip(inputs, batch, strict=True)})[0]
            for batch in batches
        ]
    except Exception as error:  # it has a class of its own for each kind, and no common one
        problem = f"does not run in onnxruntime ({_told(error)})"
        remedy = "use operators that it has, for any number of rows"
        raise UserError(Exit.BUG, path.name, problem, remedy) from error
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
    # The older exporter, built on TorchScript, is deprecated. It takes `len(x)` of a tensor for a
    # constant, and the size of the batch with it; so does torch.export where it is not strict.
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
    # It holds the names of source files on this machine.
    ClearMetadataAndDocStringPass()(program.model)
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


def _told(error: BaseException) -> str:
    """Of a chain of errors the first, which the others only wrap."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:_SHOWN]}"
