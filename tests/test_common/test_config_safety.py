import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from pytorch_lightning import Callback
from pytorch_lightning.plugins import ClusterEnvironment
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.strategies import Strategy

from common.config_safety import refuse_unsafe_environment, safe_parsing
from common.errors import UserError
from common.untrusted_yaml import (
    MAX_BYTES,
    MAX_LEVELS,
    MAX_SCALAR,
    MAX_VALUES,
    load_yaml,
    read_text,
)
from running import EXPERIMENTS


def nested(levels: int, width: int) -> str:
    """Each list holds the one before ``width`` times."""
    lines = [f"a0: &a0 [{', '.join(['1'] * width)}]"]
    for k in range(1, levels):
        lines.append(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * width)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (nested(levels=9, width=9), f"more than {MAX_VALUES} values"),
        (nested(levels=3, width=20), f"more than {MAX_VALUES} values"),
        ("a: &a [*a]", f"more than {MAX_VALUES} values"),
        ("a: &a {b: 1, <<: *a}", f"more than {MAX_VALUES} values"),
        (f"[{'1, ' * MAX_VALUES}]", f"more than {MAX_VALUES} values"),
        ("--- 1\n" * (MAX_VALUES + 1), f"more than {MAX_VALUES} values"),
        ("[" * 900, f"more than {MAX_LEVELS} levels"),
        # PyYAML meets a limit of its own first.
        ("[" * 100_000, "maximum nesting depth"),
        ("- " * 100_000, f"more than {MAX_LEVELS} levels"),
        (f"- &a {'[' * 30}{']' * 30}\n- {'[' * 30}*a{']' * 30}", f"more than {MAX_LEVELS} levels"),
        ("#" * (MAX_BYTES + 1), f"more than {MAX_BYTES} bytes"),
        ("é" * (MAX_BYTES // 2 + 1), f"more than {MAX_BYTES} bytes"),
        ("9" * (MAX_SCALAR + 1), f"more than {MAX_SCALAR} characters"),
        ("".join(f"%TAG !{k}! x\n" for k in range(20)) + "--- 1", "declared tags"),
        ("a: !!python/object/apply:os.getcwd []", "Python object"),
        ("a: !!python/name:os.system", "Python object"),
        ("a: !<tag:yaml.org,2002:python/module:os> x", "Python object"),
        ('"a\\0b"', "no text"),
        ("\udcff", "not Unicode"),
        ("!!int x", "does not fit"),
        ("!!bool x", "does not fit"),
        ('!!float ""', "does not fit"),
        ("!!timestamp x", "does not fit"),
        ("2020-13-41", "does not fit"),
        ("*a", "undefined alias"),
        ("!mine 1", "constructor"),
        ("a: [1", "expected"),
    ],
)
def test_yaml_beyond_a_limit_is_refused(text: str, problem: str) -> None:
    with pytest.raises(yaml.YAMLError, match=problem):
        load_yaml(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: 1\nb: [x, 2.5, null, true, 1.0e-3]",
        "a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]",
        nested(levels=2, width=5),
        "a: &a 1\nb: *a\nc: &c [2]\nd: *c",
        "- &a [1]\n" + "- *a\n" * 300,
        "[" * MAX_LEVELS + "]" * MAX_LEVELS,
        f"- &a {'[' * 20}{']' * 20}\n- {'[' * 20}*a{']' * 20}",
        "x" * MAX_SCALAR,
        "#" * MAX_BYTES,
        "a: !!set {x, y}\nb: !!str 3\nc: 2020-01-02",
        "text: |\n  two\n  lines",
    ],
)
def test_other_yaml_is_read_as_ever(text: str) -> None:
    assert load_yaml(text) == yaml.safe_load(text)


def test_the_longest_number_can_still_be_shown() -> None:
    hexadecimal, sexagesimal = f"0x{'f' * (MAX_SCALAR - 2)}", f"1{':0' * (MAX_SCALAR // 2 - 1)}"
    for number in ("9" * MAX_SCALAR, hexadecimal, sexagesimal):
        assert len(str(load_yaml(number))) > MAX_SCALAR // 2


def test_the_shipped_configurations_and_cards_are_within_the_limits() -> None:
    root = Path(__file__).parents[2]
    for path in [*root.glob("*/configs/*.yaml"), *root.glob("experiments/*/configs/*.yaml")]:
        assert load_yaml(read_text(path))


def test_only_regular_text_files_of_bounded_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "good").write_text("\ufeffa: é")
    assert read_text(tmp_path / "good") == "a: é"
    (tmp_path / "large").write_bytes(b"#" * (MAX_BYTES + 1))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    os.mkfifo(tmp_path / "pipe")
    for name, problem in (("large", "bytes"), ("binary", "UTF-8"), ("pipe", "regular")):
        with pytest.raises(ValueError, match=problem):
            read_text(tmp_path / name)
    with pytest.raises(ValueError, match="regular"):
        read_text(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "absent")


def parser_of(kind: Any) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--x", type=kind)
    return parser


@pytest.mark.parametrize(
    "path",
    [
        "antigravity.geohash",
        "builtins.eval",
        "common.cli.os.system",
        "common.config_safety.import_module",
        "common.storage.shutil.rmtree",
        "common.trainer.ExperimentTrainer.fit",
        f"experiments.{EXPERIMENTS[0]}.module.torch.load",
        "common.callbacks.pl.Trainer",
        "functools.partial",
        "jsonargparse.set_parsing_settings",
        "numpy.load",
        "os.system",
        "pytorch_lightning.cli.instantiate_module",
        "pytorch_lightning.callbacks.early_stopping.torch.load",
        "subprocess.Popen",
        "torch.load",
        "torch.hub.load",
        "torch.optim.Adam",
    ],
)
def test_what_is_not_ours_cannot_be_named(path: str) -> None:
    with safe_parsing(), pytest.raises(ArgumentError, match="is not allowed"):
        parser_of(Callable).parse_args(["--x", path])


def test_a_module_is_refused_before_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "foreign.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for kind in (Callable, Callback, type[Callback]):
        with safe_parsing(), pytest.raises(ArgumentError, match="is not allowed"):
            parser_of(kind).parse_args(["--x", "foreign.Watch"])


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (Callable, "common.errors.visible"),
        (Callback, "common.callbacks.ImagesSeen"),
        (Callback, "DeviceStatsMonitor"),
        (Callback, "pytorch_lightning.callbacks.DeviceStatsMonitor"),
        (Callback, "pytorch_lightning.callbacks.device_stats_monitor.DeviceStatsMonitor"),
        (Strategy, "pytorch_lightning.strategies.DDPStrategy"),
        (Profiler, "SimpleProfiler"),
        (ClusterEnvironment, "pytorch_lightning.plugins.environments.SLURMEnvironment"),
        (ClusterEnvironment, "lightning_fabric.plugins.environments.SLURMEnvironment"),
    ],
)
def test_what_is_ours_and_single_classes_of_lightning_can_be_named(kind: Any, path: str) -> None:
    with safe_parsing():
        parser = parser_of(kind)
        text = parser.dump(parser.parse_args(["--x", path]), skip_validation=True)
        assert path.rsplit(".", 1)[-1] in text
        assert parser.parse_string(text)


def test_a_class_of_lightning_that_calls_given_functions_cannot_be_named() -> None:
    for path in ("LambdaCallback", "pytorch_lightning.callbacks.LambdaCallback"):
        with safe_parsing(), pytest.raises(ArgumentError, match="is not allowed"):
            parser_of(Callback).parse_args(["--x", path])


def test_a_refused_name_becomes_one_sentence() -> None:
    long = "trainer: one\nof\nthese: Importing 'os.system' is not allowed, denied by '*'"
    for error in (ValueError(long), UserError(2, "trainer", long, "see --help")):
        told = pytest.raises(UserError, match=r"^error\[2\]: .*: os\.system may not")
        with told as caught, safe_parsing():
            raise error
        assert len(str(caught.value)) < 200
    with pytest.raises(ValueError, match="another"), safe_parsing():
        raise ValueError("another")


@pytest.mark.parametrize("kind", [int, float, bool, list[int], dict, int | None, Any, Callback])
def test_no_text_and_no_file_gets_past_the_limits(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = nested(levels=9, width=4)
    (tmp_path / "bomb.yaml").write_text(bomb)
    (tmp_path / "text.yaml").write_text(yaml.safe_dump({"x": bomb}))
    (tmp_path / "list.yaml").write_text(yaml.safe_dump({"x": [bomb]}))
    (tmp_path / "file.yaml").write_text(yaml.safe_dump({"x": str(tmp_path / "bomb.yaml")}))
    built = []
    construct = yaml.constructor.BaseConstructor.construct_document
    monkeypatch.setattr(
        yaml.constructor.BaseConstructor,
        "construct_document",
        lambda self, node: built.append(construct(self, node)) or built[-1],
    )
    for words in (
        ["--x", bomb],
        ["--x", str(tmp_path / "bomb.yaml")],
        *(["--config", str(path)] for path in sorted(tmp_path.iterdir())),
    ):
        with safe_parsing(), suppress(ArgumentError, UserError):
            parser_of(kind).parse_args(words)
    assert built and not [value for value in built if isinstance(value, dict) and "a8" in value]


def test_standard_input_is_limited_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(nested(levels=9, width=9)))
    with safe_parsing(), pytest.raises(ArgumentError, match="more than"):
        parser_of(int).parse_args(["--config", "-"])


def test_a_file_that_is_refused_is_named_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "typo.yaml").write_text("x: 1\ny: ]\n")
    with safe_parsing(), pytest.raises(UserError, match=r"typo\.yaml: .*line 2") as caught:
        parser_of(int).parse_args(["--config", str(tmp_path / "typo.yaml")])
    assert str(tmp_path) not in str(caught.value) and caught.value.code == 2


@pytest.mark.parametrize("value", ["1", "y", "yes", "TRUE", "on", "2"])
def test_the_switch_for_unsafe_checkpoints_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", value)
    with pytest.raises(UserError, match=r"error\[2\]: TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD: "):
        refuse_unsafe_environment()


@pytest.mark.parametrize("value", [None, "", "0", "no", "False", "off"])
def test_the_switch_may_be_off(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    if value is not None:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", value)
    refuse_unsafe_environment()
