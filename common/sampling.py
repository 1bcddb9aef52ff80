"""Images as a function of weights and seeds alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Convolutions may sum in another order for another batch size, so all batches are this long.
CHUNK = 8
# Added to an image's seed for noise beside its z: the one must not be the other again, so seeds of
# images stay below it (`common.data.planning.refuse_large_seeds`).
DETAIL_SEED = 2**31


@dataclass(frozen=True)
class Sampler:
    """The network that samples, and what it is fed: of one batch, by a module's ``sampler(batch)``.

    `generate` runs it by way of the module's ``predict_step``, `export` writes it: one and the same
    network, since neither has another way to it. Where many passes make one image, as in
    diffusion, it is the network of one pass, and ``predict_step`` is the loop around it.

    Attributes:
        network: maps the inputs in their order to one tensor [B, ...]. Its rows are independent, it
            draws no random numbers, and its docstring says what goes in and out. A method of the
            module or one of its networks.
        inputs: tensors [B, ...] by the names that they have outside of torch, too.
        output: name of the result; "image" is in [-1, 1].
    """

    network: Callable[..., Tensor]
    inputs: dict[str, Tensor]
    output: str = "image"

    def __call__(self) -> Tensor:
        """The result; no row depends on the others."""
        return in_chunks(self.network, *self.inputs.values())


def seeded_noise(seeds: Tensor, *shape: int) -> Tensor:
    """Standard normal noise [B, *shape]; row k is a function of seed k, on any device.

    Drawn on the CPU: generators of different devices give different numbers for one seed. Seeds
    count modulo 2 ** 32, which is all that torch's generator reads of them.
    """
    rows = [
        torch.randn(shape, generator=torch.Generator().manual_seed(int(seed)))
        for seed in seeds.cpu()
    ]
    return torch.stack(rows).to(seeds.device)


def in_chunks(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Applies ``function`` to fixed-size chunks of its inputs, in float32 and padded.

    The result of a row does not depend on how many rows it came with.

    Args:
        function: maps tensors [CHUNK, ...] to a tensor [CHUNK, ...]; rows must be independent.
        inputs: tensors [B, ...] of one length.
    """
    total = len(inputs[0])
    chunks = []
    with torch.autocast(inputs[0].device.type, enabled=False):
        for start in range(0, total, CHUNK):
            rows = torch.arange(start, start + CHUNK).clamp(max=total - 1)
            chunks.append(function(*(tensor[rows.to(tensor.device)] for tensor in inputs)))
    return torch.cat(chunks)[:total]
