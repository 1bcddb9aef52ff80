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
    assert list(found["seconds"]) == list(bench.KINDS)
    for kind, line in zip(bench.KINDS, lines, strict=False):
        assert line.startswith(kind)
        assert list(found["seconds"][kind]) == arms
        assert min(found["seconds"][kind].values()) > 0
    assert found["g_forward_flops"] > 0
    assert min(found["peak_flops"].values()) > 1e8


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
