from types import SimpleNamespace

import pytest

from common.data.manifest import Sample
from common.run_images import held_out_context

SAMPLES = [
    *(Sample(f"a{k}", f"cell{k // 2}", split="test", label="a") for k in range(6)),
    *(Sample(f"b{k}", f"cell{k}", split="test", label="b") for k in range(4)),
]
DATA = SimpleNamespace(
    facts={
        "manifest_sha256": "ab",
        "fit": "aspect",
        "image_size": 32,
        "window": [0, 255],
        "channels": ["grey"],
    },
    frames=0,
    imported="",
    samples={"test": SAMPLES}.get,
)


@pytest.mark.parametrize(
    ("rows", "groups", "of_classes"),
    [
        (range(10), 4, {"a": 3, "b": 4}),
        # As `--labels a` has it, and a part of it.
        (range(6), 3, {"a": 3}),
        ([0, 1, 2], 2, {"a": 2}),
        ([], 0, {}),
    ],
)
def test_groups_are_those_of_the_images_that_are_compared(
    rows: list[int], groups: int, of_classes: dict[str, int]
) -> None:
    context = held_out_context(DATA, "data", rows)
    assert context.groups == groups and context.class_groups == of_classes
    counts = {"n_real": len(rows), "n_fake": 9}
    (note,) = {context.record("x", value=0.5, low=0.4, high=0.6, **counts).note}
    assert (f"{groups} groups" in note) == bool(groups)
