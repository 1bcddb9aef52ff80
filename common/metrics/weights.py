"""Weights of pretrained networks from files, never fetched.

No file of a user runs code: state dicts go through torch's safe loader, and the one TorchScript
file there is (`i3d`) is opened only where its SHA-256 is the published one.
"""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.errors import Exit, UserError, relative


class Known(NamedTuple):
    """A file that others publish.

    Attributes:
        extractor: that needs it.
        name: of the file.
        source: who publishes it, for the message.
    """

    extractor: str
    name: str
    source: str

    def content(self, path: Path | None) -> tuple[bytes, str, Path]:
        """The bytes of a user's copy, their SHA-256, and where they are.

        Raises:
            UserError: there is no such file.
        """
        if path is None or not path.is_file():
            subject = self.extractor if path is None else relative(path)
            problem = f"the weights file {self.name} is not there"
            remedy = f"fetch it from {self.source} and give its path; nothing is downloaded"
            raise UserError(Exit.INPUT, subject, problem, remedy)
        content = path.read_bytes()
        return content, hashlib.sha256(content).hexdigest(), path

    def unfit(self, path: Path, what: str) -> UserError:
        """The error of a file that holds something else than ``what``."""
        return UserError(Exit.INPUT, relative(path), f"is not {what}", f"give the file {self.name}")


def refuse(weights: Path | None, reason: str) -> None:
    """Refuses a weights file that an extractor would not read.

    Raises:
        UserError: there is one.
    """
    if weights is not None:
        problem = f"is not used: {reason}"
        raise UserError(Exit.USAGE, relative(weights), problem, "leave the weights out")


def fill(network: nn.Module, content: bytes, leave_out: str = "") -> None:
    """Loads a state dict into a network, every tensor of it.

    Args:
        network: whose tensors have the names of the file.
        content: of the file.
        leave_out: prefix of the tensors that this network has no place for; "" for none.

    Raises:
        Exception: whatever torch raises where the bytes are no such state dict.
    """
    tensors: Mapping[str, Tensor] = torch.load(
        io.BytesIO(content), map_location="cpu", weights_only=True
    )
    if leave_out:
        tensors = {key: value for key, value in tensors.items() if not key.startswith(leave_out)}
    network.load_state_dict(tensors)
