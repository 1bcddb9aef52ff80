"""`make bench EXP=multi_stylegan`: every kind of step runs, in our operators and in plain ones."""

import json

import pytest

from experiments.multi_stylegan import bench


@pytest.mark.slow
def test_every_kind_of_step_is_timed_in_every_arm(capsys: pytest.CaptureFixture[str]) -> None:
    arms = ["plain", "published", "dual"]
    bench.main(["--batch", "1", "--width", "8", "--rounds", "1", "--only", *arms])
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    rows = [line for line in lines if line.startswith(bench.KINDS)]
    assert [row.split()[0] for row in rows] == [k.split()[0] for k in bench.KINDS for _ in arms]
    for kind in bench.KINDS:
        assert list(found["seconds"][kind]) == arms
        assert min(found["seconds"][kind].values()) > 0
    counted = found["operations"]
    # Backward passes and second derivatives count as well.
    assert counted["G step"]["published"] > 3 * counted["G forward"]["published"]
    assert counted["path length step"]["dual"] > counted["G forward"]["dual"]
    assert counted["G forward"]["published"] < counted["G forward"]["dual"]
    assert min(found["peak_flops"]["float32"].values()) > 1e8


def test_an_arm_that_is_unknown_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        bench.main(["--only", "triple"])
    assert "invalid choice: 'triple'" in capsys.readouterr().err


def test_a_cpu_without_bfloat16_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "has_native_bf16", lambda accelerator: False)
    with pytest.raises(SystemExit, match="2"):
        bench.main(["--width", "8", "--only", "dual-bf16"])
    assert "no instructions for bfloat16" in capsys.readouterr().err
