"""What tests of several parts of `common` share."""

from pathlib import Path

import pytest
from saved_checkpoints import replace


@pytest.fixture
def last(tmp_path: Path) -> Path:
    """`last.ckpt` with 2.0 beside `previous.ckpt` with 1.0."""
    path = tmp_path / "last.ckpt"
    replace(path, 1.0)
    replace(path, 2.0)
    return path
