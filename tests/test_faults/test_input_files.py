"""Image files of every kind and damage: read as they are, or refused by name; never a crash."""

import collections
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bad_input.cases import Case
from bad_input.child import Outcome, in_children
from bad_input.encoders import PIXELS, encoded
from bad_input.entries import entries
from bad_input.mutations import mutated, originals
from bad_input.rasters import rasters
from bad_input.tiffs import tiffs

pytestmark = pytest.mark.faults
MUTATIONS = 500


@pytest.mark.parametrize("corpus", [rasters, tiffs, entries], ids=lambda corpus: corpus.__name__)
def test_a_file_is_read_as_it_is_or_refused_by_name(
    corpus: Callable[[], Iterator[Case]], tmp_path: Path, tally: Callable[..., None]
) -> None:
    (tmp_path / "outside.png").write_bytes(encoded("PNG", PIXELS))
    root = tmp_path / "data"
    root.mkdir()
    cases = list(corpus())
    for case in cases:
        case.make(root / case.name)
    jobs = [{"path": str(root / case.name), "root": str(root)} for case in cases]
    outcomes, noise = in_children("read", jobs, seconds=10)
    complaints = {
        case.name: text
        for case, outcome in zip(cases, outcomes, strict=True)
        if (text := case.complaint(outcome, str(tmp_path)))
    }
    tally("B1", len(cases) - len(complaints), len(cases))
    assert len({case.name for case in cases}) == len(cases) >= 60
    assert complaints == {}
    assert noise == ""


def test_a_device_is_never_opened(tally: Callable[..., None]) -> None:
    devices = ["/dev/zero", "/dev/random", "/dev/tty"]
    outcomes, _ = in_children("read", [{"path": device} for device in devices], seconds=2)
    refused = ["a pipe or device" in outcome.text for outcome in outcomes]
    tally("B1", sum(refused), len(devices))
    assert all(refused)


def test_mutated_files_are_read_or_refused_by_name(
    tmp_path: Path, tally: Callable[..., None]
) -> None:
    jobs = [
        {"folder": str(tmp_path), "name": name, "number": number, "seed": 0}
        for name in originals()
        for number in range(MUTATIONS)
    ]
    outcomes, _ = in_children("read_mutant", jobs, seconds=2)
    kinds = collections.Counter(outcome.kind for outcome in outcomes)
    bad = [
        (job["name"], job["number"], outcome.kind, outcome.text)
        for job, outcome in zip(jobs, outcomes, strict=True)
        if not _is_ours(job, outcome)
    ]
    tally("B2", len(jobs) - len(bad), len(jobs))
    assert len(jobs) == 3000 and bad == []
    assert min(kinds["read"], kinds["refused"]) > len(jobs) / 10  # else nothing much was damaged


def test_every_mutation_changes_its_file_and_is_the_same_again() -> None:
    for name, data in originals().items():
        damaged = [mutated(data, name, number) for number in range(50)]
        assert damaged == [mutated(data, name, number) for number in range(50)]
        assert len({*damaged, data}) > 45


def test_what_crashes_hangs_or_eats_memory_is_noticed(tmp_path: Path) -> None:
    doings = ["nothing", "crash", "compute", "sleep", "memory", "raise", "nothing"]
    outcomes, _ = in_children("misbehave", [{"how": how} for how in doings], 0.4, children=1)
    assert [outcome.is_ours for outcome in outcomes] == [True, *[False] * 5, True]
    told = [outcome.text for outcome in outcomes[1:6]]
    words = ("-11", "computed for too long", "hung", "memory", "ZeroDivisionError")
    assert [word for word, text in zip(words, told, strict=True) if word not in text] == []


def _is_ours(job: dict[str, object], outcome: Outcome) -> bool:
    name = f"{job['number']} of {job['name']}"
    by_name = outcome.code == 3 and Path(outcome.subject).name == name
    return outcome.is_ours and (outcome.kind == "read" or by_name)
