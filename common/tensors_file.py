"""Tensors as bytes that run no code when they are read; the door of safetensors."""

import hashlib
import json
from collections.abc import Mapping

import safetensors
import safetensors.torch
from torch import Tensor

_DIGEST = "sha256"


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors by name, without anything else: equal tensors give equal bytes."""
    # Copies: tied weights are one tensor under two names, which the format refuses.
    copied = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}
    return safetensors.torch.save(copied)


def unpack(content: bytes) -> dict[str, Tensor]:
    """What `pack` was given.

    Raises:
        ValueError: these are no tensors.
    """
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise ValueError("holds no tensors") from error


def seal(tensors: Mapping[str, Tensor]) -> bytes:
    """As `pack`, with the SHA-256 of it in the header: damage will show."""
    named = {_DIGEST: digest_of(tensors)}
    return safetensors.torch.save(unpack(pack(tensors)), metadata=named)


def unseal(content: bytes) -> dict[str, Tensor]:
    """What `seal` was given.

    Raises:
        ValueError: these are no tensors, or not those that were sealed.
    """
    tensors = unpack(content)
    # A safetensors file begins with the length of its header, which is JSON.
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    if header.get("__metadata__", {}).get(_DIGEST) != digest_of(tensors):
        raise ValueError("is damaged: its SHA-256 is not the one it names")
    return tensors


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of what `pack` makes of them."""
    return hashlib.sha256(pack(tensors)).hexdigest()
