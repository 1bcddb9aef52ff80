import numpy as np
import pytest

from experiments.cilia_cvae.biology import INNER_ARMS_PRESENT, OUTER_ARMS_PRESENT
from experiments.cilia_cvae.simulator import CLASSES, sample_truth
from experiments.cilia_cvae.ultrastructure import ULTRASTRUCTURE, checks

NORMAL = {
    "doublet_count": 9.0,
    "rotational_order": 9.0,
    "central_pair": 2.0,
    "outer_arm_score": OUTER_ARMS_PRESENT + 0.1,
    "inner_arm_score": INNER_ARMS_PRESENT + 0.1,
}


@pytest.mark.parametrize("label", CLASSES)
def test_the_simulator_draws_what_its_classes_stand_for(label: str) -> None:
    known = ULTRASTRUCTURE[label]
    for k in range(20):
        truth = sample_truth(label, np.random.default_rng([7, k]), (96, 96))
        assert truth.num_doublets in known.doublets
        assert truth.central_microtubules == known.central
        # Of missing arms one in twenty remains, of the others one in thirty is lost.
        assert (np.mean(truth.outer_arms) > 0.5) == known.outer_arms
        assert (np.mean(truth.inner_arms) > 0.5) == known.inner_arms


@pytest.mark.parametrize(
    ("change", "axoneme", "arms"),
    [
        ({}, True, True),
        ({"doublet_count": 8.0}, False, True),
        ({"central_pair": 1.0}, False, True),
        ({"outer_arm_score": OUTER_ARMS_PRESENT - 0.1}, True, False),
        ({"inner_arm_score": INNER_ARMS_PRESENT - 0.1}, True, False),
        (dict.fromkeys(NORMAL, float("nan")), False, False),
    ],
)
def test_a_normal_section_has_nine_doublets_a_pair_and_both_arms(
    change: dict[str, float], axoneme: bool, arms: bool
) -> None:
    assert checks("Normal", NORMAL | change) == {"axoneme": axoneme, "arms": arms}


def test_where_no_axoneme_is_found_missing_arms_are_no_evidence() -> None:
    lost = dict.fromkeys(NORMAL, float("nan"))
    assert checks("ODA_IDA", lost) == {"axoneme": False, "arms": False}


def test_a_class_that_nobody_described_is_not_checked() -> None:
    assert checks("Spiral", NORMAL) == {}
