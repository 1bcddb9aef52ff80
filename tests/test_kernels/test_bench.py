"""The benchmark compares what it times, says what it measured, and judges as it should.

No time is asserted: other processes may run beside the tests.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kernels import bench_report, bench_timing, bench_torch, registry
from kernels.bench import main
from kernels.bench_bars import BACKWARD, DOUBLE, FLOOR, FORWARD, PASSES, Bar, bars
from kernels.bench_cases import Arm, Case, Place, Problem, cases
from kernels.bench_report import Result
from kernels.bench_timing import differs, in_turn, measure
from running import ROOT
from tiny_operator import compiler, ran

# Of the benchmark, not of the operators, which the other files test.
pytestmark = pytest.mark.slow

TOYS = {case.name: case for case in cases(Place("cpu", toy=True))}
ARMS = ["compiled", "compiled channels_last", "reference", "torch.compile", "eager"]


@pytest.fixture(autouse=True)
def one_thread_and_no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads that wait for a busy processor are slow, and so is torch.compile where it can."""
    monkeypatch.setenv("CXX", "absent")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_quick_run_writes_every_arm_of_every_pass(
    compiled: None, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    assert main(["--quick", "--only", "bias_act", "--rounds", "1", "--out", str(tmp_path)]) == 0
    said = capfd.readouterr()
    told = json.loads((tmp_path / "kernels-cpu.json").read_text())
    page = (tmp_path / "kernels-cpu.md").read_text()
    assert said.out.endswith(f"\n{page}\n") and not said.err
    assert {"date", "processor", "torch", "library", "level", "allocator"} < told["facts"].keys()
    assert told["facts"]["cases"] == "those that begin with `bias_act`"
    found = [(result["case"].split()[2], result["pass"]) for result in told["results"]]
    assert found == [(dtype, step) for dtype in ("float32", "bfloat16") for step in PASSES]
    for result in told["results"]:
        assert result["operator"] == "bias_act" and result["rounds"] == 1
        assert list(result["ms"]) == ARMS
        times = {name: ms for name, ms in result["ms"].items() if isinstance(ms, float)}
        assert result["ms"].keys() - times == {"torch.compile"}
        assert result["ms"]["torch.compile"] == "none"
        assert result["times_compiled"]["compiled"] == 1
        assert result["share_of_floor"] > 0 and result["floor"]["rate"] > 0
    head = "| case | pass | rounds | compiled | of the floor | compiled channels_last | reference"
    assert head in page and page.count("| bias_act 2x8x16x16 ") == 6
    assert "## Bars" not in page


@pytest.mark.parametrize("name", [name for name in TOYS if "non_local" not in name])
def test_every_formulation_gives_the_values_of_the_reference(name: str) -> None:
    case = TOYS[name]
    problem = case.make()
    others = {k: a for k, a in problem.arms.items() if a.mode == "auto" and a.compared}
    assert others or case.operator == "upfirdn2d_bias_act"
    with registry.using("ref"), torch.no_grad():
        expected = problem.arms["reference"].call(*problem.leaves)
        for arm in others.values():
            found = arm.call(*problem.leaves)
            assert not differs([found], [expected], bench_timing.TOLERANCE[case.dtype])


@pytest.mark.parametrize("operator", ["upfirdn2d", "upfirdn2d_bias_act", "modulated_conv2d"])
def test_all_arms_agree_in_all_derivatives(compiled: None, operator: str) -> None:
    name = next(name for name in TOYS if name.startswith(f"{operator} "))
    results = list(measure(TOYS[name], Place("cpu", toy=True), 1))
    assert [result.step for result in results] == list(PASSES)
    told = {name: text for r in results for name, text in r.ms.items() if isinstance(text, str)}
    assert told == {"torch.compile": "none"}


def test_what_fails_is_named_in_one_cell_and_the_others_are_timed() -> None:
    def fails(x: Tensor) -> Tensor:
        raise RuntimeError("double backward of a | b\nand more")

    leaves = (torch.ones(1, 1, 2, 2),)
    arms = {"compiled": Arm(torch.sin, "ref"), "reference": Arm(torch.sin, "ref")}
    case = Case("sin", "4", torch.float32, lambda: Problem(leaves, arms | {"b": Arm(fails)}))
    results = list(measure(case, Place("cpu"), 2))
    assert {result.ms["b"] for result in results} == {"failed: double backward of a / b"}
    assert {result.rounds for result in results} == {2}
    assert bench_report.faults(results[0]) == [
        "sin 4 float32, forward: b failed: double backward of a / b"
    ]


@pytest.mark.slow
def test_torch_compile_is_timed_up_to_the_first_derivative(
    compiled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX")
    found = list(measure(TOYS["bias_act 2x8x16x16 float32"], Place("cpu", toy=True), 1))
    told = [result.ms["torch.compile"] for result in found]
    assert [isinstance(ms, float) for ms in told] == [True, True, False] and told[2] == "refused"


def test_an_arm_with_other_values_is_not_timed(
    compiled: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    right = bench_torch.bias_act
    monkeypatch.setattr(bench_torch, "bias_act", lambda x, b: 1.01 * right(x, b))
    wanted = ["--only", "bias_act .*float32", "--rounds", "1", "--out", str(tmp_path)]
    assert main(["--quick", *wanted]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert lines == [
        f"error[1]: bias_act 2x8x16x16 float32, {step}: eager differs from the reference; mend it"
        for step in PASSES
    ]


def test_values_differ_by_more_than_rounding() -> None:
    x = torch.linspace(-1, 1, 100)
    assert not differs([x, x], [x, x * (1 + 1e-6)], 1e-4)
    assert differs([x, x], [x, x * (1 + 1e-3)], 1e-4)
    assert differs([x * torch.nan], [x], 1e-4)
    assert differs([x.double()], [x], 1e-4)
    assert differs([x[None]], [x], 1e-4)


def test_rounds_go_in_turn_and_end_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    runs = {name: ("ref", lambda name=name: called.append(name)) for name in "abc"}
    seconds = in_turn(runs, 2, "cpu")
    assert "".join(called) == "abcbcacab"
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2, "c": 2}
    monkeypatch.setattr(bench_timing, "LIMIT_S", 0.01)
    slow = in_turn({"slow": ("ref", lambda: time.sleep(0.02))}, 50, "cpu")
    assert len(slow["slow"]) == bench_timing.FEWEST


def result(ms: dict[str, float | str], *asked: Bar) -> Result:
    return Result(
        "any", "any 1x2 float32", FORWARD, 7, ms, "copy", floor_ms=9.0, floor_rate=2e9, bars=asked
    )


def test_bars_are_judged_by_the_fastest_of_the_others(tmp_path: Path) -> None:
    asked = [
        Bar("compiled", ("slow", "fast", "absent"), 2.0),
        Bar("compiled", ("slow",), 2.5),
        Bar("compiled", FLOOR, 0.9),
        Bar("compiled", FLOOR, 0.95),
        Bar("compiled", ("refusing",), 1.0),
    ]
    times = {"compiled": 10.0, "slow": 30.0, "fast": 19.0, "refusing": "refused"}
    known = {"date": "today"}
    bench_report.save(tmp_path, "cpu", known, [result(times, *asked)])
    (told,) = json.loads((tmp_path / "kernels-cpu.json").read_text())["results"]
    verdicts = ["missed", "holds", "holds", "missed", "not timed"]
    assert [bar["verdict"] for bar in told["bars"]] == verdicts
    assert [bar["found"] for bar in told["bars"]] == [1.9, 3.0, 0.9, 0.9, None]
    page = (tmp_path / "kernels-cpu.md").read_text()
    assert "## Bars: holds 2, missed 2, not timed 1" in page
    row = "| any 1x2 float32 | forward | 7 | 10.0 ms | 90 % of 2 GB/s | 30.0 (3.00x) |"
    assert row in page and "| refused |" in page
    bar = "compiled 2 times as fast as the fastest of slow, fast, absent"
    assert f"| any 1x2 float32 | forward | {bar} | 1.90 | missed |" in page


def test_without_a_time_of_its_own_nothing_is_compared(tmp_path: Path) -> None:
    failed = result({"compiled": "failed: no", "slow": 1234.5}, Bar("compiled", ("slow",), 2.0))
    bench_report.save(tmp_path, "cpu", {}, [failed])
    assert "| failed: no |  | 1234 ms |" in (tmp_path / "kernels-cpu.md").read_text()
    assert "compiled failed: no; slow 1234 ms" in bench_report.line(failed)


def test_the_bars_of_the_project() -> None:
    full, half = torch.float32, torch.bfloat16
    asked = {(bar.against, step): bar.factor for bar in bars("noise_bias_act", full, "cpu")
             for step in bar.passes}  # fmt: skip
    assert asked == {
        (("eager",), FORWARD): 4.0,
        (("eager",), BACKWARD): 4.5,
        (("eager",), DOUBLE): 2.0,
        (FLOOR, FORWARD): 0.8,
        (FLOOR, BACKWARD): 0.8,
    }
    assert [bar.factor for bar in bars("upfirdn2d", full, "cpu")] == [3.0, 1.0]
    assert bars("modulated_conv2d", full, "cpu") == bars("modulated_conv2d", half, "cpu")
    assert not bars("noise_bias_act", half, "cpu") and not bars("non_local_means", full, "cpu")
    assert [bar.against for bar in bars("upfirdn2d", half, "cuda")] == [FLOOR]


def test_bars_name_arms_that_there_are() -> None:
    for case in TOYS.values():
        arms = {*case.make().arms, *FLOOR, "interpolate"}
        for bar in bars(case.operator, case.dtype, "cpu"):
            assert {bar.arm, *bar.against} <= arms, case.name


def test_tensors_on_a_gpu_are_beyond_its_cache() -> None:
    for case in cases(Place("cuda")):
        if case.operator in ("bias_act", "noise_bias_act"):
            n, c, h, w = map(int, case.size.split()[-1].split("x"))
            assert n * c * h * w * case.dtype.itemsize >= 512 << 20, case.name


def refused(
    capfd: pytest.CaptureFixture, arguments: list[str], sentence: str, code: int = 2
) -> None:
    assert main(arguments) == code
    assert capfd.readouterr() == ("", f"error[{code}]: {sentence}\n")


def test_what_it_cannot_do_is_said_in_a_sentence(
    compiled: None, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    operators = (
        "upfirdn2d, bias_act, noise_bias_act, upfirdn2d_bias_act, modulated_conv2d, non_local_means"
    )
    none = f"--only act: no case begins so; the operators are {operators}"
    refused(capfd, ["--only", "act"], none)
    main(["--only", "("])
    assert "error[2]: --only (: is no regular expression (" in capfd.readouterr().err
    (tmp_path / "file").touch()
    out = ["--quick", "--only", "bias_act", "--out", str(tmp_path / "file")]
    refused(capfd, out, f"--out {tmp_path}/file: cannot be written (File exists); name another")
    with pytest.raises(SystemExit):
        main(["--rounds", "0"])
    assert "0 is not a whole number of at least 1" in capfd.readouterr().err


def test_without_compiled_operators_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    told = {"mode": "auto", "loaded": {}, "missing": {"cpu": "the cpu operators are not built"}}
    monkeypatch.setattr(registry, "status", lambda: told)
    refused(capfd, [], "--device cpu: the cpu operators are not built; run `make kernels`")
    told["missing"] = {}
    refused(capfd, [], "--device cpu: KERNELS=ref is set; unset it")


def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    sentence = "--device cuda: torch finds no GPU; run it where there is one"
    refused(capfd, ["--device", "cuda"], sentence, code=1)


def test_the_allocator_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in bench_report._ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    assert bench_report._allocator().endswith(", default; the same for every arm")
    monkeypatch.setenv("MALLOC_TOP_PAD_", "7")
    assert ", MALLOC_TOP_PAD_=7; " in bench_report._allocator()


Make = Callable[[str], tuple[int, list[str], str]]


@pytest.fixture
def gpu_check(tmp_path: Path) -> Make:
    """Runs `make gpu-check` with a Python that notes what it is asked for."""

    def call(script: str) -> tuple[int, list[str], str]:
        python = compiler(tmp_path / "bin/python", f'echo "$@" >> "$0.ran"\n{script}')
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        command = ["make", "-C", str(ROOT), "gpu-check", f"PYTHON={python}", "ARGS=--quick"]
        done = subprocess.run(command, env=kept, capture_output=True, text=True, check=False)
        return done.returncode, [line.split()[1] for line in ran(python)[1:]], done.stderr

    return call


def test_make_gpu_check_says_that_there_is_no_gpu(gpu_check: Make) -> None:
    code, others, said = gpu_check("exit 1")
    assert code and not others
    assert "finds no GPU; run it on a machine with one, or name a Python with PYTHON=" in said


def test_make_gpu_check_builds_tests_and_times_even_if_a_test_fails(gpu_check: Make) -> None:
    code, others, _ = gpu_check('case "$*" in *pytest*) exit 1; esac')
    assert code and others == ["--cuda", "pytest", "kernels.bench"]
