"""What tests of operators share."""

import pytest

from kernels.registry import status


@pytest.fixture(scope="session")
def compiled() -> None:
    """Compiled CPU operators; a test that needs them is skipped where there are none."""
    if "cpu" not in status()["loaded"]:
        pytest.skip(str(status()["missing"].get("cpu", "KERNELS=ref")))
