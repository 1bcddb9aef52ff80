"""What tests of several parts of `common` share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from saved_checkpoints import replace


@pytest.fixture
def last(tmp_path: Path) -> Path:
    """`last.ckpt` with 2.0 beside `previous.ckpt` with 1.0."""
    path = tmp_path / "last.ckpt"
    replace(path, 1.0)
    replace(path, 2.0)
    return path


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors on many threads cost more than they save."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
