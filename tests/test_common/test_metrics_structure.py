from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from common.metrics.sides import Side
from common.metrics.structure import structure_records


def side(labels: str, legs: list[float]) -> Side:
    return Side(len(labels), (1, 8, 8), None, {"legs": np.array(legs)}, labels=[*labels])


def checks(label: str, measured: Mapping[str, float]) -> dict[str, bool]:
    """Ants have six legs, spiders eight; worms have nothing to check."""
    if label == "w":
        return {}
    return {"legs": measured["legs"] == {"a": 6, "s": 8}[label]}


def record(metric: str, **fields: Any) -> dict[str, Any]:
    return {"metric": metric, **fields}


def test_shares_are_counted_by_class_and_beside_held_out_images() -> None:
    fake = side("aasssw", [6, 8, 8, np.nan, 7, 0])
    found = structure_records(side("aass", [6, 6, 8, 7]), fake, checks, record)
    shares = {row["metric"]: (row["value"], row["n_fake"], row["note"]) for row in found}
    assert shares == {
        "structure/legs": (pytest.approx(2 / 5), 5, "of the held-out images 0.750"),
        "structure/legs/a": (pytest.approx(1 / 2), 2, "of the held-out images 1.000"),
        "structure/legs/s": (pytest.approx(1 / 3), 3, "of the held-out images 0.500"),
    }
    for row in found:
        assert row["low"] < row["value"] < row["high"]


def test_images_of_a_single_class_give_one_share() -> None:
    (found,) = structure_records(side("a", [6]), side("aa", [6, 6]), checks, record)
    assert found["metric"] == "structure/legs" and found["value"] == 1


def test_where_there_is_nothing_to_check_there_is_no_record() -> None:
    assert not structure_records(side("w", [0]), side("ww", [0, 0]), checks, record)
    nameless = Side(2, (1, 8, 8), None, {"legs": np.array([6.0, 6.0])})
    assert not structure_records(nameless, nameless, checks, record)
