"""Raw folders that no program wrote on purpose: prepared, or refused in one sentence."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bad_input.folders import FINE, Fault, faults
from common.data.image_io import find_images
from faults import Ended, Victim, call, run_all
from running import EXPERIMENTS, smoke

pytestmark = pytest.mark.faults
SECONDS, MEMORY = 10, 2**30


def test_a_folder_is_prepared_or_refused_in_one_sentence(
    experiment: str, prepared: Callable[[str], Path], tmp_path: Path, tally: Callable[..., None]
) -> None:
    (raw,) = prepared(experiment).parents[1].glob("raw/*")
    # How files and the root are checked is the same for all experiments.
    planted = faults(of_files=experiment == EXPERIMENTS[0])
    folders = [_planted(fault, raw, tmp_path / str(k)) for k, fault in enumerate(planted)]
    victims = [_victim(*pair, experiment) for pair in zip(planted, folders, strict=True)]
    ended = run_all(victims)
    clean = _summary(ended[0])
    complaints = {
        fault.name: text
        for fault, folder, one in zip(planted, folders, ended, strict=True)
        if (text := _complaint(fault, folder, one, clean))
    }
    tally("B1", len(planted) - len(complaints), len(planted))
    assert len(planted) >= 20 and clean
    assert complaints == {}


def _planted(fault: Fault, raw: Path, folder: Path) -> Path:
    """A copy of the raw folder with the fault in it, beside an empty workspace."""
    root = folder / "raw"
    shutil.copytree(raw, root)
    images = find_images(root)
    fault.plant(root, images[len(images) // 2])
    (folder / "workspace").mkdir()
    return folder


def _victim(fault: Fault, folder: Path, experiment: str) -> Victim:
    args = ["--data.root", folder / "raw", "--workspace", folder / "workspace"]
    sabotage = [call("bad_input.folders:tell_use", file=str(folder / "workspace/use"))]
    if fault.ordinary:
        sabotage.append(call("sabotage:become_ordinary"))
    return Victim(experiment, ["prepare", *smoke(experiment), *args], sabotage)


def _complaint(fault: Fault, folder: Path, ended: Ended, clean: str) -> str:
    """What is wrong with how the command ended; nothing if nothing is."""
    what = f"exit {ended.code} after {ended.elapsed:.1f} s: {ended.err[-500:]}"
    if ended.hung or ended.code not in fault.codes or "Traceback" in ended.err:
        return what
    memory, seconds = map(int, (folder / "workspace/use").read_text().split())
    if memory > MEMORY or seconds > SECONDS:
        return f"{what} {memory} bytes, {seconds} s"
    if ended.code == FINE:
        wrong = fault.same and _summary(ended) != clean
        return f"{_summary(ended)}, not {clean}" if wrong or ended.errors else ""
    told = len(ended.errors) == 1 and ended.errors[0].isprintable()
    return "" if told and fault.words in ended.errors[0] else what


def _summary(ended: Ended) -> str:
    """How many images each split got."""
    lines = [line for line in ended.out.splitlines() if line.startswith("data: ")]
    return lines[-1].partition("(")[2] if lines else ""
