"""Held-out recordings go on by the command line, for every experiment that can."""

from pathlib import Path

import numpy as np

from common.data.image_io import read_image
from common.metrics.kinds import class_of
from common.metrics.protocol import Record, read_records, write_records
from common.tables import from_csv, named_cells
from running import Cli, at, refuses, run_folder

QUICK = ("--added", "3", "--steps", "1", "--file_format", "strip")


def table(run: Path, name: str) -> list[dict[str, str]]:
    return named_cells(from_csv((run / f"continuation/{name}.csv").read_bytes()))


def test_recordings_go_on_or_the_model_says_that_it_cannot(
    workspace: Path, experiment: str, cli: Cli
) -> None:
    run, verb = run_folder(workspace, experiment, "first"), [experiment, "continue"]
    verb += [*at(workspace, "first"), *QUICK]
    done = cli(*verb, "--n", "2")
    if "cannot continue" in done.err:
        refuses(done, 2, f"{experiment}: ", "choose an experiment whose README says")
        assert not (run / "continuation").exists() and not (run / "records.jsonl").exists()
        return
    assert done.code == 0, done.err
    assert "continuing: 2 of " in done.out and "3 are known to compare with" in done.out
    assert "continuing: 6/6 frames" in done.err
    sequences = sorted((run / "continuation").glob("*.ome.tiff"))
    assert [path.name for path in sequences] == ["000000.ome.tiff", "000001.ome.tiff"]
    assert len(list((run / "continuation").glob("00000?_*.png"))) == 4
    first = read_image(sequences[0])
    assert first.axes == "TCYX" and len(first.pixels) == 5
    found = {record.metric: record for record in read_records(run / "records.jsonl")}
    assert found["continuation/finite_share"].value == 1
    gain = found["continuation/psnr_gain/GFP"]
    # Hardly trained, it draws changes that hardly come true; without any of them nothing happens.
    believed = found["continuation/shrinkage/GFP"]
    assert 0 <= believed.value < 0.5 and (gain.value == 0) == (believed.value == 0)
    assert (believed.split, believed.n_real) == ("val", 20)
    assert (gain.n_real, gain.n_fake, gain.split, gain.unit) == (2, 2, "test", "dB")
    search = "3 added, each by 1 steps of search"
    assert search in gain.rule and len(gain.checkpoint_sha256) == 64
    known, last = (found[f"continuation/cell_area/{end}"] for end in ("first_known", "last_added"))
    assert search in last.rule and search not in known.rule
    assert (known.n_fake, last.n_fake, known.unit, last.unit) == (0, 2, "px²", "px²")
    steps = {class_of(name)[1] for name in found} - {""}
    assert steps == {"step_1", "step_2", "step_3"}
    rows = table(run, "steps")
    of_step = [float(r["psnr"]) for r in rows if (r["step"], r["channel"]) == ("2", "GFP")]
    assert np.isclose(np.mean(of_step), found["continuation/psnr/GFP/step_2"].value)
    assert [row["finite"] for row in table(run, "recordings")] == ["1", "1"]
    # What another verb has measured stays; the first recording is the same, alone or not.
    write_records(run / "records.jsonl", [Record("kernel_distance", 0.5), *found.values()])
    assert cli(*verb, "--n", "1").code == 0
    again = read_records(run / "records.jsonl")
    assert again[0].metric == "kernel_distance" and len(again) == len(found) + 1
    assert np.array_equal(read_image(sequences[0]).pixels, first.pixels)
    assert not sequences[1].exists()
    # Samples of the same checkpoint have nothing to do with it.
    drawn = cli(experiment, "generate", *at(workspace, "first"), "--n", "1")
    assert drawn.code == 0, drawn.err
    assert read_records(run / "records.jsonl") == again[1:] and sequences[0].exists()
